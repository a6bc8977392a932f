//! The network of a machine: the network device, and the dialer that holds its sockets.
//!
//! With user-mode networking two processes stand between the guest and the host's network. The
//! network device parses what the guest sends and can make no socket of the Internet. The dialer
//! makes those sockets as the machine's egress policy says, and parses nothing of the guest's. Two
//! Unix sockets of type `SOCK_SEQPACKET` join them: over `streams` go [`Ask`] and [`Tell`], connected
//! TCP sockets with them; over `datagrams` goes one [`Datagram`] a packet, without descriptors,
//! dropped where a network would drop it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What the network device is started with. With it travel the resource `vhost-user`, and for
/// [`Backend::User`] `streams` and `datagrams`, for [`Backend::Tap`] `tap`; `pcap`, a file that is
/// open for writing, may come along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The guest's hardware address: unicast.
    pub mac: [u8; 6],
    /// The largest IP packet in bytes, 1280 to 65520 (virtio 1.2, section 5.1.4).
    pub mtu: u16,
    /// Pairs of queues, 1 to [`MAX_PAIRS`]; one for [`Backend::Tap`].
    pub pairs: u16,
    /// Where packets go.
    pub backend: Backend,
    /// What the guest may send.
    pub sending: Option<Rate>,
    /// What the guest may receive.
    pub receiving: Option<Rate>,
}

/// The most pairs of queues of a network device.
pub const MAX_PAIRS: u16 = 8;

/// A token bucket each for bytes and packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Bytes a second; `None` is without limit.
    pub bytes: Option<u64>,
    /// Bytes that may go at once after a pause.
    pub burst: u64,
    /// Packets a second; `None` is without limit.
    pub packets: Option<u64>,
}

/// Where the guest's packets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// To sockets of the host, each connection on its own.
    User(Addresses),
    /// To a TAP device, as they are.
    Tap,
}

/// Who is who in the guest's network of user mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// IPv4, if the guest is to have it.
    pub v4: Option<Subnet<Ipv4Addr>>,
    /// IPv6, if the guest is to have it.
    pub v6: Option<Subnet<Ipv6Addr>>,
    /// The guest's name, for DHCP.
    pub hostname: String,
    /// Domains that the guest's resolver tries, in this order.
    pub search: Vec<String>,
}

/// One subnet, in which there are the guest, the gateway, and an address for the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet<A> {
    /// The guest's address.
    pub guest: A,
    /// Routes, answers DNS at port 53 and echo requests; `gateway.internal`.
    pub gateway: A,
    /// Stands for the host's loopback address; `host.internal`.
    pub host: A,
    /// Bits of the subnet's prefix.
    pub prefix: u8,
}

impl Default for Addresses {
    /// 10.0.2.0/24 and fd63:7275:6d62::/64: guest 15, gateway 2, host 3.
    fn default() -> Self {
        let v6 = |last| Ipv6Addr::new(0xfd63, 0x7275, 0x6d62, 0, 0, 0, 0, last);
        Self {
            v4: Some(Subnet {
                guest: Ipv4Addr::new(10, 0, 2, 15),
                gateway: Ipv4Addr::new(10, 0, 2, 2),
                host: Ipv4Addr::new(10, 0, 2, 3),
                prefix: 24,
            }),
            v6: Some(Subnet {
                guest: v6(0x15),
                gateway: v6(2),
                host: v6(3),
                prefix: 64,
            }),
            hostname: "crumble".to_owned(),
            search: Vec::new(),
        }
    }
}

/// What the dialer is started with. With it travel the resources `streams` and `datagrams`, and
/// one bound socket for each of [`DialerConfig::publish`], named `publish-0` and so on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialerConfig {
    /// What the guest may reach.
    pub egress: Egress,
    /// Name servers of the host, in the order in which they are asked.
    pub nameservers: Vec<SocketAddr>,
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
}

/// Supervisor to dialer, over the control channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DialerRequest {
    /// The host's name servers have changed.
    Nameservers(Vec<SocketAddr>),
}

/// A port of the host that leads to the guest. Its socket is bound, and listens if it is TCP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The guest's port.
    pub port: u16,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// What of the host's network the guest may reach. The first rule that applies to an address and a
/// port decides; where none does, `otherwise`. An IPv6 address that contains an IPv4 address
/// (mapped, compatible, or RFC 6052's well-known prefix) is judged as that IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// In order.
    pub rules: Vec<Rule>,
    /// What happens to the rest.
    pub otherwise: Verdict,
}

/// A part of the Internet, and whether it may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The network's address; bits behind the prefix are zero.
    pub network: IpAddr,
    /// 0 to 32, or to 128 for IPv6.
    pub prefix: u8,
    /// First and last port; echo requests, which have none, are meant by rules for all ports.
    pub ports: (u16, u16),
    /// Whether it may be reached.
    pub verdict: Verdict,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It may be reached.
    Allow,
    /// It may not: connections are refused, datagrams dropped.
    Deny,
}

/// Device to dialer, over `streams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Connect a TCP socket.
    Connect {
        /// Chosen by the device, unique among those that are not answered.
        id: u32,
        /// Where to.
        target: Target,
    },
    /// The guest lost interest. An answer may be on its way nevertheless.
    Cancel {
        /// Of the connection.
        id: u32,
    },
}

/// Where a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// To an address, if the egress policy lets it.
    Address(SocketAddr),
    /// To a name server of the host.
    Dns,
}

/// Dialer to device, over `streams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// It is connected: the socket, which does not block, accompanies the message.
    Connected {
        /// Of the request.
        id: u32,
    },
    /// It is not.
    Failed {
        /// Of the request.
        id: u32,
        /// Why not.
        why: Failure,
    },
    /// Somebody connected to a published port: the socket, which does not block, accompanies the
    /// message.
    Accepted {
        /// The guest's port.
        port: u16,
        /// Who connected.
        peer: SocketAddr,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// No answer.
    TimedOut,
    /// The egress policy forbids it.
    Denied,
    /// The dialer has too many connections, or no descriptors.
    Exhausted,
}

/// Either direction, over `datagrams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram<'a> {
    /// The guest's address and port; for [`Kind::Echo`] the port is the identifier. From the dialer
    /// the address is unspecified if a datagram came to a published port and the guest has not
    /// answered its sender: only the device knows the guest's address.
    pub guest: SocketAddr,
    /// The other side's; for [`Kind::Echo`] the port is 0. For [`Kind::Dns`] it is whom the guest
    /// asked.
    pub remote: SocketAddr,
    /// What it is.
    pub kind: Kind,
    /// The datagram's content, none for the kinds that report an error.
    #[serde(borrow)]
    pub payload: &'a [u8],
}

/// What a [`Datagram`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A UDP datagram.
    Udp,
    /// From the guest a question, to it an answer, in the form of RFC 1035, section 4.
    Dns,
    /// From the guest an echo request, to it the reply, of ICMP or ICMPv6; what follows the
    /// sequence number is the payload.
    Echo {
        /// The sequence number.
        sequence: u16,
    },
    /// To the guest: its last datagram from `guest` to `remote` found nobody there.
    Refused,
    /// To the guest: there is no way from `guest` to `remote`.
    Unreachable,
    /// To the guest: the egress policy forbids what it sent from `guest` to `remote`.
    Denied,
}

/// The longest encoded [`Datagram`]: 65507 bytes of UDP payload (RFC 768) and what goes before.
pub const MAX_DATAGRAM: usize = 65507 + 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_datagram_fits() {
        let payload = vec![0xff; 65507];
        let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::from([0xff; 16])), u16::MAX);
        let datagram = Datagram {
            guest: address,
            remote: address,
            kind: Kind::Echo { sequence: u16::MAX },
            payload: &payload,
        };
        let mut buffer = vec![0; MAX_DATAGRAM];
        let encoded = crate::encode_into(&datagram, &mut buffer).unwrap();
        assert_eq!(crate::decode::<Datagram<'_>>(encoded).unwrap(), datagram);
    }
}
