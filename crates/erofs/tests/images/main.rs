//! Images that are written, read, judged by others, and broken.

mod hostile;
mod judges;
mod layers;
mod round;
mod trees;
mod views;
