//! What the device is started with, checked.

use wire::block;

/// A start message that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// virtio 1.2, section 5.2.6: an identifier of 20 bytes.
    #[error("the serial number {0:?} is not at most {max} characters of printable ASCII", max = block::Config::MAX_SERIAL)]
    Serial(String),
    /// A disk of nothing, or of more than can be handed over.
    #[error("a disk of {0} extents cannot be served; give 1 to {max}", max = block::Config::MAX_EXTENTS)]
    Extents(usize),
    /// An extent of nothing.
    #[error("extent {0} has no sectors; leave it out")]
    Empty(usize),
    /// The next extent would begin within a page.
    #[error("extent {index} has {sectors} sectors, which is no multiple of {unit}; fill it up, or put it last", unit = block::Config::ALIGNMENT)]
    Unaligned {
        /// Which.
        index: usize,
        /// How long it is.
        sectors: u64,
    },
    /// The end of the disk is beyond what a file's offset can say.
    #[error("the extents have together more sectors than the {MAX_SECTORS} that a disk can have")]
    Capacity,
    /// virtio 1.2, section 5.2.4, allows more.
    #[error("{0} queues cannot be served; give 1 to {max}", max = block::Config::MAX_QUEUES)]
    Queues(u16),
}

/// The largest disk: its bytes are counted in 63 bits.
const MAX_SECTORS: u64 = i64::MAX.cast_unsigned() / block::Config::SECTOR;

/// [`wire::block::Config`] that holds what it promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    serial: [u8; block::Config::MAX_SERIAL],
    read_only: bool,
    extents: Vec<u64>,
    sectors: u64,
    queues: u16,
}

impl Config {
    /// The serial number, filled up with zeros.
    #[must_use]
    pub fn serial(&self) -> [u8; block::Config::MAX_SERIAL] {
        self.serial
    }

    /// Whether nothing can be written.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The extents, in sectors, at least one.
    #[must_use]
    pub fn extents(&self) -> &[u64] {
        &self.extents
    }

    /// Sectors of the whole disk; in bytes it is less than 2^63.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Queues, 1 to [`block::Config::MAX_QUEUES`].
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.queues
    }
}

impl TryFrom<block::Config> for Config {
    type Error = Error;

    fn try_from(config: block::Config) -> Result<Self, Error> {
        let block::Config {
            serial,
            read_only,
            extents,
            queues,
        } = config;
        if !(1..=block::Config::MAX_QUEUES).contains(&queues) {
            return Err(Error::Queues(queues));
        }
        let extents: Vec<u64> = extents.iter().map(|extent| extent.sectors).collect();
        Ok(Self {
            sectors: capacity(&extents)?,
            serial: padded(serial)?,
            read_only,
            extents,
            queues,
        })
    }
}

/// The serial number in its field.
fn padded(serial: String) -> Result<[u8; block::Config::MAX_SERIAL], Error> {
    let mut field = [0; block::Config::MAX_SERIAL];
    let printable = serial.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match field.get_mut(..serial.len()) {
        Some(start) if printable => start.copy_from_slice(serial.as_bytes()),
        _ => return Err(Error::Serial(serial)),
    }
    Ok(field)
}

/// The sectors of all extents together, each of which may be where it is.
fn capacity(extents: &[u64]) -> Result<u64, Error> {
    let count = extents.len();
    if !(1..=block::Config::MAX_EXTENTS).contains(&count) {
        return Err(Error::Extents(count));
    }
    let last = count.saturating_sub(1);
    let mut sum = 0_u64;
    for (index, &sectors) in extents.iter().enumerate() {
        if sectors == 0 {
            return Err(Error::Empty(index));
        }
        if index < last && !sectors.is_multiple_of(block::Config::ALIGNMENT) {
            return Err(Error::Unaligned { index, sectors });
        }
        sum = sum.checked_add(sectors).ok_or(Error::Capacity)?;
    }
    if sum > MAX_SECTORS {
        return Err(Error::Capacity);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use wire::block::Extent;

    use super::*;

    fn config(extents: &[u64]) -> block::Config {
        block::Config {
            serial: "a serial number 1234".to_owned(),
            read_only: false,
            extents: extents.iter().map(|&sectors| Extent { sectors }).collect(),
            queues: 1,
        }
    }

    #[track_caller]
    fn refused(config: block::Config, why: &str) {
        let message = Config::try_from(config).unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
    }

    #[test]
    fn a_sound_configuration_is_taken() {
        let config = Config::try_from(config(&[8, 16, 3])).unwrap();
        assert_eq!(config.sectors(), 27);
        assert_eq!(&config.serial(), b"a serial number 1234");
    }

    #[test]
    fn a_short_serial_number_is_filled_up_with_zeros() {
        let serial = "vda".to_owned();
        let config = Config::try_from(block::Config {
            serial,
            ..config(&[1])
        });
        assert_eq!(config.unwrap().serial()[..5], *b"vda\0\0");
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        for serial in ["123456789012345678901", "ä", "a\nb", "\u{7f}"] {
            let serial = serial.to_owned();
            refused(
                block::Config {
                    serial,
                    ..config(&[1])
                },
                "printable ASCII",
            );
        }
        for queues in [0, block::Config::MAX_QUEUES + 1] {
            refused(
                block::Config {
                    queues,
                    ..config(&[1])
                },
                "give 1 to 16",
            );
        }
        refused(config(&[]), "0 extents");
        refused(config(&[8; 130]), "give 1 to 129");
        refused(config(&[8, 0]), "extent 1 has no sectors");
        refused(config(&[8, 12, 8]), "extent 1 has 12 sectors");
    }

    #[test]
    fn a_disk_ends_where_offsets_do() {
        assert!(Config::try_from(config(&[MAX_SECTORS])).is_ok());
        refused(config(&[MAX_SECTORS + 1]), "more sectors");
        refused(config(&[u64::MAX - 7, u64::MAX]), "more sectors");
        refused(config(&[MAX_SECTORS - 7, 16]), "more sectors");
    }
}
