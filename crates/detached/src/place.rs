//! Where machines are: a directory that is gone when the host starts anew, and nobody else's.

use std::{
    env,
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use crate::{Error, file};

/// `$XDG_RUNTIME_DIR/crumblecracker`; without that variable `/run/user/UID/crumblecracker`, for root
/// `/run/crumblecracker`, and `/tmp/crumblecracker-UID` if there is no such directory.
pub(crate) fn place() -> Result<PathBuf, Error> {
    let uid = Uid::current();
    let session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let session = session.filter(|path| path.is_absolute());
    let usual = || Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|path| path.is_dir());
    let path = match session.or_else(usual) {
        Some(session) => session.join("crumblecracker"),
        None if uid.is_root() => PathBuf::from("/run/crumblecracker"),
        None => env::temp_dir().join(format!("crumblecracker-{uid}")),
    };
    own(&path)?;
    Ok(path)
}

/// Makes `path` a directory that only we may enter, unless it is one.
fn own(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(file("make", path)(error));
        }
        _ => {}
    }
    // Not through a link, which somebody else may have put there.
    let found = fs::symlink_metadata(path).map_err(file("look at", path))?;
    let ours =
        found.is_dir() && found.uid() == Uid::current().as_raw() && found.mode() & 0o077 == 0;
    ours.then_some(())
        .ok_or_else(|| Error::Place(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_place_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("place");
        own(&path).unwrap();
        own(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(own(&path), Err(Error::Place(_))));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(matches!(own(&link), Err(Error::Place(_))));
    }
}
