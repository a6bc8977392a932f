//! How long each device's config space is: the back end refuses to be asked for more, and has no
//! message to say how much there is.

/// Bytes of config space for a virtio device id (virtio 1.2, section 5), without the fields that
/// only an optional feature adds. A device that is not listed is taken to have none.
pub(super) const fn of(virtio_id: u16) -> u32 {
    match virtio_id {
        1 => 12,   // network: mac, status, max_virtqueue_pairs, mtu (5.1.4)
        2 => 60,   // block: up to write_zeroes_may_unmap and its padding (5.2.4)
        3 => 12,   // console: cols, rows, max_nr_ports, emerg_wr (5.3.4)
        5 => 8,    // balloon: num_pages, actual (5.5.4)
        8 => 36,   // SCSI host (5.6.4)
        16 => 16,  // GPU: events_read, events_clear, num_scanouts, num_capsets (5.7.4)
        18 => 136, // input: select, subsel, size, padding, 128 bytes of answer (5.8.4)
        19 => 8,   // vsock: guest_cid (5.10.4)
        20 => 56,  // crypto (5.9.4)
        23 => 40,  // IOMMU (5.13.4)
        25 => 12,  // sound: jacks, streams, chmaps (5.14.4)
        26 => 40,  // file system: tag, num_request_queues (5.11.4)
        27 => 16,  // pmem: start, size (5.19.4)
        41 => 8,   // GPIO: ngpio, padding, gpio_names_size (5.18.4)
        _ => 0,
    }
}
