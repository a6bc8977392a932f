//! Which layers the inside half closes: all of them.
//!
//! A test may leave one out, to see that the next one holds. The switch is not in a normal build.

pub(crate) use switch::closed;
#[cfg(feature = "test-layers")]
pub use switch::leave_out;

/// A layer that the inside half closes and that other layers do not depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "test-layers"),
    expect(unreachable_pub, reason = "tests name what they leave out")
)]
pub enum Layer {
    /// The empty root directory.
    Root,
    /// Dropped capabilities, and the locks on them.
    Capabilities,
    /// Landlock.
    Landlock,
}

#[cfg(not(feature = "test-layers"))]
mod switch {
    /// Always.
    pub(crate) const fn closed(_: super::Layer) -> bool {
        true
    }
}

#[cfg(feature = "test-layers")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Layer;

    /// A bit for each layer that stays open.
    static OPEN: AtomicU8 = AtomicU8::new(0);

    /// Has [`crate::confine`] leave `layer` open in this process.
    pub fn leave_out(layer: Layer) {
        OPEN.fetch_or(1 << layer as u8, Ordering::Relaxed);
    }

    /// Whether `layer` is to be closed.
    pub(crate) fn closed(layer: Layer) -> bool {
        OPEN.load(Ordering::Relaxed) & (1 << layer as u8) == 0
    }
}
