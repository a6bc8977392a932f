//! What open files are.

use std::{
    fs::{self, Metadata},
    os::unix::fs::FileTypeExt,
    path::Path,
};

use serde::Serialize;

/// A kind of open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants are the kernel's own words")]
pub enum FileKind {
    Kvm,
    Memfd,
    Socket,
    Eventfd,
    Eventpoll,
    Timerfd,
    Pidfd,
    Signalfd,
    Pipe,
    Directory,
    File,
    Symlink,
    Null,
    Terminal,
    CharDevice,
    BlockDevice,
    Other,
}

impl FileKind {
    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Memfd => "memfd",
            Self::Socket => "socket",
            Self::Eventfd => "eventfd",
            Self::Eventpoll => "eventpoll",
            Self::Timerfd => "timerfd",
            Self::Pidfd => "pidfd",
            Self::Signalfd => "signalfd",
            Self::Pipe => "pipe",
            Self::Directory => "directory",
            Self::File => "file",
            Self::Symlink => "symlink",
            Self::Null => "null",
            Self::Terminal => "terminal",
            Self::CharDevice => "char-device",
            Self::BlockDevice => "block-device",
            Self::Other => "other",
        }
    }

    /// What the link `link` in a `/proc/PID/fd` leads to.
    pub(crate) fn of(link: &Path) -> Option<Self> {
        let target = fs::read_link(link).ok()?;
        let target = target.to_string_lossy();
        let kind = Self::of_target(&target)
            .or_else(|| fs::metadata(link).ok().and_then(|data| of_metadata(&data)));
        Some(kind.unwrap_or(Self::Other))
    }

    /// What the target of a link tells by itself (proc_pid_fd(5)). A file of the host can have
    /// nearly any name, but it begins with a slash.
    fn of_target(target: &str) -> Option<Self> {
        if let Some(name) = target.strip_prefix("anon_inode:") {
            return Some(of_anonymous(name));
        }
        match target {
            "/dev/null" => Some(Self::Null),
            "/dev/kvm" => Some(Self::Kvm),
            _ if target.starts_with("socket:[") => Some(Self::Socket),
            _ if target.starts_with("pipe:[") => Some(Self::Pipe),
            _ if target.starts_with("/memfd:") => Some(Self::Memfd),
            _ if target.starts_with("/dev/pts/") || target == "/dev/tty" => Some(Self::Terminal),
            _ => None,
        }
    }
}

/// The kernel puts some names in brackets and others not.
fn of_anonymous(name: &str) -> FileKind {
    match name.trim_start_matches('[').trim_end_matches(']') {
        "eventfd" => FileKind::Eventfd,
        "eventpoll" => FileKind::Eventpoll,
        "timerfd" => FileKind::Timerfd,
        "pidfd" => FileKind::Pidfd,
        "signalfd" => FileKind::Signalfd,
        name if name.starts_with("kvm-") => FileKind::Kvm,
        _ => FileKind::Other,
    }
}

fn of_metadata(metadata: &Metadata) -> Option<FileKind> {
    let kind = metadata.file_type();
    let kinds = [
        (kind.is_dir(), FileKind::Directory),
        (kind.is_file(), FileKind::File),
        (kind.is_symlink(), FileKind::Symlink),
        (kind.is_socket(), FileKind::Socket),
        (kind.is_fifo(), FileKind::Pipe),
        (kind.is_char_device(), FileKind::CharDevice),
        (kind.is_block_device(), FileKind::BlockDevice),
    ];
    kinds.into_iter().find(|kind| kind.0).map(|kind| kind.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_the_kernel_s_names() {
        let kinds = [
            ("socket:[4711]", FileKind::Socket),
            ("pipe:[12]", FileKind::Pipe),
            ("anon_inode:[eventfd]", FileKind::Eventfd),
            ("anon_inode:[eventpoll]", FileKind::Eventpoll),
            ("anon_inode:[timerfd]", FileKind::Timerfd),
            ("anon_inode:kvm-vm", FileKind::Kvm),
            ("anon_inode:kvm-vcpu:3", FileKind::Kvm),
            ("anon_inode:[io_uring]", FileKind::Other),
            ("/dev/kvm", FileKind::Kvm),
            ("/memfd:guest (deleted)", FileKind::Memfd),
        ];
        for (target, kind) in kinds {
            assert_eq!(FileKind::of_target(target), Some(kind), "{target}");
        }
        assert_eq!(FileKind::of_target("/srv/socket:[1]"), None);
    }
}
