//! What a component's process costs.

use std::{fs, io};

/// Memory of one process that is its own: what would be free if it ended, without the guest's
/// memory, which is shared between the VMM and the devices.
///
/// # Errors
/// If the process is gone, or the kernel has no `smaps_rollup` (proc_pid_smaps_rollup(5)).
pub(crate) fn private_bytes(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(sum_private(&text))
}

/// Anonymous memory is private even where it is shared with nobody by way of a file: the guest's
/// memory is a shared file mapping, hence the sum of `Private_*` less nothing would count it once
/// for whoever touched it alone. `Anonymous` leaves file mappings out.
fn sum_private(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| {
            let (key, rest) = line.split_once(':')?;
            if !matches!(key, "Anonymous" | "Private_Hugetlb") {
                return None;
            }
            rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        })
        .fold(0, |sum, kilobytes| {
            sum.saturating_add(kilobytes.saturating_mul(1024))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_counted_and_file_mappings_are_not() {
        let text = "5600-7ffd ---p 00000000 00:00 0 [rollup]\n\
                    Rss:                1000 kB\n\
                    Private_Dirty:       900 kB\n\
                    Anonymous:            64 kB\n\
                    Private_Hugetlb:       0 kB\n";
        assert_eq!(sum_private(text), 64 << 10);
    }

    #[test]
    fn our_own_process_has_some() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(private_bytes(pid).unwrap() > 4096);
    }
}
