//! FUSE requests (`linux/fuse.h`, version 7.38), written from the header.

use vq_driver::Buffer;

use super::{Device, REQUESTS};

pub(crate) const LOOKUP: u32 = 1;
pub(crate) const FORGET: u32 = 2;
pub(crate) const GETATTR: u32 = 3;
pub(crate) const SETATTR: u32 = 4;
pub(crate) const READLINK: u32 = 5;
pub(crate) const SYMLINK: u32 = 6;
pub(crate) const MKNOD: u32 = 8;
pub(crate) const MKDIR: u32 = 9;
pub(crate) const UNLINK: u32 = 10;
pub(crate) const RMDIR: u32 = 11;
pub(crate) const LINK: u32 = 13;
pub(crate) const OPEN: u32 = 14;
pub(crate) const READ: u32 = 15;
pub(crate) const WRITE: u32 = 16;
pub(crate) const STATFS: u32 = 17;
pub(crate) const RELEASE: u32 = 18;
pub(crate) const FSYNC: u32 = 20;
pub(crate) const SETXATTR: u32 = 21;
pub(crate) const GETXATTR: u32 = 22;
pub(crate) const LISTXATTR: u32 = 23;
pub(crate) const REMOVEXATTR: u32 = 24;
pub(crate) const FLUSH: u32 = 25;
pub(crate) const INIT: u32 = 26;
pub(crate) const OPENDIR: u32 = 27;
pub(crate) const READDIR: u32 = 28;
pub(crate) const RELEASEDIR: u32 = 29;
pub(crate) const FSYNCDIR: u32 = 30;
pub(crate) const ACCESS: u32 = 34;
pub(crate) const CREATE: u32 = 35;
pub(crate) const DESTROY: u32 = 38;
pub(crate) const FALLOCATE: u32 = 43;
pub(crate) const READDIRPLUS: u32 = 44;
pub(crate) const RENAME2: u32 = 45;
pub(crate) const LSEEK: u32 = 46;
pub(crate) const COPY_FILE_RANGE: u32 = 47;
pub(crate) const SYNCFS: u32 = 50;

/// The inode of the served directory.
pub(crate) const ROOT: u64 = 1;

pub(crate) const FATTR_MODE: u32 = 1;
pub(crate) const FATTR_UID: u32 = 2;
pub(crate) const FATTR_GID: u32 = 4;
pub(crate) const FATTR_SIZE: u32 = 8;

/// Access and modification time are now.
pub(crate) const FATTR_NOW: u32 = 0x10 | 0x20 | 0x80 | 0x100;

const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
const DO_READDIRPLUS: u32 = 1 << 13;
const SUBMOUNTS: u32 = 1 << 27;

/// An answer: its bytes, or the error number.
pub(crate) type Answer = Result<Vec<u8>, i32>;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) inode: u64,
    pub(crate) generation: u64,
    pub(crate) valid_seconds: u64,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) flags: u32,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn entry(bytes: &[u8]) -> Entry {
    let attributes = &bytes[40..];
    Entry {
        inode: long(bytes, 0),
        generation: long(bytes, 8),
        valid_seconds: long(bytes, 16),
        size: long(attributes, 8),
        mode: word(attributes, 60),
        links: word(attributes, 64),
        uid: word(attributes, 68),
        gid: word(attributes, 72),
        flags: word(attributes, 84),
    }
}

/// Little-endian words, one after the other.
pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A name with its end.
pub(crate) fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

impl Device {
    /// The header of a request with `length` bytes of body.
    pub(crate) fn header(&mut self, opcode: u32, inode: u64, length: usize) -> Vec<u8> {
        self.unique += 2;
        let mut header = words(&[u32::try_from(40 + length).unwrap(), opcode]);
        header.extend(self.unique.to_le_bytes());
        header.extend(inode.to_le_bytes());
        header.extend(words(&[self.uid, self.gid, 0, 0]));
        header
    }

    /// Sends a request as one readable and one writable buffer and waits for the answer's body.
    pub(crate) fn try_request(
        &mut self,
        opcode: u32,
        inode: u64,
        body: &[&[u8]],
        room: usize,
    ) -> Result<Answer, vq_driver::Error> {
        let body = body.concat();
        let mut request = self.header(opcode, inode, body.len());
        request.extend(body);
        self.exchange(&request, room + 16)
    }

    /// As [`Device::try_request`], for a device that must be there.
    pub(crate) fn request(
        &mut self,
        opcode: u32,
        inode: u64,
        body: &[&[u8]],
        room: usize,
    ) -> Answer {
        self.try_request(opcode, inode, body, room)
            .unwrap_or_else(|error| panic!("no answer: {error}: {}", self.process.log()))
    }

    /// Sends any bytes and takes whatever comes, which must be an answer.
    pub(crate) fn exchange(
        &mut self,
        request: &[u8],
        room: usize,
    ) -> Result<Answer, vq_driver::Error> {
        let length = |bytes: usize| u32::try_from(bytes).unwrap();
        self.driver.memory.write(self.buffers.request, request)?;
        let buffers = [
            Buffer::readable(self.buffers.request, length(request.len())),
            Buffer::writable(self.buffers.answer, length(room)),
        ];
        let queue = &mut self.driver.queues[REQUESTS];
        let head = queue.add(&buffers)?;
        queue.kick()?;
        self.strike();
        // An attack's chain may be answered first.
        let used = loop {
            let used = self.wait()?;
            if used.head == head {
                break used;
            }
        };
        let mut answer = vec![0; used.written as usize];
        self.driver.memory.read(self.buffers.answer, &mut answer)?;
        if answer.is_empty() {
            return Ok(Ok(answer)); // A request that has no answer.
        }
        assert_eq!(word(&answer, 0), used.written, "length in header and ring");
        assert_eq!(long(&answer, 8), long(request, 8), "whose answer it is");
        match word(&answer, 4).cast_signed() {
            0 => Ok(Ok(answer.split_off(16))),
            error => Ok(Err(-error)),
        }
    }

    pub(crate) fn init(&mut self) {
        let flags = HANDLE_KILLPRIV_V2 | DO_READDIRPLUS | SUBMOUNTS;
        let mut body = words(&[7, 38, 1 << 17, flags]);
        body.resize(64, 0);
        let answer = self.request(INIT, 0, &[&body], 64).unwrap();
        assert_eq!(word(&answer, 0), 7, "major version");
    }

    pub(crate) fn lookup(&mut self, parent: u64, entry_name: &str) -> Result<Entry, i32> {
        let answer = self.request(LOOKUP, parent, &[&name(entry_name)], 128)?;
        Ok(entry(&answer))
    }

    pub(crate) fn attributes(&mut self, inode: u64) -> Result<Entry, i32> {
        let answer = self.request(GETATTR, inode, &[&[0; 16]], 104)?;
        let mut padded = vec![0; 24];
        padded.extend(&answer);
        let mut found = entry(&padded);
        found.inode = inode;
        Ok(found)
    }

    /// `valid` says which of mode, uid, gid and size are meant.
    pub(crate) fn set_attributes(
        &mut self,
        inode: u64,
        valid: u32,
        [mode, uid, gid]: [u32; 3],
        size: u64,
    ) -> Result<Entry, i32> {
        let mut body = words(&[valid, 0, 0, 0]);
        body.extend(size.to_le_bytes());
        body.resize(16 + 8 + 8 + 24 + 12, 0);
        body.extend(words(&[mode, 0, uid, gid, 0]));
        assert_eq!(body.len(), 88);
        let answer = self.request(SETATTR, inode, &[&body], 104)?;
        let mut padded = vec![0; 24];
        padded.extend(&answer);
        Ok(entry(&padded))
    }

    pub(crate) fn open(&mut self, inode: u64, flags: i32) -> Result<u64, i32> {
        let body = words(&[flags.cast_unsigned(), 0]);
        let answer = self.request(OPEN, inode, &[&body], 16)?;
        Ok(long(&answer, 0))
    }

    pub(crate) fn create(
        &mut self,
        parent: u64,
        file: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(Entry, u64), i32> {
        let body = words(&[flags.cast_unsigned(), mode, 0, 0]);
        let answer = self.request(CREATE, parent, &[&body, &name(file)], 144)?;
        Ok((entry(&answer), long(&answer, 128)))
    }

    pub(crate) fn read(&mut self, inode: u64, handle: u64, offset: u64, size: u32) -> Answer {
        let body = transfer(handle, offset, size);
        self.request(READ, inode, &[&body], size as usize)
    }

    pub(crate) fn write(
        &mut self,
        inode: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<u32, i32> {
        let body = transfer(handle, offset, u32::try_from(data.len()).unwrap());
        let answer = self.request(WRITE, inode, &[&body, data], 8)?;
        Ok(word(&answer, 0))
    }

    /// As [`Device::write`], at the end of the file, wherever that is.
    pub(crate) fn append(&mut self, inode: u64, handle: u64, data: &[u8]) -> Result<u32, i32> {
        let mut body = transfer(handle, 0, u32::try_from(data.len()).unwrap());
        body[32..36].copy_from_slice(&nix::libc::O_APPEND.to_le_bytes());
        let answer = self.request(WRITE, inode, &[&body, data], 8)?;
        Ok(word(&answer, 0))
    }

    /// The guest was told of an inode so often, and forgets it.
    pub(crate) fn forget(&mut self, inode: u64, times: u64) {
        let answer = self.request(FORGET, inode, &[&times.to_le_bytes()], 0);
        assert_eq!(answer, Ok(vec![]));
    }

    pub(crate) fn release(&mut self, inode: u64, handle: u64) -> Result<(), i32> {
        let body = [&handle.to_le_bytes()[..], &[0; 16]].concat();
        self.request(RELEASE, inode, &[&body], 0).map(drop)
    }

    pub(crate) fn mkdir(&mut self, parent: u64, directory: &str, mode: u32) -> Result<Entry, i32> {
        let answer = self.request(MKDIR, parent, &[&words(&[mode, 0]), &name(directory)], 128)?;
        Ok(entry(&answer))
    }

    pub(crate) fn mknod(
        &mut self,
        parent: u64,
        node: &str,
        mode: u32,
        device: u32,
    ) -> Result<Entry, i32> {
        let body = words(&[mode, device, 0, 0]);
        let answer = self.request(MKNOD, parent, &[&body, &name(node)], 128)?;
        Ok(entry(&answer))
    }

    pub(crate) fn symlink(&mut self, parent: u64, link: &str, target: &str) -> Result<Entry, i32> {
        let answer = self.request(SYMLINK, parent, &[&name(link), &name(target)], 128)?;
        Ok(entry(&answer))
    }

    pub(crate) fn link(&mut self, inode: u64, parent: u64, link: &str) -> Result<Entry, i32> {
        let answer = self.request(LINK, parent, &[&inode.to_le_bytes(), &name(link)], 128)?;
        Ok(entry(&answer))
    }

    pub(crate) fn readlink(&mut self, inode: u64) -> Answer {
        self.request(READLINK, inode, &[], 4096)
    }

    pub(crate) fn unlink(&mut self, parent: u64, file: &str) -> Result<(), i32> {
        self.request(UNLINK, parent, &[&name(file)], 0).map(drop)
    }

    pub(crate) fn rmdir(&mut self, parent: u64, directory: &str) -> Result<(), i32> {
        self.request(RMDIR, parent, &[&name(directory)], 0)
            .map(drop)
    }

    pub(crate) fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Result<(), i32> {
        self.rename_as(from, to, 0)
    }

    /// As [`Device::rename`], with flags of renameat2(2).
    pub(crate) fn rename_as(
        &mut self,
        from: (u64, &str),
        to: (u64, &str),
        flags: u32,
    ) -> Result<(), i32> {
        let body = [&to.0.to_le_bytes()[..], &words(&[flags, 0])].concat();
        self.request(RENAME2, from.0, &[&body, &name(from.1), &name(to.1)], 0)
            .map(drop)
    }

    pub(crate) fn set_xattr(
        &mut self,
        inode: u64,
        attribute: &str,
        value: &[u8],
    ) -> Result<(), i32> {
        let sizes = words(&[u32::try_from(value.len()).unwrap(), 0]);
        self.request(SETXATTR, inode, &[&sizes, &name(attribute), value], 0)
            .map(drop)
    }

    /// As [`Device::set_xattr`], for one that is not there yet.
    pub(crate) fn new_xattr(
        &mut self,
        inode: u64,
        attribute: &str,
        value: &[u8],
    ) -> Result<(), i32> {
        let sizes = words(&[u32::try_from(value.len()).unwrap(), 1]);
        self.request(SETXATTR, inode, &[&sizes, &name(attribute), value], 0)
            .map(drop)
    }

    pub(crate) fn remove_xattr(&mut self, inode: u64, attribute: &str) -> Result<(), i32> {
        self.request(REMOVEXATTR, inode, &[&name(attribute)], 0)
            .map(drop)
    }

    pub(crate) fn xattr(&mut self, inode: u64, attribute: &str) -> Answer {
        self.request(
            GETXATTR,
            inode,
            &[&words(&[4096, 0]), &name(attribute)],
            4096,
        )
    }

    /// Every name in a directory, read in pieces of `piece` bytes.
    pub(crate) fn names(&mut self, inode: u64, piece: u32) -> Result<Vec<String>, i32> {
        let handle = self.opendir(inode)?;
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let body = transfer(handle, offset, piece);
            let answer = self.request(READDIR, inode, &[&body], piece as usize)?;
            if answer.is_empty() {
                break;
            }
            let mut at = 0;
            while at < answer.len() {
                offset = long(&answer, at + 8);
                let length = word(&answer, at + 16) as usize;
                let bytes = answer[at + 24..at + 24 + length].to_vec();
                names.push(String::from_utf8(bytes).unwrap());
                at += (24 + length).next_multiple_of(8);
            }
        }
        self.release_directory(inode, handle)?;
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }

    pub(crate) fn release_directory(&mut self, inode: u64, handle: u64) -> Result<(), i32> {
        let body = [&handle.to_le_bytes()[..], &[0; 16]].concat();
        self.request(RELEASEDIR, inode, &[&body], 0).map(drop)
    }

    pub(crate) fn opendir(&mut self, inode: u64) -> Result<u64, i32> {
        let body = words(&[0x10000, 0]); // O_DIRECTORY
        Ok(long(&self.request(OPENDIR, inode, &[&body], 16)?, 0))
    }
}

/// `struct fuse_read_in` and `struct fuse_write_in`, which begin alike.
pub(crate) fn transfer(handle: u64, offset: u64, size: u32) -> Vec<u8> {
    let mut body = handle.to_le_bytes().to_vec();
    body.extend(offset.to_le_bytes());
    body.extend(size.to_le_bytes());
    body.resize(40, 0);
    body
}
