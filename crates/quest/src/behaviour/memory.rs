//! Reads what the host filled in, turns it round, adds it up.

use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DATA, DONE, machine},
};

const GUEST: &[u8] = &[
    0xbe, 0x00, 0x00, 0x01, 0x00, // 1000: mov esi, 0x10000
    0xbf, 0xfc, 0x3f, 0x02, 0x00, // 1005: mov edi, 0x23ffc
    0xb9, 0x00, 0x10, 0x00, 0x00, // 100a: mov ecx, 0x1000
    0x31, 0xdb, // 100f: xor ebx, ebx
    0x8b, 0x06, // 1011: mov eax, [esi]
    0x01, 0xc3, // 1013: add ebx, eax
    0x89, 0x07, // 1015: mov [edi], eax
    0x83, 0xc6, 0x04, // 1017: add esi, 0x4
    0x83, 0xef, 0x04, // 101a: sub edi, 0x4
    0x49, // 101d: dec ecx
    0x75, 0xf1, // 101e: jne 0x1011
    0x89, 0x1d, 0x00, 0x20, 0x00, 0x00, // 1020: mov [0x2000], ebx
    0x88, 0x1d, 0x04, 0x20, 0x00, 0x00, // 1026: mov [0x2004], bl
    0x66, 0x89, 0x1d, 0x06, 0x20, 0x00, 0x00, // 102c: mov [0x2006], bx
    0xe6, 0xf4, // 1033: out 0xf4, al
];

const FROM: u64 = 0x1_0000;
const TO: u64 = 0x2_0000;
const WORDS: u32 = 4096;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let words: Vec<u32> = (1..=WORDS).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
    let bytes = |words: &mut dyn Iterator<Item = &u32>| -> Vec<u8> {
        words.flat_map(|word| word.to_le_bytes()).collect()
    };
    let from = bytes(&mut words.iter());
    machine.write(FROM, &from)?;
    machine.protected()?.reaches(DONE)?;

    let mut to = vec![0; from.len()];
    machine.read(TO, &mut to)?;
    same("the copy", &to, &bytes(&mut words.iter().rev()))?;
    let sum = words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word));
    same("the sum", &machine.number(DATA)?, &sum)?;
    let parts = (sum & 0xff) | (sum << 16);
    same("the sum's parts", &machine.number(DATA + 4)?, &parts)
}
