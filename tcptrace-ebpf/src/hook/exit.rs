//! `sched:sched_process_exit`: a task ends.
//!
//! Prototype: `(struct task_struct *task)`; `bool group_dead` follows from 6.16 on. Called by `do_exit` in the
//! task that ends, before it closes its files.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::config::PID_FOLLOWED;

use crate::{
    constants::{config, off},
    keeper,
    kernel::{Object as _, Typed},
    maps::PIDS,
};

/// Another process may get the id of one that has ended.
#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn exit(ctx: BtfTracePointContext) -> i32 {
    let task = Typed(ctx.arg::<*const u8>(0));
    // `do_exit` counts before it calls us.
    if task.probe(off!(task_signal)).read::<u32>(off!(signal_live)) != 0 {
        return 0;
    }
    let tgid: u32 = task.read(off!(task_tgid));
    keeper::end(tgid);
    // Of one that was asked for by its id, the id stays asked for.
    // SAFETY: the value is copied at once.
    if config!(follow) != 0 && unsafe { PIDS.get(tgid) }.copied() == Some(PID_FOLLOWED) {
        let _gone = PIDS.remove(tgid);
    }
    0
}
