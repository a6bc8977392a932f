//! With the registry and the tool that others use.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use image::{Format, Platform};

use crate::rig::{Sample, get, noise, store};

/// Programs, and the packages of the same names that have them.
const PROGRAMS: [&str; 2] = ["skopeo", "docker-registry"];

/// What skopeo needs and may not be installed, under the names of Debian and of Ubuntu.
const LIBRARIES: [&str; 5] = [
    "libgpgme11",
    "libgpgme11t64",
    "libassuan0",
    "libassuan9",
    "libgpg-error0",
];

/// Where the programs are: installed, or unpacked here from packages that need no root to be fetched.
struct Tools {
    unpacked: Option<PathBuf>,
}

impl Tools {
    fn find() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let installed = |name: &&str| env::split_paths(&path).any(|part| part.join(name).is_file());
        if PROGRAMS.iter().all(installed) {
            return Some(Self { unpacked: None });
        }
        let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
        if !tree.join("whole").exists() {
            fetch(&tree)?;
        }
        let tools = Self {
            unpacked: Some(tree),
        };
        let version = tools.command("skopeo").arg("--version").output();
        version
            .is_ok_and(|version| version.status.success())
            .then_some(tools)
    }

    fn command(&self, program: &str) -> Command {
        let Some(tree) = &self.unpacked else {
            return Command::new(program);
        };
        let libraries = [
            tree.join("usr/lib")
                .join(format!("{}-linux-gnu", env::consts::ARCH)),
            tree.join("lib")
                .join(format!("{}-linux-gnu", env::consts::ARCH)),
        ];
        let mut command = Command::new(tree.join("usr/bin").join(program));
        command.env("LD_LIBRARY_PATH", env::join_paths(libraries).unwrap());
        command
    }

    fn skopeo(&self, arguments: &[&str]) -> String {
        let mut command = self.command("skopeo");
        command.args(["--insecure-policy"]).args(arguments);
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "skopeo {}: {words}",
            arguments.join(" ")
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Nothing if there is no apt or no network. Nothing is installed: the registry would be started.
fn fetch(tree: &Path) -> Option<()> {
    fs::create_dir_all(tree).ok()?;
    let run = |command: &mut Command| {
        let quiet = command
            .current_dir(tree)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = quiet.status();
        status.is_ok_and(|status| status.success()).then_some(())
    };
    let options = ["-q", "-o", "APT::Sandbox::User=root", "download"];
    let download = |package| run(Command::new("apt-get").args(options).arg(package));
    PROGRAMS.into_iter().try_for_each(download)?;
    // Whether it is enough is found out when it is run.
    LIBRARIES.into_iter().filter_map(download).count();
    for entry in fs::read_dir(tree).ok()?.flatten() {
        let archive = entry.path();
        if archive.extension().is_some_and(|ending| ending == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(archive).arg("."))?;
        }
    }
    fs::write(tree.join("whole"), "").ok()
}

/// The registry of docker's, until it is dropped.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    fn start(tools: &Tools, directory: &Path) -> Self {
        let config = directory.join("config.yml");
        let storage = directory.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = tools.command("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // It says itself which port it got.
        let host = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
                Some(rest[..end.unwrap_or(rest.len())].to_owned())
            })
            .expect("docker-registry did not start");
        std::thread::spawn(move || lines.count());
        Self { child, host }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A layer that is an archive.
fn archive(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, contents).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn images_go_to_and_fro_between_us_and_others() {
    let Some(tools) = Tools::find() else {
        // Past the test harness, which keeps what a test that succeeds has to say.
        let mut terminal = std::io::stderr();
        let _ = writeln!(
            terminal,
            "\n*** NOT TESTED with other programs: {} are not installed, and apt-get has not fetched \
             them; run: apt-get install {} ***\n",
            PROGRAMS.join(" and "),
            PROGRAMS.join(" ")
        );
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(&tools, directory.path());
    let host = Platform::of_host();
    let image = Sample::gzip(&[&archive("a", &noise(300_000, 1)), &archive("b", b"two")]);

    // Ours are given to the registry, and skopeo finds what we have sent.
    let fake = crate::rig::Fake::new();
    fake.add("latest", &image);
    let ours = store(&directory.path().join("ours"));
    get(&ours, &fake.name("x")).unwrap();
    let name = fake.name("x").to_string();
    let sent = format!("{}/ours:1", registry.host);
    ours.push(&name, &host, &sent.parse().unwrap(), &())
        .unwrap();
    let insecure = "--tls-verify=false";
    let seen = tools.skopeo(&["inspect", insecure, &format!("docker://{sent}")]);
    assert!(seen.contains(&image.digest().to_string()), "{seen}");

    // skopeo makes an image of docker's of it, which we get.
    let theirs = format!("{}/theirs:1", registry.host);
    tools.skopeo(&[
        "copy",
        "--format",
        "v2s2",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &format!("docker://{sent}"),
        &format!("docker://{theirs}"),
    ]);
    let docker = get(&ours, &theirs.parse().unwrap()).unwrap();
    assert_ne!(docker.digest(), image.digest());
    assert_eq!(docker.layers().len(), 2);

    // What we save, skopeo reads, and the other way round.
    for (format, kind) in [
        (Format::Oci, "oci-archive"),
        (Format::Docker, "docker-archive"),
    ] {
        for name in [&name, docker.name()] {
            let path = directory.path().join("saved.tar");
            let mut file = fs::File::create(&path).unwrap();
            ours.save(name, &host, format, &mut file).unwrap();
            let seen = tools.skopeo(&["inspect", &format!("{kind}:{}", path.display())]);
            assert!(
                seen.contains(&format!("\"Architecture\": \"{}\"", host.architecture)),
                "{seen}"
            );
            let copied = directory.path().join("copied.tar");
            let _ = fs::remove_file(&copied);
            let (from, to) = (path.display(), copied.display());
            tools.skopeo(&[
                "copy",
                &format!("{kind}:{from}"),
                &format!("{kind}:{to}:x/y:1"),
            ]);
            let copy = get(&ours, &format!("{kind}:{to}").parse().unwrap()).unwrap();
            assert_eq!(copy.layers().len(), 2);
        }
    }
}
