//! More rights than it was left with.

use std::io;

use libc::{EINVAL, EPERM};

use super::calls::{make, prctl};
use super::{Attempt, FS_ONLY, Host, Stop, Work, by, by_name, filtered, killed};
use crate::component::Hands;
use crate::layers::Layer::{Capabilities, Kernel, Limits, User};
use crate::raw::call;

/// The one user that its namespace has is its own.
const NOBODY_ELSE: &[Stop] = &[by(User, &[EINVAL])];

/// dev-fs of root must be able to be others; the test of its duties holds it to that.
fn unless_many(hands: &Hands, result: io::Result<()>) -> io::Result<()> {
    if hands.many_users {
        return Err(io::Error::from_raw_os_error(EINVAL));
    }
    result
}

/// All capabilities, in the version of `linux/capability.h` with two words of them.
fn capabilities() -> io::Result<()> {
    let mut header = [0x2008_0522_u64];
    let mut data = [
        u64::from(u32::MAX) << 32 | u64::from(u32::MAX),
        0,
        0x1ff << 32 | 0x1ff,
    ];
    data[0] &= u64::MAX;
    make(libc::SYS_capset, &[&&mut header[..], &&mut data[..]])
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    by_name(
        "regain_capabilities",
        &[by(Capabilities, &[EPERM])],
        Host,
        |_| capabilities(),
    ),
    filtered(FS_ONLY, "become_another_user", NOBODY_ELSE, Host, |hands| {
        let result = make(libc::SYS_setresuid, &[&-1, &1234, &-1]);
        unless_many(hands, result)
    }),
    filtered(
        FS_ONLY,
        "become_another_group",
        NOBODY_ELSE,
        Host,
        |hands| {
            let result = make(libc::SYS_setresgid, &[&-1, &1234, &-1]);
            unless_many(hands, result)
        },
    ),
    killed("become_another_user_for_good", NOBODY_ELSE, Host, |hands| {
        unless_many(hands, make(libc::SYS_setuid, &[&1234]))
    }),
    killed("become_another_user_for_files", &[], Work, |_| {
        make(libc::SYS_setfsuid, &[&1234])
    }),
    killed("become_dumpable", &[], Work, |_| {
        prctl(libc::PR_SET_DUMPABLE, 1)
    }),
    killed(
        "unlock_secure_bits",
        &[by(Capabilities, &[EPERM])],
        Work,
        |_| prctl(libc::PR_SET_SECUREBITS, 0),
    ),
    killed("keep_capabilities", &[], Work, |_| {
        prctl(libc::PR_SET_KEEPCAPS, 1)
    }),
    killed(
        "raise_an_ambient_capability",
        &[by(Capabilities, &[EPERM])],
        Host,
        |_| {
            // PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN.
            make(libc::SYS_prctl, &[&libc::PR_CAP_AMBIENT, &2, &21, &0, &0])
        },
    ),
    killed(
        "take_new_privileges",
        &[by(Kernel, &[EINVAL])],
        Host,
        |_| prctl(libc::PR_SET_NO_NEW_PRIVS, 0),
    ),
    killed(
        "switch_the_filter_off",
        &[by(Kernel, &[EINVAL])],
        Host,
        |_| prctl(libc::PR_SET_SECCOMP, 0),
    ),
    killed("add_a_filter", &[by(Kernel, &[libc::EFAULT])], Host, |_| {
        make(libc::SYS_seccomp, &[&1, &0, &0])
    }),
    killed(
        "be_told_of_system_calls",
        &[by(Kernel, &[libc::EFAULT])],
        Host,
        |_| {
            // SECCOMP_FILTER_FLAG_NEW_LISTENER.
            make(libc::SYS_seccomp, &[&1, &8, &0])
        },
    ),
    killed("stack_another_domain_of_landlock", &[], Host, |_| {
        let mut rights = [1_u64];
        let ruleset = call(
            libc::SYS_landlock_create_ruleset,
            &[&&mut rights[..], &8, &0],
        )?;
        make(libc::SYS_landlock_restrict_self, &[&ruleset, &0])
    }),
    killed("let_anybody_trace_it", &[], Host, |_| {
        prctl(libc::PR_SET_PTRACER, -1)
    }),
    killed(
        "change_what_memory_it_is_said_to_have",
        &[by(User, &[EPERM])],
        Host,
        |_| {
            // PR_SET_MM_START_BRK.
            make(libc::SYS_prctl, &[&libc::PR_SET_MM, &6, &0, &0, &0])
        },
    ),
    killed("read_the_time_stamp_counter_or_not", &[], Host, |_| {
        prctl(libc::PR_SET_TSC, 1)
    }),
    killed("speculate_freely", &[], Host, |_| {
        make(
            libc::SYS_prctl,
            &[&libc::PR_SET_SPECULATION_CTRL, &0, &2, &0, &0],
        )
    }),
    killed(
        "raise_the_limit_of_descriptors",
        &[by(User, &[EPERM])],
        Host,
        |_| {
            let mut limit = [1 << 40, 1 << 40];
            make(libc::SYS_prlimit64, &[&0, &7, &&mut limit[..], &0])
        },
    ),
    killed(
        "raise_the_limit_of_dumps",
        &[by(Limits, &[EPERM])],
        Host,
        |_| {
            let mut limit = [1_u64, 1];
            make(libc::SYS_prlimit64, &[&0, &4, &&mut limit[..], &0])
        },
    ),
    killed(
        "raise_a_limit_with_the_old_call",
        &[by(Limits, &[EPERM])],
        Host,
        |_| {
            let mut limit = [1_u64, 1];
            make(libc::SYS_setrlimit, &[&4, &&mut limit[..]])
        },
    ),
    killed("change_the_personality", &[], Host, |_| {
        make(libc::SYS_personality, &[&0x40_0000])
    }),
    killed("run_in_real_time", &[by(Limits, &[EPERM])], Host, |_| {
        let mut parameter = [1_u64];
        make(libc::SYS_sched_setscheduler, &[&0, &1, &&mut parameter[..]])
    }),
    killed("run_before_everybody_else", &[], Host, |_| {
        make(libc::SYS_setpriority, &[&0, &0, &-20])
    }),
    killed("add_a_key", &[], Host, |_| {
        make(libc::SYS_add_key, &[&c"user", &c"x", &c"x", &1, &-3])
    }),
    killed("ask_for_a_key", &[], Host, |_| {
        make(libc::SYS_request_key, &[&c"user", &c"x", &0, &-3])
    }),
    killed("handle_keys", &[], Host, |_| {
        make(libc::SYS_keyctl, &[&0, &-3, &0])
    }),
];
