//! Other processes: the host's own, and those of other components.

use std::io;

use libc::{ENOPROTOOPT, EPERM, ESRCH, c_long};

use super::calls::{address, make};
use super::{Attempt, Host, SERVING, Stop, Work, by, filtered, killed, landlock, passed};
use crate::layers::Layer::Namespaces;
use crate::raw::call;

/// It has no number here; if it had one, Landlock keeps it from being traced.
const TRACED: &[Stop] = &[by(Namespaces, &[ESRCH]), landlock(1, &[EPERM])];

/// It has no number here; if it had one, Landlock keeps signals in.
const SIGNALLED: &[Stop] = &[by(Namespaces, &[ESRCH]), landlock(6, &[EPERM])];

/// It has no number here.
const NUMBERED: &[Stop] = &[by(Namespaces, &[ESRCH])];

/// Reads or writes eight bytes of a process.
fn vector(number: c_long, pid: i32) -> io::Result<()> {
    let mut memory = [0_u64; 1];
    let mut local = [address(&mut memory), 8];
    let mut remote = local;
    make(
        number,
        &[&pid, &&mut local[..], &1, &&mut remote[..], &1, &0],
    )
}

fn take_descriptor(pid: i32) -> io::Result<()> {
    let process = call(libc::SYS_pidfd_open, &[&pid, &0])?;
    make(libc::SYS_pidfd_getfd, &[&process, &0, &0])
}

fn signal_by_descriptor(pid: i32) -> io::Result<()> {
    let process = call(libc::SYS_pidfd_open, &[&pid, &0])?;
    make(libc::SYS_pidfd_send_signal, &[&process, &0, &0, &0])
}

/// A descriptor of the process that made the channel: SO_PEERPIDFD, Linux 6.5.
fn hold_by_channel() -> io::Result<u64> {
    let (mut process, mut length) = ([0_u64], [4_u64]);
    make(
        libc::SYS_getsockopt,
        &[&3, &1, &77, &&mut process[..], &&mut length[..]],
    )?;
    Ok(process[0])
}

fn compare(pid: i32) -> io::Result<()> {
    // The files of both.
    let own = call(libc::SYS_getpid, &[])?;
    make(libc::SYS_kcmp, &[&own, &pid, &2, &0, &0])
}

fn kill(number: c_long, pid: i32) -> io::Result<()> {
    make(number, &[&pid, &0])
}

fn kill_thread(pid: i32) -> io::Result<()> {
    make(libc::SYS_tgkill, &[&pid, &pid, &0])
}

/// PTRACE_SEIZE, which does not stop it.
fn trace(pid: i32) -> io::Result<()> {
    make(libc::SYS_ptrace, &[&0x4206, &pid, &0, &0])
}

fn queue(pid: i32) -> io::Result<()> {
    // `siginfo_t` with signal 0 and SI_QUEUE.
    let mut info = [0_u64; 16];
    info[1] = 0xffff_ffff;
    make(libc::SYS_rt_sigqueueinfo, &[&pid, &0, &&mut info[..]])
}

fn read_limits(pid: i32) -> io::Result<()> {
    let mut limit = [0_u64; 2];
    make(libc::SYS_prlimit64, &[&pid, &7, &0, &&mut limit[..]])
}

fn schedule(pid: i32) -> io::Result<()> {
    let mut parameter = [0_u64];
    make(
        libc::SYS_sched_setscheduler,
        &[&pid, &0, &&mut parameter[..]],
    )
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    killed("trace_the_host", TRACED, Host, |hands| trace(hands.host)),
    killed("trace_a_sibling", TRACED, Host, |hands| {
        trace(hands.sibling)
    }),
    killed("be_traced", &[], Work, |_| {
        make(libc::SYS_ptrace, &[&0, &0, &0, &0])
    }),
    killed("read_the_hosts_memory", TRACED, Host, |hands| {
        vector(libc::SYS_process_vm_readv, hands.host)
    }),
    killed("read_a_siblings_memory", TRACED, Host, |hands| {
        vector(libc::SYS_process_vm_readv, hands.sibling)
    }),
    killed("write_the_hosts_memory", TRACED, Host, |hands| {
        vector(libc::SYS_process_vm_writev, hands.host)
    }),
    killed("write_a_siblings_memory", TRACED, Host, |hands| {
        vector(libc::SYS_process_vm_writev, hands.sibling)
    }),
    killed("signal_the_host", SIGNALLED, Host, |hands| {
        kill(libc::SYS_kill, hands.host)
    }),
    killed("signal_a_sibling", SIGNALLED, Host, |hands| {
        kill(libc::SYS_kill, hands.sibling)
    }),
    killed("signal_everybody", NUMBERED, Host, |_| {
        kill(libc::SYS_kill, -1)
    }),
    killed("signal_the_host_with_a_value", SIGNALLED, Host, |hands| {
        queue(hands.host)
    }),
    passed("signal_a_thread_of_the_host", SIGNALLED, Host, |hands| {
        kill_thread(hands.host)
    }),
    passed("signal_a_thread_of_a_sibling", SIGNALLED, Host, |hands| {
        kill_thread(hands.sibling)
    }),
    passed(
        "signal_a_thread_with_the_old_call",
        SIGNALLED,
        Host,
        |hands| kill(libc::SYS_tkill, hands.host),
    ),
    killed("hold_the_host_as_a_process", NUMBERED, Work, |hands| {
        make(libc::SYS_pidfd_open, &[&hands.host, &0])
    }),
    killed("hold_a_sibling_as_a_process", NUMBERED, Work, |hands| {
        make(libc::SYS_pidfd_open, &[&hands.sibling, &0])
    }),
    killed("take_a_descriptor_of_the_host", TRACED, Host, |hands| {
        take_descriptor(hands.host)
    }),
    killed("take_a_descriptor_of_a_sibling", TRACED, Host, |hands| {
        take_descriptor(hands.sibling)
    }),
    killed("signal_a_sibling_by_descriptor", SIGNALLED, Host, |hands| {
        signal_by_descriptor(hands.sibling)
    }),
    killed("hold_the_host_by_the_channel", &[], Host, |_| {
        hold_by_channel().map(drop)
    }),
    killed(
        "take_a_descriptor_by_the_channel",
        &[landlock(1, &[EPERM, ENOPROTOOPT])],
        Host,
        |_| {
            let process = i64::try_from(hold_by_channel()?).unwrap_or(-1);
            make(libc::SYS_pidfd_getfd, &[&process, &0, &0])
        },
    ),
    filtered(
        SERVING,
        "read_the_cpus_of_the_host",
        NUMBERED,
        Work,
        |hands| {
            let mut cpus = [0_u64; 128];
            make(
                libc::SYS_sched_getaffinity,
                &[&hands.host, &1024, &&mut cpus[..]],
            )
        },
    ),
    killed("compare_with_the_host", TRACED, Host, |hands| {
        compare(hands.host)
    }),
    killed("compare_with_a_sibling", TRACED, Host, |hands| {
        compare(hands.sibling)
    }),
    killed("read_the_hosts_limits", NUMBERED, Host, |hands| {
        read_limits(hands.host)
    }),
    killed("change_the_hosts_priority", NUMBERED, Host, |hands| {
        make(libc::SYS_setpriority, &[&0, &hands.host, &19])
    }),
    killed("change_a_siblings_scheduling", NUMBERED, Host, |hands| {
        schedule(hands.sibling)
    }),
    killed("change_the_hosts_cpus", NUMBERED, Host, |hands| {
        let mut cpus = [1_u64];
        make(
            libc::SYS_sched_setaffinity,
            &[&hands.host, &8, &&mut cpus[..]],
        )
    }),
    killed("change_the_hosts_priority_of_io", NUMBERED, Host, |hands| {
        make(libc::SYS_ioprio_set, &[&1, &hands.host, &0x4000])
    }),
    killed("move_the_hosts_pages", NUMBERED, Host, |hands| {
        let (mut from, mut to) = ([1_u64], [1_u64]);
        make(
            libc::SYS_migrate_pages,
            &[&hands.host, &2, &&mut from[..], &&mut to[..]],
        )
    }),
    killed("read_the_hosts_list_of_locks", NUMBERED, Host, |hands| {
        let (mut head, mut length) = ([0_u64], [0_u64]);
        make(
            libc::SYS_get_robust_list,
            &[&hands.host, &&mut head[..], &&mut length[..]],
        )
    }),
];
