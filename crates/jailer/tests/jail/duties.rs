//! What a component needs in its jail works.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::component::Hands;
use crate::host::{self, COMPONENTS, Deed, Outcome};
use crate::raw::call;

/// A duty, and who has it.
type Duty = (
    &'static str,
    &'static [&'static str],
    fn(&Hands) -> io::Result<()>,
);

/// What unpacks layers does nothing but that.
const SERVING: [&str; 5] = ["vmm", "dev-vsock", "dev-fs", "dev-net", "dialer"];

/// The dialer has one thread.
const THREADED: [&str; 7] = [
    "vmm",
    "dev-vsock",
    "dev-fs",
    "dev-net",
    "dev-block",
    "dev-console",
    "dev-balloon",
];

const DUTIES: &[Duty] = &[
    ("threads_run_and_are_joined", &THREADED, threads),
    ("events_wake_an_event_loop", &SERVING, events),
    ("hash_tables_have_a_seed", &SERVING, |_| {
        let table: HashMap<i32, i32> = (0..10).map(|n| (n, n)).collect();
        ensure(table.len() == 10)
    }),
    ("the_log_can_be_written", &COMPONENTS, |_| {
        writeln!(io::stderr(), "hello")
    }),
    ("a_panic_of_a_thread_is_reported", &SERVING, |_| {
        ensure(std::thread::spawn(|| panic!("on purpose")).join().is_err())
    }),
    ("large_blocks_grow", &COMPONENTS, |_| {
        let mut block = vec![1_u8; 1 << 20];
        block.resize(1 << 24, 2);
        ensure(block.last() == Some(&2))
    }),
    (
        "descriptors_are_duplicated_and_looked_at",
        &SERVING,
        |hands| {
            let file = File::from(hands.root.try_clone()?);
            ensure(file.metadata()?.is_dir())
        },
    ),
    ("a_socket_says_what_it_is", &SERVING, |_| {
        for (option, value) in [
            (libc::SO_DOMAIN, libc::AF_UNIX),
            (libc::SO_TYPE, libc::SOCK_SEQPACKET),
            (libc::SO_ERROR, 0),
        ] {
            let (mut seen, mut length) = ([0_u64], [4_u64]);
            call(
                libc::SYS_getsockopt,
                &[&3, &1, &option, &&mut seen[..], &&mut length[..]],
            )?;
            ensure(seen == [u64::from(value.unsigned_abs())])?;
        }
        Ok(())
    }),
    ("the_limit_of_descriptors_is_read", &["dev-fs"], |_| {
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        ensure(hard > 0)
    }),
    ("guest_memory_is_made_and_sealed", &["vmm"], guest_memory),
    ("kvm_answers", &["vmm"], kvm),
    ("streams_are_made", &["dev-vsock"], streams),
    ("the_granted_port_is_connected", &["dialer"], connects),
    ("datagrams_are_sent_and_received", &["dialer"], datagrams),
    ("files_are_made_read_and_renamed", &["dev-fs"], files),
    (
        "a_file_is_opened_anew_by_its_descriptor",
        &["dev-fs"],
        reopen,
    ),
    ("proc_leads_nowhere_else", &["dev-fs"], proc_is_small),
    ("a_file_is_made_as_another_user", &["dev-fs"], other_user),
];

/// In the component.
pub(crate) fn perform(name: &str, hands: &Hands) -> io::Result<()> {
    let duty = DUTIES.iter().find(|(known, ..)| *known == name);
    duty.ok_or(io::ErrorKind::NotFound)?.2(hands)
}

/// In the host: a test for each duty and component.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, components, _) in DUTIES {
        if *name == "kvm_answers"
            && let Err(error) = host::open_kvm()
        {
            let _ = writeln!(io::stderr(), "{name} is left out: /dev/kvm: {error}");
            continue;
        }
        for component in *components {
            trials.push(Trial::test(
                format!("{component}::duty::{name}"),
                move || {
                    let deed = Deed::Duty((*name).to_owned());
                    match host::perform(component, &[], &deed)? {
                        Outcome::Done => Ok(()),
                        other => Err(format!("{other:?}").into()),
                    }
                },
            ));
        }
    }
    trials
}

fn ensure(holds: bool) -> io::Result<()> {
    if holds {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EILSEQ))
    }
}

fn threads(_: &Hands) -> io::Result<()> {
    let threads: Vec<_> = (0..8)
        .map(|n| {
            std::thread::Builder::new()
                .name(format!("worker {n}"))
                .spawn(move || {
                    std::thread::sleep(Duration::from_millis(1));
                    n
                })
        })
        .collect::<Result<_, _>>()?;
    let sum: i32 = threads
        .into_iter()
        .filter_map(|thread| thread.join().ok())
        .sum();
    ensure(sum == 28)
}

fn events(_: &Hands) -> io::Result<()> {
    let event = EventFd::new()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 7))?;
    event.write(1)?;
    let mut ready = [EpollEvent::empty()];
    epoll.wait(&mut ready, EpollTimeout::from(1000_u16))?;
    let mut fds = [nix::poll::PollFd::new(
        event.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    ensure(ready[0].data() == 7 && nix::poll::poll(&mut fds, 0_u8)? == 1)
}

fn guest_memory(_: &Hands) -> io::Result<()> {
    let memory = memfd_create(
        c"guest",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?;
    nix::unistd::ftruncate(&memory, 1 << 21)?;
    let seals = nix::fcntl::SealFlag::F_SEAL_SHRINK | nix::fcntl::SealFlag::F_SEAL_GROW;
    nix::fcntl::fcntl(&memory, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))?;
    // PROT_READ | PROT_WRITE, MAP_SHARED.
    call(libc::SYS_mmap, &[&0, &(1_i64 << 21), &3, &1, &&memory, &0])?;
    let shrunk = nix::unistd::ftruncate(&memory, 4096);
    ensure(shrunk == Err(nix::errno::Errno::EPERM))
}

/// `linux/kvm.h`: the API's version, a machine, a vCPU, and the memory shared with it.
fn kvm(hands: &Hands) -> io::Result<()> {
    let kvm = hands.kvm.as_ref().ok_or(io::ErrorKind::NotFound)?;
    ensure(call(libc::SYS_ioctl, &[&kvm, &0xae00])? == 12)?;
    let machine = call(libc::SYS_ioctl, &[&kvm, &0xae01, &0])?;
    let vcpu = call(libc::SYS_ioctl, &[&machine, &0xae41, &0])?;
    let size = call(libc::SYS_ioctl, &[&kvm, &0xae04, &0])?;
    // PROT_READ | PROT_WRITE, MAP_SHARED.
    call(libc::SYS_mmap, &[&0, &size, &3, &1, &vcpu, &0]).map(drop)
}

fn streams(_: &Hands) -> io::Result<()> {
    let (mut left, mut right) = UnixStream::pair()?;
    left.set_nonblocking(true)?;
    left.write_all(b"hello")?;
    left.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    right.read_to_string(&mut text)?;
    ensure(text == "hello")
}

fn connects(hands: &Hands) -> io::Result<()> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, hands.granted_port))?;
    stream.set_nodelay(true)
}

fn datagrams(_: &Hands) -> io::Result<()> {
    // No bind: the kernel picks a port when the first one is sent.
    let (v4, kind) = (libc::AF_INET, libc::SOCK_DGRAM);
    let socket = UdpSocket::from(OwnedFd::from(adopt(call(
        libc::SYS_socket,
        &[&v4, &kind, &0],
    )?)?));
    // Port 9 discards, if anybody is there.
    socket.send_to(b"hello", (Ipv4Addr::LOCALHOST, 9)).map(drop)
}

/// Opens below the shared directory.
fn open(hands: &Hands, name: &str, flags: nix::fcntl::OFlag) -> io::Result<OwnedFd> {
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
    Ok(nix::fcntl::openat(&hands.root, name, flags, mode)?)
}

fn files(hands: &Hands) -> io::Result<()> {
    use nix::fcntl::OFlag;
    let mut file = File::from(open(hands, "new", OFlag::O_CREAT | OFlag::O_RDWR)?);
    file.write_all(b"text")?;
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o755);
    nix::sys::stat::mkdirat(&hands.root, "directory", mode)?;
    // To another directory: what Landlock calls refer.
    let (from, to) = (c"new", c"directory/moved");
    call(
        libc::SYS_renameat2,
        &[&&hands.root, &from, &&hands.root, &to, &0],
    )?;
    let mut text = String::new();
    let flags = OFlag::O_RDONLY;
    File::from(open(hands, "directory/moved", flags)?).read_to_string(&mut text)?;
    ensure(text == "text")
}

fn reopen(hands: &Hands) -> io::Result<()> {
    use nix::fcntl::OFlag;
    let proc = hands.proc_self_fd.as_ref().ok_or(io::ErrorKind::NotFound)?;
    let path = open(hands, "inside", OFlag::O_PATH)?;
    let name = std::ffi::CString::new(path.as_raw_fd().to_string())?;
    // As the threads of a pool do it.
    let proc = proc.try_clone()?;
    let thread = std::thread::spawn(move || -> io::Result<String> {
        let fd = call(libc::SYS_openat, &[&&proc, &name.as_c_str(), &libc::O_RDWR])?;
        let mut text = String::new();
        adopt(fd)?.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = thread.join().map_err(|_| io::ErrorKind::Other)??;
    ensure(text == "inside")
}

/// A descriptor that a raw call just made.
#[expect(unsafe_code, reason = "takes a descriptor from a raw call")]
fn adopt(fd: libc::c_long) -> io::Result<File> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the caller's system call just returned it; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

fn proc_is_small(hands: &Hands) -> io::Result<()> {
    let proc = hands.proc_self_fd.as_ref().ok_or(io::ErrorKind::NotFound)?;
    for name in [c"../status", c"../../1/root", c"../mem", c"../../self/root"] {
        let result = call(libc::SYS_openat, &[&proc, &name, &libc::O_PATH]);
        let error = result
            .err()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EEXIST))?;
        // `..` stays, and what is found there are descriptors.
        let stays = [Some(libc::ENOENT), Some(libc::ENOTDIR)];
        ensure(stays.contains(&error.raw_os_error()))?;
    }
    Ok(())
}

fn other_user(hands: &Hands) -> io::Result<()> {
    use nix::fcntl::OFlag;
    if !hands.many_users {
        let file = File::from(open(hands, "mine", OFlag::O_CREAT | OFlag::O_WRONLY)?);
        // The user that runs this is number 0 of its namespace.
        return ensure(std::os::unix::fs::MetadataExt::uid(&file.metadata()?) == 0);
    }
    nix::sys::stat::fchmod(&hands.root, nix::sys::stat::Mode::from_bits_truncate(0o777))?;
    call(libc::SYS_setresgid, &[&-1, &1235, &-1])?;
    call(libc::SYS_setresuid, &[&-1, &1234, &-1])?;
    let file = open(hands, "theirs", OFlag::O_CREAT | OFlag::O_WRONLY);
    call(libc::SYS_setresuid, &[&-1, &0, &-1])?;
    call(libc::SYS_setresgid, &[&-1, &0, &-1])?;
    let file = File::from(file?);
    let made = file.metadata()?;
    let owner = |data: &std::fs::Metadata| {
        let (user, group) = (
            std::os::unix::fs::MetadataExt::uid(data),
            std::os::unix::fs::MetadataExt::gid(data),
        );
        (user, group)
    };
    ensure(owner(&made) == (1234, 1235))?;
    let itself = libc::AT_EMPTY_PATH;
    let file = OwnedFd::from(file);
    call(libc::SYS_fchownat, &[&&file, &c"", &77, &78, &itself])?;
    ensure(owner(&File::from(file).metadata()?) == (77, 78))
}
