//! What a machine costs beyond the guest's memory.

use std::{fs, path::Path};

use crumble::Machine;
use testbed::PRODUCTS;

use super::{Guest, traffic::failed};
use crate::error::{Error, Result, file};

/// Prints the tables.
pub(crate) fn print(guests: &[Guest], bin_dir: &Path) -> Result<()> {
    println!("Private memory of the processes of a running machine (aim: 8 MiB in all)\n");
    println!("| kernel | process | KiB |\n|---|---|---|");
    for guest in guests {
        let image = "busybox".parse();
        let image = image.map_err(|error| Error::Other(format!("busybox: {error}")))?;
        let mut builder = Machine::builder(image).programs(bin_dir);
        if let Some(path) = &guest.path {
            builder = builder.kernel(path);
        }
        let machine = builder.start().map_err(failed)?;
        let mut total = 0u64;
        for process in machine.processes() {
            let bytes = process.private_bytes.ok_or_else(|| Error::Measure {
                what: process.name.clone(),
                why: "its memory cannot be read".to_owned(),
            })?;
            total = total.saturating_add(bytes);
            println!("| {} | {} | {} |", guest.name, process.name, bytes >> 10);
        }
        println!("| {} | in all | {} |", guest.name, total >> 10);
        machine.shutdown().map_err(failed)?;
    }
    println!("\nSizes of the binaries (aim for a device: 3 MiB)\n\n| binary | KiB |\n|---|---|");
    for product in PRODUCTS.iter().filter(|product| product.shipped) {
        let path = bin_dir.join(product.binary);
        let size = fs::metadata(&path).map_err(file("look at", &path))?.len();
        println!("| {} | {} |", product.binary, size >> 10);
    }
    println!();
    Ok(())
}
