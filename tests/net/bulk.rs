//! Many bytes, and many connections.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{
    lab::Lab,
    namespace::{Namespace, PATIENCE, Running},
    peer, programs,
};

crate::tests![
    a_gibibyte_passes_to_the_internet_though_either_end_stops_half_way,
    a_gibibyte_passes_to_the_guest_though_either_end_stops_half_way,
    eight_streams_pass_both_ways_at_once,
    five_thousand_idle_connections_are_no_hindrance,
];

/// Each direction twice makes a gibibyte.
const HALF: u64 = 512 << 20;

/// How long an end is stopped: every buffer on the way is full long before.
const PAUSE: Duration = Duration::from_millis(700);

/// The guest connects; it sends, or it takes. One of the ends stops half-way.
fn pass_bytes(what: [&str; 2], guest_stops: bool) {
    let lab = Lab::new();
    let address = format!("{}:7000", Lab::V4);
    let [from_guest, from_internet] = what;
    let internet = peer::command("listen", &address, from_internet, HALF);
    let mut internet = lab.internet.spawn(internet);
    await_port(&lab.internet);
    let guest = peer::command("connect", &address, from_guest, HALF);
    let mut guest = lab.guest.spawn(guest);
    pause(if guest_stops {
        &mut guest
    } else {
        &mut internet
    });
    for (name, end) in [("guest", guest), ("internet", internet)] {
        let mut end = end;
        assert!(end.0.wait().unwrap().success(), "the end in {name}");
    }
}

/// A connection by way of trying would be the only one.
pub(crate) fn await_port(place: &Namespace) {
    crate::namespace::eventually("the other end does not listen", || {
        place.sh("ss --listening --tcp --numeric").contains(":7000")
    });
}

fn pause(end: &mut Running) {
    let mut said = String::new();
    let stdout = end.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut said).unwrap();
    assert_eq!(said, "half\n");
    let pid = Pid::from_raw(i32::try_from(end.0.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    thread::sleep(PAUSE);
    kill(pid, Signal::SIGCONT).unwrap();
}

fn a_gibibyte_passes_to_the_internet_though_either_end_stops_half_way() {
    for guest_stops in [true, false] {
        pass_bytes(["send", "take"], guest_stops);
    }
}

fn a_gibibyte_passes_to_the_guest_though_either_end_stops_half_way() {
    for guest_stops in [true, false] {
        pass_bytes(["take", "send"], guest_stops);
    }
}

fn eight_streams_pass_both_ways_at_once() {
    let lab = Lab::new();
    let _server = programs::iperf3(&lab);
    for direction in ["", "--reverse", "--bidir"] {
        let script = format!("iperf3 --client {} -P 8 -n 128M {direction}", Lab::V4);
        let said = lab.guest.sh(&script);
        assert!(said.contains("iperf Done."), "{said}");
    }
}

fn five_thousand_idle_connections_are_no_hindrance() {
    const IDLE: usize = 5000;
    const ACTIVE: u64 = 128 << 20;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let most = most.max(3 * IDLE as u64);
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let lab = Lab::new();
    let listener = lab
        .internet
        .run(|| TcpListener::bind((Lab::V4, 7000)).unwrap());
    let mut pairs = lab.guest.run(|| {
        let pair = |_| {
            let guest = TcpStream::connect((Lab::V4, 7000)).unwrap();
            (guest, listener.accept().unwrap().0)
        };
        (0..IDLE).map(pair).collect::<Vec<_>>()
    });
    let (guest, internet) = pairs.pop().unwrap();
    for stream in [&guest, &internet] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| peer::send(&guest, ACTIVE, || ()));
        peer::take(&internet, ACTIVE, || ());
        drop(internet);
    });
    // The others are what they were.
    for (guest, internet) in pairs.iter_mut().step_by(97) {
        guest.write_all(b"?").unwrap();
        internet.set_read_timeout(Some(PATIENCE)).unwrap();
        internet.read_exact(&mut [0]).unwrap();
    }
}
