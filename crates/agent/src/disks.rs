//! Disks, by the serial numbers that the host gave them.

use std::{fs, path::Path};

use nix::{
    errno::Errno,
    mount::{MsFlags, umount},
};

use crate::{
    error::{Result, cannot, errno},
    mounts::mount_at,
};

/// The node of the disk with this serial number, where /sys is mounted. Its partitions' nodes have a
/// number after it.
pub(crate) fn find(serial: &str) -> Result<String> {
    find_in(Path::new("/sys/block"), serial).map(|name| format!("/dev/{name}"))
}

/// As [`find`], before there is a root.
pub(crate) fn find_early(serial: &str) -> Result<String> {
    const SYSFS: &str = "/crumble/sys";
    mount_at("sysfs", SYSFS, "sysfs", MsFlags::empty(), "")?;
    let found = find_in(&Path::new(SYSFS).join("block"), serial);
    // Nobody else uses it.
    let _ = umount(SYSFS);
    let name = found?;
    Ok(format!("/dev/{name}"))
}

fn find_in(block: &Path, serial: &str) -> Result<String> {
    let action = || cannot(format!("find the disk {serial}"));
    let entries = fs::read_dir(block).map_err(|error| action()(errno(&error)))?;
    for entry in entries.flatten() {
        let number = fs::read_to_string(entry.path().join("serial"));
        if number.is_ok_and(|number| number.trim_end() == serial)
            && let Ok(name) = entry.file_name().into_string()
        {
            return Ok(name);
        }
    }
    Err(action()(Errno::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_serial_number() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "root\n"), ("vdb", "data\n")] {
            fs::create_dir(block.path().join(name)).unwrap();
            fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(block.path().join("ram0")).unwrap();
        assert_eq!(find_in(block.path(), "data").unwrap(), "vdb");
        let message = find_in(block.path(), "dat").unwrap_err().to_string();
        assert!(message.contains("the disk dat"), "{message}");
    }
}
