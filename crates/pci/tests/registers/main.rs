//! The bus and the virtio transport through the registers, as a guest uses and abuses them.

mod arbitrary;
mod driver;
mod machine;
