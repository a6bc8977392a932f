//! The control queue (virtio 1.2, section 5.1.6.5).

use crate::bytes::Bytes;
use crate::packet::Mac;

/// The answer to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Answer {
    Ok = 0,
    Error = 1,
}

/// A command that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Which of the frames that nobody addressed to it the guest wants to see: there are none.
    Filter,
    /// The guest has another hardware address.
    Mac(Mac),
    /// The guest means to use so many pairs of queues.
    Pairs(u16),
}

/// Reads a command: class, number, data. `None` is for what is malformed or unknown.
pub(crate) fn parse(command: &[u8]) -> Option<Command> {
    const RX: u8 = 0;
    const MAC: u8 = 1;
    const MQ: u8 = 4;
    let mut bytes = Bytes(command);
    match (bytes.u8()?, bytes.u8()?) {
        // Promiscuous and all-multicast modes.
        (RX, 0 | 1) => (bytes.u8()? <= 1).then_some(Command::Filter),
        // A table of addresses to let through.
        (MAC, 0) => Some(Command::Filter),
        (MAC, 1) => {
            let mac: Mac = bytes.array()?;
            let [first, ..] = mac;
            (first & 1 == 0 && mac != [0; 6]).then_some(Command::Mac(mac))
        }
        (MQ, 0) => bytes.array().map(u16::from_le_bytes).map(Command::Pairs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_nonsense_is_not() {
        assert_eq!(parse(&[0, 0, 1]), Some(Command::Filter));
        assert_eq!(parse(&[1, 0, 0, 0, 0, 0]), Some(Command::Filter));
        let mac = [2, 1, 2, 3, 4, 5];
        assert_eq!(parse(&[1, 1, 2, 1, 2, 3, 4, 5]), Some(Command::Mac(mac)));
        assert_eq!(parse(&[4, 0, 2, 0]), Some(Command::Pairs(2)));
        let nonsense: [&[u8]; 9] = [
            &[],
            &[0],
            &[0, 0],
            &[0, 0, 2],
            &[1, 1, 2, 1, 2, 3, 4],
            &[1, 1, 1, 1, 2, 3, 4, 5],
            &[1, 1, 0, 0, 0, 0, 0, 0],
            &[4, 0, 2],
            &[9, 9, 9],
        ];
        for command in nonsense {
            assert_eq!(parse(command), None, "{command:?}");
        }
    }
}
