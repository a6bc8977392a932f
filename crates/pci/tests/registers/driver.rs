//! A driver's way through the registers, correct and incorrect.

use crate::machine::{Log, Machine, NOTIFY, OFFERED, RAM, WINDOW, function};
use pci::{Bus, Error, HostBridge};

#[test]
fn a_driver_that_follows_the_specification_brings_the_device_up() {
    let machine = Machine::new(false);
    machine.enable();
    assert_eq!(machine.negotiate(1 << 32 | 1), 0xb);
    machine.write::<2>(0x10, 0);
    machine.queue(0, 64, 0x1000);
    machine.queue(1, 128, 0x8000);
    machine.write::<1>(0x14, 0xf);
    assert_eq!(machine.status(), 0xf);
    machine.write::<2>(NOTIFY + 4, 1);
    let activated = format!(
        "activate [(0, 64, Some(1)), (1, 128, Some(2))] at Some({:x})",
        WINDOW + NOTIFY
    );
    let expected = ["reset", "accept 0x100000001", &activated, "notify 1"];
    assert_eq!(machine.log.take(), expected);
}

#[test]
fn the_registers_show_the_device_to_its_driver() {
    let machine = Machine::new(false);
    machine.enable();
    assert_eq!(machine.config(0), 0x105a_1af4);
    assert_eq!(machine.config(8), 0x0180_0001);
    machine.write::<4>(0, 1);
    assert_eq!(machine.read::<4>(4), OFFERED >> 32);
    machine.write::<4>(0, 0);
    assert_eq!(machine.read::<4>(4), OFFERED & 0xffff_ffff);
    machine.write::<4>(0, 2);
    assert_eq!(machine.read::<4>(4), 0);
    assert_eq!(machine.read::<2>(0x12), 2);
    for (queue, size) in [(0, 256), (1, 128), (2, 0), (0xffff, 0)] {
        machine.write::<2>(0x16, queue);
        assert_eq!(machine.read::<2>(0x18), size);
    }
    assert_eq!(machine.read::<8>(0x2000), u64::from_le_bytes(*b"rootroot"));
    assert_eq!(
        machine.read::<8>(0x2004),
        u64::from(u32::from_le_bytes(*b"root"))
    );
    assert_eq!(machine.read::<8>(0x2ffc), 0);
}

#[test]
fn the_capabilities_lead_to_every_region() {
    let machine = Machine::new(false);
    let mut at = u64::from(machine.config(0x34) & 0xff);
    let mut seen = Vec::new();
    while at != 0 {
        let head = machine.config(at);
        let kind = head >> 24;
        match head & 0xff {
            0x11 => seen.push((0, machine.config(at + 4), machine.config(at + 8))),
            _ => seen.push((kind, machine.config(at + 8), machine.config(at + 12))),
        }
        if kind == 2 && head & 0xff == 9 {
            assert_eq!(machine.config(at + 16), 4, "notify_off_multiplier");
        }
        at = u64::from(head >> 8 & 0xff);
    }
    let expected = [
        (0, 0x4000, 0x7000),
        (1, 0x0000, 0x38),
        (2, 0x3000, 8),
        (3, 0x1000, 1),
        (4, 0x2000, 0x1000),
        (5, 0, 0),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn features_that_were_not_offered_or_lack_version_1_are_refused() {
    let machine = Machine::new(false);
    machine.enable();
    assert_eq!(machine.negotiate(1 << 32 | 1 << 5), 3);
    assert_eq!(machine.negotiate(1), 3);
    assert_eq!(machine.negotiate(1 << 33 | 1 << 32), 3);
    assert_eq!(machine.log.take(), ["reset"; 3], "the device is not asked");
    assert_eq!(machine.negotiate(OFFERED), 0xb);
    machine.write::<4>(0x0c, 0);
    assert_eq!(machine.read::<4>(0x0c), OFFERED >> 32, "too late to change");
}

#[test]
fn a_bad_queue_ends_in_needs_reset_with_an_interrupt_once_the_driver_is_up() {
    let bad = [
        (0, 0x1000),
        (3, 0x1000),
        (512, 0x1000),
        (64, 0x1008),
        (64, RAM),
        (64, 1 << 63),
    ];
    for (size, base) in bad {
        let machine = Machine::new(false);
        machine.enable();
        machine.negotiate(1 << 32);
        machine.write::<2>(0x10, 0);
        machine.queue(0, size, base);
        assert_eq!(machine.status(), 0x4b, "{size} at {base:#x}");
        assert_eq!(machine.read::<2>(0x1c), 0, "not enabled");
        machine.log.take();
        machine.write::<1>(0x14, 0xf);
        assert_eq!(machine.status(), 0x4f);
        assert_eq!(
            machine.log.take(),
            ["vector 0 fires"],
            "and the device is never started"
        );
        machine.write::<1>(0x14, 0);
        assert_eq!(machine.status(), 0);
    }
}

#[test]
fn an_enabled_queue_cannot_be_changed_and_none_is_added_later() {
    let machine = Machine::new(false);
    machine.enable();
    machine.negotiate(1 << 32);
    machine.queue(0, 64, 0x1000);
    machine.queue(0, 32, 0x8000);
    assert_eq!(
        (machine.read::<2>(0x18), machine.read::<8>(0x20)),
        (64, 0x1000)
    );
    machine.write::<1>(0x14, 0xf);
    assert_eq!(machine.status(), 0xf);
    machine.queue(1, 64, 0x8000);
    assert_eq!(machine.status(), 0x4f);
}

#[test]
fn driver_ok_without_features_ok_does_not_start_the_device() {
    let machine = Machine::new(false);
    machine.enable();
    machine.write::<1>(0x14, 7);
    assert_eq!(machine.status(), 0x47);
    assert_eq!(machine.log.take(), [""; 0]);
}

#[test]
fn a_device_that_does_not_start_leaves_needs_reset_and_interrupts() {
    let log = Log::default();
    let (mut function, interrupts) = function(&log, false);
    function.backend().broken = false;
    let machine = Machine::with(Box::new(function), log, interrupts);
    machine.enable();
    machine.negotiate(1 << 32);
    machine.write::<2>(0x10, 0);
    machine.write::<1>(0x14, 0xf);
    machine.log.take();
    machine.interrupts.needs_reset();
    machine.interrupts.needs_reset();
    assert_eq!(machine.log.take(), ["vector 0 fires"]);
    assert_eq!(machine.status(), 0x4f);
    assert_eq!(
        (machine.read::<1>(0x1000), machine.read::<1>(0x1000)),
        (2, 0),
        "read clears"
    );
    machine.write::<1>(0x14, 0x10);
    assert_eq!(machine.status(), 0x5f, "only a reset helps");
    machine.write::<1>(0x14, 0);
    assert_eq!(machine.status(), 0);
}

#[test]
fn a_device_that_fails_after_a_reset_reads_as_reset_until_the_driver_begins() {
    let machine = Machine::new(false);
    machine.enable();
    machine.negotiate(1 << 32);
    machine.write::<1>(0x14, 0);
    machine.interrupts.needs_reset();
    assert_eq!(machine.status(), 0, "the driver waits for this");
    machine.write::<1>(0x14, 1);
    assert_eq!(machine.status(), 0x41);
}

#[test]
fn a_failed_device_offers_nothing_and_every_driver_gives_up() {
    let machine = Machine::new(true);
    machine.enable();
    machine.write::<4>(0, 1);
    assert_eq!(machine.read::<4>(4), 0);
    assert_eq!(machine.negotiate(1 << 32), 3);
}

#[test]
fn moving_the_bar_moves_the_notifications_of_an_active_device() {
    let machine = Machine::new(false);
    machine.enable();
    machine.set_config(0x10, &[0xff; 4]);
    assert_eq!(machine.config(0x10), 0xffff_800c, "sized while idle");
    machine.set_config(0x10, &[0, 0, 0, 0]);
    machine.negotiate(1 << 32);
    machine.write::<1>(0x14, 0xf);
    machine.log.take();
    machine.set_config(4, &[0, 0]);
    let mut data = [0xff; 4];
    assert!(
        !machine.bus.read_memory(WINDOW, &mut data),
        "no longer decoded"
    );
    machine.set_config(0x10, &(WINDOW + 0x8000).to_le_bytes());
    machine.set_config(4, &[2, 0]);
    let moved = format!("notify at Some({:x})", WINDOW + 0x8000 + NOTIFY);
    assert_eq!(machine.log.take(), ["notify at None", &moved]);
    assert!(machine.bus.read_memory(WINDOW + 0x8000, &mut data));
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let machine = Machine::new(false);
    machine.enable();
    machine.write::<2>(0x10, 3);
    assert_eq!(machine.read::<2>(0x10), 0xffff);
    machine.write::<2>(0x10, 2);
    assert_eq!(machine.read::<2>(0x10), 2);
    machine.negotiate(1 << 32);
    assert_eq!(machine.read::<2>(0x10), 0xffff, "a reset forgets it");
    machine.queue(1, 64, 0x1000);
    machine.write::<1>(0x14, 0xf);
    machine.log.take();
    machine.write::<2>(0x1a, 1);
    machine.write::<2>(0x1a, 77);
    assert_eq!(
        machine.log.take(),
        ["queue 1 on Some(1)", "queue 1 on None"]
    );
}

#[test]
fn the_window_in_config_space_reaches_the_registers() {
    let machine = Machine::new(false);
    let mut window = u64::from(machine.config(0x34) & 0xff);
    while machine.config(window) & 0xff00_00ff != 0x0500_0009 {
        window = u64::from(machine.config(window) >> 8 & 0xff);
    }
    let access = |offset: u32, length: u32| {
        machine.set_config(window + 8, &offset.to_le_bytes());
        machine.set_config(window + 12, &length.to_le_bytes());
    };
    access(0x12, 2);
    assert_eq!(
        machine.config(window + 16),
        2,
        "num_queues, with memory decoding off"
    );
    access(0x14, 1);
    machine.set_config(window + 16, &[3, 0xff, 0xff, 0xff]);
    assert_eq!(machine.config(window + 16), 3, "device_status, one byte");
    for (offset, length) in [
        (0x14, 0),
        (0x14, 3),
        (0x13, 2),
        (0xffff_fffc, 4),
        (0x14, u32::MAX),
    ] {
        access(offset, length);
        machine.set_config(window + 16, &[0; 4]);
        machine.config(window + 16);
    }
    access(0x14, 1);
    assert_eq!(machine.config(window + 16), 3);
}

#[test]
fn functions_that_are_not_there_read_as_all_ones() {
    let bus = Bus::new();
    let mut data = [0; 4];
    for offset in [1 << 15, 1 << 12, 31 << 15, 1 << 20, u64::MAX] {
        bus.read_ecam(offset, &mut data);
        bus.write_ecam(offset, &[0; 4]);
        assert_eq!(data, [0xff; 4], "{offset:#x}");
    }
    bus.read_ecam(0, &mut data);
    assert_eq!(data, [0x36, 0x1b, 0x08, 0x00]);
    bus.read_ecam(8, &mut data);
    assert_eq!(data, [0, 0, 0, 6], "a host bridge");
}

#[test]
fn bars_are_assigned_aligned_and_apart_or_the_window_is_too_small() {
    let mut bus = Bus::new();
    for _ in 0..3 {
        bus.add(Box::new(function(&Log::default(), false).0))
            .unwrap();
    }
    bus.assign_bars(WINDOW + 1..WINDOW + 0x20000).unwrap();
    let bar = |device: u64| {
        let mut data = [0; 8];
        bus.read_ecam(device << 15 | 0x10, &mut data);
        u64::from_le_bytes(data) & !0xf
    };
    assert_eq!(
        [1, 2, 3].map(bar),
        [0x8000, 0x10000, 0x18000].map(|at| WINDOW + at)
    );
    let small = bus.assign_bars(WINDOW..WINDOW + 0x17fff);
    assert_eq!(
        small,
        Err(Error::Window {
            end: WINDOW + 0x17fff,
            size: 0x8000
        })
    );
    assert!(bus.assign_bars(u64::MAX - 0x100..u64::MAX).is_err());
}

#[test]
fn a_full_bus_takes_no_more() {
    let mut bus = Bus::new();
    for device in 1..32 {
        assert_eq!(bus.add(Box::new(HostBridge::new())), Ok(device));
    }
    assert_eq!(bus.add(Box::new(HostBridge::new())), Err(Error::BusFull));
}
