//! The members of a tar archive that is a file.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

use super::Section;
use crate::{Compression, Error, Result, error::file, text};

/// Members of an archive at most: an image has two or three a layer.
const MEMBERS_MAX: usize = 10_000;

/// As many links are followed from one member to another.
const LINKS_MAX: usize = 8;

/// A tar archive, and what is where in it.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: File,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File {
        at: u64,
        size: u64,
    },
    /// The name of another.
    Link(String),
}

impl Archive {
    /// Lists it. Nothing but heads of members is read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let opened = File::open(path).map_err(file("open", path))?;
        let size = opened.metadata().map_err(file("read", path))?.len();
        let whole = Section::new(opened.try_clone().map_err(file("open", path))?, 0, size);
        let beginning = whole.peek().map_err(file("read", path))?;
        if Compression::of(&beginning) != Compression::None {
            return Err(wrong(
                path,
                "it is compressed: decompress it first, with gunzip or unzstd",
            ));
        }
        let members = list(path, &opened, size)?;
        Ok(Self {
            path: path.to_owned(),
            file: opened,
            members,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A member by its name. Links in the archive lead to other members, and never out of it.
    pub(crate) fn member(&self, name: &str) -> Result<Section> {
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match self.members.get(name) {
                Some(Member::File { at, size }) => {
                    let file_again = self.file.try_clone().map_err(file("open", &self.path))?;
                    return Ok(Section::new(file_again, *at, *size));
                }
                Some(Member::Link(target)) => name = target,
                None => break,
            }
        }
        Err(wrong(
            &self.path,
            &format!("it has no {}", text::shown(name)),
        ))
    }
}

fn wrong(path: &Path, reason: &str) -> Error {
    Error::malformed(path.display().to_string(), reason)
}

fn list(path: &Path, file: &File, size: u64) -> Result<HashMap<String, Member>> {
    let bad = |error: std::io::Error| wrong(path, &text::shown(&error.to_string()));
    let mut archive = tar::Archive::new(file);
    let mut members = HashMap::new();
    for entry in archive.entries_with_seek().map_err(bad)? {
        let entry = entry.map_err(bad)?;
        if members.len() >= MEMBERS_MAX {
            return Err(wrong(path, "it has too many members"));
        }
        let bytes = entry.path_bytes();
        // What nobody can ask for is not needed.
        let Some(name) = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|name| inside("", name))
        else {
            continue;
        };
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let at = entry.raw_file_position();
                if at.checked_add(entry.size()).is_none_or(|end| end > size) {
                    return Err(wrong(path, "it ends in the middle of a member"));
                }
                Some(Member::File {
                    at,
                    size: entry.size(),
                })
            }
            kind @ (tar::EntryType::Symlink | tar::EntryType::Link) => {
                let target = entry.link_name_bytes();
                let target = target
                    .as_deref()
                    .and_then(|target| std::str::from_utf8(target).ok());
                let directory = match kind {
                    tar::EntryType::Symlink => name.rsplit_once('/').map_or("", |(above, _)| above),
                    _ => "",
                };
                target
                    .and_then(|target| inside(directory, target))
                    .map(Member::Link)
            }
            _ => None,
        };
        members.extend(member.map(|member| (name, member)));
    }
    Ok(members)
}

/// The name of `path` seen from `directory`, without `.` and `..`; `None` if it leads out.
fn inside(directory: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let above = if path.starts_with('/') { "" } else { directory };
    for part in above.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            other => parts.push(other),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn archive(build: impl Fn(&mut tar::Builder<&mut Vec<u8>>)) -> Result<Archive> {
        let mut bytes = Vec::new();
        let mut builder = tar::Builder::new(&mut bytes);
        build(&mut builder);
        builder.finish().unwrap();
        drop(builder);
        open(&bytes)
    }

    fn open(bytes: &[u8]) -> Result<Archive> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Archive::open(file.path())
    }

    fn add(builder: &mut tar::Builder<&mut Vec<u8>>, name: &str, contents: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, contents).unwrap();
    }

    fn link(builder: &mut tar::Builder<&mut Vec<u8>>, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        builder.append_link(&mut header, name, target).unwrap();
    }

    fn contents(archive: &Archive, name: &str) -> Result<String> {
        let mut text = String::new();
        archive.member(name)?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn members_and_links_to_members_are_found() {
        let archive = archive(|builder| {
            add(builder, "./a/layer.tar", b"one");
            add(builder, "b", b"");
            link(builder, "c/layer.tar", "../a/layer.tar");
        })
        .unwrap();
        assert_eq!(contents(&archive, "a/layer.tar").unwrap(), "one");
        assert_eq!(contents(&archive, "c/layer.tar").unwrap(), "one");
        assert_eq!(contents(&archive, "b").unwrap(), "");
    }

    #[test]
    fn links_lead_neither_out_of_the_archive_nor_round_in_circles() {
        let archive = archive(|builder| {
            link(builder, "out", "../../etc/passwd");
            link(builder, "root", "/etc/passwd");
            link(builder, "one", "two");
            link(builder, "two", "one");
        })
        .unwrap();
        for name in ["out", "root", "one", "absent"] {
            let message = archive.member(name).unwrap_err().to_string();
            assert!(message.contains("it has no"), "{message}");
        }
    }

    #[test]
    fn what_is_no_whole_archive_is_refused_with_the_reason() {
        for (bytes, word) in [
            (&[0x1f, 0x8b, 8, 0][..], "gunzip"),
            (&[7; 600][..], "cannot be used"),
        ] {
            let message = open(bytes).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        let mut header = tar::Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        let message = open(header.as_bytes()).unwrap_err().to_string();
        assert!(message.contains("middle"), "{message}");
    }
}
