//! Who owns a connection, beyond its process id.

pub mod cgroup;
pub mod process;
pub mod procfs;
