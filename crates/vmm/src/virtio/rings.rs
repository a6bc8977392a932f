//! The rings of a device, handed to its back end and taken away from it.

use pci::virtio::QueueSetup;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

use super::Error;
use super::handshake::Offer;
use super::link::Link;
use super::memory::MemoryTable;

/// Where the back end begins in a ring.
#[derive(Clone, Copy)]
pub(super) enum Base {
    /// At its beginning: the driver has just made it.
    Zero,
    /// Behind what has been used: another back end was at it, which used it in order.
    Used,
}

/// Hands guest memory and `queues` to the back end.
pub(super) fn start(
    link: &Link,
    queues: &[QueueSetup],
    base: Base,
    offer: &Offer,
    frontend: &mut Frontend,
) -> Result<(), Error> {
    frontend
        .set_mem_table(link.memory.regions())
        .map_err(Error::request("SET_MEM_TABLE"))?;
    for queue in queues {
        let at = usize::from(queue.index);
        let ring = ring(&link.memory, queue).ok_or(Error::NoQueue(queue.index))?;
        let base = match base {
            Base::Zero => 0,
            Base::Used => link.memory.used_index(queue.used).unwrap_or_default(),
        };
        let kick = link.kicks.get(at).ok_or(Error::NoQueue(queue.index))?;
        let call = link.calls.event(queue.vector);
        frontend
            .set_vring_num(at, queue.size)
            .map_err(Error::request("SET_VRING_NUM"))?;
        frontend
            .set_vring_base(at, base)
            .map_err(Error::request("SET_VRING_BASE"))?;
        frontend
            .set_vring_addr(at, &ring)
            .map_err(Error::request("SET_VRING_ADDR"))?;
        frontend
            .set_vring_call(at, call)
            .map_err(Error::request("SET_VRING_CALL"))?;
        frontend
            .set_vring_kick(at, kick)
            .map_err(Error::request("SET_VRING_KICK"))?;
        if offer.own_features != 0 {
            let enabled = frontend.set_vring_enable(at, true);
            enabled.map_err(Error::request("SET_VRING_ENABLE"))?;
        }
    }
    Ok(())
}

/// A ring's addresses as the back end needs them. The transport has checked that the whole of each
/// ring is RAM.
fn ring(memory: &MemoryTable, queue: &QueueSetup) -> Option<VringConfigData> {
    let host = |address| memory.host_address(address, 1);
    Some(VringConfigData {
        queue_max_size: queue.size,
        queue_size: queue.size,
        flags: 0,
        desc_table_addr: host(queue.descriptors)?,
        used_ring_addr: host(queue.used)?,
        avail_ring_addr: host(queue.available)?,
        log_addr: None,
    })
}

/// Stops `queues`. GET_VRING_BASE is answered when the back end has let go of the ring.
pub(super) fn stop(
    queues: &[QueueSetup],
    offer: &Offer,
    frontend: &mut Frontend,
) -> Result<(), Error> {
    for queue in queues {
        let at = usize::from(queue.index);
        if offer.own_features != 0 {
            let disabled = frontend.set_vring_enable(at, false);
            disabled.map_err(Error::request("SET_VRING_ENABLE"))?;
        }
        frontend
            .get_vring_base(at)
            .map_err(Error::request("GET_VRING_BASE"))?;
    }
    let resets = VhostUserProtocolFeatures::RESET_DEVICE;
    if offer.protocol.contains(resets) {
        frontend
            .reset_device()
            .map_err(Error::request("RESET_DEVICE"))?;
    }
    Ok(())
}
