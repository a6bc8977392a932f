//! The compiled filters, run by an interpreter of our own: what is listed passes, what is not does
//! not.

use policy::{Instruction, Policy};

/// `linux/seccomp.h`: the verdicts, the most severe last.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;

/// `linux/audit.h`: this machine, and another.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
const ARCH_I386: u32 = 0x4000_0003;

/// A system call as a filter sees it (`struct seccomp_data`).
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    /// The 32 bits at a byte offset.
    fn load(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16.. => {
                let index = usize::try_from((offset - 16) / 8).unwrap();
                let half = (self.arguments[index] >> ((offset - 16) % 8 * 8)) & 0xffff_ffff;
                half.try_into().unwrap()
            }
            _ => panic!("a load from {offset}"),
        }
    }
}

/// Runs a program of classic BPF, as far as seccompiler uses it (`linux/bpf_common.h`).
fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut accumulator = 0_u32;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = call.load(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            _ => panic!("instruction {code:#x}"),
        }
    }
}

/// The kernel's verdict over both filters: the more severe one.
fn verdict(policy: &Policy, call: &Call) -> u32 {
    let severity = |verdict: &u32| match verdict & 0xffff_0000 {
        KILL => 3,
        ERRNO => 2,
        _ => 0,
    };
    let verdicts = [run(policy.refuse, call), run(policy.allow, call)];
    verdicts.into_iter().max_by_key(severity).unwrap()
}

fn on(component: &str, number: libc::c_long, arguments: [u64; 6]) -> u32 {
    let policy = policy::component(component).unwrap();
    let number = number.try_into().unwrap();
    verdict(
        policy,
        &Call {
            arch: ARCH,
            number,
            arguments,
        },
    )
}

/// Number 1, 2, 3, ... set as given, the others zero.
fn argument(index: usize, value: u64) -> [u64; 6] {
    let mut arguments = [0; 6];
    arguments[index] = value;
    arguments
}

const COMPONENTS: [&str; 9] = [
    "vmm",
    "dev-fs",
    "dev-vsock",
    "dev-net",
    "dev-block",
    "dev-console",
    "dev-balloon",
    "dialer",
    "unpack",
];

/// Those that serve a machine. What unpacks layers has one thread and no stream.
const SERVING: [&str; 8] = [
    "vmm",
    "dev-fs",
    "dev-vsock",
    "dev-net",
    "dev-block",
    "dev-console",
    "dev-balloon",
    "dialer",
];

#[test]
fn reading_is_allowed_and_executing_ends_every_component() {
    for component in COMPONENTS {
        assert_eq!(on(component, libc::SYS_read, [0; 6]), ALLOW, "{component}");
        assert_eq!(on(component, libc::SYS_execve, [0; 6]), KILL, "{component}");
    }
}

#[test]
fn clone3_is_answered_with_an_error() {
    let enosys = ERRNO | u32::try_from(libc::ENOSYS).unwrap();
    assert_eq!(on("unpack", libc::SYS_clone3, [7; 6]), KILL);
    for component in SERVING {
        assert_eq!(
            on(component, libc::SYS_clone3, [7; 6]),
            enosys,
            "{component}"
        );
    }
}

#[test]
fn memory_that_is_code_is_forbidden_and_other_memory_is_not() {
    let executable = u64::try_from(libc::PROT_READ | libc::PROT_EXEC).unwrap();
    for component in COMPONENTS {
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(on(component, call, argument(2, 3)), ALLOW, "{component}");
            assert_eq!(
                on(component, call, argument(2, executable)),
                KILL,
                "{component}"
            );
            // A filter that compared too few or too many bits would be fooled by these.
            assert_eq!(
                on(component, call, argument(2, 1 << 32)),
                ALLOW,
                "{component}"
            );
            assert_eq!(
                on(component, call, argument(2, 4 | 1 << 40)),
                KILL,
                "{component}"
            );
        }
    }
}

#[test]
fn threads_as_both_c_libraries_make_them_are_allowed_and_processes_are_not() {
    assert_eq!(
        on("unpack", libc::SYS_clone, argument(0, 0x003d_0f00)),
        KILL
    );
    for component in SERVING {
        // What glibc and musl pass, as their sources have it.
        for flags in [0x003d_0f00, 0x007d_0f00] {
            assert_eq!(on(component, libc::SYS_clone, argument(0, flags)), ALLOW);
            // One flag less, one more, a namespace.
            for wrong in [flags & !0x100, flags | 0x2000, flags | 0x1000_0000] {
                assert_eq!(on(component, libc::SYS_clone, argument(0, wrong)), KILL);
            }
        }
        let fork = u64::try_from(libc::SIGCHLD).unwrap();
        assert_eq!(on(component, libc::SYS_clone, argument(0, fork)), KILL);
    }
}

#[test]
fn only_the_vmm_may_drive_kvm_and_only_kvm() {
    const KVM_RUN: u64 = 0xae80;
    const TIOCSTI: u64 = 0x5412;
    assert_eq!(on("vmm", libc::SYS_ioctl, argument(1, KVM_RUN)), ALLOW);
    // KVM_GET_REGS has a direction and a size in its upper half.
    assert_eq!(on("vmm", libc::SYS_ioctl, argument(1, 0x8090_ae81)), ALLOW);
    assert_eq!(on("dev-fs", libc::SYS_ioctl, argument(1, KVM_RUN)), KILL);
    for component in COMPONENTS {
        assert_eq!(on(component, libc::SYS_ioctl, argument(1, TIOCSTI)), KILL);
    }
}

#[test]
fn the_block_device_frees_and_zeroes_and_never_makes_a_file_longer_or_shorter() {
    let allocate = |flags: i32| {
        let flags = u64::try_from(flags).unwrap();
        on("dev-block", libc::SYS_fallocate, argument(1, flags))
    };
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE | keep), ALLOW);
    assert_eq!(allocate(libc::FALLOC_FL_ZERO_RANGE | keep), ALLOW);
    for flags in [
        0,
        keep,
        libc::FALLOC_FL_ZERO_RANGE,
        libc::FALLOC_FL_COLLAPSE_RANGE,
        libc::FALLOC_FL_INSERT_RANGE,
        libc::FALLOC_FL_UNSHARE_RANGE | keep,
    ] {
        assert_eq!(allocate(flags), KILL, "{flags:#x}");
    }
    for call in [libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_fdatasync] {
        assert_eq!(on("dev-block", call, [0; 6]), ALLOW);
        for other in ["vmm", "dev-vsock", "dev-net", "dialer"] {
            assert_eq!(on(other, call, [0; 6]), KILL, "{other}");
        }
    }
    for call in [libc::SYS_ftruncate, libc::SYS_pwritev2] {
        assert_eq!(on("dev-block", call, [0; 6]), KILL);
    }
}

#[test]
fn an_address_that_fits_in_the_upper_half_is_not_null() {
    assert_eq!(on("vmm", libc::SYS_sendto, argument(4, 0)), ALLOW);
    assert_eq!(on("vmm", libc::SYS_sendto, argument(4, 1 << 32)), KILL);
    assert_eq!(on("vmm", libc::SYS_sendto, argument(4, 1)), KILL);
}

#[test]
fn nothing_connects_with_the_first_bytes_that_it_sends() {
    const MSG_FASTOPEN: u64 = 0x2000_0000;
    const MSG_NOSIGNAL: u64 = 0x4000;
    let unpack = |bits| on("unpack", libc::SYS_sendmsg, argument(2, bits));
    assert_eq!((unpack(MSG_NOSIGNAL), unpack(MSG_FASTOPEN)), (ALLOW, KILL));
    assert_eq!(on("unpack", libc::SYS_sendto, argument(3, 0)), KILL);
    for component in SERVING {
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2)] {
            let with = |bits| on(component, call, argument(flags, bits));
            assert_eq!(with(MSG_NOSIGNAL), ALLOW, "{component}");
            assert_eq!(with(MSG_FASTOPEN), KILL, "{component}");
            assert_eq!(with(MSG_FASTOPEN | MSG_NOSIGNAL), KILL, "{component}");
        }
    }
}

#[test]
fn only_the_dialer_makes_internet_sockets_and_no_other_kind() {
    let socket = |component, arguments: [i32; 3]| {
        let [domain, kind, protocol] = arguments.map(|argument| argument.try_into().unwrap());
        let arguments = [domain, kind, protocol, 0, 0, 0];
        on(component, libc::SYS_socket, arguments)
    };
    let cloexec = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let (v4, v6) = (libc::AF_INET, libc::AF_INET6);
    let (stream, datagram) = (libc::SOCK_STREAM | cloexec, libc::SOCK_DGRAM | cloexec);
    let made = [
        [v4, stream, 0],
        [v6, stream, 0],
        [v4, datagram, 0],
        [v6, datagram, 0],
        [v4, datagram, libc::IPPROTO_ICMP],
        [v6, datagram, libc::IPPROTO_ICMPV6],
    ];
    let not_made = [
        [v4, libc::SOCK_RAW, libc::IPPROTO_ICMP],
        [v4, libc::SOCK_RAW, 0],
        [v4, stream, libc::IPPROTO_MPTCP],
        [v4, datagram, libc::IPPROTO_UDPLITE],
        [v6, datagram, libc::IPPROTO_ICMP],
        [libc::AF_UNIX, stream, 0],
        [libc::AF_UNIX, datagram, 0],
        [libc::AF_NETLINK, libc::SOCK_RAW, 0],
        [libc::AF_PACKET, libc::SOCK_DGRAM, 0],
        [libc::AF_VSOCK, stream, 0],
    ];
    for arguments in made {
        assert_eq!(socket("dialer", arguments), ALLOW, "{arguments:?}");
        assert_eq!(socket("dev-net", arguments), KILL, "{arguments:?}");
    }
    for arguments in not_made {
        assert_eq!(socket("dialer", arguments), KILL, "{arguments:?}");
    }
    for call in [libc::SYS_bind, libc::SYS_listen, libc::SYS_socketpair] {
        assert_eq!(on("dialer", call, [1; 6]), KILL);
    }
}

#[test]
fn whatever_is_not_in_the_table_is_forbidden() {
    for policy in policy::all() {
        let allowed = (0..1024)
            .filter(|number| {
                // Arguments that meet no condition that needs a bit set.
                let call = Call {
                    arch: ARCH,
                    number: *number,
                    arguments: [0; 6],
                };
                verdict(policy, &call) != KILL
            })
            .count();
        assert!(allowed <= policy.calls.len(), "{}", policy.component);
        assert!(allowed > 20, "{}", policy.component);
    }
}

#[test]
fn calls_of_another_architecture_end_the_process() {
    for policy in policy::all() {
        for number in 0..512 {
            let foreign = Call {
                arch: ARCH_I386,
                number,
                arguments: [0; 6],
            };
            // Whatever the build: a foreign architecture is not even logged.
            assert_eq!(verdict(policy, &foreign), KILL);
            // x32: the same architecture, with a bit in the number.
            let x32 = Call {
                arch: ARCH,
                number: number | 0x4000_0000,
                arguments: [0; 6],
            };
            assert_eq!(verdict(policy, &x32), KILL);
        }
    }
}
