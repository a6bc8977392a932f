//! The components' side.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::unix::net::{UnixListener, UnixStream},
    process::ExitCode,
    thread,
};

use crate::layer;
use handoff::{Channel, Launched, launched};
use wire::{
    fs,
    net::{self, DialerConfig, DialerRequest},
    unpack::{Config, Outcome, Summary},
    vmm::{self, Event, Request, Stats},
};

/// Serves as this component until the supervisor is gone.
pub(crate) fn run(component: &str) -> ExitCode {
    match component {
        "crumble-vmm" => vmm(),
        "crumble-dev-net" => dev_net(),
        "crumble-dialer" => dialer(),
        "crumble-dev-fs" => dev_fs(),
        "crumble-unpack" => unpack(),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

/// Holds the connections to the devices, and counts how often the network device's was replaced.
/// The power button makes it give up the network device's first connection.
fn vmm() {
    let Launched {
        config,
        mut resources,
        answer,
    } = launched::<vmm::Config>().unwrap();
    let mut connections: BTreeMap<String, UnixStream> = config
        .devices
        .iter()
        .map(|device| {
            let stream = resources.take(&device.resource).unwrap();
            (device.name.clone(), UnixStream::from(stream))
        })
        .collect();
    let channel = answer.ready().unwrap();
    let mut exits = BTreeMap::from([("lives".to_owned(), 0)]);
    while let Ok(Some((request, fds))) = channel.receive::<Request>() {
        let event = match request {
            Request::Stats => Event::Stats(Stats {
                exits: exits.clone(),
            }),
            Request::PowerButton => Event::DeviceLost {
                name: "net".to_owned(),
                life: 0,
                reason: "it was silent".to_owned(),
            },
            Request::Replace { name, life } => {
                let stream = UnixStream::from(fds.into_iter().next().unwrap());
                connections.insert(name, stream);
                exits.insert("lives".to_owned(), life.into());
                continue;
            }
        };
        channel.send(&event, &[]).unwrap();
    }
}

/// Notes in its record of packets what the dialer says.
fn dev_net() {
    let Launched {
        mut resources,
        answer,
        ..
    } = launched::<net::Config>().unwrap();
    let listener = UnixListener::from(resources.take("vhost-user").unwrap());
    let streams = Channel::from_fd(resources.take("streams").unwrap());
    resources.take("datagrams").unwrap();
    let mut record = File::from(resources.take("pcap").unwrap());
    assert_eq!(resources.names().count(), 0);
    let channel = answer.ready().unwrap();
    let _connection = listener.accept().unwrap();
    thread::spawn(move || {
        while let Ok(Some((text, _))) = streams.receive::<String>() {
            writeln!(record, "{text}").unwrap();
        }
    });
    until_closed(&channel);
}

/// Says which name servers it knows, and how many ports are published.
fn dialer() {
    let Launched {
        config,
        mut resources,
        answer,
    } = launched::<DialerConfig>().unwrap();
    let streams = Channel::from_fd(resources.take("streams").unwrap());
    resources.take("datagrams").unwrap();
    let published = (0..config.publish.len())
        .map(|index| resources.take(&format!("publish-{index}")).unwrap())
        .count();
    assert_eq!(resources.names().count(), 0);
    let channel = answer.ready().unwrap();
    let say = |what: String| streams.send(&what, &[]).unwrap();
    say(format!("{published} ports, {:?}", config.nameservers));
    while let Ok(Some((request, _))) = channel.receive::<DialerRequest>() {
        let DialerRequest::Nameservers(servers) = request;
        say(format!("changed, {servers:?}"));
    }
}

fn dev_fs() {
    let launched = launched::<fs::Config>().unwrap();
    until_closed(&launched.ready().unwrap());
}

/// Does what the digest says; what it reads and writes shows that it has the right files.
fn unpack() {
    let Launched {
        config,
        mut resources,
        answer,
    } = launched::<Config>().unwrap();
    let mut layer = File::from(resources.take("layer").unwrap());
    let mut image = File::from(resources.take("image").unwrap());
    assert_eq!(resources.names().count(), 0);
    let channel = answer.ready().unwrap();
    match config.diff_id[0] {
        layer::DONE => {
            std::io::copy(&mut layer, &mut image).unwrap();
            let summary = Summary {
                inodes: 7,
                ..Summary::default()
            };
            channel.send(&Outcome::Done(summary), &[]).unwrap();
        }
        layer::FAILED => {
            // More than the pipe of the log holds.
            std::io::stderr().write_all(&[b'.'; 1 << 20]).unwrap();
            let why = "it is \u{1b}damaged".to_owned();
            channel.send(&Outcome::Failed(why), &[]).unwrap();
        }
        layer::DIES => panic!("its last words"),
        _ => until_closed(&channel),
    }
}

fn until_closed(channel: &Channel) {
    while let Ok(Some(_)) = channel.receive::<()>() {}
}
