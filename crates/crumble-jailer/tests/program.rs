//! The programs of this machine's own shell and core utilities, in the jail.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What a program needs to start here, and to read what is in `seen` and write into `written`.
const POLICY: &str = r#"
summary = "a test"
include = ["program.toml"]

[identity]
kind = "single"
why = "a test"

[limits]
nofile = { value = 16, why = "a test" }

[calls]
fcntl = { when = ["arg1 == 0", "arg1 == F_DUPFD_CLOEXEC", "arg1 == F_SETFD", "arg1 == F_GETFD", "arg1 == F_GETFL"], why = "dash" }
copy_file_range = "cat"
getppid = "dash"
getcwd = "dash"
chdir = "dash"
dup2 = { only = "x86_64", why = "dash" }
dup3 = "dash"

[paths]
"#;

/// A policy and the directories that it speaks of.
struct Jail(TempDir);

impl Jail {
    /// Everybody can look into its directories, for an ordinary user runs these tests too.
    fn new() -> Self {
        let jail = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(jail.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for directory in ["seen", "written", "unseen"] {
            fs::create_dir(jail.path(directory)).unwrap();
            fs::write(jail.path(directory).join("file"), directory).unwrap();
        }
        fs::set_permissions(jail.path("written"), fs::Permissions::from_mode(0o777)).unwrap();
        jail.write_policy(POLICY);
        jail
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write_policy(&self, head: &str) {
        let mut policy = head.to_owned();
        let mut add = |path: &Path, access: &str| {
            let line = format!("{path:?} = {{ access = {access:?}, why = \"a test\" }}\n");
            policy.push_str(&line);
        };
        for libraries in ["/lib", "/lib64", "/usr/lib"].map(Path::new) {
            if libraries.exists() {
                add(libraries, "execute");
            }
        }
        add(&self.path("seen"), "read");
        add(&self.path("written"), "write");
        fs::write(self.path("policy.toml"), policy).unwrap();
    }

    fn command(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crumble-jailer"));
        let policy = self.path("policy.toml");
        command.arg("--policy").arg(policy).args(options);
        command.arg("--").args(program).stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str], program: &[&str]) -> Output {
        self.command(options, program).output().unwrap()
    }

    /// Runs a shell's built-in commands in the directory of the policy.
    fn shell(&self, options: &[&str], script: &str) -> Output {
        let place = self.0.path().display();
        self.run(
            options,
            &["/bin/sh", "-c", &format!("cd {place}; {script}")],
        )
    }
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, words: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(words), "{errors}");
}

#[test]
fn listed_paths_are_there_and_no_others() {
    let jail = Jail::new();
    let seen = jail.path("seen/file");
    let text = succeeds(&jail.run(&[], &["cat", seen.to_str().unwrap()]));
    assert_eq!(text, "seen");
    for path in [
        jail.path("unseen/file"),
        "/etc/passwd".into(),
        "/proc/self/status".into(),
    ] {
        let output = jail.run(&[], &["cat", path.to_str().unwrap()]);
        fails(&output, 1, "No such file or directory");
    }
}

#[test]
fn only_a_path_for_writing_is_written() {
    let jail = Jail::new();
    succeeds(&jail.shell(&[], "echo new > written/made"));
    assert_eq!(
        fs::read_to_string(jail.path("written/made")).unwrap(),
        "new\n"
    );
    fails(
        &jail.shell(&[], "echo new > seen/made"),
        2,
        "Read-only file system",
    );
    fails(
        &jail.shell(&[], "echo new > /made"),
        2,
        "Read-only file system",
    );
    assert!(!jail.path("seen/made").exists());
}

#[test]
fn what_is_not_listed_ends_the_program_and_tracing_does_not() {
    let jail = Jail::new();
    // A new process, and another program, are calls that the policy does not have.
    assert_eq!(
        jail.shell(&[], "(echo forked)").status.code(),
        Some(128 + 31)
    );
    assert_eq!(
        jail.shell(&[], "exec /bin/cat").status.code(),
        Some(128 + 31)
    );
    let text = succeeds(&jail.shell(&["--trace"], "(echo forked)"));
    assert_eq!(text, "forked\n");
}

#[test]
fn nothing_is_executed_but_what_is_listed_for_it() {
    let jail = Jail::new();
    fs::copy("/bin/cat", jail.path("seen/cat")).unwrap();
    // Even where the system call is allowed.
    let output = jail.shell(&["--trace"], "exec seen/cat");
    fails(&output, 126, "Permission denied");
}

#[test]
fn descriptors_are_those_of_the_command_line() {
    let jail = Jail::new();
    let file = format!("5=read:{}", jail.path("unseen/file").display());
    let script =
        "read text <&5; echo $text; for n in 3 4 6 7 8 9; do (: <&$n) 2>&- && echo $n; done";
    let text = succeeds(&jail.shell(&["--fd", &file, "--trace"], &format!("{script}; exit 0")));
    assert_eq!(text, "unseen\n");
    let output = jail.run(&["--fd", &file, "--fd", &file], &["cat"]);
    fails(&output, 125, "two descriptors have the number 5");
}

#[test]
fn a_socket_to_listen_at_is_handed_over() {
    let jail = Jail::new();
    let socket = jail.path("socket");
    let fd = format!("3=listen:{}", socket.display());
    let mut child = jail.command(&["--fd", &fd], &["cat"]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(child.try_wait().unwrap().is_none());
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn streams_environment_and_exit_codes_go_through() {
    let jail = Jail::new();
    let mut child = jail.command(&[], &["cat"]);
    let mut child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(succeeds(&child.wait_with_output().unwrap()), "through");

    let text = succeeds(&jail.shell(&["--env", "A=b c"], "echo $A$HOME"));
    assert_eq!(text, "b c\n");
    assert_eq!(jail.shell(&[], "exit 7").status.code(), Some(7));
    let killed = jail.shell(&["--trace"], "kill -9 $$; exit 3");
    // The first process of a namespace does not die of its own signals.
    assert_eq!(killed.status.code(), Some(3));
}

#[test]
fn the_program_ends_with_the_jailer() {
    let jail = Jail::new();
    let mut child = jail.command(&[], &["cat"]);
    let mut child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    std::io::Read::read_exact(&mut output, &mut [0]).unwrap();
    child.kill().unwrap();
    // The end of its output is the end of the last process that holds it.
    assert_eq!(std::io::Read::read(&mut output, &mut [0]).unwrap(), 0);
    child.wait().unwrap();
}

#[test]
fn a_namespace_that_the_policy_shares_is_the_host_s() {
    for shares in [false, true] {
        let jail = Jail::new();
        let shared = "[shared]\nnet = \"a test\"\n\n[limits]";
        let limits = if shares { shared } else { "[limits]" };
        jail.write_policy(&POLICY.replace("[limits]", limits));
        let mut child = jail.command(&[], &["cat"]);
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        std::io::Read::read_exact(&mut output, &mut [0]).unwrap();
        let pid = child.id();
        let inner = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let of = |pid: &str, name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        let same = |name| of(inner.trim(), name) == of("self", name);
        assert_eq!((same("net"), same("ipc")), (shares, false));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

#[test]
fn mistakes_are_named_and_nothing_starts() {
    let jail = Jail::new();
    fails(
        &jail.run(&[], &["no-such-program"]),
        125,
        "no program `no-such-program`",
    );
    fails(
        &jail.run(&[], &["/no/such"]),
        125,
        "cannot open the program /no/such",
    );
    for (line, words) in [
        ("[calls]\nreed = \"x\"", "unknown system call `reed`"),
        ("[namespaces]\nspace = \"x\"", "unknown namespace `space`"),
        (
            "[shared]\nuser = \"x\"",
            "the user namespace cannot be shared",
        ),
        ("[shared]\nspace = \"x\"", "`space` is no namespace"),
        ("[capabilities]\nfly = \"x\"", "unknown capability `fly`"),
        (
            "[limits]\nsky = { value = 1, why = \"x\" }",
            "unknown limit `sky`",
        ),
        ("[calls]\nread = \" \"", "without a reason"),
        ("[calls]\nread =", "the policy:1"),
        (
            "[paths]\n\"/no/such\" = { access = \"read\", why = \"x\" }",
            "cannot have `/no/such`",
        ),
        (
            "[paths]\n\"etc\" = { access = \"read\", why = \"x\" }",
            "not an absolute path",
        ),
        (
            "[paths]\n\"/etc\" = { access = \"see\", why = \"x\" }",
            "`read`, `write` or `execute`",
        ),
        (
            "[landlock]\nfloor = { value = 99, why = \"x\" }",
            "Landlock",
        ),
    ] {
        let head = POLICY.split("[limits]").next().unwrap();
        fs::write(jail.path("policy.toml"), format!("{head}\n{line}\n")).unwrap();
        fails(&jail.run(&[], &["cat"]), 125, words);
    }
    fs::remove_file(jail.path("policy.toml")).unwrap();
    fails(&jail.run(&[], &["cat"]), 125, "cannot read the policy");
}

#[test]
fn everything_here_holds_for_an_ordinary_user() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let tests = std::env::current_exe().unwrap();
    let mut again = Command::new(tests);
    std::os::unix::process::CommandExt::uid(&mut again, 1000);
    let output = again.env("TMPDIR", "/tmp").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
