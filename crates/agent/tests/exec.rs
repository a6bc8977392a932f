//! Commands, without a machine: the agent serves a socket pair in this process.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, Instant},
};

use agent::serve::Agent;
use host::{Command, collect, exec, open, refused, run, shell};
use wire::{
    agent::{Event, Exit, FailureKind, Opening, Request, Size, Stream, VERSION},
    frame,
};

mod host;

#[test]
fn every_exit_code_arrives() {
    let agent = Agent::new();
    for code in 0..=255 {
        let (exit, ..) = run(&agent, shell(&format!("exit {code}")), b"");
        assert_eq!(exit, Exit::Code(code));
    }
}

#[test]
fn a_signal_that_ends_the_command_arrives_real_time_ones_too() {
    let agent = Agent::new();
    for signal in [2, 6, 9, 15, 34, 40, 64] {
        let (exit, ..) = run(
            &agent,
            exec(&["/bin/sh", "-c", &format!("kill -{signal} $$")]),
            b"",
        );
        assert_eq!(exit, Exit::Signal(signal));
    }
}

#[test]
fn streams_are_separate() {
    let (exit, out, err) = run(&Agent::new(), shell("cat; echo two >&2"), b"one");
    assert_eq!((exit, &*out, &*err), (Exit::Code(0), "one", "two\n"));
}

#[test]
fn streams_that_are_not_attached_are_dev_null() {
    let mut request = shell("readlink /proc/self/fd/0 /proc/self/fd/2; echo lost >&2");
    request.streams = vec![Stream::Stdout];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    let out = collect(command.stdout.take()).join().unwrap();
    assert_eq!(out, b"/dev/null\n/dev/null\n");
    assert_eq!(command.exit(), Exit::Code(0));
}

#[test]
fn only_the_three_streams_are_open() {
    let (_, out, _) = run(&Agent::new(), shell("ls /proc/$$/fd"), b"");
    let open: Vec<&str> = out.split_whitespace().collect();
    assert!(
        open.iter().all(|fd| ["0", "1", "2"].contains(fd)),
        "{open:?}"
    );
}

#[test]
fn a_stream_can_be_opened_again_by_its_path() {
    let (exit, out, err) = run(
        &Agent::new(),
        shell("echo a > /dev/stdout; echo b > /dev/stderr"),
        b"",
    );
    assert_eq!((exit, &*out, &*err), (Exit::Code(0), "a\n", "b\n"));
}

#[test]
fn signals_are_at_their_defaults_and_none_is_blocked() {
    let (_, out, _) = run(
        &Agent::new(),
        exec(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]),
        b"",
    );
    for line in out.lines() {
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    assert_eq!(out.lines().count(), 2);
}

#[test]
fn a_hundred_megabytes_pass_through_unchanged() {
    const LENGTH: usize = 100_000_000;
    let mut request = exec(&["cat"]);
    request.streams = vec![Stream::Stdin, Stream::Stdout];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    let mut stdin = command.stdin.take().unwrap();
    let pattern = |i: usize| i.wrapping_mul(2_654_435_761).to_le_bytes()[1];
    let input: Vec<u8> = (0..LENGTH).map(pattern).collect();
    let sent = input.clone();
    let writer = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = collect(command.stdout.take()).join().unwrap();
    writer.join().unwrap();
    assert!(output == input, "{} bytes came back", output.len());
    assert_eq!(command.exit(), Exit::Code(0));
}

#[test]
fn the_end_of_input_is_the_end_and_output_goes_on() {
    let mut request = shell("cat > /dev/null; echo after");
    request.streams = vec![Stream::Stdin, Stream::Stdout];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    let mut stdin = command.stdin.take().unwrap();
    stdin.write_all(b"before").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(collect(command.stdout.take()).join().unwrap(), b"after\n");
    assert_eq!(command.exit(), Exit::Code(0));
}

#[test]
fn a_host_that_sends_nothing_on_an_output_stream_still_gets_output() {
    let mut request = shell("sleep 0.1; echo still");
    request.streams = vec![Stream::Stdout];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    let stdout = command.stdout.take().unwrap();
    stdout.shutdown(Shutdown::Write).unwrap();
    assert_eq!(collect(Some(stdout)).join().unwrap(), b"still\n");
}

#[test]
fn a_command_that_closes_its_input_tells_the_host() {
    let mut request = shell("exec <&-; sleep 5");
    request.streams = vec![Stream::Stdin];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    let mut stdin = command.stdin.take().unwrap();
    let start = Instant::now();
    while stdin.write_all(&[0; 4096]).is_ok() {}
    assert!(start.elapsed() < Duration::from_secs(3));
    command.signal(9);
    assert_eq!(command.exit(), Exit::Signal(9));
}

#[test]
fn a_host_that_closes_an_output_stream_breaks_the_command_s_pipe() {
    let mut request = exec(&["yes"]);
    request.streams = vec![Stream::Stdout];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    drop(command.stdout.take());
    assert_eq!(command.exit(), Exit::Signal(13));
}

#[test]
fn a_slow_reader_holds_the_command_back() {
    let progress = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "i=0; while [ $i -lt 200 ]; do head -c 100000 /dev/zero; i=$((i+1)); echo $i > {}; done",
        progress.path().display()
    );
    let mut request = shell(&script);
    request.streams = vec![Stream::Stdout];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    thread::sleep(Duration::from_secs(1));
    let written: u32 = fs::read_to_string(progress.path())
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(written < 40, "{written} times 100 kB went into nowhere");
    assert_eq!(
        collect(command.stdout.take()).join().unwrap().len(),
        20_000_000
    );
    assert_eq!(command.exit(), Exit::Code(0));
}

#[test]
fn all_that_was_written_arrives_before_the_exit_though_a_grandchild_keeps_the_pipe() {
    let mut request = shell("head -c 3000000 /dev/zero; sleep 60 & exit 3");
    request.streams = vec![Stream::Stdout];
    let start = Instant::now();
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    let stdout = collect(command.stdout.take());
    assert_eq!(command.exit(), Exit::Code(3));
    assert_eq!(stdout.join().unwrap().len(), 3_000_000);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn fifty_commands_run_at_once_with_their_own_streams() {
    let agent = Agent::new();
    let start = Instant::now();
    let threads: Vec<_> = (0..50u8)
        .map(|number| {
            let agent = agent.clone();
            thread::spawn(move || {
                let script = format!("sleep 1; cat; echo {number} >&2; exit {number}");
                let input = vec![b'a' + number % 26; 100_000];
                let (exit, out, err) = run(&agent, shell(&script), &input);
                assert_eq!(exit, Exit::Code(number));
                assert_eq!(out.as_bytes(), input);
                assert_eq!(err, format!("{number}\n"));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "they ran one after the other"
    );
}

#[test]
fn a_signal_of_the_host_reaches_the_whole_group() {
    let mut request = shell("trap 'echo caught' TERM; sleep 60; echo woken");
    request.streams = vec![Stream::Stdout];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    thread::sleep(Duration::from_millis(300));
    command.signal(15);
    assert_eq!(
        collect(command.stdout.take()).join().unwrap(),
        b"caught\nwoken\n"
    );
    assert_eq!(command.exit(), Exit::Code(0));
}

#[test]
fn a_number_that_is_no_signal_does_nothing() {
    let mut request = exec(&["cat"]);
    request.streams = vec![Stream::Stdin];
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    for signal in [-1, 0, 65, i32::MAX, i32::MIN] {
        command.signal(signal);
    }
    drop(command.stdin.take());
    assert_eq!(command.exit(), Exit::Code(0));
}

#[test]
fn a_host_that_goes_away_ends_the_command_stubborn_or_not() {
    for script in ["sleep 60", "trap '' HUP TERM; sleep 60; sleep 60"] {
        let (command, pid) = Command::start(&Agent::new(), &shell(script)).started();
        thread::sleep(Duration::from_millis(200));
        drop(command);
        let start = Instant::now();
        while fs::metadata(format!("/proc/{pid}")).is_ok() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{script} lives on"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn environment_is_the_default_with_the_request_s_on_top() {
    let mut request = exec(&["env"]);
    request.env = vec![
        (b"HOME".to_vec(), b"/else".to_vec()),
        (b"A".to_vec(), b"1=2".to_vec()),
    ];
    let (_, out, _) = run(&Agent::new(), request, b"");
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=1=2", "HOME=/else", path, "USER=root"]);
}

#[test]
fn the_request_s_path_is_searched_and_its_working_directory_used() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("own-tool");
    // By another process: a fork in a neighbouring test would keep it open for writing.
    let script = format!("printf '#!/bin/sh\\npwd\\n' > {}", program.display());
    run(&Agent::new(), shell(&script), b"");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut request = exec(&["own-tool"]);
    let path = format!("/nowhere:/etc/passwd:{}", directory.path().display());
    request.env = vec![(b"PATH".to_vec(), [path.as_bytes(), b":/bin"].concat())];
    request.cwd = Some(b"/usr/lib".to_vec());
    let (exit, out, _) = run(&Agent::new(), request, b"");
    assert_eq!((exit, &*out), (Exit::Code(0), "/usr/lib\n"));
}

#[test]
fn what_cannot_start_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str, mode| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let agent = Agent::new();
    let kind = |argv: &[&str]| refused(&agent, &exec(argv)).kind;
    assert_eq!(kind(&["no-such-program"]), FailureKind::NotFound);
    assert_eq!(kind(&["/no/such/program"]), FailureKind::NotFound);
    assert_eq!(kind(&["/etc/passwd/program"]), FailureKind::NotFound);
    assert_eq!(
        kind(&[&file("plain", "text", 0o644)]),
        FailureKind::NotExecutable
    );
    assert_eq!(
        kind(&[&file("nonsense", "text", 0o755)]),
        FailureKind::NotExecutable
    );
    assert_eq!(kind(&["/usr"]), FailureKind::NotExecutable);
    let script = file("script", "#!/no/interpreter\n", 0o755);
    let failure = refused(&agent, &exec(&[&script]));
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(
        failure.message.contains("interpreter"),
        "{}",
        failure.message
    );
    assert_eq!(kind(&[]), FailureKind::Other);
    assert_eq!(kind(&[""]), FailureKind::Other);
    assert_eq!(kind(&["a\0b"]), FailureKind::Other);
}

#[test]
fn a_missing_working_directory_or_user_is_named() {
    let agent = Agent::new();
    let mut request = exec(&["true"]);
    request.cwd = Some(b"/no/such/directory".to_vec());
    let failure = refused(&agent, &request);
    assert_eq!(failure.kind, FailureKind::Other);
    assert!(
        failure.message.contains("/no/such/directory"),
        "{}",
        failure.message
    );
    let mut request = exec(&["true"]);
    request.user = Some("nobody-by-this-name".into());
    let failure = refused(&agent, &request);
    assert!(
        failure.message.contains("nobody-by-this-name"),
        "{}",
        failure.message
    );
}

#[test]
fn a_terminal_is_controlling_has_its_size_and_can_be_resized() {
    let mut request =
        shell("tty; : < /dev/tty && stty size; read line; stty size; echo \"got $line\"");
    request.terminal = Some(Size {
        rows: 24,
        columns: 80,
    });
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    let mut terminal = command.terminal.take().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"24 80\r\n") {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    command.resize(50, 132);
    thread::sleep(Duration::from_millis(200));
    terminal.write_all(b"hello\n").unwrap();
    let rest = collect(Some(terminal)).join().unwrap();
    assert_eq!(
        String::from_utf8(rest).unwrap(),
        "hello\r\n50 132\r\ngot hello\r\n"
    );
    assert_eq!(command.exit(), Exit::Code(0));
    assert!(seen.starts_with(b"/dev/pts/"));
}

#[test]
fn the_interrupt_character_of_a_terminal_interrupts() {
    let mut request = exec(&["cat"]);
    request.terminal = Some(Size {
        rows: 24,
        columns: 80,
    });
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    command
        .terminal
        .as_mut()
        .unwrap()
        .write_all(b"\x03")
        .unwrap();
    assert_eq!(command.exit(), Exit::Signal(2));
}

#[test]
fn a_megabyte_of_terminal_output_arrives_whole() {
    let mut request = shell("head -c 1000000 /dev/zero | tr '\\0' x");
    request.terminal = Some(Size {
        rows: 24,
        columns: 80,
    });
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    assert_eq!(
        collect(command.terminal.take()).join().unwrap().len(),
        1_000_000
    );
    assert_eq!(command.exit(), Exit::Code(0));
}

#[test]
fn a_host_that_closes_the_terminal_hangs_up() {
    let mut request = exec(&["cat"]);
    request.terminal = Some(Size {
        rows: 24,
        columns: 80,
    });
    let (mut command, _) = Command::start(&Agent::new(), &request).started();
    drop(command.terminal.take());
    assert_eq!(command.exit(), Exit::Signal(1));
}

#[test]
fn another_version_is_refused() {
    let mut stream = host::connect(&Agent::new());
    let opening = Opening {
        version: VERSION + 1,
        request: Request::Ping,
    };
    frame::write(&mut stream, &opening).unwrap();
    match frame::read(&mut stream).unwrap() {
        Some(Event::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Version),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ping_is_answered_and_nonsense_only_closes_its_connection() {
    let agent = Agent::new();
    let mut nonsense = host::connect(&agent);
    nonsense.write_all(&[0xff; 64]).unwrap();
    assert_eq!(nonsense.read(&mut [0; 16]).unwrap_or(0), 0);
    let mut ping = open(&agent, Request::Ping);
    assert_eq!(frame::read(&mut ping).unwrap(), Some(Event::Acknowledged));
}

#[test]
fn a_shutdown_outside_a_machine_is_refused() {
    let shutdown = Request::Shutdown(wire::agent::Shutdown::PowerOff);
    let mut stream = open(&Agent::new(), shutdown);
    assert!(matches!(
        frame::read(&mut stream).unwrap(),
        Some(Event::Failed(_))
    ));
}
