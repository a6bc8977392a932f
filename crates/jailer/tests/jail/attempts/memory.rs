//! Code, shared memory, and what the kernel offers around memory.

use libc::{EFAULT, EINVAL, EPERM};

use super::calls::make;
use super::{Attempt, Host, VMM_ONLY, Work, by, filtered, killed, landlock, passed};
use crate::layers::Layer::{Kernel, Limits, User};
use crate::raw::call;

pub(super) const ATTEMPTS: &[Attempt] = &[
    killed("map_memory_as_code", &[], Work, |_| {
        make(libc::SYS_mmap, &[&0, &4096, &5, &0x22, &-1, &0])
    }),
    killed("map_memory_to_write_and_execute", &[], Work, |_| {
        make(libc::SYS_mmap, &[&0, &4096, &7, &0x22, &-1, &0])
    }),
    killed("turn_memory_into_code", &[], Work, |_| {
        let page = call(libc::SYS_mmap, &[&0, &4096, &3, &0x22, &-1, &0])?;
        make(libc::SYS_mprotect, &[&page, &4096, &5])
    }),
    killed("turn_memory_into_code_with_a_key", &[], Work, |_| {
        let page = call(libc::SYS_mmap, &[&0, &4096, &3, &0x22, &-1, &0])?;
        make(libc::SYS_pkey_mprotect, &[&page, &4096, &5, &-1])
    }),
    filtered(VMM_ONLY, "make_a_memory_file", &[], Work, |_| {
        make(libc::SYS_memfd_create, &[&c"x", &0])
    }),
    killed("map_a_memory_file_as_code", &[], Work, |_| {
        let file = call(libc::SYS_memfd_create, &[&c"x", &0])?;
        call(libc::SYS_ftruncate, &[&file, &4096])?;
        make(libc::SYS_mmap, &[&0, &4096, &5, &1, &file, &0])
    }),
    killed("make_secret_memory", &[], Host, |_| {
        make(libc::SYS_memfd_secret, &[&0])
    }),
    killed("lock_memory", &[by(Limits, &[EPERM])], Work, |_| {
        let page = call(libc::SYS_mmap, &[&0, &4096, &3, &0x22, &-1, &0])?;
        make(libc::SYS_mlock, &[&page, &4096])
    }),
    killed("lock_all_memory", &[by(Limits, &[EPERM])], Host, |_| {
        make(libc::SYS_mlockall, &[&2])
    }),
    passed(
        "reserve_more_memory_than_there_is",
        &[by(Limits, &[libc::ENOMEM])],
        Work,
        // MAP_NORESERVE, which takes none: 1 TiB.
        |_| make(libc::SYS_mmap, &[&0, &(1_i64 << 40), &3, &0x4022, &-1, &0]),
    ),
    passed("poison_memory", &[by(User, &[EPERM, EINVAL])], Host, |_| {
        let page = call(libc::SYS_mmap, &[&0, &4096, &3, &0x22, &-1, &0])?;
        make(libc::SYS_madvise, &[&page, &4096, &libc::MADV_HWPOISON])
    }),
    killed("handle_page_faults", &[], Host, |_| {
        make(libc::SYS_userfaultfd, &[&1])
    }),
    killed("choose_a_node_of_memory", &[], Host, |_| {
        make(libc::SYS_set_mempolicy, &[&0, &0, &0])
    }),
    killed(
        "advise_another_process",
        &[by(Kernel, &[libc::EBADF])],
        Host,
        |_| make(libc::SYS_process_madvise, &[&-1, &0, &0, &4, &0]),
    ),
    killed(
        "reorder_mapped_pages",
        &[by(Kernel, &[EINVAL])],
        Host,
        |_| make(libc::SYS_remap_file_pages, &[&0, &0, &0, &0, &0]),
    ),
    killed(
        "see_which_pages_are_in_memory",
        &[by(Kernel, &[EFAULT, libc::ENOMEM])],
        Host,
        |_| make(libc::SYS_mincore, &[&4096, &4096, &0]),
    ),
    #[cfg(target_arch = "x86_64")]
    killed("change_the_local_descriptor_table", &[], Host, |_| {
        make(libc::SYS_modify_ldt, &[&0, &0, &0])
    }),
    #[cfg(target_arch = "x86_64")]
    killed("change_a_segment", &[], Host, |_| {
        // ARCH_GET_FS.
        let mut base = [0_u64];
        make(libc::SYS_arch_prctl, &[&0x1003, &&mut base[..]])
    }),
    killed("share_memory_of_system_v", &[], Work, |_| {
        make(libc::SYS_shmget, &[&0, &4096, &0o1600])
    }),
    killed("make_a_semaphore_of_system_v", &[], Work, |_| {
        make(libc::SYS_semget, &[&0, &1, &0o1600])
    }),
    killed("make_a_queue_of_system_v", &[], Work, |_| {
        make(libc::SYS_msgget, &[&0, &0o1600])
    }),
    killed(
        "make_a_message_queue",
        &[by(Limits, &[libc::EMFILE]), landlock(1, &[libc::EACCES])],
        Work,
        |_| make(libc::SYS_mq_open, &[&c"x", &0o102, &0o600, &0]),
    ),
];
