//! A configuration from a few words, for tests and for the example.

use std::fs::File;

use nix::sys::memfd::{MFdFlags, memfd_create};
use wire::fs::{Cache, Config, Ids, JOURNAL_SIZE, Owner};

/// A journal that nobody has written yet.
pub(crate) fn journal() -> File {
    let file = File::from(memfd_create("journal", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(JOURNAL_SIZE).unwrap();
    file
}

/// A writable share, cached as usual, but for `words`, which are separated by commas: `ro`,
/// `never`, `always`, `writeback`, `submounts`, `single=UID`.
pub(crate) fn config(words: &str) -> Config {
    let mut config = Config {
        tag: "share".to_owned(),
        read_only: false,
        cache: Cache::Auto,
        writeback: false,
        xattr: true,
        submounts: false,
        acl: false,
        ids: Ids::Same,
    };
    for word in words.split(',').filter(|word| !word.is_empty()) {
        apply(&mut config, word);
    }
    config
}

fn apply(config: &mut Config, word: &str) {
    match word.split_once('=').unwrap_or((word, "")) {
        ("ro", _) => config.read_only = true,
        ("never", _) => config.cache = Cache::Never,
        ("always", _) => config.cache = Cache::Always,
        ("writeback", _) => config.writeback = true,
        ("submounts", _) => config.submounts = true,
        ("single", uid) => {
            let uid = uid.parse().unwrap();
            config.ids = Ids::Single {
                owner: Owner { uid, gid: uid },
                others: Owner::ROOT,
            };
        }
        _ => panic!("unknown word {word}"),
    }
}
