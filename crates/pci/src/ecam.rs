//! The enhanced configuration access mechanism (PCI Express 4.0, section 7.2.2).

/// The size of the window of one bus: 32 devices of 8 functions of 4 KiB.
pub const ECAM_SIZE: u64 = 1 << 20;

/// Which register of which function an address in the window names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EcamAddress {
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
    /// 0 to 4095.
    pub register: u16,
}

impl EcamAddress {
    /// Decodes an offset from the window's start: bits 19:15 device, 14:12 function, 11:0
    /// register. `None` from [`ECAM_SIZE`] on.
    #[must_use]
    pub fn decode(offset: u64) -> Option<Self> {
        if offset >= ECAM_SIZE {
            return None;
        }
        Some(Self {
            device: u8::try_from(offset >> 15 & 0x1f).ok()?,
            function: u8::try_from(offset >> 12 & 0x7).ok()?,
            register: u16::try_from(offset & 0xfff).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_names_device_function_and_register() {
        let address = EcamAddress {
            device: 3,
            function: 5,
            register: 0x104,
        };
        assert_eq!(
            EcamAddress::decode(3 << 15 | 5 << 12 | 0x104),
            Some(address)
        );
        let last = EcamAddress {
            device: 31,
            function: 7,
            register: 0xfff,
        };
        assert_eq!(EcamAddress::decode(ECAM_SIZE - 1), Some(last));
    }

    #[test]
    fn an_offset_past_the_bus_names_nothing() {
        assert_eq!(EcamAddress::decode(ECAM_SIZE), None);
        assert_eq!(EcamAddress::decode(u64::MAX), None);
    }
}
