//! Making a vCPU exit from another thread.
//!
//! `immediate_exit` in the page that a vCPU shares with the kernel makes the next `KVM_RUN` return
//! at once, and a signal makes the current one return (api.rst, 5, `kvm_run`). A kick does both,
//! in this order, so none is lost between them: either `KVM_RUN` has not looked at the byte yet,
//! or it has begun and the signal interrupts it.

#![expect(
    unsafe_code,
    reason = "the byte is shared with the kernel, and signals are sent to threads by number"
)]

use std::{
    ptr::NonNull,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// A pointer to `immediate_exit`, valid as long as the vCPU's mapping.
struct Byte(NonNull<AtomicU8>);

// SAFETY: it points to an atomic, which any thread may use.
unsafe impl Send for Byte {}

struct Target {
    /// `None` when the vCPU is gone.
    byte: Option<Byte>,
    /// The thread that last ran the vCPU.
    thread: libc::pid_t,
}

impl Target {
    /// Stores the byte, unless the vCPU is gone.
    fn store(&self, value: u8) -> Option<()> {
        let byte = self.byte.as_ref()?;
        // SAFETY: it points into the vCPU's mapping, which exists while `byte` is `Some`: `retire`
        // takes the lock, that the caller holds, before the mapping goes. The kernel only reads it.
        unsafe { byte.0.as_ref() }.store(value, Ordering::SeqCst);
        Some(())
    }
}

/// Makes one vCPU exit.
#[derive(Clone)]
pub struct KvmKicker(Arc<Mutex<Target>>);

impl KvmKicker {
    /// A kicker for `vcpu`. [`KvmKicker::retire`] must be called before `vcpu` is dropped.
    pub(crate) fn new(vcpu: &mut VcpuFd) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // It only fails for numbers that are no signals.
            let _ = register_signal_handler(SIGRTMIN(), ignore);
        });
        let byte = NonNull::from(&mut vcpu.get_kvm_run().immediate_exit);
        Self(Arc::new(Mutex::new(Target {
            byte: Some(Byte(byte.cast())),
            thread: 0,
        })))
    }

    /// From now on kicks go to the calling thread.
    pub(crate) fn runs_here(&self) {
        // SAFETY: the call has no preconditions.
        let thread = unsafe { libc::gettid() };
        self.lock().thread = thread;
    }

    /// Forgets kicks that have not been answered yet. A kick that has only stored its byte so far
    /// sends its signal first, or that would interrupt the next run as well.
    pub(crate) fn answered(&self) {
        self.lock().store(0);
    }

    /// From now on kicks do nothing.
    pub(crate) fn retire(&self) {
        self.lock().byte = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Target> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hv::Kicker for KvmKicker {
    fn kick(&self) {
        // Held until the signal is sent, see `answered`.
        let target = self.lock();
        if target.store(1).is_none() || target.thread == 0 {
            return;
        }
        let process = std::process::id();
        // SAFETY: the call has no preconditions. Should the thread have ended and its number been
        // reused within this process, that thread runs `ignore`.
        unsafe { libc::syscall(libc::SYS_tgkill, process, target.thread, SIGRTMIN()) };
    }
}

/// That it is called is enough: it interrupts `KVM_RUN`.
extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
