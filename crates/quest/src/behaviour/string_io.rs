//! `rep outsb` and `rep insw`. A back end may bundle accesses into one exit, or not.

use hv::Address::Pio;

use crate::{
    BackEnd, Failure, Stop,
    failure::{Result, same},
    machine::{DATA, DONE, machine},
};

const GUEST: &[u8] = &[
    0xba, 0x10, 0x05, 0x00, 0x00, // 1000: mov edx, 0x510
    0xbe, 0x00, 0x20, 0x00, 0x00, // 1005: mov esi, 0x2000
    0xb9, 0x05, 0x00, 0x00, 0x00, // 100a: mov ecx, 0x5
    0xf3, 0x6e, // 100f: rep outs dx, byte ds:[esi]
    0xbf, 0x00, 0x21, 0x00, 0x00, // 1011: mov edi, 0x2100
    0xb9, 0x03, 0x00, 0x00, 0x00, // 1016: mov ecx, 0x3
    0x66, 0xf3, 0x6d, // 101b: rep ins word es:[edi], dx
    0xe6, 0xf4, // 101e: out 0xf4, al
];

const INPUT_AT: u64 = DATA + 0x100;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    machine.write(DATA, b"bytes")?;
    let mut cpu = machine.protected()?;
    let mut input = b"a word".iter().copied();
    let mut output = Vec::new();
    loop {
        match cpu.step(&mut input)? {
            Stop::Write { at: Pio(0x510), data } => output.extend(data),
            Stop::Read { at, width } if at == Pio(0x510) && width % 2 == 0 => {}
            Stop::Write { at, .. } if at == Pio(DONE) => break,
            found => {
                let wanted = "string I/O at Pio(510)".to_owned();
                return Err(Failure::Stop { found, wanted });
            }
        }
    }
    same("what the guest wrote", &output.as_slice(), &b"bytes".as_slice())?;
    let mut read = [0; 6];
    machine.read(INPUT_AT, &mut read)?;
    same("what the guest read", &read, b"a word")
}
