//! A network device that an attacker owns.

mod rig;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use dialer::Error;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recv, sendmsg, sendto, socket, socketpair,
};
use proptest::prelude::*;
use rig::{Rig, all_but, config, nobody, silent, udp};
use rustix::net::SendFlags;
use wire::net::{Ask, Datagram, Failure, Kind, MAX_DATAGRAM, Target, Tell};

/// Sends as the device does; it may be gone, or there may be no room.
fn throw(socket: impl AsFd, packet: &[u8]) -> bool {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::send(socket, packet, flags).is_ok()
}

/// Whatever was sent, the end has a reason.
fn is_reasoned(end: &Result<(), Error>) -> bool {
    matches!(
        end,
        Ok(()) | Err(Error::Device(..) | Error::Datagram(..) | Error::Channel(..))
    )
}

#[test]
fn nonsense_over_streams_ends_it_with_the_reason() {
    let packets: [&[u8]; 4] = [&[9], &[0xff; 128], &[0; 129], &[0xff; 4096]];
    for packet in packets {
        let rig = Rig::start(config(all_but(&[])), vec![]);
        assert!(throw(&rig.device.streams, packet));
        let text = wire::chain(&rig.ended().unwrap_err());
        assert!(text.contains("`streams`"), "{text}");
    }
}

#[test]
fn an_id_that_is_in_use_is_nonsense_too() {
    let (_server, silent, _connects) = silent();
    let rig = Rig::start(config(all_but(&[])), vec![]);
    rig.device.connect(1, silent);
    rig.device.connect(1, silent);
    let text = wire::chain(&rig.ended().unwrap_err());
    assert!(text.contains("an id that is in use"), "{text}");
}

#[test]
fn nonsense_over_datagrams_ends_it_with_the_reason() {
    let answer = Datagram {
        guest: rig::guest(1),
        remote: nobody(),
        kind: Kind::Refused,
        payload: &[],
    };
    let answer = wire::encode(&answer).unwrap();
    let long = vec![0; MAX_DATAGRAM + 1];
    for packet in [&[7][..], &[0xff; 100], &answer, &long] {
        let rig = Rig::start(config(all_but(&[])), vec![]);
        assert!(throw(&rig.device.datagrams, packet));
        let text = wire::chain(&rig.ended().unwrap_err());
        assert!(text.contains("`datagrams`"), "{text}");
    }
}

#[test]
fn descriptors_that_come_along_are_closed() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (reader, writer) = std::io::pipe().unwrap();
    let target = Target::Address(nobody());
    let message = wire::encode(&Ask::Connect { id: 1, target }).unwrap();
    let packet = [vec![0], message].concat();
    let raw = [writer.as_raw_fd()];
    sendmsg::<UnixAddr>(
        rig.device.streams.as_raw_fd(),
        &[std::io::IoSlice::new(&packet)],
        &[ControlMessage::ScmRights(&raw)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    drop(writer);
    rig.device.told();
    // The pipe has no writer left.
    let end = std::io::Read::read(&mut { reader }, &mut [0]).unwrap();
    assert_eq!(end, 0);
    rig.end().unwrap();
}

#[test]
fn a_device_that_leaves_either_socket_or_a_supervisor_that_leaves_ends_it_in_peace() {
    let rig = || Rig::start(config(all_but(&[])), vec![]);
    let mut device = rig();
    device.device.streams = rig::pair().0;
    device.ended().unwrap();
    let mut device = rig();
    device.device.datagrams = rig::pair().0;
    device.ended().unwrap();
    let mut supervisor = rig();
    supervisor.control = device::Channel::pair().unwrap().0;
    supervisor.ended().unwrap();
}

/// The dialer is in the host's network, where abstract names are, and may send with an address. That
/// the sockets that it holds lead nowhere else is the kernel's doing.
#[test]
fn a_packet_over_a_pair_reaches_its_other_end_whatever_address_it_has() {
    let family = AddressFamily::Unix;
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    let (one, other) = socketpair(family, kind, None, flags).unwrap();
    let name = format!("crumble-dialer-test-{}", std::process::id());
    let address = UnixAddr::new_abstract(name.as_bytes()).unwrap();
    let listener = socket(family, kind, flags, None).unwrap();
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::MAXCONN).unwrap();
    sendto(one.as_raw_fd(), b"hello", &address, MsgFlags::empty()).unwrap();
    let mut buffer = [0; 8];
    let length = recv(other.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
    assert_eq!((length, &buffer[..5]), (Ok(5), &b"hello"[..]));
    // Not even once the other end is gone.
    drop(other);
    assert_eq!(connect(one.as_raw_fd(), &address), Err(Errno::EISCONN));
    let sent = sendto(one.as_raw_fd(), b"x", &address, MsgFlags::MSG_NOSIGNAL);
    assert_eq!(sent, Err(Errno::EPIPE));
}

#[test]
fn nonsense_of_the_supervisor_ends_it_with_the_reason() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    rig.control.send(&u64::MAX, &[]).unwrap();
    let text = wire::chain(&rig.ended().unwrap_err());
    assert!(text.starts_with("the supervisor sent nonsense"), "{text}");
}

#[test]
fn a_flood_of_datagrams_is_lost_where_there_is_no_room_and_the_rest_goes_on() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let refused = nobody();
    let server = udp();
    for round in 0..20_000_u16 {
        let datagram = Datagram {
            guest: rig::guest(round % 5000),
            remote: if round % 2 == 0 {
                refused
            } else {
                server.local_addr().unwrap()
            },
            kind: if round % 7 == 0 { Kind::Dns } else { Kind::Udp },
            payload: &[0; 600],
        };
        throw(&rig.device.datagrams, &wire::encode(&datagram).unwrap());
    }
    rig.device.assert_served(1);
    rig.end().unwrap();
}

/// An address: a few that mean something, and others.
fn address() -> impl Strategy<Value = SocketAddr> {
    let special = prop::sample::select(vec![
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "255.255.255.255",
        "224.0.0.1",
        "fe80::1",
        "ff02::1",
    ]);
    let special = special.prop_map(|text| text.parse::<IpAddr>().unwrap());
    // Documentation's networks, to which nothing is sent in earnest.
    let other = any::<u8>().prop_map(|last| IpAddr::from([192, 0, 2, last]));
    (prop_oneof![special, other], any::<u16>()).prop_map(SocketAddr::from)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Udp),
        Just(Kind::Dns),
        any::<u16>().prop_map(|sequence| Kind::Echo { sequence }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_end_it_with_a_reason_or_not_at_all(
        packets in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..200)), 1..20),
    ) {
        // Nothing is sent to anybody.
        let rig = Rig::start(config(all_but(&["0.0.0.0/0", "::/0"])), vec![]);
        for (streams, packet) in packets {
            let socket = if streams { &rig.device.streams } else { &rig.device.datagrams };
            throw(socket, &packet);
        }
        prop_assert!(is_reasoned(&rig.end()));
    }

    #[test]
    fn any_sequence_of_messages_is_answered_in_bounds_and_it_goes_on(
        asks in prop::collection::vec((0_u32..8, any::<bool>(), address()), 0..30),
        datagrams in prop::collection::vec((address(), address(), kind(), 0_usize..64), 0..30),
    ) {
        let rig = Rig::start(config(all_but(&["0.0.0.0/0", "::/0"])), vec![]);
        let mut expected = BTreeMap::new();
        for (id, cancel, address) in asks {
            if cancel {
                rig.device.ask(Ask::Cancel { id });
            } else {
                rig.device.connect(id, address);
                *expected.entry(id).or_insert(0) += 1;
            }
        }
        for (guest, remote, kind, length) in datagrams {
            let payload = &vec![7; length];
            let datagram = Datagram { guest, remote, kind, payload };
            throw(&rig.device.datagrams, &wire::encode(&datagram).unwrap());
        }
        for _ in 0..expected.values().sum::<i32>() {
            match rig.device.told() {
                (Tell::Failed { id, why: Failure::Denied | Failure::Unreachable }, None) => {
                    *expected.entry(id).or_insert(0) -= 1;
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(expected.values().all(|left| *left == 0));
        prop_assert!(rig.end().is_ok());
    }
}
