//! A machine in a file, `machine.toml`:
//!
//! ```toml
//! image = "debian:bookworm"
//! command = ["python3", "-m", "http.server", "80"]
//! cpus = 2
//! memory = "1G"
//! publish = ["8080:80"]
//! env = { LANG = "C.UTF-8" }
//!
//! [[share]]
//! host = "src"
//! guest = "/src"
//! read-only = true
//!
//! [[device]]
//! kind = "rng"
//! socket = "/run/rng.sock"
//! ```
//!
//! Its words are those of `crumble run`. Paths are relative to the file. A key that is not known is an
//! error: it is a misspelt one.

#![forbid(unsafe_code)]

mod table;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use spec::{BackEnd, Image, MachineSpec};

use table::Table;

/// What can be wrong with the file of a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is no description of a machine; line and column are in the reason.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: Box<toml::de::Error>,
    },
    /// Its parts do not agree.
    #[error("{}: {reason}", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// Which parts.
        reason: spec::Error,
    },
}

/// A machine, and what runs in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFile {
    /// The machine.
    pub spec: MachineSpec,
    /// What runs instead of the image's entry point.
    pub entrypoint: Option<String>,
    /// The command; the image's if it is empty.
    pub command: Vec<String>,
    /// Variables of its environment, besides the image's.
    pub env: Vec<(String, String)>,
    /// Where it runs.
    pub workdir: Option<PathBuf>,
    /// As whom, `USER[:GROUP]`.
    pub user: Option<String>,
}

impl MachineFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error`], with line and column where there are any.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// What the file `path` contains.
    ///
    /// # Errors
    /// As [`MachineFile::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let table: Table = toml::from_str(text).map_err(|error| Error::Content {
            path: path.to_owned(),
            reason: Box::new(error),
        })?;
        let mut file = table.into_file();
        let base = path.parent().unwrap_or(Path::new(""));
        resolve(&mut file.spec, base);
        file.spec.check().map_err(|reason| Error::Machine {
            path: path.to_owned(),
            reason,
        })?;
        Ok(file)
    }

    /// The JSON schema of such a file, for editors.
    #[must_use]
    pub fn schema() -> String {
        let schema = schemars::schema_for!(Table);
        // What a schema is made of can be written.
        serde_json::to_string_pretty(&schema).unwrap_or_default()
    }
}

/// Makes paths that are relative to `base` ones that are relative to where this process is.
fn resolve(spec: &mut MachineSpec, base: &Path) {
    let shares = spec.shares.iter_mut().map(|share| &mut share.host);
    let disks = spec.disks.iter_mut().map(|disk| &mut disk.path);
    let back_ends = spec.external.iter_mut().map(|device| &mut device.back_end);
    let back_ends = back_ends.flat_map(files);
    let image = match &mut spec.image {
        Image::Directory(path)
        | Image::Layout { path, .. }
        | Image::OciArchive { path }
        | Image::DockerArchive { path, .. } => Some(path),
        Image::Host | Image::Busybox | Image::Registry(_) => None,
    };
    let paths = shares.chain(disks).chain(back_ends);
    for path in paths.chain(&mut spec.kernel).chain(image) {
        *path = base.join(&path);
    }
}

/// The files that a back end is found by or works with. Its program itself is looked up as a shell does.
fn files(back_end: &mut BackEnd) -> Vec<&mut PathBuf> {
    match back_end {
        BackEnd::Socket(path) => vec![path],
        BackEnd::Program(program) => {
            let files = program.files.values_mut().map(|file| &mut file.path);
            files.chain([&mut program.policy]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MachineFile, Error> {
        MachineFile::parse(text, Path::new("/machines/machine.toml"))
    }

    #[test]
    fn a_machine_has_all_that_its_file_says() {
        let file = parse(
            r#"
            image = "oci:image"
            command = ["true"]
            cpus = 2
            memory = "1G"
            network = "user,deny=10.0.0.0/8"
            publish = ["8080:80", "53:53/udp"]
            env = { A = "b" }
            name = "web"
            [[share]]
            host = "src"
            guest = "/src"
            read-only = true
            [[volume]]
            name = "data"
            guest = "/data"
            [[disk]]
            path = "/data.img"
            [[device]]
            kind = "fs"
            tag = "t"
            socket = "run/fs.sock"
            "#,
        );
        let file = file.unwrap();
        let spec = &file.spec;
        assert_eq!((spec.cpus.get(), spec.memory.bytes()), (2, 1 << 30));
        assert_eq!(spec.image, "oci:/machines/image".parse().unwrap());
        assert_eq!(spec.shares, ["/machines/src:/src:ro".parse().unwrap()]);
        assert_eq!(spec.volumes, ["data:/data".parse().unwrap()]);
        assert_eq!(spec.disks[0].path, Path::new("/data.img"));
        let device = "fs,socket=/machines/run/fs.sock,tag=t";
        assert_eq!(spec.external, [device.parse().unwrap()]);
        assert_eq!(spec.publish.len(), 2);
        assert_eq!(file.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(
            parse("image = 'host'").unwrap().spec,
            MachineSpec::new(Image::Host)
        );
    }

    #[test]
    fn a_device_may_be_a_program_of_which_the_files_lie_beside_the_machine_s() {
        let file = parse(
            r#"
            image = "host"
            [[device]]
            kind = "block"
            command = ["daemon", "--fd={fd}", "--image={image}"]
            policy = "daemon.toml"
            files = { image = { path = "disk.img", writable = true } }
            env = { A = "b" }
            in-order = true
            "#,
        );
        let device = &file.unwrap().spec.external[0];
        assert!(device.in_order);
        let BackEnd::Program(program) = &device.back_end else {
            panic!("{device:?}")
        };
        assert_eq!(program.command(), ["daemon", "--fd=3", "--image=4"]);
        assert_eq!(program.policy, Path::new("/machines/daemon.toml"));
        let image = &program.files["image"];
        assert_eq!(image.path, Path::new("/machines/disk.img"));
        assert!(image.writable);
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        for (text, place, why) in [
            ("", "", "missing field `image`"),
            ("image = 'Alpine'", "line 1, column 9", "busybox"),
            (
                "image = 'host'\ncpu = 2",
                "line 2, column 1",
                "unknown field `cpu`",
            ),
            ("image = 'host'\ncpus = 0", "line 2, column 8", "CPUs"),
            (
                "image = 'host'\ncpus = 'many'",
                "line 2, column 8",
                "expected",
            ),
            (
                "image = 'host'\nmemory = '1'",
                "line 2, column 10",
                "memory",
            ),
            (
                "image = 'host'\npublish = ['1:2', 'x']",
                "line 2, column 11",
                "port",
            ),
            (
                "image = 'host'\n[[share]]\nhost = '.'\nguest = 'x'",
                "line 2",
                "not absolute",
            ),
            (
                "image = 'host'\n[[device]]\nkind = 'toaster'\nsocket = 'x'",
                "line 2",
                "toaster",
            ),
            (
                "image = 'host'\n[[device]]\nkind = 'rng'\nsocket = 'x'\nport = 1",
                "line 5",
                "port",
            ),
            (
                "image = 'host'\n[[device]]\nkind = 'rng'",
                "line 2",
                "either a socket or a command",
            ),
            (
                "image = 'host'\n[[device]]\nkind = 'rng'\ncommand = ['x', '{fd}']",
                "line 2",
                "needs a policy",
            ),
            (
                "image = 'host'\n[[device]]\nkind = 'rng'\nsocket = 'x'\nin-order = true",
                "line 2",
                "goes with a command",
            ),
            (
                "image = 'host'\nnetwork = 'none'\npublish = ['80:80']",
                "",
                "network",
            ),
            ("image = ", "line 1", "value"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(
                message.contains(why) && message.contains(place),
                "{text}: {message}"
            );
            assert!(message.starts_with("/machines/machine.toml: "), "{message}");
        }
    }

    #[test]
    fn the_schema_knows_the_keys() {
        let schema: serde_json::Value = serde_json::from_str(&MachineFile::schema()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        for key in ["image", "cpus", "share", "device"] {
            assert!(schema["properties"][key].is_object(), "{key}");
        }
        assert_eq!(schema["required"], serde_json::json!(["image"]));
    }
}
