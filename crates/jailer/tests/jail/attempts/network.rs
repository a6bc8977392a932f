//! Sockets.

use std::io;

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, EACCES, ECONNREFUSED, EISCONN,
    ENETUNREACH, ENOENT, ENOTSOCK, EPERM, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM,
};

use super::calls::{address, make, socket, words};
use super::{
    Attempt, DIALER_ONLY, Host, Kill, Stop, VSOCK_ONLY, Work, all, by, dialled, filtered, killed,
    landlock,
};
use crate::component::Hands;
use crate::layers::Layer::{Capabilities, Descriptors, Kernel, Namespaces, Root, User};
use crate::raw::Argument;
use crate::targets;

/// Makes packets by itself: a capability in the network's own user namespace.
const RAW: &[Stop] = &[by(Capabilities, &[EPERM])];

/// The host's network is of the host's user namespace.
const RAW_OUTSIDE: &[(&str, &[Stop]); 1] = &[("dialer", &[by(User, &[EPERM])])];

/// Only Landlock is left between the dialer and the host's abstract sockets, if there were a socket.
const ABSTRACT: &[Stop] = &[by(Namespaces, &[ECONNREFUSED]), landlock(6, &[EPERM])];
const ABSTRACT_OUTSIDE: &[(&str, &[Stop]); 1] = &[("dialer", &[landlock(6, &[EPERM])])];

/// AF_INET, a port, 127.0.0.1, as they lie in memory.
const fn loopback(port: u16) -> [u64; 2] {
    let port = port.swap_bytes() as u64;
    [0x0100_007f_0000_0002 | port << 16, 0]
}

fn connect(kind: i32, port: u16) -> io::Result<()> {
    let (socket, mut address) = (socket(AF_INET, kind, 0)?, loopback(port));
    make(libc::SYS_connect, &[&socket, &&mut address[..], &16])
}

/// Sends a byte with `MSG_FASTOPEN`, which connects a TCP socket first.
fn connect_by_sending(socket: &dyn Argument, port: u16) -> io::Result<()> {
    let (mut name, mut text) = (loopback(port), words::<1>(b"x"));
    let mut vector = [address(&mut text), 1];
    // `struct msghdr`.
    let mut message = [address(&mut name), 16, address(&mut vector), 1, 0, 0, 0];
    let fast_open = 0x2000_0000;
    make(libc::SYS_sendmsg, &[socket, &&mut message[..], &fast_open])
}

/// A socket address: the family, then bytes, then what makes it even.
fn unix(name: &[u8]) -> (Vec<u64>, i32) {
    let mut bytes = 1_u16.to_ne_bytes().to_vec();
    bytes.extend(name);
    let length = i32::try_from(bytes.len()).unwrap_or(0);
    (words::<14>(&bytes).to_vec(), length)
}

fn reach(name: &[u8], what: libc::c_long, kind: i32) -> io::Result<()> {
    let socket = socket(AF_UNIX, kind, 0)?;
    let (mut address, length) = unix(name);
    make(what, &[&socket, &&mut address[..], &length])
}

/// Sends a datagram, over one of a connected pair, to somebody else than the other one.
fn send_past_its_pair(name: &[u8]) -> io::Result<()> {
    let mut pair = [0_u64];
    make(
        libc::SYS_socketpair,
        &[&AF_UNIX, &SOCK_DGRAM, &0, &&mut pair[..]],
    )?;
    let one = i64::try_from(pair[0] & 0xffff_ffff).unwrap_or(-1);
    let (mut name, length) = unix(name);
    let mut text = words::<1>(b"hello");
    let mut vector = [address(&mut text), 5];
    // `struct msghdr`.
    let length = u64::from(length.unsigned_abs());
    let mut message = [address(&mut name), length, address(&mut vector), 1, 0, 0, 0];
    make(libc::SYS_sendmsg, &[&one, &&mut message[..], &0])
}

fn socketpair(domain: i32) -> io::Result<()> {
    let mut pair = [0_u64];
    make(
        libc::SYS_socketpair,
        &[&domain, &SOCK_STREAM, &0, &&mut pair[..]],
    )
}

fn to_abstract(hands: &Hands) -> io::Result<()> {
    let name = format!("\0{}", targets::abstract_name(hands.host));
    reach(name.as_bytes(), libc::SYS_connect, SOCK_STREAM)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    dialled(
        DIALER_ONLY,
        "connect_to_a_port",
        &[landlock(4, &[EACCES]), by(Namespaces, &[ENETUNREACH])],
        &[("dialer", &[landlock(4, &[EACCES])])],
        Work,
        |hands| connect(SOCK_STREAM, hands.port),
    ),
    dialled(
        DIALER_ONLY,
        "connect_to_a_port_that_the_egress_policy_allows",
        &[landlock(4, &[EACCES]), by(Namespaces, &[ENETUNREACH])],
        &[("dialer", &[])],
        Work,
        |hands| connect(SOCK_STREAM, hands.granted_port),
    ),
    // Landlock does not see this.
    killed(
        "connect_by_sending_with_what_it_was_handed",
        &[],
        Work,
        |hands| connect_by_sending(&&hands.stream, hands.port),
    ),
    dialled(
        all(Kill),
        "connect_by_sending",
        &[by(Namespaces, &[ENETUNREACH])],
        &[("dialer", &[])],
        Work,
        |hands| connect_by_sending(&socket(AF_INET, SOCK_STREAM, 0)?, hands.port),
    ),
    killed("bind_a_port", &[landlock(4, &[EACCES])], Work, |_| {
        let socket = socket(AF_INET, SOCK_STREAM, 0)?;
        let mut any = [2_u64, 0];
        make(libc::SYS_bind, &[&socket, &&mut any[..], &16])
    }),
    killed("bind_a_port_for_datagrams", &[], Work, |_| {
        let socket = socket(AF_INET, SOCK_DGRAM, 0)?;
        let mut any = [2_u64, 0];
        make(libc::SYS_bind, &[&socket, &&mut any[..], &16])
    }),
    killed("listen_on_any_port", &[], Work, |_| {
        let socket = socket(AF_INET, SOCK_STREAM, 0)?;
        make(libc::SYS_listen, &[&socket, &1])
    }),
    dialled(
        DIALER_ONLY,
        "send_a_datagram",
        &[by(Namespaces, &[ENETUNREACH])],
        &[("dialer", &[])],
        Work,
        |hands| connect(SOCK_DGRAM, hands.port),
    ),
    filtered(DIALER_ONLY, "make_a_socket_of_ipv4", &[], Work, |_| {
        socket(AF_INET, SOCK_STREAM, 0).map(drop)
    }),
    filtered(DIALER_ONLY, "make_a_socket_of_ipv6", &[], Host, |_| {
        socket(AF_INET6, SOCK_STREAM, 0).map(drop)
    }),
    killed("make_a_socket_of_several_paths", &[], Host, |_| {
        socket(AF_INET, SOCK_STREAM, libc::IPPROTO_MPTCP).map(drop)
    }),
    killed("ask_for_the_network_s_interfaces", &[], Work, |_| {
        let socket = socket(AF_INET, SOCK_DGRAM, 0)?;
        let mut none = [0_u64; 2];
        // SIOCGIFCONF.
        make(libc::SYS_ioctl, &[&socket, &0x8912, &&mut none[..]])
    }),
    dialled(
        DIALER_ONLY,
        "connect_its_channel_to_somebody_else",
        // Older kernels look for the other first.
        &[by(Kernel, &[EISCONN, ECONNREFUSED])],
        &[("dialer", &[by(Kernel, &[EISCONN])])],
        Host,
        |hands| {
            let name = format!("\0{}", targets::packet_name(hands.host));
            let (mut address, length) = unix(name.as_bytes());
            make(libc::SYS_connect, &[&3, &&mut address[..], &length])
        },
    ),
    killed("make_a_unix_socket", &[], Work, |_| {
        socket(AF_UNIX, SOCK_STREAM, 0).map(drop)
    }),
    dialled(
        all(Kill),
        "connect_to_an_abstract_socket",
        ABSTRACT,
        ABSTRACT_OUTSIDE,
        Work,
        to_abstract,
    ),
    killed(
        "connect_to_a_socket_by_path",
        &[by(Root, &[ENOENT])],
        Work,
        |hands| {
            let path = hands.path("socket")?;
            reach(path.as_bytes_with_nul(), libc::SYS_connect, SOCK_STREAM)
        },
    ),
    killed(
        "bind_a_socket_by_path",
        &[by(Root, &[ENOENT]), landlock(1, &[EACCES])],
        Work,
        |hands| {
            let path = hands.path("beside/socket")?;
            reach(path.as_bytes_with_nul(), libc::SYS_bind, SOCK_STREAM)
        },
    ),
    killed("bind_an_abstract_socket", &[], Work, |_| {
        // The kernel chooses a name.
        reach(b"", libc::SYS_bind, SOCK_STREAM)
    }),
    killed(
        "listen_on_what_it_was_handed",
        &[by(Descriptors, &[libc::EINVAL, libc::EOPNOTSUPP])],
        Host,
        |_| make(libc::SYS_listen, &[&3, &1]),
    ),
    killed("speak_netlink", &[], Work, |_| {
        socket(AF_NETLINK, SOCK_RAW, 0).map(drop)
    }),
    killed("hear_of_devices", &[], Work, |_| {
        // NETLINK_KOBJECT_UEVENT.
        socket(AF_NETLINK, SOCK_RAW, 15).map(drop)
    }),
    dialled(all(Kill), "capture_packets", RAW, RAW_OUTSIDE, Host, |_| {
        socket(AF_PACKET, SOCK_RAW, 0).map(drop)
    }),
    dialled(
        all(Kill),
        "make_a_raw_socket",
        RAW,
        RAW_OUTSIDE,
        Host,
        |_| socket(AF_INET, SOCK_RAW, libc::IPPROTO_ICMP).map(drop),
    ),
    killed("make_a_vsock", &[], Host, |_| {
        socket(AF_VSOCK, SOCK_STREAM, 0).map(drop)
    }),
    killed("use_the_kernels_cryptography", &[], Host, |_| {
        socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0).map(drop)
    }),
    killed("speak_bluetooth", &[], Host, |_| {
        socket(libc::AF_BLUETOOTH, SOCK_RAW, 1).map(drop)
    }),
    killed("make_an_express_data_path", &[], Host, |_| {
        socket(libc::AF_XDP, SOCK_RAW, 0).map(drop)
    }),
    filtered(VSOCK_ONLY, "make_a_pair_of_sockets", &[], Work, |_| {
        socketpair(AF_UNIX)
    }),
    dialled(
        all(Kill),
        "send_a_datagram_to_an_abstract_socket",
        ABSTRACT,
        ABSTRACT_OUTSIDE,
        Work,
        |hands| send_past_its_pair(format!("\0{}", targets::abstract_name(hands.host)).as_bytes()),
    ),
    killed(
        "send_a_datagram_to_a_socket_by_path",
        &[by(Root, &[ENOENT])],
        Work,
        |hands| send_past_its_pair(hands.path("datagram")?.as_bytes_with_nul()),
    ),
    killed("make_a_pair_of_other_sockets", &[], Host, |_| {
        socketpair(libc::AF_TIPC)
    }),
    filtered(
        DIALER_ONLY,
        "send_to_an_address",
        &[by(Descriptors, &[ENOTSOCK])],
        Host,
        |_| {
            let (mut byte, mut address) = ([0_u64], loopback(22));
            make(
                libc::SYS_sendto,
                &[&0, &&mut byte[..], &1, &0, &&mut address[..], &16],
            )
        },
    ),
    killed(
        "attach_a_program_to_a_socket",
        &[by(Descriptors, &[ENOTSOCK])],
        Host,
        |_| {
            // SO_ATTACH_BPF.
            make(libc::SYS_setsockopt, &[&0, &1, &50, &0, &4])
        },
    ),
    killed(
        "ask_who_is_at_the_other_end",
        &[by(Descriptors, &[ENOTSOCK])],
        Host,
        |_| make(libc::SYS_getpeername, &[&0, &0, &0]),
    ),
];
