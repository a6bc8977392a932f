//! Where things lie in the one BAR of a virtio function, and the capabilities that say so.

use super::Description;
use crate::{BarSize, ConfigSpace, Error, Identity, Msix, msix};

/// The BAR that holds everything.
pub const BAR: u8 = 0;
/// Its size in bytes.
pub const BAR_SIZE: u64 = 0x8000;
/// Where the notifications begin in it.
pub const NOTIFY_OFFSET: u64 = 0x3000;
/// Bytes from one queue's notification to the next (`notify_off_multiplier`).
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// The most queues of a device: a vector each and one for config changes stay below
/// [`crate::MAX_VECTORS`].
pub const MAX_QUEUES: usize = 512;

/// Offset and length of each region in the BAR.
pub(super) const COMMON: (u64, u64) = (0x0000, 0x38);
pub(super) const ISR: (u64, u64) = (0x1000, 1);
pub(super) const DEVICE: (u64, u64) = (0x2000, 0x1000);
pub(super) const TABLE: u64 = 0x4000;
pub(super) const PENDING: u64 = 0x7000;

const VENDOR_VIRTIO: u16 = 0x1af4;
const CAPABILITY_VENDOR: u8 = 0x09;

/// A region of the BAR, for telling where an access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Region {
    Common,
    Isr,
    Device,
    Notify,
    Table,
    Pending,
}

/// The region that an offset in the BAR lies in, and the offset in that region.
pub(super) fn region(offset: u64) -> Option<(Region, u64)> {
    let (region, base) = match offset {
        0x0000..0x1000 => (Region::Common, COMMON.0),
        0x1000..0x2000 => (Region::Isr, ISR.0),
        0x2000..NOTIFY_OFFSET => (Region::Device, DEVICE.0),
        NOTIFY_OFFSET..TABLE => (Region::Notify, NOTIFY_OFFSET),
        TABLE..PENDING => (Region::Table, TABLE),
        PENDING..BAR_SIZE => (Region::Pending, PENDING),
        _ => return None,
    };
    Some((region, offset.checked_sub(base)?))
}

/// Where the two capabilities begin that the transport looks at after a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) msix: usize,
    pub(super) window: usize,
}

/// The config space of a virtio function (virtio 1.2, sections 4.1.2 and 4.1.4).
pub(super) fn config_space(
    description: &Description,
    msix: &Msix,
) -> Result<(ConfigSpace, Places), Error> {
    let mut space = ConfigSpace::new(&Identity {
        vendor: VENDOR_VIRTIO,
        device: 0x1040u16.saturating_add(description.virtio_id),
        revision: 1,
        class: super::class::of(description.virtio_id),
        subsystem_vendor: VENDOR_VIRTIO,
        subsystem: 0x1100,
    });
    space.add_bar(BarSize {
        index: BAR,
        size: BAR_SIZE,
    })?;
    let (body, writable) = msix.capability(BAR, 0x4000, 0x7000);
    let msix = space.add_capability(msix::CAPABILITY, &body, &writable)?;
    let queues = u64::try_from(description.queues.len()).unwrap_or_default();
    let notify = (
        NOTIFY_OFFSET,
        queues.saturating_mul(NOTIFY_MULTIPLIER.into()),
    );
    for (kind, region, extra) in [
        (1, COMMON, None),
        (2, notify, Some(NOTIFY_MULTIPLIER)),
        (3, ISR, None),
        (4, DEVICE, None),
    ] {
        space.add_capability(CAPABILITY_VENDOR, &capability(kind, region, extra), &[])?;
    }
    // PCI configuration access: the guest chooses BAR, offset and length, and reads and writes
    // the data; kind and id stay.
    let mut writable = [0xff; 18];
    writable[..2].fill(0);
    writable[3..6].fill(0);
    let body = capability(5, (0, 0), Some(0));
    let window = space.add_capability(CAPABILITY_VENDOR, &body, &writable)?;
    Ok((
        space,
        Places {
            msix: msix.into(),
            window: window.into(),
        },
    ))
}

/// The body of `struct virtio_pci_cap` after its id and link: cap_len, cfg_type, bar, id, two
/// bytes of padding, offset, length; then what some kinds add.
fn capability(kind: u8, (offset, length): (u64, u64), extra: Option<u32>) -> Vec<u8> {
    let low = |value: u64| u32::try_from(value).unwrap_or_default().to_le_bytes();
    let size = if extra.is_some() { 20 } else { 16 };
    let mut body = vec![size, kind, BAR, 0, 0, 0];
    body.extend(low(offset));
    body.extend(low(length));
    body.extend(extra.into_iter().flat_map(u32::to_le_bytes));
    body
}
