//! `sched:sched_process_fork`: a process makes another.
//!
//! Prototype: `(struct task_struct *parent, struct task_struct *child)`, unchanged from 5.10 to 7.3. Called in
//! the parent, after all of the child is made and before it runs for the first time (`kernel_clone`).

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::{config::PID_FOLLOWED, count};

use crate::{
    constants::off,
    kernel::{Object as _, Typed},
    maps::{self, PIDS},
    owner, preempt,
    process::{self, Place},
};

/// With `-f`: the child of a process that was asked for is one, too.
#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn follow(ctx: BtfTracePointContext) -> i32 {
    let _pinned = preempt::in_tracepoint();
    let child = Typed(ctx.arg::<*const u8>(1));
    let tgid: u32 = child.read(off!(task_tgid));
    // A thread.
    if child.read::<u32>(off!(task_pid)) != tgid {
        return 0;
    }
    process::look(owner::current_tgid(), owner::leader(), Place::Fork);
    if !owner::is_wanted() {
        return 0;
    }
    if PIDS.insert(tgid, PID_FOLLOWED, 0).is_err() {
        maps::count(count::MAP_FULL, 1);
    }
    0
}
