//! A file that is said to be a kernel: a bzImage on the host, an ELF in the VMM.
#![no_main]

use std::{cell::RefCell, fs::File, io::Write};

use boot::{Guest, Layout};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const MEMORY: usize = 32 << 20;

thread_local! {
    static GUEST: RefCell<GuestMemoryMmap> = RefCell::new(
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("32 MiB can be had"),
    );
}

fn load(bytes: &[u8]) {
    let file = memfd_create("kernel", MemfdFlags::CLOEXEC).expect("a memory file can be had");
    let mut file = File::from(file);
    file.write_all(bytes).expect("memory can be written");
    let guest = Guest {
        kernel: &file,
        initramfs: &[],
        command_line: "console=ttyS0",
        cpus: 2,
    };
    GUEST.with_borrow(|memory| {
        let _ = boot::load(&guest, memory, &Layout::new(MEMORY as u64));
    });
}

fuzz_target!(|bytes: &[u8]| {
    let _ = kernel::bzimage::unpack(bytes);
    load(bytes);
});
