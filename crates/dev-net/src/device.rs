//! The device: pairs of queues and one for control, and a back end behind them.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use device::serve::{Device, Event, Queue, Sources};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::backend::{Backend, Pass};
use crate::config::Config;
use crate::control::{self, Answer, Command};
use crate::header::{Header, feature};
use crate::pcap::Pcap;
use crate::rate::Bucket;
use crate::receive::Receive;

/// Entries of a receive or transmit queue, and of the control queue behind them all (virtio 1.2,
/// section 5.1.2).
const QUEUE_SIZE: u16 = 1024;
const CONTROL_SIZE: u16 = 64;

/// Packets taken from the guest before other events have their turn.
const PACKETS: usize = 256;

/// The longest command: a table of addresses, which is not looked at, may be longer.
const COMMAND: usize = 64;

/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;

/// [`Sources`] tokens: what time demands and what is unfinished, then the back end's.
const CLOCK: u16 = 0;
const FIRST: u16 = 1;

/// Not before the next turn of the loop.
const AT_ONCE: Duration = Duration::from_nanos(1);

/// A virtio network device.
pub struct Net {
    config: Config,
    backend: Box<dyn Backend>,
    features: u64,
    sending: Bucket,
    receiving: Bucket,
    pcap: Option<Pcap>,
    clock: TimerFd,
    /// When the clock strikes.
    set: Option<Instant>,
}

impl Net {
    pub(crate) fn new(
        config: Config,
        backend: Box<dyn Backend>,
        pcap: Option<Pcap>,
    ) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let now = Instant::now();
        let (sending, receiving) = config.rates();
        Ok(Self {
            config,
            backend,
            features: 0,
            sending: Bucket::new(sending, now),
            receiving: Bucket::new(receiving, now),
            pcap,
            clock: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            set: None,
        })
    }

    /// The index of the control queue, which is behind the pairs that there may be.
    fn control_index(&self) -> usize {
        let several = self.features & feature::MQ != 0;
        let pairs = if several { self.config.pairs() } else { 1 };
        usize::from(pairs).saturating_mul(2)
    }

    /// Takes packets from all transmit queues.
    fn transmit_all(&mut self, queues: &mut [Queue<'_>], now: Instant) -> Pass {
        let mut pass = Pass::Finished;
        for pair in 0..self.config.pairs() {
            if self.transmit(queues, pair, now) == Pass::Unfinished {
                pass = Pass::Unfinished;
            }
        }
        pass
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, queues: &mut [Queue<'_>], pair: u16, now: Instant) -> Pass {
        let index = usize::from(pair).saturating_mul(2).saturating_add(1);
        let Some(queue) = queues.get_mut(index) else {
            return Pass::Finished;
        };
        let memory = queue.memory();
        for _ in 0..PACKETS {
            if !self.sending.is_open() {
                return Pass::Finished;
            }
            let Some(chain) = queue.pop() else {
                return Pass::Finished;
            };
            // What is outside of memory is dropped: there is no one to tell.
            if let Some(packet) = chain.readable(&memory) {
                let length = packet.len().saturating_sub(Header::SIZE);
                self.sending.take(length);
                if let Some(pcap) = &mut self.pcap {
                    let mut frame = packet.clone();
                    frame.advance(Header::SIZE);
                    frame.truncate(usize::from(u16::MAX));
                    let mut bytes = vec![0; frame.len()];
                    frame.peek(&mut bytes);
                    pcap.record(&[&bytes]);
                }
                self.backend.transmit(packet, pair, now);
            }
            queue.push(&chain, 0);
        }
        Pass::Unfinished
    }

    /// Delivers what there is for the guest.
    fn receive(&mut self, queues: &mut [Queue<'_>], now: Instant) -> Pass {
        let Some(memory) = queues.first().map(|queue| queue.memory()) else {
            return Pass::Finished;
        };
        let (features, pairs, pcap) = (self.features, self.config.pairs(), self.pcap.as_mut());
        let bucket = &mut self.receiving;
        match Receive::new(queues, pairs, &memory, features, bucket, pcap) {
            Some(mut receive) => self.backend.receive(&mut receive, now),
            None => Pass::Finished,
        }
    }

    /// Obeys commands.
    fn control(&mut self, queue: &mut Queue<'_>) {
        let memory = queue.memory();
        for _ in 0..CONTROL_SIZE {
            let Some(chain) = queue.pop() else { return };
            let mut command = [0; COMMAND];
            let answer = chain.reader(&memory).and_then(|mut reader| {
                let length = reader.read(&mut command).ok()?;
                control::parse(command.get(..length)?)
            });
            let answer = match answer {
                Some(Command::Mac(mac)) => {
                    self.backend.set_mac(mac);
                    Answer::Ok
                }
                Some(Command::Filter) => Answer::Ok,
                // Whatever pair the guest sends by is the one that it uses: nothing need be kept,
                // and so a device that takes another's place misses nothing.
                Some(Command::Pairs(pairs)) if (1..=self.config.pairs()).contains(&pairs) => {
                    Answer::Ok
                }
                Some(Command::Pairs(_)) | None => Answer::Error,
            };
            let mut writer = chain.writer(&memory);
            let written = writer
                .as_mut()
                .and_then(|writer| writer.write(&[answer as u8]).ok());
            let written = written.and_then(|count| u32::try_from(count).ok());
            queue.push(&chain, written.unwrap_or(0));
        }
    }

    /// Sets the clock for what is due next.
    fn set_clock(&mut self, unfinished: bool, now: Instant) {
        let after = |wait: Option<Duration>| wait.and_then(|wait| now.checked_add(wait));
        let waits = [
            self.backend.deadline(),
            after(self.sending.wait()),
            after(self.receiving.wait()),
            unfinished.then_some(now),
        ];
        let Some(next) = waits.into_iter().flatten().min() else {
            return;
        };
        // One that strikes earlier sets it anew.
        if self.set.is_some_and(|set| set <= next) {
            return;
        }
        let wait = next.saturating_duration_since(now).max(AT_ONCE);
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        match self.clock.set(expiration, TimerSetTimeFlags::empty()) {
            Ok(()) => self.set = Some(next),
            Err(error) => device::report(&format!("the clock cannot be set: {error}")),
        }
    }
}

impl Device for Net {
    fn features(&self) -> u64 {
        self.backend.features()
            | feature::MAC
            | feature::MTU
            | feature::STATUS
            | feature::MRG_RXBUF
            | feature::CTRL_VQ
            | feature::CTRL_RX
            | feature::CTRL_MAC_ADDR
            | feature::IN_ORDER
            | if self.config.pairs() > 1 {
                feature::MQ
            } else {
                0
            }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pairs = usize::from(self.config.pairs());
        let mut sizes = vec![QUEUE_SIZE; pairs.saturating_mul(2)];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    /// `struct virtio_net_config` up to the MTU.
    fn config(&self) -> Vec<u8> {
        let mac = self.config.mac();
        let rest = [LINK_UP, self.config.pairs(), self.config.mtu()].map(u16::to_le_bytes);
        [&mac[..], &rest.concat()].concat()
    }

    fn attach(&mut self, sources: Sources) -> io::Result<()> {
        sources.add(self.clock.as_fd(), CLOCK)?;
        self.backend.attach(sources, FIRST)
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features;
        self.backend.negotiated(features);
    }

    fn reset(&mut self) {
        self.backend.set_mac(self.config.mac());
        self.backend.reset();
    }

    fn process(&mut self, event: Event, queues: &mut [Queue<'_>]) -> bool {
        let now = Instant::now();
        self.sending.refill(now);
        self.receiving.refill(now);
        let mut unfinished = false;
        match event {
            Event::Again => {}
            Event::Source(CLOCK, _) => {
                self.set = None;
                unfinished = self.transmit_all(queues, now) == Pass::Unfinished;
            }
            Event::Source(token, readiness) => {
                self.backend
                    .ready(token.saturating_sub(FIRST), readiness, now);
            }
            Event::Queue(index) if index == self.control_index() => {
                if let Some(queue) = queues.get_mut(index) {
                    self.control(queue);
                }
            }
            // Odd ones transmit; what even ones give is taken below.
            Event::Queue(index) => {
                if let Ok(pair) = u16::try_from(index >> 1)
                    && index & 1 == 1
                    && pair < self.config.pairs()
                {
                    unfinished = self.transmit(queues, pair, now) == Pass::Unfinished;
                }
            }
        }
        unfinished |= self.receive(queues, now) == Pass::Unfinished;
        self.set_clock(unfinished, now);
        // Its clock calls it, if there is.
        false
    }
}
