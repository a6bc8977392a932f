//! What is settled with a back end before its driver arrives.

use vhost::VhostBackend;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use super::Error;
use super::config_size;

/// vhost-user's own feature bit, which guests never see.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VIRTIO_F_INDIRECT_DESC`, `VIRTIO_F_EVENT_IDX`, `VIRTIO_F_VERSION_1`: what of the transport's
/// and the ring's features (bits 24 to 49) we pass on. Others need the front end's help.
const RING_FEATURES: u64 = 1 << 28 | 1 << 29 | VERSION_1;
const VERSION_1: u64 = 1 << 32;
/// Bits 0 to 23 and 50 to 63 belong to the device type (virtio 1.2, section 2.2).
const DEVICE_FEATURES: u64 = 0xff_ffff | !((1 << 50) - 1);

/// What of a device is not its back end's to say.
pub(super) struct Described {
    pub(super) virtio_id: u16,
    /// None if the back end says it.
    pub(super) config_space: Option<Vec<u8>>,
}

/// What a back end offers, checked.
#[derive(Debug)]
pub(super) struct Offer {
    /// What the guest may choose from.
    pub(super) features: u64,
    /// [`PROTOCOL_FEATURES`] if it is to be accepted along with the guest's choice.
    pub(super) own_features: u64,
    /// What we use of the protocol's extensions.
    pub(super) protocol: VhostUserProtocolFeatures,
    /// The config space; empty if the device has none.
    pub(super) config: Vec<u8>,
}

impl Offer {
    /// Whether it can take the place of another, which the guest has seen.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub(super) fn covers(&self, other: &Self) -> Result<(), Error> {
        let features = self.features & other.features == other.features;
        if features && self.config.len() == other.config.len() {
            Ok(())
        } else {
            Err(Error::Changed)
        }
    }
}

/// Settles everything that does not depend on the driver.
///
/// # Errors
/// A request that failed, or an offer that no driver could use.
pub(super) fn run(
    frontend: &mut Frontend,
    description: &Described,
    queues: usize,
) -> Result<Offer, Error> {
    let features = frontend
        .get_features()
        .map_err(Error::request("GET_FEATURES"))?;
    let own_features = features & PROTOCOL_FEATURES;
    let protocol = if own_features == 0 {
        VhostUserProtocolFeatures::empty()
    } else {
        extensions(frontend)?
    };
    frontend.set_owner().map_err(Error::request("SET_OWNER"))?;
    if protocol.contains(VhostUserProtocolFeatures::MQ) {
        let offered = frontend
            .get_queue_num()
            .map_err(Error::request("GET_QUEUE_NUM"))?;
        if offered < queues as u64 {
            return Err(Error::Queues {
                offered,
                wanted: queues,
            });
        }
    }
    if features & VERSION_1 == 0 {
        return Err(Error::Legacy);
    }
    let config = match &description.config_space {
        Some(space) => space.clone(),
        None if protocol.contains(VhostUserProtocolFeatures::CONFIG) => {
            read_config(frontend, config_size::of(description.virtio_id))?
        }
        None => Vec::new(),
    };
    let features = features & (RING_FEATURES | DEVICE_FEATURES);
    Ok(Offer {
        features,
        own_features,
        protocol,
        config,
    })
}

fn extensions(frontend: &mut Frontend) -> Result<VhostUserProtocolFeatures, Error> {
    let known = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::RESET_DEVICE;
    let offered = frontend
        .get_protocol_features()
        .map_err(Error::request("GET_PROTOCOL_FEATURES"))?;
    let used = offered & known;
    frontend
        .set_protocol_features(used)
        .map_err(Error::request("SET_PROTOCOL_FEATURES"))?;
    if used.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    Ok(used)
}

/// The whole config space. `size` is ours, so the back end cannot make it larger.
pub(super) fn read_config(frontend: &mut Frontend, size: u32) -> Result<Vec<u8>, Error> {
    if size == 0 {
        return Ok(Vec::new());
    }
    let room = vec![0; usize::try_from(size).unwrap_or_default()];
    let (_, config) = frontend
        .get_config(0, size, VhostUserConfigFlags::empty(), &room)
        .map_err(Error::request("GET_CONFIG"))?;
    Ok(config)
}
