//! What a hostile peer can do to a channel: nothing but lose it.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use handoff::{Channel, Error};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair,
};
use proptest::prelude::*;

/// A channel and the bare socket of its peer.
fn victim() -> (Channel, OwnedFd) {
    let (left, right) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let channel = Channel::from_fd(left);
    channel.set_timeout(Some(Duration::from_secs(5))).unwrap();
    (channel, right)
}

/// Sends one raw packet, with `count` copies of a descriptor.
fn send_raw(peer: &OwnedFd, bytes: &[u8], fd: RawFd, count: usize) {
    let fds = vec![fd; count];
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if count == 0 { &[] } else { &rights[..] };
    let vector = [IoSlice::new(bytes)];
    sendmsg::<UnixAddr>(peer.as_raw_fd(), &vector, control, MsgFlags::empty(), None).unwrap();
}

/// Whether every copy of the writing end of a pipe is closed, but for the given one.
fn only_copy(reader: &std::io::PipeReader, writer: std::io::PipeWriter) -> bool {
    drop(writer);
    let mut poll = [nix::poll::PollFd::new(
        reader.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO).unwrap();
    poll[0]
        .revents()
        .unwrap()
        .contains(nix::poll::PollFlags::POLLHUP)
}

#[test]
fn too_many_descriptors_are_an_error_and_all_of_them_are_closed() {
    for count in [131, 253] {
        let (channel, peer) = victim();
        let (reader, writer) = std::io::pipe().unwrap();
        send_raw(&peer, &[0, 1], writer.as_raw_fd(), count);
        assert!(matches!(channel.receive::<u8>(), Err(Error::Protocol(_))));
        assert!(only_copy(&reader, writer), "{count}");
    }
}

#[test]
fn descriptors_of_a_message_that_does_not_decode_are_closed() {
    let (channel, peer) = victim();
    let (reader, writer) = std::io::pipe().unwrap();
    send_raw(&peer, &[0, 1, 2, 3], writer.as_raw_fd(), 3);
    assert!(matches!(channel.receive::<u8>(), Err(Error::Message(_))));
    assert!(only_copy(&reader, writer));
}

#[test]
fn a_packet_longer_than_a_fragment_is_an_error() {
    let (channel, peer) = victim();
    send_raw(&peer, &vec![0; 64 * 1024 + 2], 0, 0);
    assert!(matches!(
        channel.receive::<Vec<u8>>(),
        Err(Error::Protocol(_))
    ));
}

#[test]
fn a_part_that_is_not_full_is_an_error() {
    let (channel, peer) = victim();
    send_raw(&peer, &[1, 0, 0], 0, 0);
    assert!(matches!(
        channel.receive::<Vec<u8>>(),
        Err(Error::Protocol(_))
    ));
}

#[test]
fn a_message_without_end_is_refused_at_the_limit() {
    let (channel, peer) = victim();
    let part = [vec![1_u8], vec![0; 64 * 1024]].concat();
    let flood = std::thread::spawn(move || {
        // Far more than the limit, until the victim hangs up.
        for _ in 0..1000 {
            let vector = [IoSlice::new(&part)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            if sendmsg::<UnixAddr>(peer.as_raw_fd(), &vector, &[], flags, None).is_err() {
                return true;
            }
        }
        false
    });
    assert!(matches!(
        channel.receive::<Vec<u8>>(),
        Err(Error::Message(wire::Error::TooLong(_)))
    ));
    drop(channel);
    assert!(flood.join().unwrap());
}

#[test]
fn descriptors_in_the_middle_of_a_message_are_an_error_and_closed() {
    let (channel, peer) = victim();
    let (reader, writer) = std::io::pipe().unwrap();
    let part = [vec![1_u8], vec![0; 64 * 1024]].concat();
    send_raw(&peer, &part, 0, 0);
    send_raw(&peer, &[0, 0], writer.as_raw_fd(), 1);
    assert!(matches!(
        channel.receive::<Vec<u8>>(),
        Err(Error::Protocol(_))
    ));
    assert!(only_copy(&reader, writer));
}

#[test]
fn a_peer_that_leaves_in_the_middle_of_a_message_is_an_error() {
    let (channel, peer) = victim();
    let part = [vec![1_u8], vec![0; 64 * 1024]].concat();
    send_raw(&peer, &part, 0, 0);
    drop(peer);
    assert!(matches!(
        channel.receive::<Vec<u8>>(),
        Err(Error::Protocol(_))
    ));
}

#[test]
fn a_peer_that_leaves_between_messages_is_no_message() {
    let (channel, peer) = victim();
    drop(peer);
    assert!(channel.receive::<u8>().unwrap().is_none());
    assert!(matches!(channel.send(&1_u8, &[]), Err(Error::Socket(..))));
}

#[test]
fn a_peer_that_does_not_read_makes_the_sender_time_out() {
    let (channel, _peer) = victim();
    channel
        .set_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let message = vec![0_u8; 1000];
    let error = (0..10_000)
        .find_map(|_| channel.send(&message, &[]).err())
        .unwrap();
    assert!(matches!(error, Error::TimedOut));
}

#[test]
fn the_longest_message_passes_and_one_byte_more_does_not() {
    let (left, right) = Channel::pair().unwrap();
    // The length takes three bytes as a variable-length integer.
    let longest = vec![7_u8; wire::MAX_MESSAGE - 3];
    let sender = std::thread::spawn(move || {
        left.send(&longest, &[]).unwrap();
        let longer = vec![7_u8; wire::MAX_MESSAGE - 2];
        assert!(matches!(left.send(&longer, &[]), Err(Error::Message(_))));
    });
    let (message, _) = right.receive::<Vec<u8>>().unwrap().unwrap();
    assert_eq!(message.len(), wire::MAX_MESSAGE - 3);
    sender.join().unwrap();
}

#[test]
fn long_messages_of_two_clones_do_not_mix() {
    let (left, right) = Channel::pair().unwrap();
    let senders: Vec<_> = (1..=2_u8)
        .map(|byte| {
            let channel = left.try_clone().unwrap();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    channel.send(&vec![byte; 200_000], &[]).unwrap();
                }
            })
        })
        .collect();
    for _ in 0..40 {
        let (message, _) = right.receive::<Vec<u8>>().unwrap().unwrap();
        assert_eq!(message.len(), 200_000);
        assert!(message.iter().all(|byte| *byte == message[0]));
    }
    for sender in senders {
        sender.join().unwrap();
    }
}

proptest! {
    #[test]
    fn arbitrary_packets_never_panic(packets in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 1..64), 1..4,
    )) {
        let (channel, peer) = victim();
        for packet in &packets {
            send_raw(&peer, packet, 0, 0);
        }
        drop(peer);
        while let Ok(Some(_)) = channel.receive::<(String, Vec<u32>)>() {}
    }
}
