//! How a guest ends its machine: ports that are written to.

use boot::layout::{SLEEP_TYPE_OFF, port};
use wire::vmm::End;

/// Sleep control (ACPI 6.5, table 4.28): the type of sleep in bits 2 to 4, and its enable bit.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// The wake status bit of sleep status: always set, for Linux waits for it after writing.
const WAKE_STATUS: u8 = 1 << 7;
/// The event bit of a panic (QEMU, docs/specs/pvpanic.rst), and what reading the port offers.
const PANICKED: u8 = 1;
/// The keyboard controller's command port, and its command to pulse the reset line: what kernels
/// do that do not believe ACPI.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;

/// What a byte written to a port means for the machine, if anything.
pub(crate) fn write(at: u16, value: u8) -> Option<End> {
    let sleep = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
    match at {
        port::SLEEP_CONTROL if value & SLEEP_ENABLE != 0 && sleep == SLEEP_TYPE_OFF => {
            Some(End::PowerOff)
        }
        port::RESET if value == port::RESET_VALUE => Some(End::Reset),
        port::PANIC if value & PANICKED != 0 => Some(End::Panic),
        KEYBOARD if value == KEYBOARD_RESET => Some(End::Reset),
        _ => None,
    }
}

/// What a port reads as, if it is one of these.
pub(crate) fn read(at: u16) -> Option<u8> {
    match at {
        port::SLEEP_STATUS => Some(WAKE_STATUS),
        // The controller's input buffer is empty: Linux waits for that before it resets by it.
        port::SLEEP_CONTROL | port::RESET | KEYBOARD => Some(0),
        port::PANIC => Some(PANICKED),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sleep_state_5_with_the_enable_bit_powers_off() {
        let ends: Vec<u8> = (0..=u8::MAX)
            .filter(|value| write(port::SLEEP_CONTROL, *value).is_some())
            .collect();
        assert!(ends.iter().all(|value| value & 0x3c == 0x34), "{ends:?}");
        assert_eq!(write(port::SLEEP_CONTROL, 0x34), Some(End::PowerOff));
    }

    #[test]
    fn a_reset_by_the_keyboard_controller_need_not_wait() {
        assert_eq!(read(KEYBOARD), Some(0));
    }

    #[test]
    fn each_way_to_end_is_told_apart() {
        assert_eq!(write(port::RESET, 1), Some(End::Reset));
        assert_eq!(write(KEYBOARD, 0xfe), Some(End::Reset));
        assert_eq!(write(port::PANIC, 1), Some(End::Panic));
        assert_eq!(write(0x80, 1), None);
    }
}
