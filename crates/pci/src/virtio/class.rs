//! The PCI class of a virtio device, as other machines choose it; a guest may name and sort its
//! devices by it, drivers do not look at it.

/// Base class, sub-class, programming interface for a virtio device id (virtio 1.2, section 5).
pub(super) const fn of(virtio_id: u16) -> u32 {
    match virtio_id {
        1 => 0x02_00_00,      // network: Ethernet controller
        2 => 0x01_80_00,      // block: other mass storage
        3 | 19 => 0x07_80_00, // console, vsock: other communication
        8 => 0x01_00_00,      // SCSI host: SCSI
        9 | 26 => 0x01_80_00, // 9p, file system: other mass storage
        16 => 0x03_80_00,     // GPU: other display
        18 => 0x09_80_00,     // input: other input
        20 => 0x10_80_00,     // crypto: other encryption
        25 => 0x04_01_00,     // sound: multimedia audio
        _ => 0xff_00_00,      // unassigned
    }
}
