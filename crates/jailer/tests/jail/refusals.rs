//! What is said where a jail cannot be closed: in containers that filter system calls, on kernels
//! that lack something.
//!
//! This binary makes such a place for itself, by a filter of its own or by a setting of a user
//! namespace of its own, and then starts a component there.

use std::io::Write;
use std::process::{Command, ExitCode};

use libc::{ENOSYS, EOPNOTSUPP, EPERM, c_long};
use libtest_mimic::{Failed, Trial};

use crate::host::{Jailed, Order};
use crate::raw::call;

/// The first argument of this binary in such a place; a system call and an error may follow.
pub(crate) const PLACE: &str = "--where-something-is-missing";

/// A place, and what must be said there.
struct Refusal {
    name: &'static str,
    /// The filter answers this call with this error.
    missing: (c_long, i32),
    words: &'static [&'static str],
}

const REFUSALS: &[Refusal] = &[
    Refusal {
        name: "a_container_that_hides_clone3_is_named",
        missing: (libc::SYS_clone3, ENOSYS),
        words: &["in namespaces of its own", "seccomp=unconfined"],
    },
    Refusal {
        name: "a_container_that_forbids_namespaces_is_named",
        missing: (libc::SYS_clone3, EPERM),
        words: &["in namespaces of its own", "forbids user namespaces"],
    },
    Refusal {
        name: "a_container_that_forbids_mounts_is_named",
        missing: (libc::SYS_fsopen, EPERM),
        words: &["the jail is incomplete", "replace the root directory"],
    },
    Refusal {
        name: "a_kernel_without_landlock_is_named",
        missing: (libc::SYS_landlock_create_ruleset, ENOSYS),
        words: &["the jail is incomplete", "Landlock", "lsm=landlock"],
    },
    Refusal {
        name: "a_kernel_with_landlock_switched_off_is_named",
        missing: (libc::SYS_landlock_create_ruleset, EOPNOTSUPP),
        words: &["the jail is incomplete", "Landlock", "lsm=landlock"],
    },
    Refusal {
        name: "a_kernel_without_filters_is_named",
        missing: (libc::SYS_seccomp, ENOSYS),
        words: &["the jail is incomplete", "filter system calls"],
    },
];

pub(crate) fn trials() -> Vec<Trial> {
    let refusals = REFUSALS.iter().map(|refusal| {
        let (number, errno) = refusal.missing;
        let arguments = [PLACE.to_owned(), number.to_string(), errno.to_string()];
        let test = move || {
            says(
                Command::new(std::env::current_exe()?).args(arguments),
                refusal.words,
            )
        };
        Trial::test(refusal.name, test)
    });
    let switched_off = "user_namespaces_that_are_switched_off_are_named";
    let switched_off = Trial::test(switched_off, without_user_namespaces);
    refusals.chain([switched_off]).collect()
}

/// What a component says that is started by this command.
fn says(command: &mut Command, words: &[&str]) -> Result<(), Failed> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if words.iter().all(|word| text.contains(word)) {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{words:?} are not all in `{text}`; {errors}").into())
}

fn without_user_namespaces() -> Result<(), Failed> {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script]);
    command.arg(std::env::current_exe()?).arg(PLACE);
    says(&mut command, &["user.max_user_namespaces"])
}

/// In such a place: starts a component, and says why it does not start.
pub(crate) fn main() -> ExitCode {
    let numbers: Vec<i64> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    if let [number, errno] = *numbers.as_slice() {
        hide(number, errno).expect("the filter is not installed");
    }
    let order = Order::new("dev-vsock", &[]).expect("no order");
    let text = match Jailed::start(&order) {
        Ok(_) => "it started".to_owned(),
        Err(error) => error.message().unwrap_or_default().to_owned(),
    };
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

/// Answers a system call with an error from now on, for this process and its children.
fn hide(number: i64, errno: i64) -> std::io::Result<()> {
    // `linux/filter.h`: code, two jumps and an operand, as they lie in memory.
    let instruction = |code: u64, jump: u64, operand: u64| code | jump << 24 | operand << 32;
    let (load, equal, end) = (0x20, 0x15, 0x06);
    let (allow, error) = (0x7fff_0000, 0x0005_0000);
    let mut filter = [
        // The number; an equal one skips nothing, another one the next.
        instruction(load, 0, 0),
        instruction(equal, 1, number.cast_unsigned()),
        instruction(end, 0, error | errno.cast_unsigned()),
        instruction(end, 0, allow),
    ];
    let mut program = [4, filter.as_mut_ptr().expose_provenance() as u64];
    call(
        libc::SYS_prctl,
        &[&libc::PR_SET_NO_NEW_PRIVS, &1, &0, &0, &0],
    )?;
    // SECCOMP_SET_MODE_FILTER.
    call(libc::SYS_seccomp, &[&1, &0, &&mut program[..]]).map(drop)
}
