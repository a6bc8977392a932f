//! A dialer that does what it is asked, on loopback.

use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use handoff::Channel;
use nix::sys::socket::{MsgFlags, recv, send};
use wire::net::{Ask, Datagram, Failure, Kind, MAX_DATAGRAM, Target, Tell};

use super::Host;

/// Serves the host's ends of a device's sockets until the device is gone.
pub fn serve(host: &Host) {
    serve_ends(
        host.streams.try_clone().unwrap(),
        host.datagrams.try_clone().unwrap(),
    );
}

/// As [`serve`], of a device that is not in this process.
pub fn serve_ends(streams: Channel, datagrams: OwnedFd) {
    thread::spawn(move || connect(&streams));
    thread::spawn(move || forward(&datagrams));
}

fn connect(streams: &Channel) {
    while let Ok(Some((ask, _))) = streams.receive::<Ask>() {
        let Ask::Connect { id, target } = ask else {
            continue;
        };
        let Target::Address(address) = target else {
            panic!("no name servers in these tests");
        };
        let told = match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nonblocking(true).unwrap();
                streams.send(&Tell::Connected { id }, &[stream.as_fd()])
            }
            Err(_) => {
                let why = Failure::Refused;
                streams.send(&Tell::Failed { id, why }, &[])
            }
        };
        if told.is_err() {
            return;
        }
    }
}

/// One socket for all: these tests have one guest port at a time.
fn forward(datagrams: &OwnedFd) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = recv(datagrams.as_raw_fd(), &mut buffer, MsgFlags::empty());
        let Ok(length @ 1..) = length else { return };
        let asked: Datagram<'_> = wire::decode(&buffer[..length]).unwrap();
        let mut reply = vec![0; 65536];
        let answer = match asked.kind {
            Kind::Udp => {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(asked.remote).unwrap();
                socket.send(asked.payload).unwrap();
                match socket.recv(&mut reply) {
                    Ok(length) => Datagram {
                        payload: &reply[..length],
                        ..asked
                    },
                    Err(_) => Datagram {
                        kind: Kind::Refused,
                        payload: &[],
                        ..asked
                    },
                }
            }
            _ => asked,
        };
        let bytes = wire::encode(&answer).unwrap();
        if send(datagrams.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}

/// Takes what is asked and answers nothing, until the device is gone.
pub fn serve_nobody(host: &Host) {
    let streams = host.streams.try_clone().unwrap();
    thread::spawn(move || while let Ok(Some(_)) = streams.receive::<Ask>() {});
}
