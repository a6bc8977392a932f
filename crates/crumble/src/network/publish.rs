//! Ports of the host that lead to the guest: bound here, by the caller and with the caller's rights.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen,
        setsockopt, socket, sockopt,
    },
};
use spec::Publish;
use supervisor::Dialer;
use wire::net::Protocol;

use crate::{Error, host};

/// A port of the host that leads to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
    /// UDP instead of TCP.
    pub udp: bool,
    /// The host's port was not asked for by its number.
    pub picked: bool,
}

impl fmt::Display for Published {
    /// `127.0.0.1:8080 -> 80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, guest, .. } = self;
        write!(f, "{host} -> {guest}/{}", protocol(self.udp))
    }
}

impl Published {
    pub(super) const fn to_wire(self) -> wire::net::Publish {
        wire::net::Publish {
            protocol: if self.udp {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            port: self.guest,
        }
    }
}

/// Binds a socket for each port, in order; TCP's listen.
///
/// # Errors
/// [`Error::TooManyPorts`], or [`Error::Publish`] for the first that cannot be had.
pub(super) fn bind_all(ports: &[Publish]) -> Result<(Vec<Published>, Vec<OwnedFd>), Error> {
    let counts = ports.iter().map(|publish| usize::from(publish.count));
    let count = counts.fold(0, usize::saturating_add);
    if count > Dialer::MOST_PUBLISHED {
        return Err(Error::TooManyPorts {
            count,
            most: Dialer::MOST_PUBLISHED,
        });
    }
    let bound = ports.iter().flat_map(each).map(|(wanted, guest, udp)| {
        let (host, socket) = bind_one(wanted, udp).map_err(|source| Error::Publish {
            port: format!("{wanted}/{}", protocol(udp)),
            hint: hint(&source, wanted.port(), udp),
            source,
        })?;
        let picked = wanted.port() == 0;
        let published = Published {
            host,
            guest,
            udp,
            picked,
        };
        Ok((published, socket))
    });
    let bound: Vec<_> = bound.collect::<Result<_, Error>>()?;
    Ok(bound.into_iter().unzip())
}

/// Every single port: the host's, the guest's, and whether they are UDP's.
fn each(publish: &Publish) -> impl Iterator<Item = (SocketAddr, u16, bool)> {
    let Publish {
        address,
        host,
        guest,
        count,
        udp,
    } = *publish;
    (0..count).map(move |offset| {
        // Any port stays any port.
        let host = if host == 0 {
            0
        } else {
            host.saturating_add(offset)
        };
        let wanted = SocketAddr::new(address, host);
        (wanted, guest.saturating_add(offset), udp)
    })
}

fn bind_one(wanted: SocketAddr, udp: bool) -> io::Result<(SocketAddr, OwnedFd)> {
    let (family, six) = match wanted.ip() {
        IpAddr::V4(_) => (AddressFamily::Inet, false),
        IpAddr::V6(_) => (AddressFamily::Inet6, true),
    };
    let kind = if udp {
        SockType::Datagram
    } else {
        SockType::Stream
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, None)?;
    if six {
        // [::] is all of IPv6, and leaves the port of IPv4 to whom it may concern.
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if !udp {
        // A port whose last connections are still being forgotten is free (tcp(7)).
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(wanted))?;
    if !udp {
        listen(&socket, Backlog::MAXCONN)?;
    }
    let chosen: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let port = match (chosen.as_sockaddr_in(), chosen.as_sockaddr_in6()) {
        (Some(four), _) => four.port(),
        (None, Some(six)) => six.port(),
        (None, None) => wanted.port(),
    };
    Ok((SocketAddr::new(wanted.ip(), port), socket))
}

const fn protocol(udp: bool) -> &'static str {
    if udp { "udp" } else { "tcp" }
}

/// What the caller can do about it.
fn hint(error: &io::Error, port: u16, udp: bool) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            let options = if udp { "-lunp" } else { "-ltnp" };
            format!("; somebody has that port already: `ss {options}` says who")
        }
        Some(Errno::EACCES) => format!(
            "; an ordinary user has the ports from {} on: publish one of those, or `sudo sysctl \
             net.ipv4.ip_unprivileged_port_start={port}`",
            host::unprivileged_port_start()
        ),
        Some(Errno::EADDRNOTAVAIL) => {
            "; no interface of this host has that address: `ip address` lists them".to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;
    use crate::network::namespace::in_a_namespace;

    fn bound(text: &str) -> Result<(Vec<Published>, Vec<OwnedFd>), Error> {
        bind_all(&[text.parse().unwrap()])
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        wire::chain(&bound(text).unwrap_err())
    }

    #[test]
    fn a_picked_port_listens_and_is_told() {
        let (published, sockets) = bound("0:80").unwrap();
        let told = published[0];
        assert!(told.picked && told.host.port() != 0);
        assert_eq!(
            told.to_string(),
            format!("127.0.0.1:{} -> 80/tcp", told.host.port())
        );
        let mut client = TcpStream::connect(told.host).unwrap();
        let listener = TcpListener::from(sockets.into_iter().next().unwrap());
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap().0.write_all(b"hello").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_range_is_as_many_sockets_in_order() {
        let (published, sockets) = bound("0:90-92/udp").unwrap();
        assert_eq!(sockets.len(), 3);
        let guest: Vec<u16> = published.iter().map(|one| one.guest).collect();
        assert_eq!(guest, [90, 91, 92]);
        let socket = UdpSocket::from(sockets.into_iter().next().unwrap());
        assert_eq!(socket.local_addr().unwrap(), published[0].host);
    }

    #[test]
    fn ports_of_both_kinds_of_addresses_do_not_collide() {
        let (published, _sockets) = bound("0.0.0.0:0:80").unwrap();
        let port = published[0].host.port();
        // A host without IPv6 has nothing to collide with.
        if TcpListener::bind("[::1]:0").is_ok() {
            bound(&format!("[::]:{port}:80")).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_says_who_could_tell() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let message = refused(&format!("{port}:80"));
        for word in [&format!("127.0.0.1:{port}/tcp"), "ss -ltnp", "in use"] {
            assert!(message.contains(word), "{message}");
        }
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(refused(&format!("{port}:80/udp")).contains("ss -lunp"));
    }

    #[test]
    fn an_address_that_is_not_the_host_s_is_named() {
        let message = refused("192.0.2.77:8080:80");
        assert!(message.contains("192.0.2.77:8080") && message.contains("ip address"));
    }

    #[test]
    fn a_port_of_root_s_names_the_setting() {
        in_a_namespace(
            "network::publish::tests::in_a_namespace_without_rights",
            "AS='setpriv --bounding-set=-all --inh-caps=-all --securebits=+noroot --'",
        );
    }

    #[test]
    #[ignore = "it is run by the one above"]
    fn in_a_namespace_without_rights() {
        let message = refused("80:8080");
        for word in [
            "cannot publish 127.0.0.1:80/tcp",
            "the ports from 1024 on",
            "`sudo sysctl net.ipv4.ip_unprivileged_port_start=80`",
            "Permission denied",
        ] {
            assert!(message.contains(word), "{message}");
        }
        assert!(refused("80:53/udp").contains("127.0.0.1:80/udp"));
    }

    #[test]
    fn more_ports_than_can_be_handed_over_are_refused_before_any_is_bound() {
        let most = Dialer::MOST_PUBLISHED;
        let message = refused("1-65535:1-65535");
        assert!(message.contains("65535") && message.contains(&most.to_string()));
    }
}
