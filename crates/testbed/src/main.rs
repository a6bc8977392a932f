//! The keeper's process. [`testbed::Testbed::open`] starts it: `testbed WORKSPACE NUMBER BIN_DIR`.

#![forbid(unsafe_code)]

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [workspace, number, bin_dir] = arguments.as_slice() else {
        return ExitCode::from(2);
    };
    let Some(number) = number.to_str().and_then(|number| number.parse().ok()) else {
        return ExitCode::from(2);
    };
    // The reason is in the log already.
    match testbed::keep(workspace, number, bin_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
