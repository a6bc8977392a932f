//! What costs nothing while nothing happens. Alone in its process, whose time it measures.

mod guest;
mod stack;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use guest::{ALL, Guest, Host, config, dialer};
use nix::time::{ClockId, clock_gettime};
use smoltcp::socket::tcp::State;
use stack::Stack;

/// What this process had of the CPUs.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .unwrap()
        .into()
}

#[test]
fn a_connection_that_only_the_guest_has_ended_costs_nothing() {
    let host = Host::start(config(65520));
    dialer::serve(&host);
    let mut stack = Stack::new(Guest::start(&host, ALL, 4096), 65520, false);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
    let handle = stack.connect(4096, (address, port), 40_000);
    stack.await_state(handle, State::Established);
    let (_stream, _) = listener.accept().unwrap();
    stack.tcp(handle).close();
    stack.await_state(handle, State::FinWait2);
    let before = cpu_time();
    thread::sleep(Duration::from_millis(500));
    let spent = cpu_time().saturating_sub(before);
    assert!(spent < Duration::from_millis(50), "{spent:?}");
}
