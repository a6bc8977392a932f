//! `crumble doctor`.

use std::process::ExitCode;

use crumble::host::{self, Verdict};

use crate::report::{GREEN, RED, YELLOW, paint};

/// Prints how this host stands; fails if machines cannot run on it.
pub(crate) fn doctor() -> ExitCode {
    let findings = host::examine();
    for finding in &findings {
        let mark = match finding.verdict {
            Verdict::Good => paint("  ok  ", GREEN),
            Verdict::Poor => paint(" less ", YELLOW),
            Verdict::Missing => paint("  no  ", RED),
        };
        println!("{mark} {:16} {}", finding.what, finding.detail);
    }
    let missing = |verdict| verdict == Verdict::Missing;
    if findings.iter().map(|finding| finding.verdict).any(missing) {
        println!("\nThis host cannot run machines as it is.");
        ExitCode::FAILURE
    } else {
        println!("\nThis host runs machines: try `crumble run host -- uname -a`.");
        ExitCode::SUCCESS
    }
}
