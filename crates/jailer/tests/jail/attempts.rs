//! What a component under an attacker's control tries, and what stops it.
//!
//! Every attempt is made under each policy, and again with the filter of system calls left open,
//! to show which other layer holds and where none does.

use std::ffi::CStr;
use std::io;

use libc::{
    AT_FDCWD, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, EACCES, EBADF, ECONNREFUSED,
    EINVAL, EMFILE, ENETUNREACH, ENOENT, ENOEXEC, ENOSYS, ENOTTY, EPERM, EROFS, ESRCH, EXDEV,
    O_CREAT, O_DIRECTORY, O_RDONLY, O_WRONLY, SIGSYS,
};
use libtest_mimic::{Failed, Trial};

use crate::component::Hands;
use crate::host::{self, COMPONENTS, Deed, Outcome};
use crate::raw::{call, fork};

/// What is to become of an attempt.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// The filter ends the process.
    Kill,
    /// It fails with one of these errors: which of several layers is asked first, and what the
    /// kernel has, differs between kernels.
    Error(&'static [i32]),
    /// It works: nothing is wrong with it.
    Work,
    /// Not made: beyond the filter, the host's settings decide.
    Host,
}

use Expect::{Error, Host, Kill, Work};

/// One attempt.
struct Attempt {
    name: &'static str,
    what: fn(&Hands) -> io::Result<()>,
    /// Under the policies of vmm, dev-vsock and dev-fs.
    full: [Expect; 3],
    /// The same with the filter left open.
    open: [Expect; 3],
}

/// An attempt that the filter ends in every component; without it, `open`.
const fn killed(name: &'static str, open: Expect, what: fn(&Hands) -> io::Result<()>) -> Attempt {
    Attempt {
        name,
        what,
        full: [Kill; 3],
        open: [open; 3],
    }
}

/// An attempt that the filter ends but in dev-fs, which works with names.
const fn by_name(
    name: &'static str,
    errors: &'static [i32],
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    Attempt {
        name,
        what,
        full: [Kill, Kill, Error(errors)],
        open: [Error(errors); 3],
    }
}

/// An attempt with a call that every component has, and arguments that do no harm.
const fn harmless(
    name: &'static str,
    errors: &'static [i32],
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    Attempt {
        name,
        what,
        full: [Error(errors); 3],
        open: [Error(errors); 3],
    }
}

const ATTEMPTS: &[Attempt] = &[
    // The file system.
    by_name("open_a_file_of_the_host", &[ENOENT], |_| {
        open(c"/etc/passwd", O_RDONLY)
    }),
    by_name("list_the_root_directory", &[EACCES], |_| {
        open(c"/", O_RDONLY | O_DIRECTORY)
    }),
    by_name("create_a_file_in_the_root", &[EROFS, EACCES], |_| {
        open(c"/x", O_CREAT | O_WRONLY)
    }),
    by_name("stat_the_hosts_root_through_proc", &[ENOENT], |_| {
        let mut buffer = [0_u64; 64];
        let path = c"/proc/1/root";
        unit(call(
            libc::SYS_newfstatat,
            &[&AT_FDCWD, &path, &&mut buffer[..], &0],
        ))
    }),
    by_name(
        "open_a_file_beside_the_shared_directory",
        &[EACCES],
        |hands| open_at(hands, c"../secret", O_RDONLY),
    ),
    by_name(
        "make_a_directory_beside_the_shared_one",
        &[EACCES],
        |hands| unit(call(libc::SYS_mkdirat, &[&&hands.root, &c"../x", &0o777])),
    ),
    by_name(
        "move_a_file_out_of_the_shared_directory",
        &[EACCES, EXDEV],
        |hands| {
            let (from, to) = (c"inside", c"../x");
            unit(call(
                libc::SYS_renameat2,
                &[&&hands.root, &from, &&hands.root, &to, &0],
            ))
        },
    ),
    by_name(
        "link_a_file_of_the_host_into_the_shared_directory",
        &[EACCES, EXDEV, EPERM],
        |hands| {
            let (from, to) = (c"../secret", c"x");
            unit(call(
                libc::SYS_linkat,
                &[&&hands.root, &from, &&hands.root, &to, &0],
            ))
        },
    ),
    by_name("make_a_device_node", &[EPERM, EACCES], |hands| {
        let null = 0x103_i32;
        let kind = 0o020_666_i32;
        unit(call(
            libc::SYS_mknodat,
            &[&&hands.root, &c"x", &kind, &null],
        ))
    }),
    #[cfg(target_arch = "x86_64")]
    Attempt {
        name: "open_with_the_old_call",
        what: |_| unit(call(libc::SYS_open, &[&c"/etc/passwd", &O_RDONLY])),
        full: [Kill, Kill, Error(&[ENOSYS])],
        open: [Error(&[ENOENT]); 3],
    },
    killed("change_the_directory", Error(&[ENOENT]), |_| {
        unit(call(libc::SYS_chdir, &[&c"/etc"]))
    }),
    killed("open_by_handle", Error(&[EPERM, EBADF, EINVAL]), |_| {
        let mut handle = [8_u64, 2, 0, 0];
        let at = AT_FDCWD;
        unit(call(
            libc::SYS_open_by_handle_at,
            &[&at, &&mut handle[..], &0],
        ))
    }),
    killed("change_the_root", Error(&[EPERM]), |_| {
        unit(call(libc::SYS_chroot, &[&c"/"]))
    }),
    killed("pivot_the_root", Error(&[EPERM]), |_| {
        unit(call(libc::SYS_pivot_root, &[&c"/", &c"/"]))
    }),
    killed("mount", Error(&[EPERM]), |_| {
        unit(call(libc::SYS_mount, &[&c"x", &c"/", &c"tmpfs", &0, &0]))
    }),
    killed("mount_with_the_new_calls", Error(&[EPERM]), |_| {
        unit(call(libc::SYS_fsopen, &[&c"tmpfs", &0]))
    }),
    killed("unmount", Error(&[EPERM]), |_| {
        unit(call(libc::SYS_umount2, &[&c"/", &libc::MNT_DETACH]))
    }),
    killed("take_a_tree_of_mounts", Error(&[EPERM]), |_| {
        unit(call(libc::SYS_open_tree, &[&AT_FDCWD, &c"/", &1]))
    }),
    // Namespaces and processes.
    killed("make_a_mount_namespace", Error(&[EPERM]), |_| {
        unshare(CLONE_NEWNS)
    }),
    killed("make_a_network_namespace", Error(&[EPERM]), |_| {
        unshare(CLONE_NEWNET)
    }),
    killed("make_a_user_namespace", Host, |_| unshare(CLONE_NEWUSER)),
    killed("enter_a_namespace", Error(&[EINVAL]), |hands| {
        unit(call(libc::SYS_setns, &[&&hands.root, &0]))
    }),
    killed("fork", Work, |_| fork(0)),
    killed("fork_into_a_user_namespace", Host, |_| fork(CLONE_NEWUSER)),
    killed("fork_into_a_pid_namespace", Error(&[EPERM]), |_| {
        fork(CLONE_NEWPID)
    }),
    Attempt {
        name: "make_a_process_with_clone3",
        what: |_| unit(call(libc::SYS_clone3, &[&0, &0])),
        full: [Error(&[ENOSYS]); 3],
        open: [Error(&[EINVAL]); 3],
    },
    killed("execute_a_program", Error(&[ENOENT]), |_| {
        unit(call(libc::SYS_execve, &[&c"/bin/sh", &0, &0]))
    }),
    killed(
        "execute_a_program_of_its_own_making",
        Error(&[ENOEXEC, EACCES]),
        |_| {
            let fd = call(libc::SYS_memfd_create, &[&c"x", &0])?;
            unit(call(
                libc::SYS_execveat,
                &[&fd, &c"", &0, &0, &libc::AT_EMPTY_PATH],
            ))
        },
    ),
    killed("trace_the_host", Error(&[ESRCH, EPERM]), |hands| {
        unit(call(libc::SYS_ptrace, &[&16, &hands.host, &0, &0]))
    }),
    killed("read_the_hosts_memory", Error(&[ESRCH, EPERM]), |hands| {
        let mut memory = [0_u64; 2];
        let vector = [memory.as_mut_ptr().expose_provenance() as u64, 8];
        let mut local = vector;
        let mut remote = vector;
        let arguments = (&mut local[..], &mut remote[..]);
        let pid = hands.host;
        unit(call(
            libc::SYS_process_vm_readv,
            &[&pid, &arguments.0, &1, &arguments.1, &1, &0],
        ))
    }),
    killed("signal_the_host", Error(&[ESRCH]), |hands| {
        unit(call(libc::SYS_kill, &[&hands.host, &0]))
    }),
    killed("signal_everybody", Error(&[ESRCH]), |_| {
        unit(call(libc::SYS_kill, &[&-1, &0]))
    }),
    harmless("signal_a_thread_of_the_host", &[ESRCH], |hands| {
        unit(call(libc::SYS_tgkill, &[&hands.host, &hands.host, &0]))
    }),
    killed("open_the_host_as_a_process", Error(&[ESRCH]), |hands| {
        unit(call(libc::SYS_pidfd_open, &[&hands.host, &0]))
    }),
    killed("take_a_descriptor_of_a_process", Error(&[EBADF]), |_| {
        unit(call(libc::SYS_pidfd_getfd, &[&0, &0, &0]))
    }),
    killed("compare_with_the_host", Error(&[ESRCH, ENOSYS]), |hands| {
        unit(call(libc::SYS_kcmp, &[&1, &hands.host, &2, &0, &0]))
    }),
    killed("change_a_priority", Host, |_| {
        unit(call(libc::SYS_setpriority, &[&0, &0, &-20]))
    }),
    killed("raise_a_limit", Error(&[EPERM]), |_| {
        let mut limit = [1 << 40, 1 << 40];
        unit(call(libc::SYS_prlimit64, &[&0, &7, &&mut limit[..], &0]))
    }),
    killed("change_the_personality", Host, |_| {
        unit(call(libc::SYS_personality, &[&0x40_0000]))
    }),
    // Rights.
    by_name("regain_capabilities", &[EPERM], |_| {
        let mut header = [0x2008_0522_u64];
        let mut data = [u64::MAX; 3];
        unit(call(libc::SYS_capset, &[&&mut header[..], &&mut data[..]]))
    }),
    Attempt {
        name: "become_another_user",
        what: |hands| {
            let result = call(libc::SYS_setresuid, &[&-1, &1234, &-1]);
            // dev-fs of root must be able to; the test of its duties holds it to that.
            if hands.many_users {
                return Err(io::Error::from_raw_os_error(EINVAL));
            }
            unit(result)
        },
        full: [Kill, Kill, Error(&[EINVAL])],
        open: [Error(&[EINVAL]); 3],
    },
    killed("become_dumpable", Host, |_| prctl(libc::PR_SET_DUMPABLE, 1)),
    killed("unlock_secure_bits", Error(&[EPERM]), |_| {
        prctl(libc::PR_SET_SECUREBITS, 0)
    }),
    // Memory.
    killed("map_memory_as_code", Work, |_| {
        unit(call(libc::SYS_mmap, &[&0, &4096, &5, &0x22, &-1, &0]))
    }),
    killed("turn_memory_into_code", Work, |_| {
        let page = call(libc::SYS_mmap, &[&0, &4096, &3, &0x22, &-1, &0])?;
        unit(call(libc::SYS_mprotect, &[&page, &4096, &5]))
    }),
    Attempt {
        name: "make_a_memory_file",
        what: |_| unit(call(libc::SYS_memfd_create, &[&c"x", &0])),
        full: [Work, Kill, Kill],
        open: [Work; 3],
    },
    // The network.
    killed("connect_to_the_host", Error(&[EACCES, ENETUNREACH]), |_| {
        let socket = call(libc::SYS_socket, &[&libc::AF_INET, &libc::SOCK_STREAM, &0])?;
        // AF_INET, port 22, 127.0.0.1, as they lie in memory.
        let mut address = [0x0100_007f_1600_0002_u64, 0];
        unit(call(libc::SYS_connect, &[&socket, &&mut address[..], &16]))
    }),
    killed(
        "connect_to_an_abstract_socket",
        Error(&[ECONNREFUSED, EPERM]),
        |_| {
            let socket = call(libc::SYS_socket, &[&libc::AF_UNIX, &libc::SOCK_STREAM, &0])?;
            // AF_UNIX, a null, "ssh-a".
            let mut address = [0x612d_6873_7300_0001_u64];
            unit(call(libc::SYS_connect, &[&socket, &&mut address[..], &8]))
        },
    ),
    killed("speak_netlink", Work, |_| {
        socket(libc::AF_NETLINK, libc::SOCK_RAW)
    }),
    killed("capture_packets", Error(&[EPERM]), |_| {
        socket(libc::AF_PACKET, libc::SOCK_RAW)
    }),
    killed("make_a_raw_socket", Error(&[EPERM]), |_| {
        unit(call(
            libc::SYS_socket,
            &[&libc::AF_INET, &libc::SOCK_RAW, &libc::IPPROTO_ICMP],
        ))
    }),
    killed("make_a_vsock", Host, |_| {
        socket(libc::AF_VSOCK, libc::SOCK_STREAM)
    }),
    Attempt {
        name: "make_a_pair_of_sockets",
        what: |_| {
            let mut pair = [0_u64];
            let (domain, kind) = (libc::AF_UNIX, libc::SOCK_STREAM);
            unit(call(
                libc::SYS_socketpair,
                &[&domain, &kind, &0, &&mut pair[..]],
            ))
        },
        full: [Kill, Work, Kill],
        open: [Work; 3],
    },
    killed("make_a_pair_of_other_sockets", Host, |_| {
        let mut pair = [0_u64];
        let (domain, kind) = (libc::AF_TIPC, libc::SOCK_STREAM);
        unit(call(
            libc::SYS_socketpair,
            &[&domain, &kind, &0, &&mut pair[..]],
        ))
    }),
    // The kernel.
    killed("push_input_into_a_terminal", Error(&[ENOTTY]), |_| {
        let mut byte = [b'x'.into()];
        unit(call(libc::SYS_ioctl, &[&2, &0x5412, &&mut byte[..]]))
    }),
    Attempt {
        name: "ask_something_else_for_kvm",
        what: |_| unit(call(libc::SYS_ioctl, &[&0, &0xae00])),
        full: [Error(&[ENOTTY]), Kill, Kill],
        open: [Error(&[ENOTTY]); 3],
    },
    killed("load_a_bpf_program", Host, |_| {
        unit(call(libc::SYS_bpf, &[&0, &0, &0]))
    }),
    killed("count_events", Host, |_| {
        unit(call(libc::SYS_perf_event_open, &[&0, &0, &-1, &-1]))
    }),
    killed("handle_page_faults", Host, |_| {
        unit(call(libc::SYS_userfaultfd, &[&1]))
    }),
    killed("set_up_io_uring", Host, |_| {
        unit(call(libc::SYS_io_uring_setup, &[&1, &0]))
    }),
    killed("add_a_key", Host, |_| {
        unit(call(libc::SYS_keyctl, &[&0, &-3, &0]))
    }),
    killed("set_the_clock", Error(&[EPERM]), |_| {
        let mut time = [0_u64; 2];
        unit(call(libc::SYS_clock_settime, &[&0, &&mut time[..]]))
    }),
    killed("set_the_host_name", Error(&[EPERM]), |_| {
        unit(call(libc::SYS_sethostname, &[&c"x", &1]))
    }),
    killed("read_the_kernels_log", Host, |_| {
        unit(call(libc::SYS_syslog, &[&10, &0, &0]))
    }),
    killed("load_a_module", Error(&[EPERM, ENOSYS]), |_| {
        unit(call(libc::SYS_init_module, &[&0, &0, &c""]))
    }),
    killed("reboot", Error(&[EPERM, EINVAL]), |_| {
        unit(call(libc::SYS_reboot, &[&0, &0, &0]))
    }),
    #[cfg(target_arch = "x86_64")]
    killed("change_the_local_descriptor_table", Host, |_| {
        unit(call(libc::SYS_modify_ldt, &[&0, &0, &0]))
    }),
    harmless("use_all_descriptors", &[EMFILE], |hands| {
        // The limit is at most a million.
        for _ in 0..2_000_000 {
            call(libc::SYS_fcntl, &[&&hands.root, &libc::F_DUPFD_CLOEXEC, &0])?;
        }
        Ok(())
    }),
];

fn unit(result: io::Result<libc::c_long>) -> io::Result<()> {
    result.map(drop)
}

fn open(path: &CStr, flags: i32) -> io::Result<()> {
    unit(call(libc::SYS_openat, &[&AT_FDCWD, &path, &flags, &0o666]))
}

fn open_at(hands: &Hands, path: &CStr, flags: i32) -> io::Result<()> {
    unit(call(
        libc::SYS_openat,
        &[&&hands.root, &path, &flags, &0o666],
    ))
}

fn unshare(flags: i32) -> io::Result<()> {
    unit(call(libc::SYS_unshare, &[&flags]))
}

fn prctl(option: i32, value: i32) -> io::Result<()> {
    unit(call(libc::SYS_prctl, &[&option, &value, &0, &0, &0]))
}

fn socket(domain: i32, kind: i32) -> io::Result<()> {
    unit(call(libc::SYS_socket, &[&domain, &kind, &0]))
}

/// In the component.
pub(crate) fn perform(name: &str, hands: &Hands) -> io::Result<()> {
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name);
    (attempt.ok_or(io::ErrorKind::NotFound)?.what)(hands)
}

/// In the host: a test for each attempt, component and state of the filter.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for attempt in ATTEMPTS {
        for (index, component) in COMPONENTS.into_iter().enumerate() {
            let cases = [(false, attempt.full[index]), (true, attempt.open[index])];
            for (unfiltered, expected) in cases {
                if matches!(expected, Host) {
                    continue;
                }
                let layer = if unfiltered {
                    "without_filter"
                } else {
                    "with_filter"
                };
                let name = format!("{component}::{layer}::{}", attempt.name);
                trials.push(Trial::test(name, move || {
                    check(component, unfiltered, attempt.name, expected)
                }));
            }
        }
    }
    trials
}

fn check(component: &str, unfiltered: bool, name: &str, expected: Expect) -> Result<(), Failed> {
    let outcome = host::perform(component, unfiltered, &Deed::Attempt(name.to_owned()))?;
    let fits = match (expected, outcome) {
        (Kill, Outcome::Killed(signal)) => signal == SIGSYS,
        (Error(errors), Outcome::Refused(errno)) => errors.contains(&errno),
        (Work, Outcome::Done) => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let seen = match outcome {
        Outcome::Refused(errno) => io::Error::from_raw_os_error(errno).to_string(),
        other => format!("{other:?}"),
    };
    Err(format!("expected {expected:?}, got {seen}").into())
}
