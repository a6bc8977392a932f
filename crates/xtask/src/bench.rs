//! Measurements, side by side.

use clap::ValueEnum;

use crate::error::Result;

/// A table of docs/benchmarks.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    Boot,
}

pub(crate) fn bench(_tables: &[Table], _runs: u32) -> Result {
    Ok(0)
}
