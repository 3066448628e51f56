//! What the project's tasks share: finding the project, installing and calling what compiles it,
//! running other programs, and reading of a process what `/proc` says.
#![expect(clippy::print_stderr, reason = "saying what happens is a task's job")]

pub mod bpf_toolchain;
pub mod build;
pub mod process;
pub mod setup;
pub mod workspace;
