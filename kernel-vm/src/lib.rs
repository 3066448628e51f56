//! Kernels of distributions in virtual machines: getting them, and booting them with programs of ours.
#![expect(
    clippy::print_stderr,
    reason = "getting a kernel takes a while, and says so"
)]

pub mod arch;
pub mod archive;
pub mod emulator;
pub mod guest;
pub mod host;
pub mod initramfs;
pub mod kernel;
pub mod library;
pub mod mirror;
