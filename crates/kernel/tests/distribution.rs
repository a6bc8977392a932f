//! Fetching, with a package system of shell scripts in front of the real one in `PATH`.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use kernel::{Cache, Source, resolve};
use tempfile::TempDir;

/// In the child of a test: the cache to use. `PATH` cannot be changed in a process with threads,
/// so each test runs the function below in a process of its own.
const CACHE: &str = "KERNEL_TEST_CACHE";

#[test]
fn child_that_resolves() {
    let Some(cache) = env::var_os(CACHE) else {
        return;
    };
    let cache = Cache::at(cache.into());
    match resolve(&Source::Distribution, &cache, &mut |step| {
        println!("step {step}")
    }) {
        Ok(kernel) => {
            let vmlinux = fs::read(&kernel.vmlinux).unwrap();
            assert!(vmlinux.starts_with(b"\x7fELF"));
            assert!(kernel.modules.unwrap().join("modules.order").is_file());
            println!("kernel {}", kernel.release);
        }
        Err(error) => println!("error {error}"),
    }
}

/// Scripts in a directory, a log of their calls, and a cache.
struct Host {
    directory: TempDir,
}

const APT_CACHE: &str = r#"[ "$1" = depends ] || exit 9
case "$3" in
linux-image-cloud-amd64 | linux-image-cloud-arm64) echo "$3"; echo "  Depends: linux-image-9.9-cloud" ;;
linux-image-9.9-cloud) echo "$3"; echo " |Depends: linux-initramfs-tool"; echo "  Depends: linux-modules-9.9" ;;
*) echo "E: No packages found" >&2; exit 100 ;;
esac"#;

const APT_GET: &str = r#"for package; do :; done
sleep 0.2
echo data > "${package}_9.9-1_amd64.deb""#;

/// The kernel's package has no modules, as on Ubuntu.
const DPKG_DEB: &str = r#"case "$2" in
*linux-image*) mkdir -p "$3/boot"; cp "$HOST/bzimage" "$3/boot/vmlinuz-9.9" ;;
*) mkdir -p "$3/lib/modules/9.9"; echo kernel/a.ko > "$3/lib/modules/9.9/modules.order" ;;
esac"#;

impl Host {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("bin")).unwrap();
        fs::write(path.join("bzimage"), bzimage()).unwrap();
        let _guard = FORK.lock().unwrap();
        for (name, script) in scripts {
            let file = path.join("bin").join(name);
            let script = format!("#!/bin/sh\necho {name} \"$@\" >> \"$HOST/log\"\n{script}\n");
            fs::write(&file, script).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { directory }
    }

    fn whole() -> Self {
        Self::new(&[
            ("apt-cache", APT_CACHE),
            ("apt-get", APT_GET),
            ("dpkg-deb", DPKG_DEB),
        ])
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, tools: &str) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "child_that_resolves", "--nocapture"])
            .env(CACHE, self.path().join("cache"))
            .env("HOST", self.path())
            .env("PATH", format!("{}/bin{tools}", self.path().display()));
        command
    }

    fn resolve(&self) -> String {
        text(start(self.command(":/usr/bin:/bin")))
    }

    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn unfinished(&self) -> usize {
        fs::read_dir(self.path().join("cache/kernels"))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with(".unfinished")
            })
            .count()
    }
}

/// Held while a script is written and while a process is started: a fork between the two would
/// keep the script open for writing, and then it cannot be executed.
static FORK: Mutex<()> = Mutex::new(());

fn start(mut command: Command) -> Child {
    let _guard = FORK.lock().unwrap();
    let child = command.stdout(Stdio::piped()).spawn();
    child.unwrap()
}

fn text(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

/// One setup sector, then an uncompressed payload.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    image[0x300..0x308].copy_from_slice(b"9.9-test");
    image[0x24c] = 8;
    image.extend_from_slice(b"\x7fELF1234");
    image
}

#[test]
fn a_kernel_and_its_modules_are_fetched_once_and_then_found_without_apt() {
    let host = Host::whole();
    let first = host.resolve();
    assert!(first.contains("kernel 9.9-test"), "{first}");
    assert!(
        first.contains("step fetching linux-image-9.9-cloud"),
        "{first}"
    );
    assert!(first.contains("step fetching linux-modules-9.9"), "{first}");
    let calls = host.calls();
    let second = host.resolve();
    assert!(
        second.contains("kernel 9.9-test") && !second.contains("step"),
        "{second}"
    );
    assert_eq!(host.calls(), calls);
    assert_eq!(host.unfinished(), 0);
}

#[test]
fn two_that_fetch_at_once_share_one_download() {
    let host = Host::whole();
    let children: Vec<_> = (0..3)
        .map(|_| start(host.command(":/usr/bin:/bin")))
        .collect();
    for child in children {
        let text = text(child);
        assert!(text.contains("kernel 9.9-test"), "{text}");
    }
    let downloads = host
        .calls()
        .iter()
        .filter(|call| call.contains("download"))
        .count();
    assert_eq!(downloads, 2, "{:?}", host.calls());
}

#[test]
fn what_a_killed_fetch_left_is_removed_and_never_used() {
    let host = Host::whole();
    let kernels = host.path().join("cache/kernels");
    fs::create_dir_all(kernels.join(".unfinished-1-0/finished")).unwrap();
    fs::create_dir_all(kernels.join("linux-image-9.9-cloud_9.9-1_amd64")).unwrap();
    fs::write(
        kernels.join("linux-image-9.9-cloud_9.9-1_amd64/vmlinux"),
        "half",
    )
    .unwrap();
    let text = host.resolve();
    assert!(text.contains("kernel 9.9-test"), "{text}");
    assert_eq!(host.unfinished(), 0);
}

#[test]
fn a_host_without_apt_is_told_to_name_a_kernel() {
    let host = Host::new(&[]);
    let text = text(start(host.command("")));
    assert!(
        text.contains("error") && text.contains("--kernel"),
        "{text}"
    );
}

#[test]
fn a_host_without_package_lists_is_told_to_update() {
    let nothing = "echo 'E: No packages found' >&2; exit 100";
    let text = Host::new(&[("apt-cache", nothing)]).resolve();
    assert!(text.contains("apt-get update"), "{text}");
}

#[test]
fn a_download_that_fails_says_why_and_leaves_nothing() {
    let fails = "echo 'E: Could not resolve host' >&2; exit 100";
    let host = Host::new(&[("apt-cache", APT_CACHE), ("apt-get", fails)]);
    let text = host.resolve();
    assert!(
        text.contains("apt-get") && text.contains("Could not resolve host"),
        "{text}"
    );
    assert_eq!(host.unfinished(), 0);
}

#[test]
fn a_package_without_a_kernel_is_refused() {
    let nothing = ("dpkg-deb", "mkdir -p $3/lib/modules/9.9");
    let host = Host::new(&[("apt-cache", APT_CACHE), ("apt-get", APT_GET), nothing]);
    let text = host.resolve();
    assert!(text.contains("contains no kernel"), "{text}");
    assert!(!host.path().join("cache/kernels/distribution").exists());
}
