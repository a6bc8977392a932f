//! Any sequence of accesses: nothing panics, and what must hold holds.

use crate::machine::{Log, Machine, OFFERED, WINDOW, function};
use pci::PciFunction;
use pci::virtio::VirtioPciState;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Access {
    Config(u64, Vec<u8>, bool),
    Memory(u64, Vec<u8>, bool),
    /// A well-formed step, so that random walks get anywhere.
    Negotiate(u64),
    Queue(u64, u64, u64),
    Status(u8),
    NeedsReset,
}

fn access() -> impl Strategy<Value = Access> {
    let bytes = || {
        prop_oneof![
            vec(any::<u8>(), 0..17),
            vec(Just(0xff), 1..9),
            vec(Just(0), 1..9)
        ]
    };
    let register = prop_oneof![0u64..0x110, 0x40u64..0xb0, 0u64..0x1000, any::<u64>()];
    let bar = prop_oneof![
        0u64..0x40,
        0x1000u64..0x1004,
        0x2000u64..0x3010,
        0x3000u64..0x3010,
        0x4000u64..0x4040,
        0x6ff0u64..0x7010,
        0u64..0x9000,
    ];
    prop_oneof![
        3 => (register, bytes(), any::<bool>()).prop_map(|(a, b, w)| Access::Config(a, b, w)),
        5 => (bar, bytes(), any::<bool>()).prop_map(|(a, b, w)| Access::Memory(a, b, w)),
        1 => any::<u64>().prop_map(|f| Access::Negotiate(f & OFFERED | 1 << 32)),
        1 => (0u64..4, 0u32..17, 0u64..0x12_0000)
            .prop_map(|(q, size, base)| Access::Queue(q, 1 << size, base & !0xf)),
        1 => any::<u8>().prop_map(Access::Status),
        1 => Just(Access::NeedsReset),
    ]
}

fn perform(machine: &Machine, access: &Access) {
    let decoded = machine.bus.read_memory(WINDOW, &mut [0]);
    match access {
        Access::Config(register, data, true) => machine.set_config(*register & 0xffff, data),
        Access::Config(register, data, false) => {
            machine.bus.read_ecam(*register, &mut data.clone());
        }
        Access::Memory(offset, data, true) => {
            machine.bus.write_memory(WINDOW + offset, data);
        }
        Access::Memory(offset, data, false) => {
            machine.bus.read_memory(WINDOW + offset, &mut data.clone());
        }
        Access::Negotiate(features) if decoded => {
            machine.negotiate(*features);
        }
        Access::Queue(queue, size, base) if decoded => machine.queue(*queue, *size, *base),
        Access::Status(status) if decoded => machine.write::<1>(0x14, (*status).into()),
        Access::NeedsReset => machine.interrupts.needs_reset(),
        _ => {}
    }
}

/// What the device was told makes sense in this order: it is started at most once between resets,
/// after its features were accepted, and hears of notifications only while it runs.
fn check(log: &[String]) {
    let (mut accepted, mut active) = (false, false);
    for line in log {
        match line.split(' ').next().unwrap() {
            "reset" => (accepted, active) = (false, false),
            "accept" => {
                assert!(!accepted, "features are accepted once: {log:?}");
                accepted = true;
            }
            "activate" => {
                assert!(accepted && !active, "{log:?}");
                active = true;
            }
            "notify" | "queue" => assert!(active, "{log:?}"),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_sequence_of_accesses_keeps_the_invariants(accesses in vec(access(), 0..60)) {
        let machine = Machine::new(false);
        machine.enable();
        for access in &accesses {
            perform(&machine, access);
        }
        prop_assert_eq!(machine.config(0), 0x105a_1af4);
        prop_assert_eq!(machine.config(8), 0x0180_0001);
        prop_assert_eq!(machine.config(0x10) & 0x7fff, 0xc);
        check(&machine.log.take());
    }

    #[test]
    fn reads_in_pieces_and_reads_as_a_whole_agree(
        accesses in vec(access(), 0..30),
        offset in prop_oneof![0u64..0x40, 0x2000u64..0x2010, 0x4000u64..0x4030],
        len in 1usize..9,
    ) {
        let log = Log::default();
        let (function, interrupts) = function(&log, false);
        let machine = Machine::with(Box::new(function), log, interrupts);
        machine.enable();
        for access in &accesses {
            perform(&machine, access);
        }
        let mut whole = vec![0; len];
        if machine.bus.read_memory(WINDOW + offset, &mut whole) {
            for (at, byte) in (offset..).zip(whole) {
                prop_assert_eq!(machine.read::<1>(at), u64::from(byte), "at {:#x}", at);
            }
        }
    }

    #[test]
    fn a_saved_function_comes_back_the_same(accesses in vec(access(), 0..40)) {
        let log = Log::default();
        let (mut original, _) = function(&log, false);
        original.assign_bar(0, WINDOW);
        original.write_config(4, &[6, 0]);
        for access in &accesses {
            match access {
                Access::Config(at, data, _) => original.write_config((*at & 0xff) as u16, data),
                Access::Memory(at, data, _) => original.write_bar(0, *at, data),
                _ => {}
            }
        }
        let state = original.save();
        let bytes = postcard::to_allocvec(&state).unwrap();
        let decoded: VirtioPciState = postcard::from_bytes(&bytes).unwrap();
        let (mut copy, _) = function(&Log::default(), false);
        copy.restore(decoded).unwrap();
        prop_assert_eq!(copy.save(), state);
    }

    #[test]
    fn an_arbitrary_state_never_panics(bytes in vec(any::<u8>(), 0..600)) {
        if let Ok(state) = postcard::from_bytes::<VirtioPciState>(&bytes) {
            let _ = function(&Log::default(), false).0.restore(state);
        }
    }
}
