//! A policy that somebody wrote.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let load = |name: &str| match name {
        "policy" => Ok(text.to_owned()),
        other => Err(format!("{other}: missing")),
    };
    if let Ok(table) = policy_table::read("policy", &load) {
        for architecture in ["x86_64", "aarch64"] {
            let _ = policy_table::filters(&table, architecture, false);
        }
    }
});
