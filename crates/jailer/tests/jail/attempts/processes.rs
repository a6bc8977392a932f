//! New processes, programs and namespaces.

use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER,
    CLONE_NEWUTS, EACCES, EINVAL, ENOENT, ENOEXEC, ENOSYS, EPERM, O_RDONLY,
};

use super::calls::{make, prctl, unshare};
use super::{
    Answer, Attempt, Each, Filter, Host, Kill, Stop, Work, by, by_name, filtered, killed, landlock,
};
use crate::layers::Layer::{Capabilities, Kernel, Root};
use crate::raw::{call, fork};

/// A namespace takes a capability; with it, it is the component's own.
const NAMESPACE: &[Stop] = &[by(Capabilities, &[EPERM])];

/// The C library falls back to `clone`, where there is that.
const ANSWERED: Each<Filter> = Each {
    most: Answer(&[ENOSYS]),
    others: &[("unpack", Kill)],
};

pub(super) const ATTEMPTS: &[Attempt] = &[
    killed("make_a_mount_namespace", NAMESPACE, Work, |_| {
        unshare(CLONE_NEWNS)
    }),
    killed("make_a_network_namespace", NAMESPACE, Work, |_| {
        unshare(CLONE_NEWNET)
    }),
    killed("make_a_pid_namespace", NAMESPACE, Work, |_| {
        unshare(CLONE_NEWPID)
    }),
    killed("make_an_ipc_namespace", NAMESPACE, Work, |_| {
        unshare(CLONE_NEWIPC)
    }),
    killed("make_a_uts_namespace", NAMESPACE, Work, |_| {
        unshare(CLONE_NEWUTS)
    }),
    killed("make_a_cgroup_namespace", NAMESPACE, Work, |_| {
        unshare(CLONE_NEWCGROUP)
    }),
    killed("make_a_user_namespace", &[], Host, |_| {
        unshare(CLONE_NEWUSER)
    }),
    killed("make_all_namespaces", &[], Host, |_| {
        unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
    }),
    killed("share_a_table_of_descriptors_no_more", &[], Work, |_| {
        unshare(libc::CLONE_FILES)
    }),
    killed(
        "enter_what_is_no_namespace",
        &[by(Kernel, &[EINVAL])],
        Host,
        |hands| make(libc::SYS_setns, &[&&hands.root, &0]),
    ),
    by_name(
        "enter_the_hosts_namespaces",
        &[by(Root, &[ENOENT]), landlock(1, &[EACCES])],
        Host,
        |hands| {
            let path = std::ffi::CString::new(format!("/proc/{}/ns/net", hands.host))?;
            let namespace = call(libc::SYS_openat, &[&libc::AT_FDCWD, &&*path, &O_RDONLY])?;
            make(libc::SYS_setns, &[&namespace, &CLONE_NEWNET])
        },
    ),
    killed("fork", &[], Work, |_| fork(0)),
    #[cfg(target_arch = "x86_64")]
    killed("fork_with_the_old_call", &[], Host, |_| {
        make(libc::SYS_fork, &[])
    }),
    killed("fork_into_a_user_namespace", &[], Host, |_| {
        fork(CLONE_NEWUSER)
    }),
    killed("fork_into_a_pid_namespace", NAMESPACE, Work, |_| {
        fork(CLONE_NEWPID)
    }),
    killed("fork_into_a_network_namespace", NAMESPACE, Work, |_| {
        fork(CLONE_NEWNET)
    }),
    killed("make_a_child_that_shares_memory", &[], Host, |_| {
        fork(libc::CLONE_VM)
    }),
    killed("make_a_sibling_of_its_parents", &[], Host, |_| {
        fork(libc::CLONE_PARENT)
    }),
    filtered(
        ANSWERED,
        "make_a_process_with_clone3",
        &[by(Kernel, &[EINVAL])],
        Host,
        |_| make(libc::SYS_clone3, &[&0, &0]),
    ),
    killed(
        "execute_a_program_of_the_host",
        &[by(Root, &[ENOENT]), landlock(1, &[EACCES])],
        Host,
        |_| make(libc::SYS_execve, &[&c"/bin/true", &0, &0]),
    ),
    killed(
        "execute_the_open_program",
        &[by(Root, &[ENOENT]), landlock(1, &[EACCES])],
        Host,
        |_| make(libc::SYS_execve, &[&c"/proc/self/exe", &0, &0]),
    ),
    killed("execute_a_program_of_its_own_making", &[], Work, |_| {
        let fd = call(libc::SYS_memfd_create, &[&c"x", &0])?;
        let empty = libc::AT_EMPTY_PATH;
        match make(libc::SYS_execveat, &[&fd, &c"", &0, &0, &empty]) {
            // It would have been executed, but there is nothing in it.
            Err(error) if error.raw_os_error() == Some(ENOEXEC) => Ok(()),
            other => other,
        }
    }),
    // dev-fs may make one, but not execute it.
    killed(
        "execute_a_file_of_the_shared_directory",
        &[landlock(1, &[EACCES])],
        Host,
        |hands| make(libc::SYS_execveat, &[&&hands.root, &c"inside", &0, &0, &0]),
    ),
    killed("outlive_the_host", &[], Work, |_| {
        prctl(libc::PR_SET_PDEATHSIG, 0)
    }),
    killed("adopt_orphans", &[], Work, |_| {
        prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
    }),
    killed("begin_a_session", &[by(Kernel, &[EPERM])], Host, |_| {
        make(libc::SYS_setsid, &[])
    }),
    killed(
        "join_another_group_of_processes",
        &[by(Kernel, &[EPERM])],
        Host,
        |_| make(libc::SYS_setpgid, &[&0, &0]),
    ),
    killed(
        "wait_for_a_child",
        &[by(Kernel, &[libc::ECHILD])],
        Host,
        |_| make(libc::SYS_wait4, &[&-1, &0, &1, &0]),
    ),
];
