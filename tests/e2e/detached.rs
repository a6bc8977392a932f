//! Machines that run by themselves.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    console,
    layout::{Layer, Layout},
    support::{all_gone, eventually, fails_of, family, lives, programs, send, stdout_of, tests},
};

tests![
    a_machine_outlives_its_caller_and_is_reached_by_its_name,
    a_keeper_that_is_killed_leaves_a_machine_that_can_be_started,
    a_machine_that_fails_is_started_anew_until_it_is_stopped,
    what_cannot_be_started_leaves_nothing,
    a_log_is_followed_to_the_machine_s_end,
    the_socket_answers_programs_and_refuses_nonsense,
    what_is_written_is_kept_from_one_start_to_the_next,
    a_machine_is_ended_while_it_is_started,
    a_command_that_nobody_waits_for_is_hung_up_on,
    a_machine_that_is_paused_stands_still,
    a_command_is_typed_to_and_watched,
    a_machine_without_a_command_is_typed_to_and_watched,
    a_device_is_restarted_under_a_running_guest,
];

/// Machines of nobody else.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        // The default permissions of a temporary directory are what a place has to have.
        Self(tempfile::tempdir().unwrap())
    }

    fn crumble(&self, line: &str) -> Command {
        let mut command = Command::new(programs().join("crumble"));
        command.args(line.split(' ')).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", self.0.path());
        command
    }

    fn script(&self, line: &str, script: &str) -> Command {
        let mut command = self.crumble(line);
        command.args(["--", "sh", "-c", script]);
        command
    }

    fn stdout(&self, line: &str) -> String {
        stdout_of(self.crumble(line))
    }

    /// `crumble ps --all`, of the one machine that there is.
    fn listed(&self) -> Value {
        let list: Value = serde_json::from_str(&self.stdout("ps --all --json")).unwrap();
        list[0].clone()
    }

    fn keeper(&self) -> u32 {
        let keeper = self.listed()["state"]["keeper"].as_u64().unwrap();
        keeper.try_into().unwrap()
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.0.path().join("crumblecracker").join(name)
    }
}

/// A test that fails leaves no machine.
impl Drop for Place {
    fn drop(&mut self) {
        let names = self.crumble("ps --quiet --all").output().unwrap().stdout;
        for name in String::from_utf8_lossy(&names).lines() {
            let _ = self.crumble(&format!("rm --force {name}")).output();
        }
    }
}

fn a_machine_outlives_its_caller_and_is_reached_by_its_name() {
    let place = Place::new();
    let script = "echo out; echo err >&2; trap 'exit 5' TERM; while :; do sleep 0.1; done";
    let run = place.script("run -d -e COLOUR=blue --network none busybox", script);
    let name = stdout_of(run).trim().to_owned();
    assert_eq!(place.stdout("ps --quiet"), format!("{name}\n"));
    let log = || place.crumble(&format!("logs {name}")).output().unwrap();
    eventually("the command has written nothing", || {
        log().stderr == b"err\n"
    });
    assert_eq!(log().stdout, b"out\n");

    let exec = place.script(
        &format!("exec -w /proc {name}"),
        "echo $COLOUR; pwd; exit 9",
    );
    let output = { exec }.output().unwrap();
    assert_eq!(output.stdout, b"blue\n/proc\n");
    assert_eq!(output.status.code(), Some(9));
    let mut exec = place.crumble(&format!("exec -i {name} -- sh -c"));
    exec.arg("tr a-z A-Z")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = exec.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"shout").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"SHOUT");
    fails_of(
        place.crumble(&format!("exec {name} nothing-like-that")),
        127,
        &[],
    );

    assert!(place.stdout(&format!("stats {name}")).contains("vmm"));
    let inspection = place.stdout(&format!("inspect {name}"));
    assert!(inspection.contains("crumble-vmm"), "{inspection}");
    fails_of(
        place.crumble(&format!("rm {name}")),
        125,
        &["running", "crumble stop"],
    );
    fails_of(place.crumble(&format!("start {name}")), 125, &["running"]);

    let family = family(place.keeper());
    assert_eq!(place.stdout(&format!("stop {name}")), format!("{name}\n"));
    for (pid, title) in family {
        assert!(!lives(pid, &title), "{title} still lives");
    }
    assert_eq!(place.stdout(&format!("wait {name}")), "5\n");
    fails_of(
        place.crumble(&format!("exec {name} true")),
        125,
        &["not running", "crumble start"],
    );
    assert_eq!(place.stdout("ps --quiet"), "");
    assert_eq!(place.stdout("ps --quiet --all"), format!("{name}\n"));
    place.stdout(&format!("rm {name}"));
    assert_eq!(place.stdout("ps --quiet --all"), "");
    fails_of(
        place.crumble(&format!("logs {name}")),
        125,
        &[&name, "crumble ps"],
    );
}

fn a_keeper_that_is_killed_leaves_a_machine_that_can_be_started() {
    let place = Place::new();
    place.stdout("run -d --name here --network none busybox sleep 1000");
    let keeper = place.keeper();
    let family = family(keeper);
    assert!(family.len() >= 4, "{family:?}");
    send(keeper, Signal::SIGKILL);
    all_gone(&family);
    assert!(
        place.listed()["status"]
            .as_str()
            .unwrap()
            .contains("killed")
    );
    fails_of(place.crumble("wait here"), 125, &["no exit code"]);
    place.stdout("start here");
    assert_eq!(place.listed()["state"]["status"], "running");
    place.stdout("kill here");
    assert_eq!(place.stdout("wait here"), "137\n");
    // A keeper that is asked to end ends its machine in good order.
    place.stdout("restart here");
    send(place.keeper(), Signal::SIGTERM);
    assert_eq!(place.stdout("wait here"), "143\n");
}

fn a_machine_that_fails_is_started_anew_until_it_is_stopped() {
    let place = Place::new();
    let run = "run -d --name here --restart on-failure --network none busybox";
    stdout_of(place.script(run, "echo life; exit 3"));
    eventually("it was not started anew", || {
        place.listed()["state"]["restarts"].as_u64() >= Some(1)
    });
    eventually("its second life is not in the log", || {
        place.stdout("logs here").matches("life\n").count() >= 2
    });
    place.stdout("stop here");
    assert_eq!(place.stdout("ps --quiet"), "");
    // What has done its work has not failed.
    stdout_of(place.script(run, "exit 0"));
    assert_eq!(place.stdout("wait here"), "0\n");
}

fn what_cannot_be_started_leaves_nothing() {
    let place = Place::new();
    let run = "run -d --network none busybox";
    fails_of(
        place.crumble(&format!("{run} nothing-like-that")),
        127,
        &["nothing-like-that"],
    );
    fails_of(
        place.crumble("run -d --network none ./nowhere true"),
        125,
        &["nowhere"],
    );
    fails_of(place.crumble("run -d --cpus 0 busybox true"), 2, &["CPUs"]);
    fails_of(
        place.crumble("run -d --timeout 5s busybox true"),
        125,
        &["--timeout", "-d"],
    );
    fails_of(
        place.crumble("start nobody"),
        125,
        &["nobody", "crumble ps"],
    );
    assert_eq!(place.stdout("ps --quiet --all"), "");
    place.stdout("run -d --rm --network none busybox true");
    eventually("it is kept", || place.stdout("ps --quiet --all").is_empty());
    // A machine may be described before what it is made of is there.
    assert_eq!(
        place.stdout("create --name later --network none busybox true"),
        "later\n"
    );
    assert_eq!(place.listed()["status"], "created");
    place.stdout("start later");
    assert_eq!(place.stdout("wait later"), "0\n");
}

fn a_log_is_followed_to_the_machine_s_end() {
    let place = Place::new();
    let script = "for i in 1 2 3; do echo line $i; sleep 0.3; done; printf end";
    stdout_of(place.script("run -d --name here --network none busybox", script));
    let followed = place.stdout("logs --follow here");
    assert_eq!(followed, "line 1\nline 2\nline 3\nend");
    assert_eq!(place.stdout("logs --tail 2 here"), "line 3\nend");
    let timed = place.stdout("logs --timestamps here");
    assert!(
        timed
            .lines()
            .all(|line| line.starts_with("20") && line.contains("Z ")),
        "{timed}"
    );
}

fn the_socket_answers_programs_and_refuses_nonsense() {
    let place = Place::new();
    place.stdout("run -d --name here --network none busybox sleep 1000");
    let socket = place.directory("here").join("api");
    let ask = |text: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let get = |path: &str| ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let metrics = get("/v1/metrics");
    assert!(
        metrics.contains("crumble_process_private_bytes{process=\"vmm\"}"),
        "{metrics}"
    );
    assert!(get("/v1/machine").contains("\"status\":\"running\""));
    for (request, status) in [
        ("GET /v1/nothing HTTP/1.1\r\n\r\n", "404"),
        ("GET /v1/stop HTTP/1.1\r\n\r\n", "405"),
        ("GET /v1/agent HTTP/1.1\r\n\r\n", "426"),
        (
            "POST /v1/stop HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
            "400",
        ),
        (
            "POST /v1/kill HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"signal\":99}",
            "400",
        ),
        (
            "POST /v1/kill HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
            "400",
        ),
        ("what\r\n\r\n", "400"),
    ] {
        let answer = ask(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    // Who asks for nothing costs nothing.
    let _idle: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    assert_eq!(place.stdout("exec here echo yes"), "yes\n");
    let waiter = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| get("/v1/wait"));
        place.stdout("kill --signal TERM here");
        waiter.join().unwrap()
    });
    assert!(waiter.contains("\"code\":143"), "{waiter}");
}

fn what_is_written_is_kept_from_one_start_to_the_next() {
    let place = Place::new();
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::new([Layer::busybox()], &json!({"StopSignal": "SIGUSR1"}));
    let crumble = |line: &str| {
        let mut command = place.crumble(line);
        command.env("XDG_DATA_HOME", home.path());
        stdout_of(command)
    };
    let script = "trap 'exit 44' USR1; while :; do sleep 0.1; done";
    let mut run = place.script(
        &format!("run -d --name here --network none {}", layout.name()),
        script,
    );
    run.env("XDG_DATA_HOME", home.path());
    stdout_of(run);
    crumble("exec here busybox cp /bin/busybox /kept");
    crumble("stop here");
    assert_eq!(crumble("wait here"), "44\n");
    crumble("start here");
    crumble("exec here busybox cmp /bin/busybox /kept");
    crumble("rm --force here");
    let machines = home.path().join("crumblecracker/machines");
    assert_eq!(std::fs::read_dir(machines).unwrap().count(), 0);
}

fn a_machine_is_ended_while_it_is_started() {
    let place = Place::new();
    let mut run = place.crumble("run -d --name here --network none busybox sleep 1000");
    let child = run
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("there is no keeper", || {
        place.directory("here").join("api").exists()
    });
    place.stdout("kill here");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    // Who is interrupted has not started anything.
    let mut run = place.crumble("run -d --name here --network none busybox sleep 1000");
    let child = run
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("there is no keeper", || {
        place.directory("here").join("api").exists()
    });
    let family = family(child.id());
    send(child.id(), Signal::SIGINT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    all_gone(&family);
    assert_eq!(place.stdout("ps --quiet --all"), "");
}

fn a_command_that_nobody_waits_for_is_hung_up_on() {
    let place = Place::new();
    place.stdout("run -d --name here --network none busybox sleep 1000");
    let mut exec = place.crumble("exec here sleep 7777");
    let mut child = exec.spawn().unwrap();
    let sleeps = || place.stdout("exec here ps").contains("sleep 7777");
    eventually("it does not run", sleeps);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it still runs", || !sleeps());
}

fn a_machine_that_is_paused_stands_still() {
    let place = Place::new();
    let script = "while :; do echo tick; sleep 0.1; done";
    stdout_of(place.script("run -d --name here --network none busybox", script));
    let ticks = || place.stdout("logs here").lines().count();
    let goes_on = |before: usize| eventually("it stands still", || ticks() > before);
    goes_on(0);
    assert_eq!(place.stdout("pause here"), "here\n");
    assert_eq!(place.listed()["state"]["status"], "paused");
    // What was under way arrives.
    sleep(Duration::from_millis(500));
    let before = ticks();
    sleep(Duration::from_secs(1));
    assert_eq!(ticks(), before);
    assert_eq!(place.stdout("unpause here"), "here\n");
    goes_on(before);
    assert_eq!(place.stdout("exec here echo yes"), "yes\n");
    // One that is paused is ended as any other.
    place.stdout("pause here");
    place.stdout("stop --time 5 here");
    assert_eq!(place.stdout("wait here"), "143\n");
}

fn a_command_is_typed_to_and_watched() {
    let place = Place::new();
    let script = "while read line; do echo heard $line; echo not $line >&2; done";
    stdout_of(place.script("run -d -i --name here --network none busybox", script));
    for word in ["one", "two"] {
        let mut attach = place.crumble("attach here");
        attach
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = attach.spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{word}").unwrap();
        let (mut out, mut err) = ([0; 10], [0; 8]);
        child.stdout.as_mut().unwrap().read_exact(&mut out).unwrap();
        child.stderr.as_mut().unwrap().read_exact(&mut err).unwrap();
        assert_eq!(out, *format!("heard {word}\n").as_bytes());
        assert_eq!(err, *format!("not {word}\n").as_bytes());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let written = place.crumble("logs here").output().unwrap();
    assert_eq!(written.stdout, b"heard one\nheard two\n");
    // With the machine it ends.
    let mut attach = place.crumble("attach here");
    let child = attach
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    place.stdout("kill here");
    assert!(child.wait_with_output().unwrap().status.success());
}

fn a_machine_without_a_command_is_typed_to_and_watched() {
    let place = Place::new();
    let layout = console::layout();
    let name = layout.name();
    let run = "run -d --network none --name here --init /bin/init";
    place.stdout(&format!("{run} {name}"));
    let shows = |words: &str| place.stdout("logs here").contains(words);
    eventually("it asks who logs in", || shows("console login: "));
    let mut attached = place.crumble("attach here");
    attached.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut attached = attached.spawn().unwrap();
    let mut typed = attached.stdin.take().unwrap();
    typed.write_all(b"root\n").unwrap();
    eventually("it asks for the password", || shows("Password: "));
    typed.write_all(b"secret\n").unwrap();
    eventually("a shell", || shows("# "));
    typed.write_all(b"poweroff\n").unwrap();
    assert_eq!(place.stdout("wait here"), "0\n");
    assert!(attached.wait().unwrap().success());
}

fn a_device_is_restarted_under_a_running_guest() {
    let place = Place::new();
    place.stdout("run -d --name here --network user busybox sleep 1000");
    let process = |name: &str| {
        let processes = place.listed()["state"]["processes"].clone();
        let mut processes = processes.as_array().unwrap().iter().cloned();
        processes.find(|process| process["name"] == name).unwrap()
    };
    for device in ["vsock", "net", "fs-root"] {
        let before = process(device);
        place.stdout(&format!("device restart here {device}"));
        let now = process(device);
        assert_ne!(now["pid"], before["pid"], "{device}");
        assert_eq!(now["predecessors"], 1, "{device}");
        let said = stdout_of(place.script("exec here", "ping -c 1 10.0.2.2; echo over"));
        assert!(said.contains(" 0% packet loss"), "{said}");
        assert!(said.ends_with("over\n"), "{said}");
    }
    for wrong in ["vmm", "nothing"] {
        let command = place.crumble(&format!("device restart here {wrong}"));
        fails_of(command, 125, &[wrong, "vsock", "net", "fs-root"]);
    }
    assert_eq!(place.listed()["state"]["status"], "running");
    place.stdout("kill here");
}
