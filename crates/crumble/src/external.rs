//! Devices whose back ends are somebody else's.

use std::os::unix::net::UnixStream;

use spec::External;

use crate::Error;

/// Connects to the back end of the machine's device number `index`.
pub(crate) fn connect(device: &External, index: usize) -> Result<supervisor::External, Error> {
    let stream = UnixStream::connect(&device.socket).map_err(|source| Error::External {
        device: device.to_string(),
        source,
    })?;
    Ok(supervisor::External {
        name: format!("{}{index}", device.kind()),
        virtio_id: device.virtio_id,
        queues: device.queues.clone(),
        config_space: device.config_space(),
        stream: stream.into(),
    })
}
