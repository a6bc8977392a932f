//! What driver and device say to each other of the ports (virtio 1.2, section 5.3.6.2).

/// `event` of `struct virtio_console_control`.
pub mod event {
    /// To the device: the driver is ready for ports; the value is 1 if it is.
    pub const DEVICE_READY: u16 = 0;
    /// To the driver: there is this port.
    pub const PORT_ADD: u16 = 1;
    /// To the device: the driver has the port; the value is 1 if it can use it.
    pub const PORT_READY: u16 = 3;
    /// To the driver: the port is a console.
    pub const CONSOLE_PORT: u16 = 4;
    /// To the driver: the console's size, which follows.
    pub const RESIZE: u16 = 5;
    /// Both ways: somebody is at the port, or nobody.
    pub const PORT_OPEN: u16 = 6;
    /// To the driver: the port's name, which follows.
    pub const PORT_NAME: u16 = 7;
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// How many lines it has.
    pub rows: u16,
    /// How wide they are.
    pub columns: u16,
}

/// `struct virtio_console_control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// The port's number.
    pub id: u32,
    /// One of [`event`].
    pub event: u16,
    /// What it means is the event's.
    pub value: u16,
}

impl Control {
    /// Its length in bytes.
    pub const SIZE: usize = 8;

    /// The message that these bytes are.
    #[must_use]
    pub fn parse(bytes: [u8; Self::SIZE]) -> Self {
        let [i0, i1, i2, i3, e0, e1, v0, v1] = bytes;
        Self {
            id: u32::from_le_bytes([i0, i1, i2, i3]),
            event: u16::from_le_bytes([e0, e1]),
            value: u16::from_le_bytes([v0, v1]),
        }
    }

    /// The message with what follows it.
    #[must_use]
    pub fn encode(self, rest: &[u8]) -> Vec<u8> {
        let mut bytes = self.id.to_le_bytes().to_vec();
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(rest);
        bytes
    }
}

/// A message that says so of a port.
fn say(id: u32, event: u16, rest: &[u8]) -> Vec<u8> {
    let value = 1;
    Control { id, event, value }.encode(rest)
}

/// The console of this number has this size. Columns come first; Linux read the rows first until 2025.
pub(crate) fn resize(id: u32, size: Size) -> Vec<u8> {
    let sides = [size.columns, size.rows].map(u16::to_le_bytes);
    say(id, event::RESIZE, &sides.concat())
}

/// What the driver is answered. All of it may be said again without harm.
pub(crate) fn answers(asked: Control, names: &[&str]) -> Vec<Vec<u8>> {
    let named = usize::try_from(asked.id).ok().and_then(|id| names.get(id));
    match (asked.event, asked.value, named) {
        (event::DEVICE_READY, 1, _) => (0..)
            .zip(names)
            .map(|(id, _)| say(id, event::PORT_ADD, &[]))
            .collect(),
        (event::PORT_READY, 1, Some(name)) => vec![
            say(asked.id, event::CONSOLE_PORT, &[]),
            say(asked.id, event::PORT_NAME, name.as_bytes()),
            say(asked.id, event::PORT_OPEN, &[]),
        ],
        // Whether somebody in the guest has the port open is of no use here.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_specification_says() {
        let bytes = [2, 1, 0, 0, 6, 0, 1, 0];
        let control = Control::parse(bytes);
        let expected = Control {
            id: 258,
            event: event::PORT_OPEN,
            value: 1,
        };
        assert_eq!(control, expected);
        assert_eq!(control.encode(b"ab"), [&bytes[..], b"ab"].concat());
    }

    #[test]
    fn only_a_driver_that_is_ready_is_told_of_ports() {
        let ask = |id, event, value| answers(Control { id, event, value }, &["one", "two"]);
        assert_eq!(ask(0, event::DEVICE_READY, 1).len(), 2);
        assert_eq!(ask(1, event::PORT_READY, 1).len(), 3);
        for (id, event, value) in [
            (0, event::DEVICE_READY, 0),
            (2, event::PORT_READY, 1),
            (u32::MAX, event::PORT_READY, 1),
            (0, event::PORT_READY, 0),
            (0, event::PORT_OPEN, 1),
            (0, event::PORT_ADD, 1),
            (0, 99, 1),
        ] {
            assert_eq!(ask(id, event, value), Vec::<Vec<u8>>::new(), "{event}");
        }
    }
}
