//! Kernel functions that programs call where the kernel has them.
//!
//! Such a call names its function by its number in the kernel's BTF. The programs are built with
//! the numbers of helpers that no kernel has; the agent puts the functions in their place before
//! load. Where it does not, a branch on the configuration keeps the verifier away from the calls.

/// In place of `bpf_preempt_disable` (6.11 and later).
pub const PREEMPT_DISABLE: u32 = 0x7c70_0001;
/// In place of `bpf_preempt_enable` (6.11 and later).
pub const PREEMPT_ENABLE: u32 = 0x7c70_0002;
/// In place of `bpf_rdonly_cast`. With the number 0 for a type (6.17 and later) it makes any address one that
/// may be read, and what cannot be read is 0.
pub const RDONLY_CAST: u32 = 0x7c70_0003;
