//! A TAP device (Documentation/networking/tuntap.rst in Linux' sources), opened by the caller and
//! with the caller's rights.
#![expect(unsafe_code, reason = "ioctl has no safe form")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::{errno::Errno, fcntl::OFlag, net::if_::if_nametoindex};

use crate::Error;

/// Where TAP devices are opened.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// The header before each packet: `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6).
const HEADER: libc::c_int = 12;

/// Opens the TAP device called `name`, which exists.
///
/// # Errors
/// [`Error::Tap`], with what would mend it.
pub fn open(name: &str) -> Result<OwnedFd, Error> {
    let failed = |hint: fn(Errno, &str) -> String| {
        move |source: io::Error| {
            let errno = source
                .raw_os_error()
                .map_or(Errno::UnknownErrno, Errno::from_raw);
            Error::Tap {
                name: name.to_owned(),
                hint: hint(errno, name),
                source,
            }
        }
    };
    // The kernel would make one that does not exist, for those who may.
    if_nametoindex(name).map_err(|errno| failed(missing)(errno.into()))?;
    let file = open_device().map_err(failed(closed))?;
    attach(&file, name).map_err(failed(not_attached))?;
    set_header(file.as_fd()).map_err(failed(|_, _| String::new()))?;
    Ok(file.into())
}

/// Opens [`DEVICE`], which is no interface yet.
pub(crate) fn open_device() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(OFlag::O_NONBLOCK.bits()).open(DEVICE)
}

/// Makes `file` the one queue of the interface.
fn attach(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is a C struct of integers and a union of them, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the specification of a machine has no longer names.
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.as_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or_default();
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result)?;
    Ok(())
}

/// What checksums and segments are left to the guest is for the device to say, once it knows its
/// driver.
fn set_header(tap: BorrowedFd<'_>) -> io::Result<()> {
    let size = HEADER;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    Errno::result(result)?;
    Ok(())
}

fn missing(errno: Errno, name: &str) -> String {
    match errno {
        Errno::ENODEV => format!("; there is no such interface: {}", make(name)),
        _ => String::new(),
    }
}

fn closed(errno: Errno, _: &str) -> String {
    match errno {
        Errno::ENOENT | Errno::ENODEV => {
            format!("; this host has no {DEVICE}: `sudo modprobe tun`")
        }
        Errno::EACCES | Errno::EPERM => {
            format!("; this user may not open {DEVICE}: `sudo chmod 0666 {DEVICE}`, as usual")
        }
        _ => String::new(),
    }
}

fn not_attached(errno: Errno, name: &str) -> String {
    match errno {
        Errno::EPERM => format!(
            "; it belongs to another user: `sudo ip tuntap del {name} mode tap`, then {}",
            make(name)
        ),
        Errno::EBUSY => "; another program has it".to_owned(),
        Errno::EINVAL => format!(
            "; it is no TAP device, or one with several queues: {}",
            make(name)
        ),
        _ => String::new(),
    }
}

/// How people make one.
fn make(name: &str) -> String {
    format!("`sudo ip tuntap add {name} mode tap user $USER && sudo ip link set {name} up`")
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::network::namespace::in_a_namespace;

    #[test]
    fn a_device_that_does_not_exist_comes_with_the_command_that_makes_it() {
        let message = wire::chain(&open("crumble-none").unwrap_err());
        assert!(
            message.contains("ip tuntap add crumble-none mode tap"),
            "{message}"
        );
    }

    #[test]
    fn an_interface_that_is_none_of_them_is_named() {
        // Without the device there is nothing to see but that.
        let message = wire::chain(&open("lo").unwrap_err());
        let known = ["no TAP device", DEVICE];
        assert!(known.iter().any(|text| message.contains(text)), "{message}");
    }

    #[test]
    fn a_device_is_opened_once_and_its_packets_have_headers() {
        in_a_namespace(
            "network::tap::tests::in_a_namespace_with_a_device",
            "ip tuntap add crumble-t mode tap && ip link set crumble-t up",
        );
    }

    #[test]
    #[ignore = "it is run by the one above"]
    fn in_a_namespace_with_a_device() {
        let tap = File::from(open("crumble-t").unwrap());
        let error = wire::chain(&open("crumble-t").unwrap_err());
        assert!(error.contains("another program has it"), "{error}");
        // The kernel greets: neighbour discovery, behind a header of 12 bytes and Ethernet's of 14.
        let mut packet = [0; 2048];
        let end = Instant::now() + Duration::from_secs(10);
        while let Err(error) = (&tap).read(&mut packet) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert!(Instant::now() < end, "no packet");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(packet[12 + 12..][..2], [0x86, 0xdd], "IPv6");
        assert_eq!(packet[12 + 14] >> 4, 6);
    }

    #[test]
    fn without_the_device_file_there_is_the_command_that_mends_it() {
        in_a_namespace(
            "network::tap::tests::in_a_namespace_without_the_device_file",
            "mount -t tmpfs none /dev/net",
        );
    }

    #[test]
    #[ignore = "it is run by the one above"]
    fn in_a_namespace_without_the_device_file() {
        let error = wire::chain(&open("lo").unwrap_err());
        assert!(
            error.contains("no /dev/net/tun: `sudo modprobe tun`"),
            "{error}"
        );
    }

    #[test]
    fn a_closed_device_file_comes_with_the_command_that_opens_it() {
        in_a_namespace(
            "network::tap::tests::in_a_namespace_with_a_closed_device_file",
            "mount --bind /dev/net /dev/net && mount -o remount,bind,nodev /dev/net",
        );
    }

    #[test]
    #[ignore = "it is run by the one above"]
    fn in_a_namespace_with_a_closed_device_file() {
        let error = wire::chain(&open("lo").unwrap_err());
        assert!(error.contains("`sudo chmod 0666 /dev/net/tun`"), "{error}");
    }

    #[test]
    fn every_refusal_that_is_known_says_what_mends_it() {
        assert!(closed(Errno::ENOENT, "t").contains("modprobe"));
        assert!(closed(Errno::EACCES, "t").contains("chmod"));
        assert!(not_attached(Errno::EPERM, "t").contains("user $USER"));
        assert!(not_attached(Errno::EBUSY, "t").contains("another program"));
    }
}
