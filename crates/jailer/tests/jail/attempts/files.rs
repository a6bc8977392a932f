//! Files and directories of the host.

use std::ffi::CString;
use std::io;

use libc::{
    AT_FDCWD, EACCES, EBADF, EINVAL, ENOENT, EPERM, EROFS, ESRCH, EXDEV, O_CREAT, O_DIRECTORY,
    O_PATH, O_RDONLY, O_RDWR, O_WRONLY,
};

use super::calls::{make, open, open_at, words};
use super::{Attempt, Each, FS_ONLY, Host, REFER, Stop, Work, by, by_name, killed, landlock};
use crate::component::Hands;
use crate::layers::Layer::{Capabilities, Descriptors, Kernel, Namespaces, Root, Subtree, User};
use crate::raw::call;

/// No path leads to it; if one did, Landlock would refuse to open it.
const NAMED: &[Stop] = &[by(Root, &[ENOENT]), landlock(1, &[EACCES])];

/// As [`NAMED`], of something that not every host has.
const MAYBE: &[Stop] = &[by(Root, &[ENOENT]), landlock(1, &[EACCES, ENOENT])];

/// No path leads to it. Landlock has no right of this kind.
const UNSEEN: &[Stop] = &[by(Root, &[ENOENT])];

/// Mounts take a capability; with it, they are the component's own.
const MOUNTS: &[Stop] = &[by(Capabilities, &[EPERM])];

/// A change of what is mounted: Landlock refuses it as well.
const REMOUNTS: &[Stop] = &[by(Capabilities, &[EPERM]), landlock(1, &[EPERM])];

/// An attempt by way of `..` of the shared directory, which only dev-fs has as a mount of its own.
const fn upwards(
    name: &'static str,
    errors: &'static [Stop],
    both: &'static [(&'static str, &'static [Stop]); 1],
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    Attempt {
        name,
        filter: FS_ONLY,
        stops: Each {
            most: errors,
            others: both,
        },
        end: Work,
        what,
    }
}

const DENIED: &[Stop] = &[landlock(1, &[EACCES])];
const NO_WAY_UP: &[(&str, &[Stop]); 1] =
    &[("dev-fs", &[by(Subtree, &[ENOENT]), landlock(1, &[EACCES])])];

pub(super) const ATTEMPTS: &[Attempt] = &[
    by_name("read_a_file_of_the_host", NAMED, Work, |hands| {
        open(&hands.path("secret")?, O_RDONLY)
    }),
    by_name("write_a_file_of_the_host", NAMED, Work, |hands| {
        open(&hands.path("secret")?, O_WRONLY)
    }),
    by_name("find_a_file_of_the_host", UNSEEN, Work, |hands| {
        open(&hands.path("secret")?, O_PATH)
    }),
    by_name("create_a_file_of_the_host", NAMED, Work, |hands| {
        open(&hands.path("beside/new")?, O_CREAT | O_WRONLY)
    }),
    by_name("list_a_directory_of_the_host", NAMED, Work, |hands| {
        open(&hands.path("beside")?, O_RDONLY | O_DIRECTORY)
    }),
    by_name(
        "read_a_file_of_the_host_with_openat2",
        NAMED,
        Work,
        |hands| {
            let path = hands.path("secret")?;
            let mut how = [0_u64; 3];
            make(libc::SYS_openat2, &[&AT_FDCWD, &&*path, &&mut how[..], &24])
        },
    ),
    #[cfg(target_arch = "x86_64")]
    killed("open_with_the_old_call", NAMED, Work, |hands| {
        make(libc::SYS_open, &[&&*hands.path("secret")?, &O_RDONLY])
    }),
    #[cfg(target_arch = "x86_64")]
    killed("create_with_the_old_call", NAMED, Work, |hands| {
        make(libc::SYS_creat, &[&&*hands.path("beside/new")?, &0o666])
    }),
    by_name("list_the_root_directory", DENIED, Work, |_| {
        open(c"/", O_RDONLY | O_DIRECTORY)
    }),
    by_name(
        "create_a_file_in_the_root",
        &[by(Root, &[EROFS]), landlock(1, &[EACCES])],
        Host,
        |_| open(c"/crumble-hostile-file", O_CREAT | O_WRONLY),
    ),
    by_name(
        "make_a_directory_in_the_root",
        &[by(Root, &[EROFS]), landlock(1, &[EACCES])],
        Host,
        |_| {
            make(
                libc::SYS_mkdirat,
                &[&AT_FDCWD, &c"/crumble-hostile-directory", &0o777],
            )
        },
    ),
    by_name("stat_a_file_of_the_host", UNSEEN, Work, |hands| {
        let (path, mut buffer) = (hands.path("secret")?, [0_u64; 64]);
        make(
            libc::SYS_newfstatat,
            &[&AT_FDCWD, &&*path, &&mut buffer[..], &0],
        )
    }),
    by_name("statx_a_file_of_the_host", UNSEEN, Work, |hands| {
        let (path, mut buffer) = (hands.path("secret")?, [0_u64; 64]);
        make(
            libc::SYS_statx,
            &[&AT_FDCWD, &&*path, &0, &0x7ff, &&mut buffer[..]],
        )
    }),
    killed(
        "ask_for_access_to_a_file_of_the_host",
        UNSEEN,
        Work,
        |hands| {
            make(
                libc::SYS_faccessat,
                &[&AT_FDCWD, &&*hands.path("secret")?, &0],
            )
        },
    ),
    killed("stat_a_file_system_of_the_host", UNSEEN, Work, |hands| {
        let (path, mut buffer) = (hands.path("secret")?, [0_u64; 64]);
        make(libc::SYS_statfs, &[&&*path, &&mut buffer[..]])
    }),
    by_name("read_a_link_of_the_host", UNSEEN, Work, |hands| {
        let (path, mut buffer) = (hands.path("shared/link")?, [0_u64; 64]);
        make(
            libc::SYS_readlinkat,
            &[&AT_FDCWD, &&*path, &&mut buffer[..], &512],
        )
    }),
    by_name(
        "follow_a_link_out_of_the_shared_directory",
        NAMED,
        Work,
        |hands| open_at(hands, c"link", O_RDONLY),
    ),
    killed(
        "truncate_a_file_of_the_host",
        &[by(Root, &[ENOENT]), landlock(3, &[EACCES])],
        Work,
        |hands| make(libc::SYS_truncate, &[&&*hands.path("secret")?, &1]),
    ),
    by_name(
        "change_the_mode_of_a_file_of_the_host",
        UNSEEN,
        Host,
        |hands| {
            make(
                libc::SYS_fchmodat,
                &[&AT_FDCWD, &&*hands.path("secret")?, &0o666],
            )
        },
    ),
    by_name(
        "change_the_owner_of_a_file_of_the_host",
        UNSEEN,
        Host,
        |hands| {
            make(
                libc::SYS_fchownat,
                &[&AT_FDCWD, &&*hands.path("secret")?, &0, &0, &0],
            )
        },
    ),
    by_name(
        "change_the_times_of_a_file_of_the_host",
        UNSEEN,
        Work,
        |hands| {
            make(
                libc::SYS_utimensat,
                &[&AT_FDCWD, &&*hands.path("secret")?, &0, &0],
            )
        },
    ),
    by_name(
        "change_an_attribute_of_a_file_of_the_host",
        UNSEEN,
        Host,
        |hands| {
            let path = hands.path("secret")?;
            make(libc::SYS_setxattr, &[&&*path, &c"user.x", &c"x", &1, &0])
        },
    ),
    by_name("remove_a_file_of_the_host", NAMED, Work, |hands| {
        make(
            libc::SYS_unlinkat,
            &[&AT_FDCWD, &&*hands.path("beside/file")?, &0],
        )
    }),
    by_name(
        "look_at_the_hosts_root_through_proc",
        NAMED,
        Host,
        |hands| {
            let path = CString::new(format!("/proc/{}/root/etc", hands.host))?;
            open(&path, O_PATH)
        },
    ),
    by_name("open_its_own_memory_through_proc", NAMED, Host, |_| {
        open(c"/proc/self/mem", O_RDWR)
    }),
    by_name("write_a_setting_of_the_kernel", NAMED, Host, |_| {
        open(c"/proc/sys/kernel/core_pattern", O_WRONLY)
    }),
    by_name("read_a_setting_of_the_kernel", NAMED, Work, |_| {
        open(c"/proc/sys/kernel/core_pattern", O_RDONLY)
    }),
    by_name("open_a_device", NAMED, Work, |_| open(c"/dev/zero", O_RDWR)),
    by_name("open_kvm_by_name", MAYBE, Host, |_| {
        open(c"/dev/kvm", O_RDWR)
    }),
    by_name("open_the_memory_of_the_machine", MAYBE, Host, |_| {
        open(c"/dev/mem", O_RDWR)
    }),
    by_name("open_a_terminal", NAMED, Host, |_| {
        open(c"/dev/tty", O_RDWR)
    }),
    by_name(
        "open_anew_what_it_was_handed",
        &[by(Root, &[ENOENT]), landlock(1, &[EACCES])],
        Host,
        |_| open(c"/proc/self/fd/0", O_RDWR),
    ),
    Attempt {
        name: "open_anew_through_its_piece_of_proc",
        filter: FS_ONLY,
        stops: Each {
            most: &[by(Descriptors, &[EBADF])],
            others: &[("dev-fs", DENIED)],
        },
        end: Work,
        what: |hands| match &hands.proc_self_fd {
            Some(proc) => make(libc::SYS_openat, &[&proc, &c"0", &O_RDWR]),
            None => make(libc::SYS_openat, &[&-1, &c"0", &O_RDWR]),
        },
    },
    upwards(
        "open_a_file_beside_the_shared_directory",
        DENIED,
        NO_WAY_UP,
        |hands| open_at(hands, c"../secret", O_RDONLY),
    ),
    upwards(
        "make_a_directory_beside_the_shared_one",
        DENIED,
        NO_WAY_UP,
        |hands| make(libc::SYS_mkdirat, &[&&hands.root, &c"../beside/x", &0o777]),
    ),
    upwards(
        "remove_a_file_beside_the_shared_directory",
        DENIED,
        NO_WAY_UP,
        |hands| make(libc::SYS_unlinkat, &[&&hands.root, &c"../beside/file", &0]),
    ),
    upwards(
        "make_a_symbolic_link_beside_the_shared_directory",
        DENIED,
        NO_WAY_UP,
        |hands| make(libc::SYS_symlinkat, &[&c"/", &&hands.root, &c"../beside/x"]),
    ),
    upwards(
        "move_a_file_out_of_the_shared_directory",
        &[REFER],
        &[("dev-fs", &[by(Subtree, &[ENOENT]), REFER])],
        |hands| {
            let (from, to) = (c"inside", c"../beside/x");
            make(
                libc::SYS_renameat2,
                &[&&hands.root, &from, &&hands.root, &to, &0],
            )
        },
    ),
    upwards(
        "link_a_file_of_the_host_into_the_shared_directory",
        &[REFER],
        &[("dev-fs", &[by(Subtree, &[ENOENT]), landlock(1, &[EXDEV])])],
        |hands| {
            let (from, to) = (c"../secret", c"x");
            make(
                libc::SYS_linkat,
                &[&&hands.root, &from, &&hands.root, &to, &0],
            )
        },
    ),
    Attempt {
        name: "make_a_device_node",
        filter: FS_ONLY,
        stops: Each {
            most: &[landlock(1, &[EACCES]), by(User, &[EPERM])],
            others: &[("dev-fs", &[by(User, &[EPERM])])],
        },
        end: Host,
        what: |hands| {
            let (kind, null) = (0o020_666_i32, 0x103_i32);
            make(libc::SYS_mknodat, &[&&hands.root, &c"x", &kind, &null])
        },
    },
    killed("change_the_directory", UNSEEN, Work, |hands| {
        make(libc::SYS_chdir, &[&&*hands.path("beside")?])
    }),
    killed("watch_a_directory_of_the_host", UNSEEN, Work, |hands| {
        let watch = call(libc::SYS_inotify_init1, &[&0])?;
        let path = hands.path("beside")?;
        make(libc::SYS_inotify_add_watch, &[&watch, &&*path, &0x100])
    }),
    killed(
        "watch_a_whole_file_system",
        &[by(User, &[EPERM])],
        Host,
        |_| make(libc::SYS_fanotify_init, &[&4, &0]),
    ),
    killed("name_a_handle", UNSEEN, Host, |hands| {
        let (path, mut handle) = (hands.path("secret")?, words::<20>(&[128]));
        let mut mount = [0_u64];
        make(
            libc::SYS_name_to_handle_at,
            &[&AT_FDCWD, &&*path, &&mut handle[..], &&mut mount[..], &0],
        )
    }),
    killed("open_by_handle", &[by(User, &[EPERM])], Host, |hands| {
        // Eight bytes of the kind FILEID_INO32_GEN: inode 2, the root of most file systems.
        let mut handle = [8 | 1 << 32, 2, 0];
        make(
            libc::SYS_open_by_handle_at,
            &[&&hands.root, &&mut handle[..], &0],
        )
    }),
    killed(
        "ask_to_be_told_of_the_hosts_input",
        &[by(Namespaces, &[ESRCH])],
        Host,
        |hands| {
            // F_SETOWN.
            make(libc::SYS_fcntl, &[&0, &8, &hands.host])
        },
    ),
    killed("change_the_root", MOUNTS, Work, |_| {
        make(libc::SYS_chroot, &[&c"/"])
    }),
    killed(
        "change_the_root_to_a_directory_of_the_host",
        &[by(Root, &[ENOENT]), by(Capabilities, &[EPERM])],
        Work,
        |hands| make(libc::SYS_chroot, &[&&*hands.path("beside")?]),
    ),
    killed("pivot_the_root", REMOUNTS, Host, |_| {
        make(libc::SYS_pivot_root, &[&c"/", &c"/"])
    }),
    killed("mount", REMOUNTS, Work, |_| {
        make(libc::SYS_mount, &[&c"x", &c"/", &c"tmpfs", &0, &0])
    }),
    killed("mount_proc", REMOUNTS, Host, |_| {
        make(libc::SYS_mount, &[&c"x", &c"/", &c"proc", &0, &0])
    }),
    killed("mount_with_the_new_calls", MOUNTS, Work, |_| {
        make(libc::SYS_fsopen, &[&c"tmpfs", &0])
    }),
    killed(
        "unmount",
        &[by(Capabilities, &[EPERM]), by(Kernel, &[EINVAL])],
        Host,
        |_| make(libc::SYS_umount2, &[&c"/", &libc::MNT_DETACH]),
    ),
    killed("take_a_tree_of_mounts", MOUNTS, Work, |_| {
        make(libc::SYS_open_tree, &[&AT_FDCWD, &c"/", &1])
    }),
    killed("move_a_mount", REMOUNTS, Host, |hands| {
        make(
            libc::SYS_move_mount,
            &[&&hands.root, &c"", &AT_FDCWD, &c"/", &4],
        )
    }),
    killed("make_the_root_writable", MOUNTS, Work, |_| {
        let mut attributes = [0_u64, 1, 0, 0];
        make(
            libc::SYS_mount_setattr,
            &[&AT_FDCWD, &c"/", &0, &&mut attributes[..], &32],
        )
    }),
    killed(
        "freeze_a_file_system",
        &[by(User, &[EPERM])],
        Host,
        |hands| {
            // FIFREEZE.
            make(
                libc::SYS_ioctl,
                &[&&hands.root, &0xc004_5877_u32.cast_signed()],
            )
        },
    ),
];
