//! Directories that one of several processes uses, or many in the same way, or that are removed.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Locks a directory by the file `lock` in it; both are made if they are not there. None if somebody has it
/// in another way. A lock of a directory that was removed meanwhile would keep nobody from the one that was
/// made after it, and is not given.
pub(crate) fn directory(path: &Path, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    loop {
        match fs::create_dir_all(path) {
            // It was there, and was removed before it was looked at.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !path.is_file() => continue,
            made => made?,
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"));
        let file = match file {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        match Flock::lock(file, how) {
            Ok(lock) if lock.metadata()?.nlink() > 0 => return Ok(Some(lock)),
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Removes a directory that is locked for us alone, with all that is in it. It is out of the way at once, so that
/// whoever makes it meanwhile makes another.
pub(crate) fn remove(path: &Path, _lock: &Flock<File>) -> io::Result<()> {
    let mut name = OsString::from(".removed-");
    name.push(path.file_name().unwrap_or_default());
    let aside = path.with_file_name(name);
    // What is left of one that was interrupted.
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(path, &aside)?;
    fs::remove_dir_all(&aside)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const EXCLUSIVE: FlockArg = FlockArg::LockExclusiveNonblock;
    const SHARED: FlockArg = FlockArg::LockSharedNonblock;

    #[test]
    fn many_share_or_one_has_it_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let first = directory(&path, SHARED).unwrap().unwrap();
        let second = directory(&path, SHARED).unwrap().unwrap();
        assert!(directory(&path, EXCLUSIVE).unwrap().is_none());
        drop((first, second));
        let alone = directory(&path, EXCLUSIVE).unwrap().unwrap();
        assert!(directory(&path, SHARED).unwrap().is_none());
        drop(alone);
        assert!(directory(&path, SHARED).unwrap().is_some());
    }

    #[test]
    fn what_is_locked_is_there_however_often_others_remove_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("volume");
        let remover = {
            let path = path.clone();
            thread::spawn(move || {
                for _ in 0..2000 {
                    if let Some(lock) = directory(&path, EXCLUSIVE).unwrap() {
                        remove(&path, &lock).unwrap();
                    }
                }
            })
        };
        let mut taken = 0;
        while !remover.is_finished() || taken == 0 {
            if let Some(lock) = directory(&path, SHARED).unwrap() {
                let there = fs::metadata(path.join("lock")).unwrap();
                assert_eq!(there.ino(), lock.metadata().unwrap().ino());
                taken += 1;
            }
        }
        remover.join().unwrap();
    }
}
