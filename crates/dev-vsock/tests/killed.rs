//! A process that is killed at any moment, and another one in its place: the guest and the host
//! notice nothing.

mod guest;
mod jailed;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dev_vsock::request::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use guest::{CID, Guest, PORT};
use jailed::{Process, launch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often the process is killed while streams flow.
const KILLS: usize = 200;

/// Streams that flow both ways meanwhile.
const STREAMS: u32 = 4;

fn start() -> (Process, Guest) {
    let (process, ready) = launch(CID);
    ready.unwrap();
    let guest = process.guest();
    (process, guest)
}

/// The bytes of a stream: every place has its own.
fn byte(stream: u32, at: usize) -> u8 {
    let place = at as u64 + (u64::from(stream) << 40);
    let number = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (number >> 56) as u8
}

fn bytes(stream: u32, at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|at| byte(stream, at)).collect()
}

/// The guest's end of a stream.
#[derive(Clone, Copy)]
struct End {
    stream: u32,
    host_port: u32,
    guest_port: u32,
    sent: usize,
    received: usize,
}

/// Takes in what came, checks it, and sends what there is credit for.
fn serve(guest: &mut Guest, ends: &mut [End], size: usize) {
    guest.poll();
    while let Some((header, data)) = guest.arrived.pop_front() {
        let key = (header.src_port, header.dst_port);
        let end = ends
            .iter_mut()
            .find(|end| (end.host_port, end.guest_port) == key)
            .unwrap();
        assert_ne!(header.op, Op::Reset as u16);
        assert!(data == bytes(end.stream, end.received, data.len()));
        end.received += data.len();
        guest.consumed(key.0, key.1, data.len());
    }
    for end in ends {
        if guest.credit(end.host_port, end.guest_port) >= size && guest.may_send() {
            let data = bytes(end.stream, end.sent, size);
            guest.send_data(end.host_port, end.guest_port, &data);
            end.sent += size;
        }
    }
}

/// The host's ends: one thread writes, another reads and checks.
struct HostEnd {
    stream: UnixStream,
    written: Arc<AtomicUsize>,
    read: Arc<AtomicUsize>,
    threads: [JoinHandle<()>; 2],
}

fn host_end(number: u32, stream: &UnixStream, total: usize) -> HostEnd {
    stream.set_read_timeout(None).unwrap();
    let [mut writer, mut reader] = [stream, stream].map(|stream| stream.try_clone().unwrap());
    let [written, read] = [(), ()].map(|()| Arc::new(AtomicUsize::new(0)));
    let (wrote, got) = (Arc::clone(&written), Arc::clone(&read));
    let writing = thread::spawn(move || {
        let mut at = 0;
        while at < total {
            let length = (1 + at % 40_000).min(total - at);
            if writer.write_all(&bytes(number, at, length)).is_err() {
                return;
            }
            at += length;
            wrote.store(at, Ordering::SeqCst);
        }
    });
    let reading = thread::spawn(move || {
        // Every other one is slower than the guest, so that there is a backlog.
        let slow = number.is_multiple_of(2);
        let mut buffer = vec![0; if slow { 4096 } else { 30_000 }];
        let mut at = 0;
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            let expected = bytes(number, at, count);
            assert!(buffer[..count] == expected, "from byte {at} of {number}");
            at += count;
            got.store(at, Ordering::SeqCst);
            if slow {
                thread::sleep(Duration::from_micros(20));
            }
        }
    });
    HostEnd {
        stream: stream.try_clone().unwrap(),
        written,
        read,
        threads: [writing, reading],
    }
}

#[test]
fn not_a_byte_is_lost_or_doubled_whenever_it_is_killed() {
    const TOTAL: usize = 1 << 40;
    let (mut process, mut guest) = start();
    let mut ends = Vec::new();
    let mut hosts = Vec::new();
    for stream in 0..STREAMS {
        hosts.push(process.connect(1000 + stream));
        let (host_port, guest_port) = guest.accept();
        ends.push(End {
            stream,
            host_port,
            guest_port,
            sent: 0,
            received: 0,
        });
    }
    let hosts = (0..).zip(&hosts);
    let hosts: Vec<_> = hosts
        .map(|(number, host)| host_end(number, host, TOTAL))
        .collect();
    let mut random = 12345_u64;
    for kill in 0..KILLS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let until = Instant::now() + Duration::from_micros(random >> 50);
        let size = [17, 4096, 20_000, 60_000][kill % 4];
        while Instant::now() < until {
            serve(&mut guest, &mut ends, size);
        }
        process = process.replace(&mut guest);
    }
    // What was sent arrives, whoever has it.
    for (end, host) in ends.iter().zip(&hosts) {
        host.stream.shutdown(Shutdown::Write).unwrap();
        assert!(end.sent > 0 && end.received > 0);
        eprintln!(
            "{} bytes to the host, {} to the guest",
            end.sent, end.received
        );
    }
    let until = Instant::now() + guest::PATIENCE;
    let arrived = |ends: &[End]| {
        ends.iter().zip(&hosts).all(|(end, host)| {
            let sent = host.read.load(Ordering::SeqCst) == end.sent;
            // A write that the shutdown ended may have been taken in part.
            sent && end.received >= host.written.load(Ordering::SeqCst)
        })
    };
    while !arrived(&ends) {
        assert!(Instant::now() < until, "something was lost");
        guest.poll();
        let ended = Op::Shutdown as u16;
        guest.arrived.retain(|(header, _)| header.op != ended);
        serve(&mut guest, &mut ends, usize::MAX);
    }
    for (end, host) in ends.iter().zip(hosts) {
        let flags = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
        guest.send_shutdown(end.host_port, end.guest_port, flags);
        for thread in host.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn what_waits_for_the_host_is_there_for_the_next_process() {
    let (mut process, mut guest) = start();
    let mut stream = process.connect(7);
    let (host_port, guest_port) = guest.accept();
    let mut sent = 0;
    // More than the stream takes, and than has room behind it.
    while guest.credit(host_port, guest_port) >= 50_000 {
        guest.send_data(host_port, guest_port, &bytes(7, sent, 50_000));
        guest.settle();
        guest.poll();
        sent += 50_000;
    }
    // The next one is killed in turn, with a part of it passed on.
    for life in 0..3 {
        process = process.replace(&mut guest);
        let mut part = vec![0; 30_000];
        stream.read_exact(&mut part).unwrap();
        assert!(part == bytes(7, life * 30_000, part.len()));
    }
    let mut rest = vec![0; sent - 90_000];
    stream.read_exact(&mut rest).unwrap();
    assert!(rest == bytes(7, 90_000, rest.len()));
}

#[test]
fn the_guest_s_own_connections_go_on() {
    let (mut process, mut guest) = start();
    guest.connect(PORT, 5);
    let mut stream = process.accept();
    stream.write_all(b"one").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"one");
    process = process.replace(&mut guest);
    stream.write_all(b"two").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"two");
    guest.send_data(PORT, 5, b"three");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"three");
    guest.connect(PORT, 6);
    let _second = process.accept();
}

#[test]
fn a_connection_that_is_wanted_while_nobody_is_there_is_made() {
    let (mut process, mut guest) = start();
    stop(&process);
    let mut stream = process.connect(9);
    let _process = process.replace(&mut guest);
    let (host_port, guest_port) = guest.accept();
    guest.send_data(host_port, guest_port, b"here");
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
}

#[test]
fn ends_are_told_though_they_came_while_nobody_was_there() {
    let (mut process, mut guest) = start();
    let mut ended = process.connect(1);
    let first = guest.accept();
    let mut kept = process.connect(2);
    let second = guest.accept();
    stop(&process);
    ended.write_all(b"last words").unwrap();
    drop(ended);
    guest.send_data(second.0, second.1, b"last");
    guest.send_shutdown(second.0, second.1, SHUTDOWN_SEND);
    let _process = process.replace(&mut guest);
    let (mut data, mut flags) = (Vec::new(), 0);
    while flags != SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
        let (header, more) = guest.receive();
        assert_eq!((header.src_port, header.dst_port), first);
        data.extend(more);
        flags |= header.flags;
    }
    assert_eq!(data, b"last words");
    let mut all = Vec::new();
    kept.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last");
}

#[test]
fn a_stream_that_nobody_kept_ends_as_if_its_other_end_had_been_closed() {
    let (mut process, mut guest) = start();
    let _stream = process.connect(1);
    let ports = guest.accept();
    process.estate.streams.clear();
    let _process = process.replace(&mut guest);
    let mut flags = 0;
    while flags != SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
        let (header, _) = guest.expect(Op::Shutdown);
        assert_eq!((header.src_port, header.dst_port), ports);
        flags |= header.flags;
    }
}

#[test]
fn a_driver_that_began_anew_while_nobody_was_there_is_not_bothered_with_old_connections() {
    let (mut process, mut guest) = start();
    let mut stream = process.connect(1);
    let (host_port, guest_port) = guest.accept();
    guest.send_data(host_port, guest_port, b"x");
    stream.read_exact(&mut [0]).unwrap();
    stop(&process);
    for queue in &mut guest.driver.queues {
        queue.reset().unwrap();
    }
    process = process.replace(&mut guest);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let mut stream = process.connect(2);
    let mut guest = guest.anew();
    let (host_port, guest_port) = guest.accept();
    guest.send_data(host_port, guest_port, b"y");
    stream.read_exact(&mut [0]).unwrap();
}

/// Nothing is served any more.
fn stop(process: &Process) {
    kill(Pid::from_raw(process.process.pid()), Signal::SIGSTOP).unwrap();
}
