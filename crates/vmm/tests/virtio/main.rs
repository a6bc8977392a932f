//! Devices behind the virtio-pci transport: a guest's driver on one side, real and malicious
//! vhost-user back ends on the other, and a host that only notes what it is asked for.

mod correct;
mod echo;
mod guest;
mod host;
mod hostile;
mod liar;
mod replace;
