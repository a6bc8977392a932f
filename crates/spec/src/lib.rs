//! What a machine *is*: typed sizes, images and shares, checked when they are made.
//!
//! Nothing here touches an operating system. A [`MachineSpec`] that exists is one that makes
//! sense by itself; whether this host can run it is for others to find out.

#![forbid(unsafe_code)]

mod device;
mod disk;
mod image;
mod init;
mod interface;
mod name;
mod network;
mod publish;
mod reference;
mod share;
mod size;
mod volume;

use std::path::PathBuf;

pub use device::{BackEnd, External, Kind, Opened, Program, Shape};
pub use disk::Disk;
pub use image::Image;
pub use init::Init;
pub use interface::{Interface, InterfaceAddress};
pub use name::Name;
pub use network::{Link, Network, Rate, Rule, Tap, User};
pub use publish::Publish;
pub use reference::Reference;
pub use share::Share;
pub use size::{Cpus, Memory};
pub use volume::Volume;

/// What can be wrong with the description of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number of vCPUs.
    #[error(
        "\"{0}\" is not a number of CPUs: give a whole number from 1 to {max}",
        max = Cpus::MAX
    )]
    Cpus(String),
    /// Not a size.
    #[error("\"{0}\" is not an amount of memory: give a number with K, M, G or T, as in 512M")]
    MemorySyntax(String),
    /// A size that no machine of ours can have.
    #[error(
        "{given} of memory is not possible: give from {} to {}",
        Memory::MIN,
        Memory::MAX
    )]
    MemoryRange {
        /// What was asked for.
        given: String,
    },
    /// Not a share.
    #[error(
        "\"{given}\" is not a share: {reason}; write HOST_DIR:GUEST_DIR or HOST_DIR:GUEST_DIR:ro"
    )]
    Share {
        /// What was asked for.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not a volume.
    #[error("\"{given}\" is not a volume: {reason}; write NAME:GUEST_DIR or NAME:GUEST_DIR:ro")]
    Volume {
        /// What was asked for.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not a disk.
    #[error("\"{0}\" is not a disk: write FILE or FILE:ro")]
    Disk(String),
    /// Not a device.
    #[error(
        "\"{given}\" is not a device: {reason}; write KIND,socket=PATH, as in rng,socket=/run/rng.sock"
    )]
    Device {
        /// What was asked for.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not an image that can be run.
    #[error("\"{given}\" is not an image: {reason}")]
    Image {
        /// What was asked for.
        given: String,
        /// What is wrong with it, and what would be right.
        reason: &'static str,
    },
    /// Not a network.
    #[error(
        "\"{given}\" is not a network: {reason}; write none, user or tap=NAME, with settings after \
         commas, as in user,deny=10.0.0.0/8"
    )]
    Network {
        /// What was asked for.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a port to publish.
    #[error("\"{given}\" cannot be published: {reason}; write [ADDRESS:]HOST:GUEST[/udp]")]
    Publish {
        /// What was asked for.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Published ports without what leads to them.
    #[error("ports are published with the network \"user\" only; leave out -p, or use that one")]
    PublishWithoutUser,
    /// One port of the host cannot lead to two of the guest.
    #[error("{0} is to be published twice; give each one a port, or an address, of its own")]
    PublishedTwice(Publish),
    /// Not an interface's name.
    #[error("\"{0}\" is not an interface's name: 1 to 15 bytes without spaces, / : or %")]
    Interface(String),
    /// Not an address of an interface.
    #[error("{0}")]
    InterfaceAddress(String),
    /// An MTU that no machine of ours can have.
    #[error(
        "an MTU of {0} is not possible: give {min} to {max}",
        min = Link::MTU_MIN,
        max = Link::MTU_MAX
    )]
    Mtu(u16),
    /// Not a machine's name.
    #[error(
        "\"{0}\" is not a machine's name: 1 to 63 lower-case letters, digits, hyphens and single dots, \
         beginning and ending with a letter or digit"
    )]
    Name(String),
    /// Not the path of an init.
    #[error("\"{0}\" is no init: write systemd, or the absolute path of a program of the image")]
    Init(String),
    /// Not a host name.
    #[error(
        "\"{0}\" is not a host name: 1 to 64 letters, digits, hyphens and dots, \
         beginning and ending with a letter or digit"
    )]
    Hostname(String),
}

/// A machine: everything that is decided before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Number of vCPUs.
    pub cpus: Cpus,
    /// Guest memory.
    pub memory: Memory,
    /// What the root file system is made from.
    pub image: Image,
    /// Directories of the host that the guest sees, in the order of mounting.
    pub shares: Vec<Share>,
    /// Directories that are kept for guests, after the shares.
    pub volumes: Vec<Volume>,
    /// Files of the host that are disks of the guest: `/dev/vda` and so on, in this order.
    pub disks: Vec<Disk>,
    /// Devices whose back ends are somebody else's, after all others.
    pub external: Vec<External>,
    /// How it is connected.
    pub network: Network,
    /// Ports of the host that lead to it, with [`Network::User`].
    pub publish: Vec<Publish>,
    /// A kernel file instead of the distribution's.
    pub kernel: Option<PathBuf>,
    /// The guest's host name.
    pub hostname: Hostname,
    /// The image's own init, as process 1; ours without.
    pub init: Option<Init>,
    /// The guest has a terminal that is not a command's, `/dev/hvc0`, for its init to ask who logs in.
    pub terminal: bool,
    /// Memory that the guest's kernel has free goes back to the host (virtio 1.2, section 5.5.6.7, free page
    /// reporting).
    pub free_page_reporting: bool,
    /// What is written is kept under this name; it is gone with the machine without.
    pub name: Option<Name>,
}

impl MachineSpec {
    /// A machine of one vCPU and 512 MiB that runs `image`.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            cpus: Cpus::ONE,
            memory: Memory::DEFAULT,
            image,
            shares: Vec::new(),
            volumes: Vec::new(),
            disks: Vec::new(),
            external: Vec::new(),
            network: Network::default(),
            publish: Vec::new(),
            kernel: None,
            hostname: Hostname::default(),
            init: None,
            terminal: false,
            free_page_reporting: false,
            name: None,
        }
    }

    /// Whether its parts agree.
    ///
    /// # Errors
    /// [`Error::PublishWithoutUser`], [`Error::PublishedTwice`], [`Error::Mtu`].
    pub fn check(&self) -> Result<(), Error> {
        let link = match &self.network {
            Network::User(user) => Some(user.link),
            Network::None | Network::Tap(_) if !self.publish.is_empty() => {
                return Err(Error::PublishWithoutUser);
            }
            Network::Tap(tap) => Some(tap.link),
            Network::None => None,
        };
        let possible = Link::MTU_MIN..=Link::MTU_MAX;
        match link.and_then(|link| link.mtu) {
            Some(mtu) if !possible.contains(&mtu) => return Err(Error::Mtu(mtu)),
            _ => {}
        }
        let earlier = |index| self.publish.iter().take(index);
        let twice = self.publish.iter().enumerate();
        let mut twice = twice.filter(|(index, one)| earlier(*index).any(|other| one.meets(other)));
        match twice.next() {
            Some((_, one)) => Err(Error::PublishedTwice(*one)),
            None => Ok(()),
        }
    }
}

/// A host name as Linux takes it: 1 to 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(String);

impl Hostname {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Hostname {
    fn default() -> Self {
        Self("crumble".to_owned())
    }
}

impl std::str::FromStr for Hostname {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let sound = text.len() <= 64
            && text.chars().all(inner)
            && edge(text.chars().next())
            && edge(text.chars().next_back());
        sound
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| Error::Hostname(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_of_user_mode_has_published_ports() {
        let mut machine = MachineSpec::new(Image::Host);
        machine.publish = vec!["8080:80".parse().unwrap()];
        assert!(machine.check().is_ok());
        for network in ["none", "tap=tap0"] {
            machine.network = network.parse().unwrap();
            assert_eq!(machine.check(), Err(Error::PublishWithoutUser));
        }
        machine.publish.clear();
        assert!(machine.check().is_ok());
    }

    #[test]
    fn a_port_of_the_host_is_published_once() {
        let check = |ports: &[&str]| {
            let mut machine = MachineSpec::new(Image::Host);
            machine.publish = ports.iter().map(|port| port.parse().unwrap()).collect();
            machine.check()
        };
        for twice in [
            ["8080:80", "8080:81"],
            ["0.0.0.0:8080:80", "8080:80"],
            ["[::1]:8080:80", "[::]:8080:80"],
            ["8000-8009:1-10", "8009:80"],
        ] {
            let message = check(&twice).unwrap_err().to_string();
            assert!(message.contains("published twice"), "{message}");
        }
        let message = check(&["53:53/udp", "53:54/udp"]).unwrap_err().to_string();
        assert!(message.starts_with("127.0.0.1:53:54/udp is"), "{message}");
        for apart in [
            ["8080:80", "8080:80/udp"],
            ["8080:80", "127.0.0.2:8080:80"],
            ["0.0.0.0:8080:80", "[::]:8080:80"],
            ["8000-8009:1-10", "8010:80"],
            ["0:80", "0:80"],
        ] {
            assert_eq!(check(&apart), Ok(()), "{apart:?}");
        }
    }

    #[test]
    fn an_mtu_that_was_not_parsed_is_checked_too() {
        let mut machine = MachineSpec::new(Image::Host);
        let link = |mtu| Link {
            mtu: Some(mtu),
            rate: None,
        };
        for (mtu, sound) in [(1279, false), (1280, true), (65520, true), (65521, false)] {
            machine.network = Network::User(User {
                link: link(mtu),
                ..User::default()
            });
            assert_eq!(machine.check().is_ok(), sound, "{mtu}");
        }
    }

    #[test]
    fn host_names_are_letters_digits_hyphens_and_dots() {
        for good in ["a", "crumble", "web-1.example"] {
            assert_eq!(good.parse::<Hostname>().unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", "-a", "a-", "a b", "ä", &long] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }
}
