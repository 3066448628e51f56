//! One file per fact the kernel tells us.

mod accept;
mod destroy;
mod flush;
mod seed;
mod set_state;
