//! From the configuration on the wire to virtiofsd's.

use std::fs::File;
use std::time::Duration;

use virtiofsd::passthrough::{self, CachePolicy, NegotiationMode};
use virtiofsd::soft_idmap::cmdline::IdMap;
use wire::fs::{Cache, Config, Ids};

use crate::Error;

/// How long "for good" is, as virtiofsd's own command line has it.
const A_DAY: Duration = Duration::from_secs(86_400);

/// The number that a single-id user namespace gives its user.
const INNER: u32 = 0;
/// The number that stands for everybody else in it (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65534;

/// Refuses what cannot be served or makes no sense.
///
/// # Errors
/// [`Error::Config`], naming the field.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    let length = config.tag.len();
    if length == 0 || length > Config::MAX_TAG || config.tag.contains('\0') {
        return Err(Error::Config("the tag must have 1 to 36 bytes, none zero"));
    }
    if config.writeback && (config.read_only || config.cache == Cache::Never) {
        return Err(Error::Config("writeback needs a writable, cached share"));
    }
    if let Ids::Single { owner, others } = config.ids
        && [owner.uid, owner.gid, others.uid, others.gid].contains(&u32::MAX)
    {
        return Err(Error::Config("4294967295 is no user or group"));
    }
    Ok(())
}

/// How long the guest may keep names and attributes.
pub(crate) fn timeout(cache: Cache) -> Duration {
    match cache {
        Cache::Never => Duration::ZERO,
        Cache::Auto => Duration::from_secs(1),
        Cache::Always => A_DAY,
    }
}

/// virtiofsd's configuration for serving the current directory. `fd_limit` bounds the descriptors
/// that the guest can make the process hold: one for each inode that it knows or file it has open.
pub(crate) fn passthrough(
    config: &Config,
    proc_self_fd: File,
    fd_limit: u64,
) -> passthrough::Config {
    let timeout = timeout(config.cache);
    let (uid_map, gid_map) = match config.ids {
        Ids::Same => (None, None),
        Ids::Single { owner, others } => (
            Some(single(owner.uid, others.uid)),
            Some(single(owner.gid, others.gid)),
        ),
    };
    passthrough::Config {
        entry_timeout: timeout,
        attr_timeout: timeout,
        cache_policy: match config.cache {
            Cache::Never => CachePolicy::Never,
            Cache::Auto => CachePolicy::Auto,
            Cache::Always => CachePolicy::Always,
        },
        writeback: config.writeback,
        root_dir: ".".to_owned(),
        xattr: config.xattr,
        proc_sfd_rawfd: Some(proc_self_fd),
        posix_acl: if config.acl && config.ids == Ids::Same {
            NegotiationMode::Auto
        } else {
            NegotiationMode::Never
        },
        announce_submounts: config.submounts,
        // Attributes that may not be kept are not worth fetching with the names.
        readdirplus: config.cache != Cache::Never,
        // The guest need not ask before each write whether a file has capabilities to lose.
        killpriv_v2: true,
        // File handles take CAP_DAC_READ_SEARCH over the whole host, which nobody here has.
        inode_file_handles: passthrough::InodeFileHandlesMode::Never,
        uid_map,
        gid_map,
        guest_fd_limit: fd_limit,
        ..passthrough::Config::default()
    }
}

/// The correspondence of user (or group) numbers for a device that has only one. Which numbers the
/// guest may use at all is the guard's to decide: virtiofsd would refuse the others with EIO.
fn single(owner: u32, others: u32) -> Vec<IdMap> {
    vec![
        IdMap::Host {
            from_host: INNER,
            to_guest: owner,
            count: 1,
        },
        IdMap::Host {
            from_host: OVERFLOW,
            to_guest: others,
            count: 1,
        },
        // Up to u32::MAX, which is no id and, as the end of a range, not in it.
        IdMap::SquashGuest {
            from_guest: 0,
            to_host: INNER,
            count: u32::MAX,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtiofsd::soft_idmap::{GuestUid, HostUid, Id, IdMap as Map};
    use wire::fs::Owner;

    fn config() -> Config {
        Config {
            tag: "share".to_owned(),
            read_only: false,
            cache: Cache::Auto,
            writeback: false,
            xattr: true,
            submounts: true,
            acl: true,
            ids: Ids::Same,
        }
    }

    fn map(owner: u32, others: u32) -> Map<GuestUid, HostUid> {
        Map::try_from(single(owner, others)).unwrap()
    }

    #[test]
    fn the_only_user_and_everybody_else_are_told_apart() {
        let map = map(1000, 0);
        assert_eq!(map.map_host(HostUid::from(0)).unwrap().into_inner(), 1000);
        assert_eq!(map.map_host(HostUid::from(65534)).unwrap().into_inner(), 0);
    }

    #[test]
    fn every_number_of_the_guest_is_the_only_user() {
        let map = map(1000, 0);
        for guest in [0, 1, 1000, 65534, u32::MAX - 1] {
            let host = map.map_guest(GuestUid::from(guest)).unwrap();
            assert_eq!(host.into_inner(), 0);
        }
    }

    #[test]
    fn a_bad_configuration_is_refused_and_a_good_one_is_not() {
        assert!(check(&config()).is_ok());
        let cases: [fn(&mut Config); 6] = [
            |c| c.tag.clear(),
            |c| c.tag = "x".repeat(37),
            |c| c.tag = "a\0b".to_owned(),
            |c| (c.writeback, c.read_only) = (true, true),
            |c| (c.writeback, c.cache) = (true, Cache::Never),
            |c| {
                c.ids = Ids::Single {
                    owner: Owner {
                        uid: u32::MAX,
                        gid: 0,
                    },
                    others: Owner::NOBODY,
                }
            },
        ];
        for spoil in cases {
            let mut config = config();
            spoil(&mut config);
            assert!(check(&config).is_err(), "{config:?}");
        }
    }
}
