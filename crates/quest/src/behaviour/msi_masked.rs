//! An MSI that is masked, as MSI-X has it (PCI 3.0, section 6.8.3.5): what is signalled meanwhile
//! stays pending in the event, can be seen there, and arrives once when it is unmasked.

use hv::{MsiEvent, Vm};

use super::interrupts::{MESSAGE, POLL, interruptible, none_arrives, one_arrives};
use crate::{
    BackEnd,
    failure::{Result, same},
};

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = interruptible(back_end, POLL)?;
    let event = back_end.event()?;
    let mut msi = machine.vm.msi_event(&event)?;
    let mut cpu = machine.protected()?;

    // There was no message yet.
    back_end.signal(&event)?;
    none_arrives(&mut cpu, 0)?;
    msi.set(Some(MESSAGE))?;
    one_arrives(&mut cpu, 0)?;

    msi.set(None)?;
    back_end.signal(&event)?;
    back_end.signal(&event)?;
    none_arrives(&mut cpu, 1)?;
    msi.set(Some(MESSAGE))?;
    one_arrives(&mut cpu, 1)?;

    msi.set(None)?;
    back_end.signal(&event)?;
    same("pending", &back_end.take(&event)?, &true)?;
    msi.set(Some(MESSAGE))?;
    none_arrives(&mut cpu, 2)?;

    back_end.signal(&event)?;
    one_arrives(&mut cpu, 2)?;
    drop(msi);
    back_end.signal(&event)?;
    none_arrives(&mut cpu, 3)
}
