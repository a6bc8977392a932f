//! Which part of the machine an access belongs to.

use boot::layout::{self, port};
use wire::vmm::End;

use crate::{power, serial::Serial};

/// A port has eight 16550 registers.
const SERIAL_PORTS: std::ops::RangeInclusive<u16> = port::SERIAL..=port::SERIAL + 7;

/// Everything that a vCPU can reach by an exit.
pub(crate) struct Bus {
    pub(crate) pci: pci::Bus,
    pub(crate) serial: Serial,
}

impl Bus {
    /// A read of a port. What is not there reads as all ones, as on hardware.
    pub(crate) fn read_port(&self, at: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(register) = serial_register(at) {
            data.iter_mut()
                .for_each(|byte| *byte = self.serial.read(register));
        } else if let (Some(value), Some(first)) = (power::read(at), data.first_mut()) {
            *first = value;
        }
    }

    /// A write of a port; it may end the machine.
    pub(crate) fn write_port(&self, at: u16, data: &[u8]) -> Option<End> {
        if let Some(register) = serial_register(at) {
            // A string instruction writes several bytes to the one port.
            data.iter()
                .for_each(|byte| self.serial.write(register, *byte));
            return None;
        }
        data.first().and_then(|value| power::write(at, *value))
    }

    /// A read of memory that is none.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        match ecam_offset(address) {
            Some(offset) => self.pci.read_ecam(offset, data),
            None if self.pci.read_memory(address, data) => {}
            None => data.fill(0xff),
        }
    }

    /// A write of memory that is none.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        match ecam_offset(address) {
            Some(offset) => self.pci.write_ecam(offset, data),
            // What nobody decodes is lost, as on hardware.
            None => {
                self.pci.write_memory(address, data);
            }
        }
    }
}

fn serial_register(at: u16) -> Option<u8> {
    let register = at
        .checked_sub(port::SERIAL)
        .filter(|_| SERIAL_PORTS.contains(&at))?;
    u8::try_from(register).ok()
}

fn ecam_offset(address: u64) -> Option<u64> {
    let offset = address.checked_sub(layout::ECAM)?;
    (offset < layout::ECAM_SIZE).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        Bus {
            pci: pci::Bus::new(),
            serial: Serial::new(None).unwrap(),
        }
    }

    #[test]
    fn nothing_reads_as_all_ones() {
        let mut data = [0; 4];
        bus().read_port(0xcf8, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus().read_memory(0xd000_0000, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn the_host_bridge_is_at_the_start_of_configuration_space() {
        let mut data = [0; 2];
        bus().read_memory(layout::ECAM, &mut data);
        assert!(data != [0xff; 2] && data != [0; 2]);
    }

    #[test]
    fn the_serial_port_is_ready_to_send() {
        let mut data = [0];
        bus().read_port(port::SERIAL + 5, &mut data);
        assert_eq!(data[0] & 0x60, 0x60);
    }

    #[test]
    fn every_port_and_width_is_legal() {
        let bus = bus();
        for at in 0..=u16::MAX {
            for width in [0, 1, 2, 4] {
                bus.read_port(at, &mut vec![0; width]);
            }
        }
    }
}
