//! Tests that are images: `tests/images/NAME/Dockerfile`.
//!
//! The image is built and run; the exit code of its command is the verdict. What takes more than one
//! command in one machine has a script `run` beside its Dockerfile, which a shell executes instead:
//! `$CRUMBLE` is the program, `$IMAGE` the image.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{
    command::{program, succeed},
    error::{Error, Result, file},
    run::Place,
    setup,
};

/// What names of images begin with that no registry has.
const OURS: &str = "crumble.test/";

/// Memory of machines in which images are built: for what they install.
const MEMORY: &str = "1G";

/// The release of Debian that images are made of.
const SUITE: &str = "bookworm";

/// An image that tests begin with. It is made once, of packages of the distribution, and kept with
/// the user's images; after `crumble image rm` it is made anew.
struct Base {
    name: &'static str,
    contents: Contents,
}

enum Contents {
    /// This host's static busybox.
    Busybox,
    /// The smallest Debian and these packages. A RUN could install them too, but on an emulated CPU
    /// that takes minutes.
    Debian(&'static [&'static str]),
}

const BASES: &[Base] = &[
    Base {
        name: "crumble.test/busybox",
        contents: Contents::Busybox,
    },
    Base {
        name: "crumble.test/debian:12",
        contents: Contents::Debian(&[]),
    },
    Base {
        name: "crumble.test/debian:12-systemd",
        contents: Contents::Debian(&["dbus", "libpam-systemd", "systemd-sysv", "udev"]),
    },
    Base {
        name: "crumble.test/debian:12-fio",
        contents: Contents::Debian(&["fio"]),
    },
    Base {
        name: "crumble.test/debian:12-programs",
        contents: Contents::Debian(&[
            "acl",
            "attr",
            "gcc",
            "libc6-dev",
            "libcap2-bin",
            "nginx-light",
            "postgresql",
            "python3",
            "sudo",
        ]),
    },
];

/// Lists the tests, or does one of them.
pub(crate) fn run(name: Option<&str>, arguments: Vec<OsString>) -> Result {
    match name {
        Some(name) => test(name, arguments),
        None => list(),
    }
}

fn directory() -> PathBuf {
    testbed::workspace().join("tests/images")
}

/// Each test's name, and the first line of its Dockerfile.
fn list() -> Result {
    let directory = directory();
    let entries = fs::read_dir(&directory).map_err(file("read", &directory))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    for name in names {
        let text = dockerfile(&name)?;
        let line = text.lines().next().unwrap_or_default();
        println!("{name:<10} {}", line.trim_start_matches(['#', ' ']));
    }
    Ok(0)
}

fn dockerfile(name: &str) -> Result<String> {
    let path = directory().join(name).join("Dockerfile");
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Test(name.to_owned())),
        other => other.map_err(file("read", &path)),
    }
}

fn test(name: &str, arguments: Vec<OsString>) -> Result {
    let text = dockerfile(name)?;
    let place = Place::ready()?;
    for base in bases(&text) {
        base.make(&place.bin_dir)?;
    }
    let directory = directory().join(name);
    let crumble = place.bin_dir.join("crumble").into_os_string();
    let image = format!("{OURS}tests/{name}");
    println!("runtest: building {name}");
    let build = ["build", "--memory", MEMORY, "--tag", &image];
    let build = [crumble.clone()]
        .into_iter()
        .chain(build.map(OsString::from))
        .chain([directory.clone().into_os_string()]);
    let code = place.run(build)?;
    if code != 0 {
        println!("runtest: {name} cannot be built");
        return Ok(code);
    }
    println!("runtest: running {name}");
    let code = place.run(command(&directory, &crumble, image, arguments))?;
    match code {
        0 => println!("runtest: {name} passed"),
        code => println!("runtest: {name} failed: exit code {code}"),
    }
    Ok(code)
}

/// What does the test.
fn command(
    directory: &Path,
    crumble: &OsString,
    image: String,
    arguments: Vec<OsString>,
) -> Vec<OsString> {
    let script = directory.join("run");
    let mut command = if script.is_file() {
        let mut variable = OsString::from("CRUMBLE=");
        variable.push(crumble);
        vec![
            "env".into(),
            variable,
            format!("IMAGE={image}").into(),
            "sh".into(),
            script.into(),
        ]
    } else {
        let mut command = vec![crumble.clone(), "run".into(), image.into()];
        if !arguments.is_empty() {
            command.push("--".into());
        }
        command
    };
    command.extend(arguments);
    command
}

/// The bases that a Dockerfile's `FROM` lines name.
fn bases(dockerfile: &str) -> impl Iterator<Item = &'static Base> {
    let named: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM ")?.split_whitespace().next())
        .collect();
    BASES.iter().filter(move |base| named.contains(&base.name))
}

impl Base {
    /// Makes it if it is not there. That takes no machine, and so is done here.
    fn make(&self, bin_dir: &Path) -> Result<()> {
        let crumble = bin_dir.join("crumble");
        let mut inspect = program(&crumble, &["image", "inspect", self.name]);
        inspect.stdout(Stdio::null()).stderr(Stdio::null());
        if succeed(&mut inspect).is_ok() {
            return Ok(());
        }
        println!("runtest: making {}", self.name);
        let context =
            tempfile::tempdir().map_err(file("make a directory in", std::env::temp_dir()))?;
        let text = match self.contents {
            Contents::Busybox => busybox(context.path())?,
            Contents::Debian(packages) => debian(context.path(), packages)?,
        };
        let path = context.path().join("Dockerfile");
        fs::write(&path, text).map_err(file("write", &path))?;
        let mut build = program(crumble, &["build", "--tag", self.name]);
        succeed(build.arg(context.path()))
    }
}

/// Fills a context with busybox; its Dockerfile.
fn busybox(context: &Path) -> Result<&'static str> {
    let path =
        setup::find("busybox").ok_or_else(|| Error::Other("there is no busybox".to_owned()))?;
    let to = context.join("busybox");
    fs::copy(&path, &to).map_err(file("copy", &path))?;
    let applets = crate::command::output(&mut program(&to, &["--list"]))?;
    let bin = context.join("bin");
    fs::create_dir(&bin).map_err(file("make", &bin))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let link = bin.join(applet);
        std::os::unix::fs::symlink("busybox", &link).map_err(file("make", &link))?;
    }
    Ok("FROM scratch\n\
        COPY bin /bin\n\
        COPY busybox /bin/busybox\n\
        COPY <<passwd /etc/passwd\n\
        root:x:0:0::/root:/bin/sh\n\
        somebody:x:1000:1000::/home:/bin/sh\n\
        passwd\n\
        WORKDIR /tmp\n\
        WORKDIR /\n\
        CMD [\"sh\"]\n")
}

/// Fills a context with a Debian; its Dockerfile.
fn debian(context: &Path, packages: &[&str]) -> Result<&'static str> {
    setup::for_programs(&[("mmdebstrap", "mmdebstrap")])?;
    let mut make = program("mmdebstrap", &["--quiet", "--variant=minbase"]);
    make.arg("--aptopt=Acquire::Languages \"none\"");
    if !packages.is_empty() {
        make.arg(format!("--include={}", packages.join(",")));
    }
    make.arg(SUITE).arg(context.join("root.tar"));
    succeed(&mut make)?;
    Ok("FROM scratch\nADD root.tar /\nCMD [\"bash\"]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bases_of_a_dockerfile_are_those_that_its_from_lines_name() {
        let text = "# FROM crumble.test/debian:12\n\
                    FROM crumble.test/busybox AS one\n\
                    FROM elsewhere\nRUN true\nFROM crumble.test/debian:12-systemd\n";
        let names: Vec<_> = bases(text).map(|base| base.name).collect();
        assert_eq!(
            names,
            ["crumble.test/busybox", "crumble.test/debian:12-systemd"]
        );
    }

    #[test]
    fn every_test_s_bases_can_be_had_and_its_first_line_says_what_it_tests() {
        for entry in fs::read_dir(directory()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let text = dockerfile(&name).unwrap();
            assert!(text.starts_with("# "), "{name}");
            let from = |line: &&str| line.starts_with(&format!("FROM {OURS}"));
            assert!(
                text.lines().filter(from).count() <= bases(&text).count(),
                "{name}"
            );
        }
    }
}
