//! MSIs that the host sends itself.

use hv::Vm;

use super::interrupts::{MESSAGE, POLL, interruptible, none_arrives, one_arrives};
use crate::{BackEnd, failure::Result};

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = interruptible(back_end, POLL)?;
    let mut cpu = machine.protected()?;
    none_arrives(&mut cpu, 0)?;
    for before in 0..3 {
        machine.vm.signal_msi(MESSAGE)?;
        one_arrives(&mut cpu, before)?;
    }
    Ok(())
}
