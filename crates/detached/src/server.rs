//! A keeper's socket. Whoever may enter the machine's directory may ask.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Error, Stats,
    api::{AGENT, ATTACH, Complaint, Kill, ROUTES, Replace, Resize, Stop, stop_signal},
    file,
    http::{self, Request, Response},
    keeper::{Input, Running, Shared, describe},
};

/// Connections at a time. A command in the guest has up to four.
const CONNECTIONS: usize = 1024;

/// How long a keeper that has nothing else to do waits for those who are being answered.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// How long a command has after SIGKILL before its machine is ended like that.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// How long the end of a guest's own init is waited for: longer than the machine lets it take.
const INIT_LIMIT: Duration = Duration::from_secs(120);

const SIGKILL: i32 = 9;

/// Answers on the machine's socket as long as this process lives.
pub(crate) fn serve(shared: &Arc<Shared>) -> Result<Connections, Error> {
    let path = shared.directory.socket();
    let listener = UnixListener::bind(&path).map_err(file("listen on", &path))?;
    let connections = Connections::default();
    let accepting = connections.clone();
    let shared = Arc::clone(shared);
    spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => accept(stream, &shared, &accepting),
                // Out of file descriptors: others are closed while this one waits.
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    })
    .map_err(|source| Error::System {
        what: "start a thread",
        source,
    })?;
    Ok(connections)
}

/// How many connections there are.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<AtomicUsize>);

impl Connections {
    /// Waits for answers that are under way, but not long.
    pub(crate) fn drain(&self) {
        let until = Instant::now().checked_add(DRAIN_LIMIT);
        while self.0.load(Ordering::Relaxed) > 0 && Some(Instant::now()) < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name("api".to_owned());
    thread.spawn(body).map(drop)
}

/// Closes the connection if there are too many, or no thread for it.
fn accept(stream: UnixStream, shared: &Arc<Shared>, connections: &Connections) {
    let place = Place(connections.clone());
    if connections.0.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
        return;
    }
    let shared = Arc::clone(shared);
    let _ = spawn(move || {
        let _place = place;
        answer(&stream, &shared);
    });
}

/// A connection's share of [`CONNECTIONS`].
struct Place(Connections);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who is gone before the answer does not need it.
fn answer(stream: &UnixStream, shared: &Shared) {
    let request = match http::read_request(stream) {
        Ok(request) => request,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let _ = http::respond(stream, &complaint(400, &error.to_string()));
            return;
        }
        Err(_) => return,
    };
    let response = match (&*request.method, &*request.path) {
        ("GET", "/v1/machine") => json(&shared.state()),
        ("GET", "/v1/stats") => with(shared, |running| Ok(json(&stats(running)?))),
        ("GET", "/v1/metrics") => with(shared, |running| {
            let text = metrics(&stats(running)?, shared.state().restarts);
            Ok(Response::new(200, text.into_bytes()))
        }),
        ("GET", "/v1/wait") => match shared.wait(None) {
            Some(ended) => json(&ended),
            None => complaint(500, "the machine has no end"),
        },
        ("GET", "/v1/attach") => match attach(stream, &request, shared) {
            Ok(()) => return,
            Err(response) => response,
        },
        ("POST", "/v1/resize") => match body(&request) {
            Ok(size) => resize(shared, size),
            Err(response) => response,
        },
        ("GET", "/v1/agent") => match join(stream, &request, shared) {
            Ok(()) => return,
            Err(response) => response,
        },
        ("POST", "/v1/pause") => pause(shared, true),
        ("POST", "/v1/unpause") => pause(shared, false),
        ("POST", "/v1/replace") => match body(&request) {
            Ok(Replace { device }) => with(shared, |running| {
                running.machine.replace_device(&device)?;
                Ok(done())
            }),
            Err(response) => response,
        },
        ("POST", "/v1/stop") => match body(&request) {
            Ok(Stop { seconds }) => stop(stream, shared, Duration::from_secs(seconds)),
            Err(response) => response,
        },
        ("POST", "/v1/kill") => match body(&request) {
            Ok(Kill { signal }) => kill(stream, shared, signal),
            Err(response) => response,
        },
        (method, path) => unknown(method, path),
    };
    let _ = http::respond(stream, &response);
}

fn unknown(method: &str, path: &str) -> Response {
    if ROUTES.iter().any(|(_, known)| *known == path) {
        complaint(405, &format!("{path} has no {method}"))
    } else {
        complaint(404, &format!("there is no {path}"))
    }
}

fn json(content: &impl Serialize) -> Response {
    match serde_json::to_vec(content) {
        Ok(text) => Response::new(200, text),
        Err(error) => complaint(500, &error.to_string()),
    }
}

/// What was asked for is done, and there is nothing to say of it.
fn done() -> Response {
    json(&serde_json::json!({}))
}

fn complaint(status: u16, error: &str) -> Response {
    let error = error.to_owned();
    let text = serde_json::to_vec(&Complaint { error });
    Response::new(status, text.unwrap_or_default())
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Response> {
    let body = serde_json::from_slice(&request.body);
    body.map_err(|error| complaint(400, &format!("the body makes no sense: {error}")))
}

/// What only a machine that runs can answer.
fn with(
    shared: &Shared,
    answer: impl FnOnce(&Running) -> Result<Response, crumble::Error>,
) -> Response {
    let Some(running) = shared.running() else {
        return not_running();
    };
    answer(&running).unwrap_or_else(|error| complaint(500, &describe(&error)))
}

fn not_running() -> Response {
    complaint(409, "the machine is being started")
}

fn stats(running: &Running) -> Result<Stats, crumble::Error> {
    Ok(Stats {
        exits: running.machine.stats()?.exits,
        processes: running.machine.processes(),
    })
}

/// The text format of Prometheus.
fn metrics(stats: &Stats, restarts: u32) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: Vec<(String, u64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let label = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{{{name}=\"{}\"}}", value.replace('\n', "\\n"))
    };
    let exits = stats.exits.iter();
    family(
        "crumble_vmm_exits_total",
        "counter",
        "Exits of vCPUs to the VMM.",
        exits
            .map(|(reason, count)| (label("reason", reason), *count))
            .collect(),
    );
    let processes = stats.processes.iter();
    family(
        "crumble_process_private_bytes",
        "gauge",
        "Anonymous memory of a process, without the guest's.",
        processes
            .filter_map(|process| Some((label("process", &process.name), process.private_bytes?)))
            .collect(),
    );
    let processes = stats.processes.iter();
    family(
        "crumble_process_replaced_total",
        "counter",
        "How many had the place of this process before it.",
        processes
            .map(|process| (label("process", &process.name), process.predecessors.into()))
            .collect(),
    );
    family(
        "crumble_restarts_total",
        "counter",
        "How often the machine was started anew.",
        vec![(String::new(), restarts.into())],
    );
    text
}

/// Whether the connection is to become what the path is for.
fn upgrades(request: &Request, protocol: &str) -> Result<(), Response> {
    if request.upgrade.as_deref() == Some(protocol) {
        return Ok(());
    }
    Err(complaint(426, &format!("ask with Upgrade: {protocol}")))
}

/// Makes the connection one with the command's streams. Input ends with the connection, and not the
/// command's.
fn attach(mut stream: &UnixStream, request: &Request, shared: &Shared) -> Result<(), Response> {
    upgrades(request, ATTACH)?;
    let lines = shared.watch();
    let input = shared.running().and_then(|running| running.input);
    let failed = |error: io::Error| complaint(500, &error.to_string());
    let from = stream.try_clone().map_err(failed)?;
    http::switch(stream, ATTACH).map_err(failed)?;
    let body = move || {
        let mut from = &from;
        let _ = match input.as_deref() {
            Some(input) => input.take(&mut from),
            None => io::copy(&mut from, &mut io::sink()),
        };
    };
    if spawn(body).is_ok() {
        while let Ok(lines) = lines.recv() {
            if stream.write_all(&lines).is_err() {
                break;
            }
        }
    }
    // Who is too slow is told by the end.
    let _ = stream.shutdown(Shutdown::Both);
    Ok(())
}

fn resize(shared: &Shared, size: Resize) -> Response {
    let Resize { rows, columns } = size;
    let size = crumble::Size { rows, columns };
    with(shared, |running| {
        match (&running.command, running.input.as_deref()) {
            (Some(command), _) => command.resize(size)?,
            (None, Some(Input::Guest(terminal))) => {
                terminal.resize(size).map_err(crumble::Error::Stream)?
            }
            (None, _) => {}
        }
        Ok(done())
    })
}

/// Makes the connection one with the guest's agent.
fn join(stream: &UnixStream, request: &Request, shared: &Shared) -> Result<(), Response> {
    upgrades(request, AGENT)?;
    let running = shared.running().ok_or_else(not_running)?;
    let failed = |error: io::Error| complaint(500, &error.to_string());
    let agent = running.agent().map_err(failed)?;
    drop(running);
    let (to, from) = (agent.try_clone(), stream.try_clone());
    let (to, from) = (to.map_err(failed)?, from.map_err(failed)?);
    http::switch(stream, AGENT).map_err(failed)?;
    if spawn(move || copy(&from, &to)).is_ok() {
        copy(&agent, stream);
    }
    Ok(())
}

/// Copies one direction to its end. If nobody takes it any more, it is closed for its sender as well.
fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    if io::copy(&mut from, &mut to).is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn pause(shared: &Shared, pause: bool) -> Response {
    with(shared, |running| {
        shared.pause(&running.machine, pause)?;
        Ok(done())
    })
}

/// Asks the machine's command to end, and then does not ask.
fn stop(stream: &UnixStream, shared: &Shared, limit: Duration) -> Response {
    shared.stopping();
    let Some(running) = shared.running() else {
        let _ = http::respond(stream, &done());
        shared.abandon();
    };
    // It fails if the machine has just ended.
    let _ = shared.pause(&running.machine, false);
    let ended = match &running.command {
        Some(command) => {
            // It fails if the command, or the machine, has just ended.
            let _ = command.signal(stop_signal(&running.config));
            shared.wait(Some(limit)).or_else(|| {
                let _ = command.signal(SIGKILL);
                shared.wait(Some(AFTER_KILL))
            })
        }
        None => {
            let _ = running.machine.shutdown();
            shared.wait(Some(INIT_LIMIT))
        }
    };
    let ended = ended.or_else(|| {
        shared.kill(&running.machine);
        shared.wait(Some(AFTER_KILL))
    });
    match ended {
        Some(ended) => json(&ended),
        None => complaint(500, "the machine does not end"),
    }
}

fn kill(stream: &UnixStream, shared: &Shared, signal: i32) -> Response {
    let running = shared.running();
    match (running, signal) {
        (Some(running), SIGKILL) => {
            shared.kill(&running.machine);
            done()
        }
        (None, SIGKILL) => {
            let _ = http::respond(stream, &done());
            shared.abandon();
        }
        (None, _) => not_running(),
        (Some(Running { command: None, .. }), _) => {
            complaint(409, "the machine runs no command that could take a signal")
        }
        (
            Some(Running {
                command: Some(command),
                ..
            }),
            1..=64,
        ) => match command.signal(signal) {
            Ok(()) => done(),
            Err(error) => complaint(500, &describe(&error)),
        },
        _ => complaint(400, &format!("{signal} is no signal")),
    }
}

#[cfg(test)]
mod tests {
    use crumble::ProcessInfo;

    use super::*;

    #[test]
    fn metrics_are_in_the_format_of_prometheus() {
        let stats = Stats {
            exits: [("a \"b\"".to_owned(), 3)].into(),
            processes: vec![ProcessInfo {
                name: "vmm".to_owned(),
                pid: 1,
                private_bytes: Some(4096),
                predecessors: 2,
            }],
        };
        let text = metrics(&stats, 2);
        for line in [
            "# TYPE crumble_vmm_exits_total counter",
            "crumble_vmm_exits_total{reason=\"a \\\"b\\\"\"} 3",
            "crumble_process_private_bytes{process=\"vmm\"} 4096",
            "crumble_process_replaced_total{process=\"vmm\"} 2",
            "crumble_restarts_total 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }

    #[test]
    fn the_description_has_every_route_and_no_other() {
        let text = include_str!("../../../docs/api.yaml");
        let mut described = Vec::new();
        let mut path = "";
        for line in text.lines() {
            if let Some(found) = line.strip_prefix("  /") {
                path = found.trim_end_matches(':');
            } else if let Some(method) = line.strip_prefix("    ")
                && let method @ ("get:" | "post:") = method
            {
                let method = method.trim_end_matches(':').to_uppercase();
                described.push((method, format!("/{path}")));
            }
        }
        let own = ROUTES.map(|(method, path)| (method.to_owned(), path.to_owned()));
        assert_eq!(described, own);
    }
}
