//! "Hello, World": the guest has the text in its memory and prints it through COM1, a byte
//! whenever the transmitter is empty.

use std::convert::Infallible;

use hv::Address;
use vm_superio::{Serial, Trigger};

use crate::{
    BackEnd, Failure, Stop,
    failure::{Result, same},
    machine::{DATA, DONE, machine},
};

const GUEST: &[u8] = &[
    0xbe, 0x00, 0x20, 0x00, 0x00, // 1000: mov esi, 0x2000
    0xac, // 1005: lods al, byte ds:[esi]
    0x84, 0xc0, // 1006: test al, al
    0x74, 0x16, // 1008: je 0x1020
    0x88, 0xc3, // 100a: mov bl, al
    0xba, 0xfd, 0x03, 0x00, 0x00, // 100c: mov edx, 0x3fd
    0xec, // 1011: in al, dx
    0xa8, 0x20, // 1012: test al, 0x20
    0x74, 0xfb, // 1014: je 0x1011
    0xba, 0xf8, 0x03, 0x00, 0x00, // 1016: mov edx, 0x3f8
    0x88, 0xd8, // 101b: mov al, bl
    0xee, // 101d: out dx, al
    0xeb, 0xe5, // 101e: jmp 0x1005
    0xe6, 0xf4, // 1020: out 0xf4, al
];

const TEXT: &str = "Hello, World";
const COM1: u16 = 0x3f8;

/// The guest polls.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;

    fn trigger(&self) -> std::result::Result<(), Infallible> {
        Ok(())
    }
}

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<String> {
    let machine = machine(back_end, GUEST)?;
    machine.write(DATA, TEXT.as_bytes())?;
    let mut cpu = machine.protected()?;
    let mut uart = Serial::new(NoInterrupt, Vec::new());
    loop {
        // The line status register is the only one that the guest reads.
        let status = uart.read(5);
        match cpu.step(&mut std::iter::once(status))? {
            Stop::Read { at, width: 1 } if at == Address::Pio(COM1 + 5) => {}
            Stop::Write { at, data } if at == Address::Pio(COM1) => {
                for byte in data {
                    let written = uart.write(0, byte);
                    written.map_err(|error| std::io::Error::other(error.to_string()))?;
                }
            }
            Stop::Write { at, .. } if at == Address::Pio(DONE) => break,
            found => {
                let wanted = "an access to COM1".to_owned();
                return Err(Failure::Stop { found, wanted });
            }
        }
    }
    let printed = String::from_utf8_lossy(uart.writer()).into_owned();
    same("what was printed", &printed.as_str(), &TEXT)?;
    Ok(printed)
}
