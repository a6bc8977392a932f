//! Runs a command in a machine of its own and prints what it says.

use std::{
    env,
    error::Error,
    io::{self, Write},
};

use crumble::Machine;

fn main() -> Result<(), Box<dyn Error>> {
    let mut builder = Machine::builder("host".parse()?).memory("256M".parse()?);
    if let Some(programs) = env::args_os().nth(1) {
        builder = builder.programs(programs);
    }
    let machine = builder.start()?;
    let output = machine.command("uname").arg("-a").output()?;
    io::stdout().write_all(&output.stdout)?;
    machine.shutdown()?;
    Ok(())
}
