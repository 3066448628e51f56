//! Keeping the running task on its CPU while a program runs.
//!
//! The kernel skips a program that is already running on this CPU. Where a task can be preempted in
//! the middle of one, that lasts until the task runs again, and others skip it many times
//! meanwhile: in a trampoline (`__bpf_prog_enter_recur`) wherever the kernel is preemptible, in a
//! tracepoint since 7.0, which no longer disables preemption around its probes
//! (`include/linux/tracepoint.h`).

use tcptrace_common::{
    config::{PIN_TRACEPOINTS, PIN_TRAMPOLINES},
    kfunc::{PREEMPT_DISABLE, PREEMPT_ENABLE},
};

use crate::constants::config;

/// Preemption is disabled until this is dropped.
#[must_use]
pub(crate) struct Pinned {
    by: u8,
}

/// For a program that a tracepoint calls.
#[inline(always)]
pub(crate) fn in_tracepoint() -> Pinned {
    pin(PIN_TRACEPOINTS)
}

/// For a program that a trampoline calls.
#[inline(always)]
pub(crate) fn in_trampoline() -> Pinned {
    pin(PIN_TRAMPOLINES)
}

#[inline(always)]
fn pin(by: u8) -> Pinned {
    if config!(pinned) & by != 0 {
        call::<PREEMPT_DISABLE>();
    }
    Pinned { by }
}

impl Drop for Pinned {
    #[inline(always)]
    fn drop(&mut self) {
        if config!(pinned) & self.by != 0 {
            call::<PREEMPT_ENABLE>();
        }
    }
}

#[inline(always)]
fn call<const PLACE: u32>() {
    // SAFETY: never an address: a constant that the compiler makes a call to a helper of this
    // number, which the agent has replaced by a kernel function without arguments.
    let function = unsafe { core::mem::transmute::<usize, extern "C" fn()>(PLACE as usize) };
    function();
}
