//! Devices whose back ends are somebody else's.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

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

    /// The kind of this name or virtio device id, or why there is none.
    fn find(word: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|kind| kind.name == word);
        match (named, word.parse()) {
            (Some(kind), _) => Ok(*kind),
            (None, Ok(Self::SOCKET)) => {
                Err("a machine has a socket device, and Linux takes no second".to_owned())
            }
            (None, Ok(virtio_id @ 1..=63)) => Ok(kind("", virtio_id, 1)),
            _ => {
                let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name).collect();
                let names = names.join(", ");
                Err(format!(
                    "there is no kind \"{word}\", but {names}, and virtio's ids"
                ))
            }
        }
    }
}

const fn kind(name: &'static str, virtio_id: u16, queues: u16) -> Kind {
    Kind {
        name,
        virtio_id,
        queues,
    }
}

/// A device whose vhost-user back end is a program of somebody else's.
///
/// It can read and write all of the guest's memory, as any vhost-user back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The virtio device id, 1 to 63.
    pub virtio_id: u16,
    /// What serves it.
    pub back_end: BackEnd,
    /// The size of each queue, a power of two up to 32768.
    pub queues: Vec<u16>,
    /// What the guest calls a file system, at most 36 bytes.
    pub tag: Option<String>,
    /// A program that is the back end uses its queues in order and keeps nothing else that matters: when it
    /// has ended it is started again, and goes on where the used rings end.
    pub in_order: bool,
}

/// Who serves a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackEnd {
    /// Whoever listens on this socket, in no jail of ours.
    Socket(PathBuf),
    /// A program that is started for the machine, in a jail.
    Program(Program),
}

/// A program that is a back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// It and its arguments. `{fd}` in one of them is the number of the socket on which it is to take its front
    /// end's connection, `{NAME}` that of a file.
    command: Vec<String>,
    /// What it may do, as of `crumble-jailer`.
    pub policy: PathBuf,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Files that are opened for it.
    pub files: BTreeMap<String, Opened>,
}

/// A file that is opened for a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The file, or directory.
    pub path: PathBuf,
    /// It may be written.
    pub writable: bool,
}

/// What of a device's shape is not as with most of its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// How many queues it has, 1 to 64.
    pub queues: Option<u16>,
    /// The size of each, a power of two up to 32768.
    pub size: Option<u16>,
    /// [`External::tag`].
    pub tag: Option<String>,
    /// [`External::in_order`].
    pub in_order: bool,
}

impl Program {
    /// The descriptor of the socket that it listens on; those of its files are the next, in the order of
    /// their names.
    pub const FIRST_FD: u32 = 3;

    /// What stands for that in its arguments.
    const SOCKET: &str = "fd";

    /// How many files it may be given.
    const MOST_FILES: usize = 60;

    /// A program with this command.
    ///
    /// # Errors
    /// [`Error::Device`] if the command is empty, says nowhere where `{fd}` goes, or names a file that is not
    /// among `files`.
    pub fn new(
        command: Vec<String>,
        policy: PathBuf,
        env: BTreeMap<String, String>,
        files: BTreeMap<String, Opened>,
    ) -> Result<Self, Error> {
        let given = command.first().cloned().unwrap_or_default();
        let wrong = |reason: String| Error::Device {
            given: given.clone(),
            reason,
        };
        if given.is_empty() {
            return Err(wrong("its command is empty".to_owned()));
        }
        if files.len() > Self::MOST_FILES || files.contains_key(Self::SOCKET) {
            let most = Self::MOST_FILES;
            return Err(wrong(format!(
                "it may have {most} files, and none of them is called \"fd\""
            )));
        }
        let named: Vec<_> = command.iter().flat_map(|word| names(word)).collect();
        if !named.contains(&Self::SOCKET) {
            return Err(wrong(
                "none of its arguments says {fd}, which is the socket that it is to listen on"
                    .to_owned(),
            ));
        }
        let known = |name: &&str| *name == Self::SOCKET || files.contains_key(*name);
        if let Some(name) = named.into_iter().find(|name| !known(name)) {
            return Err(wrong(format!("{{{name}}} is none of its files")));
        }
        Ok(Self {
            command,
            policy,
            env,
            files,
        })
    }

    /// Its command, with the numbers of its descriptors.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let names = [Self::SOCKET].into_iter();
        let names = names.chain(self.files.keys().map(String::as_str));
        let numbers: Vec<_> = names
            .zip(Self::FIRST_FD..)
            .map(|(name, number)| (format!("{{{name}}}"), number.to_string()))
            .collect();
        let fill = |word: &String| {
            let mut word = word.clone();
            for (name, number) in &numbers {
                word = word.replace(name, number);
            }
            word
        };
        self.command.iter().map(fill).collect()
    }
}

/// What stands in braces in a word and could be a name.
fn names(word: &str) -> impl Iterator<Item = &str> {
    let inside = word.split('{').skip(1);
    let inside = inside.filter_map(|rest| rest.split_once('}'));
    let could = |name: &str| {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !name.is_empty() && name.bytes().all(byte)
    };
    inside.map(|(name, _)| name).filter(move |name| could(name))
}

impl External {
    /// The size of a queue if nobody says otherwise.
    const QUEUE_SIZE: u16 = 256;

    /// Queues of one device.
    const MOST_QUEUES: u16 = 64;

    /// Bytes of a file system's tag (virtio 1.2, section 5.11.4).
    const TAG: usize = 36;

    /// A device of a kind: a name of [`Kind::ALL`], or a virtio device id.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no such kind, or a device of it has no such shape.
    pub fn new(kind: &str, back_end: BackEnd, shape: Shape) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Device {
            given: kind.to_owned(),
            reason,
        };
        let kind = Kind::find(kind).map_err(wrong)?;
        let is_fs = kind.virtio_id == Kind::FS;
        match &shape.tag {
            None if is_fs => return Err(wrong("a file system needs a tag".to_owned())),
            Some(tag) if !is_fs || !(1..=Self::TAG).contains(&tag.len()) => {
                return Err(wrong(format!(
                    "tag={tag}: a file system has a tag, of {} bytes at most",
                    Self::TAG
                )));
            }
            _ => {}
        }
        let count = shape.queues.unwrap_or(kind.queues);
        if !(1..=Self::MOST_QUEUES).contains(&count) {
            return Err(wrong(format!(
                "queues={count}: a device has 1 to {} queues",
                Self::MOST_QUEUES
            )));
        }
        let size = shape.size.unwrap_or(Self::QUEUE_SIZE);
        if !size.is_power_of_two() {
            return Err(wrong(format!(
                "size={size}: the size of a queue is a power of two"
            )));
        }
        Ok(Self {
            virtio_id: kind.virtio_id,
            back_end,
            queues: vec![size; count.into()],
            tag: shape.tag,
            in_order: shape.in_order,
        })
    }

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
        let kind = words.next().unwrap_or_default();
        let mut socket = None;
        let mut shape = Shape::default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match (key, value.parse::<u16>()) {
                ("socket", _) if !value.is_empty() => socket = Some(PathBuf::from(value)),
                ("tag", _) => shape.tag = Some(value.to_owned()),
                ("queues", Ok(count)) => shape.queues = Some(count),
                ("size", Ok(size)) => shape.size = Some(size),
                _ => return Err(wrong(format!("\"{word}\" is nothing it takes"))),
            }
        }
        // A kind that is wrong is said before a socket that is missing.
        let socket = socket.ok_or_else(|| match Kind::find(kind) {
            Ok(_) => wrong("its socket is missing".to_owned()),
            Err(reason) => wrong(reason),
        })?;
        Self::new(kind, BackEnd::Socket(socket), shape)
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.back_end {
            BackEnd::Socket(path) => write!(f, "{} at {}", self.kind(), path.display()),
            BackEnd::Program(program) => {
                let name = program.command.first().map_or("", String::as_str);
                write!(f, "{} by {name}", self.kind())
            }
        }
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

    fn program(command: &[&str], files: &[&str]) -> Result<Program, Error> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let opened = || Opened {
            path: "/x".into(),
            writable: false,
        };
        let files = files.iter().map(|name| ((*name).to_owned(), opened()));
        Program::new(command, "p.toml".into(), BTreeMap::new(), files.collect())
    }

    #[test]
    fn a_program_is_told_the_numbers_of_its_descriptors() {
        let daemon = program(
            &["d", "--fd={fd}", "{image},{key}", r#"{"a":"{key}"}"#, "{}"],
            &["key", "image"],
        );
        assert_eq!(
            daemon.unwrap().command(),
            ["d", "--fd=3", "4,5", r#"{"a":"5"}"#, "{}"]
        );
    }

    #[test]
    fn a_command_that_cannot_be_meant_is_refused() {
        for (command, files, word) in [
            (&[][..], &[][..], "empty"),
            (&["d"], &[], "{fd}"),
            (&["d", "{fd}", "{image}"], &["img"], "{image}"),
            (&["d", "{fd}"], &["fd"], "called"),
        ] {
            let message = program(command, files).unwrap_err().to_string();
            assert!(message.contains(word), "{command:?}: {message}");
        }
    }
}
