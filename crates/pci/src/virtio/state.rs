//! What of a function is saved and restored.

use serde::{Deserialize, Serialize};

use crate::{Error, MsixState};

use super::common::{Common, DRIVER_OK, FEATURES_OK};
use super::{VirtioBackend, VirtioPci};

/// The version of [`VirtioPciState`].
pub const STATE_VERSION: u16 = 1;

/// The registers of a virtio function. What the device itself remembers is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioPciState {
    version: u16,
    config: Vec<u8>,
    msix: MsixState,
    common: Common,
    config_vector: u16,
    generation: u8,
    isr: u8,
    needs_reset: bool,
}

impl<B: VirtioBackend> VirtioPci<B> {
    /// The registers, while no vCPU runs.
    #[must_use]
    pub fn save(&self) -> VirtioPciState {
        let mut interrupts = self.interrupts.lock();
        VirtioPciState {
            version: STATE_VERSION,
            config: self.config.save(),
            msix: interrupts.msix.save(),
            common: self.common.clone(),
            config_vector: interrupts.config_vector,
            generation: interrupts.generation,
            isr: interrupts.isr,
            needs_reset: interrupts.needs_reset,
        }
    }

    /// Takes the registers of a saved function into one that is as after power-on, and starts its
    /// back end if it ran. A back end that does not start again leaves `DEVICE_NEEDS_RESET`.
    ///
    /// # Errors
    /// [`Error::StateVersion`], or [`Error::StateMismatch`] if the state is of another device;
    /// then the function is to be thrown away.
    pub fn restore(&mut self, state: VirtioPciState) -> Result<(), Error> {
        if state.version != STATE_VERSION {
            return Err(Error::StateVersion {
                found: state.version,
                known: STATE_VERSION,
            });
        }
        let sizes = |common: &Common| common.queues.iter().map(|q| q.max_size).collect::<Vec<_>>();
        if sizes(&state.common) != sizes(&self.common) {
            return Err(Error::StateMismatch("other queues"));
        }
        self.config.restore(&state.config)?;
        {
            let mut interrupts = self.interrupts.lock();
            interrupts.msix.restore(state.msix)?;
            interrupts.config_vector = interrupts.usable(state.config_vector);
            interrupts.generation = state.generation;
            interrupts.isr = state.isr;
            interrupts.needs_reset = state.needs_reset;
        }
        let status = state.common.status;
        self.common = state.common;
        self.common.status &= !(DRIVER_OK | FEATURES_OK);
        self.follow_config();
        let mut access = self.access();
        for bit in [FEATURES_OK, DRIVER_OK] {
            if status & bit != 0 {
                access.resume(bit);
            }
        }
        Ok(())
    }
}
