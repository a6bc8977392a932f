//! Conditions on arguments: `arg1 & MASK == VALUE and arg2 == VALUE`.

use serde_json::{Value, json};

use crate::Error;

/// Every flag that pthread_create sets in glibc and musl.
const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

/// Flags that pthread_create may set besides: where ids go, thread-local storage, and one that
/// musl sets and the kernel ignores.
const THREAD_DETAILS: u64 = (libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED) as u64;

/// Names that conditions use. All have the same value on every architecture that we build for.
const SYMBOLS: &[(&str, u64)] = &[
    ("NULL", 0),
    ("PROT_EXEC", libc::PROT_EXEC as u64),
    ("AF_UNIX", libc::AF_UNIX as u64),
    ("AF_INET", libc::AF_INET as u64),
    ("AF_INET6", libc::AF_INET6 as u64),
    // The type of a socket without its flags (`linux/net.h`).
    ("SOCK_TYPE_MASK", 0xf),
    ("SOCK_STREAM", libc::SOCK_STREAM as u64),
    ("SOCK_DGRAM", libc::SOCK_DGRAM as u64),
    ("IPPROTO_ICMP", libc::IPPROTO_ICMP as u64),
    ("IPPROTO_ICMPV6", libc::IPPROTO_ICMPV6 as u64),
    // `linux/socket.h`: connect with the first bytes.
    ("MSG_FASTOPEN", 0x2000_0000),
    ("SOL_SOCKET", libc::SOL_SOCKET as u64),
    ("SO_DOMAIN", libc::SO_DOMAIN as u64),
    ("SO_ERROR", libc::SO_ERROR as u64),
    ("SO_TYPE", libc::SO_TYPE as u64),
    ("SO_RCVTIMEO", libc::SO_RCVTIMEO as u64),
    ("SO_SNDTIMEO", libc::SO_SNDTIMEO as u64),
    ("SO_LINGER", libc::SO_LINGER as u64),
    ("SOL_IP", libc::SOL_IP as u64),
    ("IP_RECVERR", libc::IP_RECVERR as u64),
    ("SOL_IPV6", libc::SOL_IPV6 as u64),
    ("IPV6_RECVERR", libc::IPV6_RECVERR as u64),
    ("IPV6_V6ONLY", libc::IPV6_V6ONLY as u64),
    ("SOL_TCP", libc::SOL_TCP as u64),
    ("TCP_NODELAY", libc::TCP_NODELAY as u64),
    ("PR_SET_NAME", libc::PR_SET_NAME as u64),
    ("AT_EMPTY_PATH", libc::AT_EMPTY_PATH as u64),
    ("F_DUPFD_CLOEXEC", libc::F_DUPFD_CLOEXEC as u64),
    ("F_GETFD", libc::F_GETFD as u64),
    ("F_SETFD", libc::F_SETFD as u64),
    ("F_GETFL", libc::F_GETFL as u64),
    ("F_SETFL", libc::F_SETFL as u64),
    ("F_ADD_SEALS", libc::F_ADD_SEALS as u64),
    ("F_GET_SEALS", libc::F_GET_SEALS as u64),
    ("F_GETLK", libc::F_GETLK as u64),
    ("F_SETLK", libc::F_SETLK as u64),
    ("F_SETLKW", libc::F_SETLKW as u64),
    ("F_OFD_GETLK", libc::F_OFD_GETLK as u64),
    ("F_OFD_SETLK", libc::F_OFD_SETLK as u64),
    ("F_OFD_SETLKW", libc::F_OFD_SETLKW as u64),
    // `asm-generic/ioctls.h`; the C libraries do not agree on its type.
    ("FIONBIO", 0x5421),
    // `linux/if_tun.h`.
    ("TUNSETOFFLOAD", 0x4004_54d0),
    // An ioctl's number holds its type in bits 8 to 15; KVM's is 0xAE (`linux/kvm.h`).
    ("IOCTL_TYPE", 0xff00),
    ("KVM", 0xae00),
    // What fallocate does when it frees, and when it zeroes; neither changes a file's size.
    (
        "FALLOC_PUNCH",
        (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64,
    ),
    (
        "FALLOC_ZERO",
        (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE) as u64,
    ),
    ("CLONE_FS", libc::CLONE_FS as u64),
    ("THREAD_FLAGS", THREAD_FLAGS),
    ("NO_THREAD_FLAG", 0xffff_ffff & !THREAD_DETAILS),
];

/// Turns one alternative into the list of conditions that seccompiler's JSON takes.
pub(crate) fn compile(text: &str) -> Result<Value, Error> {
    text.split(" and ")
        .map(|condition| one(condition).ok_or_else(|| format!("`{condition}` is not a condition")))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

/// Turns one comparison into seccompiler's form.
fn one(text: &str) -> Option<Value> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (argument, operator, value) = match *words.as_slice() {
        [argument, "&", mask, "==", value] => {
            (argument, json!({ "masked_eq": number(mask)? }), value)
        }
        [argument, "==", value] => (argument, json!("eq"), value),
        [argument, "!=", value] => (argument, json!("ne"), value),
        [argument, "<=", value] => (argument, json!("le"), value),
        [argument, "<", value] => (argument, json!("lt"), value),
        [argument, ">=", value] => (argument, json!("ge"), value),
        [argument, ">", value] => (argument, json!("gt"), value),
        _ => return None,
    };
    let index: u8 = argument.strip_prefix("arg")?.parse().ok()?;
    let width = if value == "NULL" { "qword" } else { "dword" };
    (index < 6).then_some(())?;
    Some(json!({ "index": index, "type": width, "op": operator, "val": number(value)? }))
}

/// Whether a call's arguments meet one alternative; none if the text is no condition.
#[must_use]
pub fn holds(text: &str, arguments: &[u64; 6]) -> Option<bool> {
    let mut all = true;
    for condition in text.split(" and ") {
        let words: Vec<&str> = condition.split_whitespace().collect();
        let (argument, mask, operator, value) = match *words.as_slice() {
            [argument, "&", mask, "==", value] => (argument, number(mask)?, "==", value),
            [argument, operator, value] => (argument, u64::MAX, operator, value),
            _ => return None,
        };
        let index: usize = argument.strip_prefix("arg")?.parse().ok()?;
        let width = if value == "NULL" {
            u64::MAX
        } else {
            0xffff_ffff
        };
        let (found, value) = (arguments.get(index)? & mask & width, number(value)?);
        all &= match operator {
            "==" => found == value,
            "!=" => found != value,
            "<=" => found <= value,
            "<" => found < value,
            ">=" => found >= value,
            ">" => found > value,
            _ => return None,
        };
    }
    Some(all)
}

/// A number or one of [`SYMBOLS`].
fn number(text: &str) -> Option<u64> {
    if let Some((_, value)) = SYMBOLS.iter().find(|(name, _)| *name == text) {
        return Some(*value);
    }
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_as_the_filters_have_them() {
        let arguments = [1, 0x5421, 3 | 1 << 40, 0, 0, 0];
        for (text, expected) in [
            ("arg0 == 1", true),
            ("arg0 == 2", false),
            ("arg1 == FIONBIO and arg0 == 1", true),
            ("arg1 == FIONBIO and arg0 == 2", false),
            ("arg2 & PROT_EXEC == 0", true),
            ("arg2 == 3", true),
            ("arg2 == NULL", false),
            ("arg0 >= 1", true),
            ("arg0 < 1", false),
        ] {
            assert_eq!(holds(text, &arguments), Some(expected), "{text}");
            assert!(compile(text).is_ok());
        }
        assert_eq!(holds("arg9 == 1", &arguments), None);
    }
}
