//! The kernel's own machinery.

use libc::{EFAULT, EINVAL, ENOSYS, ENOTTY, EPERM};

use super::calls::make;
use super::{Attempt, Host, Stop, VMM_ONLY, Work, by, filtered, killed};
use crate::layers::Layer::{Capabilities, Descriptors, User};

/// It takes a capability in the first user namespace, which no component is in; or the kernel was
/// built without it.
const PRIVILEGED: &[Stop] = &[by(User, &[EPERM, ENOSYS])];

pub(super) const ATTEMPTS: &[Attempt] = &[
    killed(
        "push_input_into_a_terminal",
        &[by(Descriptors, &[ENOTTY])],
        Host,
        |_| {
            let mut byte = [b'x'.into()];
            make(libc::SYS_ioctl, &[&2, &0x5412, &&mut byte[..]])
        },
    ),
    killed(
        "take_a_terminal",
        &[by(Descriptors, &[ENOTTY])],
        Host,
        |_| {
            // TIOCSCTTY.
            make(libc::SYS_ioctl, &[&2, &0x540e, &1])
        },
    ),
    filtered(
        VMM_ONLY,
        "ask_something_else_for_kvm",
        &[by(Descriptors, &[ENOTTY])],
        Host,
        |_| make(libc::SYS_ioctl, &[&0, &0xae00]),
    ),
    killed(
        "configure_a_tunnel",
        &[by(Descriptors, &[ENOTTY])],
        Host,
        |_| {
            // TUNSETIFF.
            make(libc::SYS_ioctl, &[&0, &0x4004_54ca, &0])
        },
    ),
    killed(
        "pass_memory_through_a_device",
        &[by(Descriptors, &[ENOTTY])],
        Host,
        |_| {
            // VFIO_GET_API_VERSION.
            make(libc::SYS_ioctl, &[&0, &0x3b64, &0])
        },
    ),
    killed(
        "read_a_partition_table_anew",
        &[by(Descriptors, &[ENOTTY])],
        Host,
        |_| {
            // BLKRRPART.
            make(libc::SYS_ioctl, &[&0, &0x125f, &0])
        },
    ),
    killed("load_a_bpf_program", &[], Host, |_| {
        make(libc::SYS_bpf, &[&0, &0, &0])
    }),
    killed("count_events", &[], Host, |_| {
        make(libc::SYS_perf_event_open, &[&0, &0, &-1, &-1])
    }),
    killed("set_up_io_uring", &[], Host, |_| {
        make(libc::SYS_io_uring_setup, &[&1, &0])
    }),
    killed("set_up_asynchronous_io", &[], Work, |_| {
        let mut context = [0_u64];
        make(libc::SYS_io_setup, &[&1, &&mut context[..]])
    }),
    killed("set_the_clock", PRIVILEGED, Host, |_| {
        let mut time = [0_u64; 2];
        make(libc::SYS_clock_settime, &[&0, &&mut time[..]])
    }),
    killed("set_the_clock_with_the_old_call", PRIVILEGED, Host, |_| {
        let mut time = [1_u64, 0];
        make(libc::SYS_settimeofday, &[&&mut time[..], &0])
    }),
    killed("adjust_the_clock", PRIVILEGED, Host, |_| {
        // ADJ_OFFSET, of nothing.
        let mut adjustment = [0_u64; 32];
        adjustment[0] = 1;
        make(libc::SYS_adjtimex, &[&&mut adjustment[..]])
    }),
    killed(
        "set_the_host_name",
        &[by(Capabilities, &[EPERM])],
        Work,
        |_| make(libc::SYS_sethostname, &[&c"x", &1]),
    ),
    killed(
        "set_the_domain_name",
        &[by(Capabilities, &[EPERM])],
        Work,
        |_| make(libc::SYS_setdomainname, &[&c"x", &1]),
    ),
    killed("read_the_kernels_log", PRIVILEGED, Host, |_| {
        // SYSLOG_ACTION_CONSOLE_LEVEL with a level that there is not.
        make(libc::SYS_syslog, &[&8, &0, &99])
    }),
    killed("load_a_module", PRIVILEGED, Host, |_| {
        make(libc::SYS_init_module, &[&0, &0, &c""])
    }),
    killed("load_a_module_from_a_file", PRIVILEGED, Host, |_| {
        make(libc::SYS_finit_module, &[&0, &c"", &0])
    }),
    killed("unload_a_module", PRIVILEGED, Host, |_| {
        make(libc::SYS_delete_module, &[&c"x", &0])
    }),
    killed(
        "reboot",
        &[
            by(Capabilities, &[EPERM]),
            by(super::Layer::Kernel, &[EINVAL]),
        ],
        Host,
        // With numbers that mean nothing.
        |_| make(libc::SYS_reboot, &[&0, &0, &0]),
    ),
    killed("load_another_kernel", PRIVILEGED, Host, |_| {
        make(libc::SYS_kexec_load, &[&0, &0, &0, &0])
    }),
    killed("load_another_kernel_from_a_file", PRIVILEGED, Host, |_| {
        make(libc::SYS_kexec_file_load, &[&-1, &-1, &0, &0, &0])
    }),
    killed("swap_to_a_file", PRIVILEGED, Host, |_| {
        make(libc::SYS_swapon, &[&c"/x", &0])
    }),
    killed("swap_no_more", PRIVILEGED, Host, |_| {
        make(libc::SYS_swapoff, &[&c"/x"])
    }),
    killed("keep_accounts", PRIVILEGED, Host, |_| {
        make(libc::SYS_acct, &[&0])
    }),
    killed("set_quotas", &[], Host, |_| {
        // Q_QUOTAON of users.
        make(
            libc::SYS_quotactl,
            &[&0x8000_0200_u32.cast_signed(), &0, &0, &0],
        )
    }),
    killed(
        "hang_up_the_terminal",
        &[by(Capabilities, &[EPERM])],
        Host,
        |_| make(libc::SYS_vhangup, &[]),
    ),
    #[cfg(target_arch = "x86_64")]
    killed("use_all_ports_of_the_machine", PRIVILEGED, Host, |_| {
        make(libc::SYS_iopl, &[&3])
    }),
    #[cfg(target_arch = "x86_64")]
    killed("use_a_port_of_the_machine", PRIVILEGED, Host, |_| {
        make(libc::SYS_ioperm, &[&0x80, &1, &1])
    }),
    killed(
        "look_up_a_cookie",
        &[by(User, &[EPERM, ENOSYS])],
        Host,
        |_| {
            // lookup_dcookie, which newer kernels do not have.
            make(libc::SYS_lookup_dcookie, &[&0, &0, &0])
        },
    ),
    killed(
        "make_a_call_that_does_not_exist",
        &[by(super::Layer::Kernel, &[ENOSYS])],
        Host,
        |_| make(9999, &[]),
    ),
    killed(
        "copy_between_pipes",
        &[by(Descriptors, &[libc::EBADF])],
        Host,
        |_| make(libc::SYS_tee, &[&0, &0, &1, &0]),
    ),
    killed(
        "give_pages_to_a_pipe",
        &[by(Descriptors, &[EFAULT, libc::EBADF])],
        Host,
        |_| make(libc::SYS_vmsplice, &[&0, &0, &1, &0]),
    ),
    killed("make_a_pipe", &[], Work, |_| {
        let mut pipe = [0_u64];
        make(libc::SYS_pipe2, &[&&mut pipe[..], &0])
    }),
    killed("take_signals_from_a_descriptor", &[], Work, |_| {
        let mut set = [0_u64];
        make(libc::SYS_signalfd4, &[&-1, &&mut set[..], &8, &0])
    }),
];
