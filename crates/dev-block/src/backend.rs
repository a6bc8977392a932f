//! The disk: open files, one after the other.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use device::serve::Buffers;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use nix::sys::uio::pwritev;
use nix::unistd::fdatasync;

use crate::config::Config;
use crate::request::Range;

/// A file that cannot be an extent.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be looked at.
    #[error("cannot look at the file of extent {extent}")]
    System {
        /// Which.
        extent: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// A directory, pipe or the like.
    #[error("extent {0} is neither a regular file nor a block device")]
    Kind(usize),
    /// The file could be changed though the disk must not be, or the other way round.
    #[error("the file of extent {extent} is not open for {wanted}")]
    Mode {
        /// Which.
        extent: usize,
        /// What it has to be open for.
        wanted: &'static str,
    },
    /// What is written would make the file longer.
    #[error(
        "the file of extent {extent} has {size} bytes, {wanted} are to be written; make it longer"
    )]
    Short {
        /// Which.
        extent: usize,
        /// Bytes that there are.
        size: u64,
        /// Bytes that the extent has.
        wanted: u64,
    },
}

/// A part of the disk.
#[derive(Debug)]
struct Extent {
    /// Where it begins and ends on the disk, in bytes.
    start: u64,
    end: u64,
    file: File,
}

/// Extents in a row.
#[derive(Debug)]
pub struct Disk {
    extents: Vec<Extent>,
}

impl Disk {
    /// A disk of these files, one for each extent of the configuration.
    ///
    /// # Errors
    /// The first file that cannot be served.
    pub fn new(config: &Config, files: Vec<OwnedFd>) -> Result<Self, FileError> {
        let mut extents = Vec::new();
        let mut start = 0_u64;
        let sizes = config.extents().iter();
        for (extent, (sectors, file)) in sizes.zip(files).enumerate() {
            let length = sectors.saturating_mul(wire::block::Config::SECTOR);
            let mut file = File::from(file);
            check(extent, &mut file, length, config.read_only())?;
            let end = start.saturating_add(length);
            extents.push(Extent { start, end, file });
            start = end;
        }
        Ok(Self { extents })
    }

    /// The parts of `length` bytes from `at`: an extent, the place in its file, and how many bytes.
    fn parts(&self, at: u64, length: u64) -> impl Iterator<Item = (&Extent, u64, u64)> {
        let end = at.saturating_add(length);
        let first = self.extents.partition_point(|extent| extent.end <= at);
        let extents = self.extents.get(first..).unwrap_or_default().iter();
        let parts = extents.map(move |extent| {
            let from = at.max(extent.start);
            let length = end.min(extent.end).saturating_sub(from);
            (extent, from.saturating_sub(extent.start), length)
        });
        parts.take_while(|(_, _, length)| *length > 0)
    }

    /// Calls `each` with the part of `buffers` that belongs to each extent from `at` on.
    fn split<'b>(
        &self,
        at: u64,
        mut buffers: Buffers<'b>,
        each: impl Fn(&Extent, u64, Buffers<'b>) -> io::Result<()>,
    ) -> io::Result<()> {
        let length = u64::try_from(buffers.len()).unwrap_or(u64::MAX);
        for (extent, offset, length) in self.parts(at, length) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let rest = buffers.split_off(length);
            each(extent, offset, buffers)?;
            buffers = rest;
        }
        Ok(())
    }

    /// Fills `buffers` from `at` on.
    ///
    /// # Errors
    /// What the system says; some of them may be filled.
    pub fn read(&self, at: u64, buffers: Buffers<'_>) -> io::Result<()> {
        self.split(at, buffers, Extent::read)
    }

    /// Writes `buffers` from `at` on.
    ///
    /// # Errors
    /// What the system says; some of them may be written.
    pub fn write(&self, at: u64, buffers: Buffers<'_>) -> io::Result<()> {
        self.split(at, buffers, Extent::write)
    }

    /// Returns when what was written will survive the host.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&self) -> io::Result<()> {
        for extent in &self.extents {
            fdatasync(&extent.file)?;
        }
        Ok(())
    }

    /// Gives what is behind a range back to the file system; it then reads as zeros.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard(&self, range: Range) -> io::Result<()> {
        for (extent, offset, length) in self.parts(range.at, range.length) {
            extent.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, length)?;
        }
        Ok(())
    }

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// What the system says.
    pub fn zero(&self, range: Range) -> io::Result<()> {
        for (extent, offset, length) in self.parts(range.at, range.length) {
            extent.zero(offset, length, range.unmap)?;
        }
        Ok(())
    }
}

/// Whether a file can be an extent of `length` bytes.
fn check(extent: usize, file: &mut File, length: u64, read_only: bool) -> Result<(), FileError> {
    let failed = |source| FileError::System { extent, source };
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(FileError::Kind(extent));
    }
    let flags = fcntl(&*file, FcntlArg::F_GETFL).map_err(|error| failed(error.into()))?;
    let flags = OFlag::from_bits_truncate(flags);
    // A file that is open for appending takes nothing anywhere else.
    let mode = flags & (OFlag::O_ACCMODE | OFlag::O_APPEND | OFlag::O_PATH);
    let (needed, wanted) = if read_only {
        (OFlag::O_RDONLY, "reading alone")
    } else {
        (OFlag::O_RDWR, "reading and writing in place")
    };
    if mode != needed {
        return Err(FileError::Mode { extent, wanted });
    }
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if !read_only && size < length {
        return Err(FileError::Short {
            extent,
            size,
            wanted: length,
        });
    }
    Ok(())
}

impl Extent {
    fn read(&self, mut offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        while !buffers.is_empty() {
            match buffers.read_at(self.file.as_fd(), offset) {
                // The file ends here; the extent goes on.
                Ok(0) => {
                    buffers.fill(&ZEROS);
                }
                Ok(count) => {
                    buffers.advance(count);
                    offset = moved(offset, count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        while !buffers.is_empty() {
            match buffers.write_at(self.file.as_fd(), offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    buffers.advance(count);
                    offset = moved(offset, count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// fallocate(2), which leaves the file as long as it is.
    fn allocate(&self, what: FallocateFlags, offset: u64, length: u64) -> Result<(), Errno> {
        let flags = what | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            match fallocate(&self.file, flags, signed(offset)?, signed(length)?) {
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let what = if unmap {
            FallocateFlags::FALLOC_FL_PUNCH_HOLE
        } else {
            FallocateFlags::FALLOC_FL_ZERO_RANGE
        };
        match self.allocate(what, offset, length) {
            // The file system has no such thing: tmpfs, for one.
            Err(Errno::EOPNOTSUPP) => self.write_zeros(offset, length),
            result => Ok(result?),
        }
    }

    fn write_zeros(&self, mut offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length);
        while offset < end {
            let slices = zeros(end.saturating_sub(offset));
            match pwritev(&self.file, &slices, signed(offset)?) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => offset = moved(offset, count),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Zeros to write or to fill up with.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// [`ZEROS`] that are written with one call.
const AT_ONCE: u64 = 16;

/// `length` zeros, or as many as are written with one call.
fn zeros(length: u64) -> Vec<IoSlice<'static>> {
    let size = ZEROS.len() as u64;
    let count = length.div_ceil(size).min(AT_ONCE);
    let slices = (0..count).map(|index| {
        let left = length.saturating_sub(index.saturating_mul(size));
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        IoSlice::new(ZEROS.get(..left).unwrap_or(&ZEROS))
    });
    slices.collect()
}

/// The place `count` bytes further.
fn moved(offset: u64, count: usize) -> u64 {
    offset.saturating_add(count as u64)
}

/// As the kernel takes it; a disk ends before it would not fit.
fn signed(value: u64) -> Result<i64, Errno> {
    i64::try_from(value).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use wire::block::{self, Extent as Wire};

    use super::*;

    fn config(sectors: &[u64], read_only: bool) -> Config {
        let extents = sectors.iter().map(|&sectors| Wire { sectors }).collect();
        let config = block::Config {
            serial: String::new(),
            read_only,
            extents,
            queues: 1,
        };
        config.try_into().unwrap()
    }

    fn disk(sectors: &[u64]) -> Disk {
        let files = sectors.iter().map(|sectors| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(sectors * 512).unwrap();
            OwnedFd::from(file)
        });
        Disk::new(&config(sectors, false), files.collect()).unwrap()
    }

    #[test]
    fn a_stretch_is_cut_where_extents_meet() {
        let disk = disk(&[8, 16, 3]);
        let parts = |at: u64, length: u64| -> Vec<(u64, u64, u64)> {
            let parts = disk.parts(at * 512, length * 512);
            let plain = parts.map(|(extent, offset, length)| (extent.start, offset, length));
            plain
                .map(|(start, offset, length)| (start / 512, offset / 512, length / 512))
                .collect()
        };
        assert_eq!(parts(0, 8), [(0, 0, 8)]);
        assert_eq!(parts(7, 2), [(0, 7, 1), (8, 0, 1)]);
        assert_eq!(parts(8, 1), [(8, 0, 1)]);
        assert_eq!(parts(4, 22), [(0, 4, 4), (8, 0, 16), (24, 0, 2)]);
        assert_eq!(parts(26, 1), [(24, 2, 1)]);
        assert_eq!(parts(27, 0), []);
        assert_eq!(parts(5, 0), []);
    }

    #[test]
    fn a_file_of_the_wrong_kind_mode_or_size_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let open = |options: &mut std::fs::OpenOptions| {
            let file = options.open(file.path()).unwrap();
            vec![OwnedFd::from(file)]
        };
        let options = File::options;
        let reason = |files, sectors, read_only| {
            let refusal = Disk::new(&config(&[sectors], read_only), files).unwrap_err();
            refusal.to_string()
        };
        let both = || open(options().read(true).write(true));
        assert!(reason(both(), 8, true).contains("reading alone"));
        let appending = open(options().read(true).append(true));
        assert!(reason(appending, 8, false).contains("in place"));
        let writing = open(options().write(true));
        assert!(reason(writing, 8, false).contains("in place"));
        let reading = || open(options().read(true));
        assert!(reason(reading(), 8, false).contains("reading and writing"));
        assert!(reason(both(), 9, false).contains("4096 bytes, 4608 are"));
        let pipe = vec![OwnedFd::from(io::pipe().unwrap().0)];
        assert!(reason(pipe, 8, true).contains("neither"));
        let directory = File::open("/").unwrap();
        assert!(reason(vec![directory.into()], 8, true).contains("neither"));
        // What is read may be shorter.
        assert!(Disk::new(&config(&[80], true), reading()).is_ok());
        assert!(Disk::new(&config(&[8], false), both()).is_ok());
    }

    #[test]
    fn zeros_are_as_many_as_wanted_up_to_what_is_written_at_once() {
        for (wanted, given) in [(512, 512), (65_536, 65_536), (100_000, 100_000)] {
            let slices = zeros(wanted);
            assert_eq!(slices.iter().map(|slice| slice.len()).sum::<usize>(), given);
        }
        let most: usize = zeros(u64::MAX).iter().map(|slice| slice.len()).sum();
        assert_eq!(most, 1 << 20);
    }
}
