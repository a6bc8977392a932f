//! From an inherited socket to a device that serves in its jail.

use std::error::Error;
use std::process::ExitCode;

use handoff::{Channel, Launched, Resources};
use jailer::{Confined, Grant};
use serde::de::DeserializeOwned;

use crate::report;

/// The device could not go on; stderr says why. A device whose front end or supervisor left ends
/// with 0.
pub const EXIT_FAILED: u8 = 1;

/// The process was not launched by a supervisor, or with a configuration that cannot be served.
pub const EXIT_LAUNCH: u8 = 2;

/// The jail could not be closed. Nothing was served.
pub const EXIT_JAIL: u8 = 3;

/// What travels into the jail: a configuration that was checked, and open descriptors. The device
/// itself is built inside.
pub trait Builder: Sized {
    /// The name of the policy.
    const COMPONENT: &'static str;

    /// What the host starts the device with.
    type Config: DeserializeOwned;

    /// Why it cannot be served.
    type Error: Error;

    /// Checks the configuration and takes the resources before the jail closes, so that the host
    /// learns what is wrong with them. What must be opened by name is opened here; nothing that a
    /// guest or a front end sent may be looked at.
    ///
    /// # Errors
    /// What the host is told.
    fn prepare(config: Self::Config, resources: Resources) -> Result<Self, Self::Error>;

    /// What stays reachable by path. Nothing, unless the device says so.
    fn grants(&self) -> Vec<Grant<'_>> {
        Vec::new()
    }

    /// TCP ports that it may connect to, all if there is no list. None, unless the device says so.
    fn ports(&self) -> Option<Vec<u16>> {
        Some(Vec::new())
    }

    /// Builds the device and serves it until its front end or the host on `control` is gone.
    ///
    /// # Errors
    /// What the log is told.
    fn serve(self, jail: Confined, control: Channel) -> Result<(), Self::Error>;
}

/// The process cannot confine itself.
#[derive(Debug, thiserror::Error)]
enum JailError {
    #[error("there is no policy called {0}; this program was built without it")]
    Policy(&'static str),
    #[error(transparent)]
    Jailer(#[from] jailer::Error),
}

/// A device's whole `main`. The exit code is 0, [`EXIT_FAILED`], [`EXIT_LAUNCH`] or
/// [`EXIT_JAIL`].
#[must_use]
pub fn run<B: Builder>() -> ExitCode {
    let Launched {
        config,
        resources,
        answer,
    } = match handoff::launched::<B::Config>() {
        Ok(launched) => launched,
        Err(error) => return fail::<B>(EXIT_LAUNCH, &error),
    };
    let builder = match B::prepare(config, resources) {
        Ok(builder) => builder,
        Err(error) => {
            let code = fail::<B>(EXIT_LAUNCH, &error);
            answer.refuse(&error);
            return code;
        }
    };
    let jail = match confine(&builder) {
        Ok(jail) => jail,
        Err(error) => {
            let code = fail::<B>(EXIT_JAIL, &error);
            answer.refuse(&error);
            return code;
        }
    };
    let control = match answer.ready() {
        Ok(control) => control,
        Err(error) => return fail::<B>(EXIT_LAUNCH, &error),
    };
    match builder.serve(jail, control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail::<B>(EXIT_FAILED, &error),
    }
}

fn confine<B: Builder>(builder: &B) -> Result<Confined, JailError> {
    let policy = policy::component(B::COMPONENT).ok_or(JailError::Policy(B::COMPONENT))?;
    let ports = builder.ports();
    Ok(jailer::confine_to(
        policy,
        &builder.grants(),
        ports.as_deref(),
    )?)
}

/// Writes the error and its causes to the log as one line.
fn fail<B: Builder>(code: u8, error: &dyn Error) -> ExitCode {
    let line = format!("{}: {}", B::COMPONENT, wire::chain(error));
    report(&line);
    ExitCode::from(code)
}
