//! Devices whose back ends are somebody else's.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::Error;

/// What a device is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// What people call it.
    pub name: &'static str,
    /// The virtio device id (virtio 1.2, section 5).
    pub virtio_id: u16,
    /// How many queues it has if nobody says otherwise.
    queues: u16,
}

impl Kind {
    /// Those that have a name. A socket device is not among them: a machine has one of its own, and
    /// Linux takes no second.
    pub const ALL: &[Self] = &[
        // Receive and transmit.
        kind("net", 1, 2),
        kind("block", 2, 1),
        // Receive and transmit of the first port.
        kind("console", 3, 2),
        kind("rng", 4, 1),
        // Control, event, request.
        kind("scsi", 8, 3),
        // Control, cursor.
        kind("gpu", 16, 2),
        // Event, status.
        kind("input", 18, 2),
        // Data, control.
        kind("crypto", 20, 2),
        // Control, event, transmit, receive.
        kind("sound", 25, 4),
        // High priority, request.
        kind("fs", 26, 2),
        kind("i2c", 34, 1),
        // Transmit, receive, control.
        kind("can", 36, 3),
        // Request, event.
        kind("gpio", 41, 2),
    ];

    const FS: u16 = 26;
    const SOCKET: u16 = 19;
}

const fn kind(name: &'static str, virtio_id: u16, queues: u16) -> Kind {
    Kind {
        name,
        virtio_id,
        queues,
    }
}

/// A device whose vhost-user back end listens on a socket of the host.
///
/// It is not in a jail of ours, and it can read and write all of the guest's memory, as any vhost-user
/// back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The virtio device id, 1 to 63.
    pub virtio_id: u16,
    /// Where its back end listens.
    pub socket: PathBuf,
    /// The size of each queue, a power of two up to 32768.
    pub queues: Vec<u16>,
    /// What the guest calls a file system, at most 36 bytes.
    pub tag: Option<String>,
}

impl External {
    /// The size of a queue if nobody says otherwise.
    const QUEUE_SIZE: u16 = 256;

    /// Queues of one device.
    const MOST_QUEUES: u16 = 64;

    /// Bytes of a file system's tag (virtio 1.2, section 5.11.4).
    const TAG: usize = 36;

    /// What people call a device of this kind.
    #[must_use]
    pub fn kind(&self) -> String {
        let named = Kind::ALL
            .iter()
            .find(|kind| kind.virtio_id == self.virtio_id);
        named.map_or_else(
            || format!("virtio{}", self.virtio_id),
            |kind| kind.name.to_owned(),
        )
    }

    /// Its config space, if it is not the back end's to say: a file system's, which only the VMM knows.
    #[must_use]
    pub fn config_space(&self) -> Option<Vec<u8>> {
        let tag = self.tag.as_ref()?;
        let mut space = tag.as_bytes().to_vec();
        space.resize(Self::TAG, 0);
        let requests = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        space.extend(requests.saturating_sub(1).to_le_bytes());
        Some(space)
    }
}

impl FromStr for External {
    type Err = Error;

    /// `KIND,socket=PATH`, and after that `queues=N`, `size=N` and for a file system `tag=NAME`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Device {
            given: text.to_owned(),
            reason,
        };
        let mut words = text.split(',');
        let word = words.next().unwrap_or_default();
        let named = Kind::ALL.iter().find(|kind| kind.name == word);
        let kind = match (named, word.parse()) {
            (Some(kind), _) => *kind,
            (None, Ok(virtio_id @ 1..=63)) => kind("", virtio_id, 1),
            _ => {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name).collect();
                let names = names.join(", ");
                return Err(wrong(format!(
                    "there is no kind \"{word}\", but {names}, and virtio's ids"
                )));
            }
        };
        if kind.virtio_id == Kind::SOCKET {
            return Err(wrong(
                "a machine has a socket device, and Linux takes no second".to_owned(),
            ));
        }
        let (mut socket, mut tag) = (None, None);
        let (mut count, mut size) = (kind.queues, Self::QUEUE_SIZE);
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match (key, value.parse::<u16>()) {
                ("socket", _) if !value.is_empty() => socket = Some(PathBuf::from(value)),
                ("tag", _)
                    if kind.virtio_id == Kind::FS && (1..=Self::TAG).contains(&value.len()) =>
                {
                    tag = Some(value.to_owned());
                }
                ("queues", Ok(number @ 1..=Self::MOST_QUEUES)) => count = number,
                ("size", Ok(number)) if number.is_power_of_two() => size = number,
                _ => return Err(wrong(format!("\"{word}\" is nothing it takes"))),
            }
        }
        if kind.virtio_id == Kind::FS && tag.is_none() {
            return Err(wrong("a file system needs a tag".to_owned()));
        }
        Ok(Self {
            virtio_id: kind.virtio_id,
            socket: socket.ok_or_else(|| wrong("its socket is missing".to_owned()))?,
            queues: vec![size; count.into()],
            tag,
        })
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind(), self.socket.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_kind_and_a_socket() {
        let rng: External = "rng,socket=/run/rng.sock".parse().unwrap();
        assert_eq!((rng.virtio_id, &*rng.queues), (4, &[256][..]));
        assert_eq!(rng.to_string(), "rng at /run/rng.sock");
        assert_eq!(rng.config_space(), None);
        let other: External = "44,socket=x,queues=3,size=1024".parse().unwrap();
        assert_eq!((other.virtio_id, other.queues), (44, vec![1024; 3]));
        let fs: External = "fs,socket=a/b,tag=data".parse().unwrap();
        let space = fs.config_space().unwrap();
        assert_eq!(
            (space.len(), &space[..5], &space[36..]),
            (40, &b"data\0"[..], &[1, 0, 0, 0][..])
        );
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, word) in [
            ("", "kind"),
            ("toaster,socket=x", "toaster"),
            ("0,socket=x", "kind"),
            ("64,socket=x", "kind"),
            ("19,socket=x", "no second"),
            ("rng", "socket"),
            ("rng,socket=", "socket="),
            ("rng,socket=x,tag=y", "tag=y"),
            ("rng,socket=x,size=100", "size=100"),
            ("rng,socket=x,queues=0", "queues=0"),
            ("rng,socket=x,queues=65", "queues=65"),
            ("fs,socket=x", "needs a tag"),
            (
                "fs,socket=x,tag=0123456789012345678901234567890123456",
                "tag=",
            ),
        ] {
            let message = text.parse::<External>().unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
