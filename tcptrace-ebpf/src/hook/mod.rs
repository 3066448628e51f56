//! One file per fact the kernel tells us.

mod accept;
mod backlog;
mod destroy;
mod flush;
mod reset;
mod retransmit;
mod seed;
mod send_held;
mod set_state;
mod time_wait;
