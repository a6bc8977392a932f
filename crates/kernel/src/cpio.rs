//! The "newc" archive that Linux unpacks as its initramfs (kernel documentation,
//! driver-api/early-userspace/buffer-format).

use crate::error::{Error, Result};

/// The file type bits of a mode (`man 7 inode`).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// The longest name, its terminating zero included, that Linux accepts (`PATH_MAX`).
const LONGEST_NAME: usize = 4096;

/// An archive in the making. Its bytes depend on what is added and on nothing else: owner root,
/// time zero.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An archive without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory. Parents must have been added before.
    ///
    /// # Errors
    /// [`Error::Archive`] if the name is empty, absolute, too long or has a zero byte.
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.member(name, DIRECTORY | mode, (0, 0), &[])
    }

    /// Adds a file.
    ///
    /// # Errors
    /// As [`Self::directory`], or if the content is 4 GiB or longer.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.member(name, REGULAR | mode, (0, 0), content)
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// As [`Self::directory`].
    pub fn character_device(&mut self, name: &str, mode: u32, device: (u32, u32)) -> Result<()> {
        self.member(name, CHARACTER | mode, device, &[])
    }

    /// Ends the archive and pads it to four bytes, so that another may follow.
    ///
    /// # Errors
    /// Never in practice: the trailer's name is valid.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, (0, 0), 0)?;
        Ok(self.bytes)
    }

    fn member(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        if name.is_empty() || name.starts_with('/') || name.contains('\0') {
            return Err(Error::Archive(format!("the name {name:?}")));
        }
        let length = u32::try_from(content.len())
            .map_err(|_| Error::Archive(format!("{name}, of {} bytes,", content.len())))?;
        self.inode = self.inode.saturating_add(1);
        self.header(name, mode, device, length)?;
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// The thirteen fields in the order of the format, each eight hexadecimal digits.
    fn header(&mut self, name: &str, mode: u32, device: (u32, u32), length: u32) -> Result<()> {
        let with_zero = name.len().saturating_add(1);
        let name_length = u32::try_from(with_zero)
            .ok()
            .filter(|_| with_zero <= LONGEST_NAME)
            .ok_or_else(|| Error::Archive(format!("a name of {} bytes", name.len())))?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let (major, minor) = device;
        self.bytes.extend_from_slice(b"070701");
        for field in [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            length,
            0, // device of the file itself, major
            0, // and minor
            major,
            minor,
            name_length,
            0, // checksum, unused in newc
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
