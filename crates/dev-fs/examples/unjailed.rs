//! Serves a directory without a jail, for tests and debuggers: what fails in the jail and works
//! here is the jail's fault. `unjailed SOCKET DIRECTORY [CONFIG]`, where CONFIG is words of `ro`,
//! `never`, `always`, `writeback`, `submounts`, `threads=N`, `fds=N` and `single=UID`, separated by commas.

use std::error::Error;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;

use nix::libc::{O_DIRECTORY, O_PATH};
use nix::sys::resource::{Resource, setrlimit};
use wire::fs::{Cache, Config, Ids, Owner};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what| arguments.next().ok_or(what);
    let listener = UnixListener::bind(argument("no socket")?)?;
    let root = open(&argument("no directory")?)?;
    let mut config = Config {
        tag: "share".to_owned(),
        read_only: false,
        cache: Cache::Auto,
        writeback: false,
        threads: 0,
        xattr: true,
        submounts: false,
        ids: Ids::Same,
    };
    for word in argument("").unwrap_or_default().split(',') {
        apply(&mut config, word)?;
    }
    let parts = dev_fs::Parts {
        front_end: listener,
        root,
        proc_self_fd: open("/proc/self/fd")?,
    };
    // Nobody releases it: it serves until the front end is gone.
    dev_fs::serve(&config, parts, || {
        loop {
            std::thread::park();
        }
    })?;
    Ok(())
}

fn apply(config: &mut Config, word: &str) -> Result<(), Box<dyn Error>> {
    match word.split_once('=').unwrap_or((word, "")) {
        ("", "") => {}
        ("ro", _) => config.read_only = true,
        ("never", _) => config.cache = Cache::Never,
        ("always", _) => config.cache = Cache::Always,
        ("writeback", _) => config.writeback = true,
        ("submounts", _) => config.submounts = true,
        ("fds", n) => {
            let n = n.parse()?;
            setrlimit(Resource::RLIMIT_NOFILE, n, n)?;
        }
        ("threads", n) => config.threads = n.parse()?,
        ("single", uid) => {
            let uid = uid.parse()?;
            config.ids = Ids::Single {
                owner: Owner { uid, gid: uid },
                others: Owner::ROOT,
            };
        }
        _ => return Err(format!("unknown word {word}").into()),
    }
    Ok(())
}

fn open(path: &str) -> std::io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .custom_flags(O_PATH | O_DIRECTORY)
        .open(path)?;
    Ok(file.into())
}
