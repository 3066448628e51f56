//! What becomes of time-wait sockets. One way is attached, the first that the running kernel takes:
//!
//! | hooks | since | |
//! |---|---|---|
//! | fentry, kprobe `inet_twsk_kill(tw)` and `__inet_twsk_schedule(tw, timeo, rearm)` | 5.10 | every end, and every FIN that comes late, at once |
//! | `tp_btf/timer_cancel(timer)` with [`poll`] | 5.10 | every end; a late FIN is found by looking |
//!
//! A time-wait socket's timer is stopped before each end (`inet_twsk_deschedule_put`, and by
//! expiry), but also to be set anew (`__mod_timer`), or to go on elsewhere when its CPU goes offline
//! (`migrate_timer_list`). Which it was shows afterwards: when the same CPU stops the next one, or to the
//! agent. It is set anew for a late FIN only if that falls into another bucket of the timer wheel.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use tcptrace_common::{
    config::{POLL_STOPS, POLLS_PER_RUN, STOPS_PER_RUN},
    count,
    map_index::TIME_WAIT_HANDLER,
};

use crate::{
    constants::off,
    kernel::{self, Object as _, Typed},
    maps::{self, POLL_QUEUE, TIME_WAIT},
    preempt,
    timewait::{self, TimeWait},
};

#[fentry(function = "inet_twsk_kill")]
pub(crate) fn tw_kill_fentry(ctx: FEntryContext) -> i32 {
    let _pinned = preempt::in_trampoline();
    timewait::ended(TimeWait::at(ctx.arg::<u64>(0)), kernel::now_ns());
    0
}

#[fentry(function = "__inet_twsk_schedule")]
pub(crate) fn tw_schedule_fentry(ctx: FEntryContext) -> i32 {
    let _pinned = preempt::in_trampoline();
    timewait::rescheduled(TimeWait::at(ctx.arg::<u64>(0)), kernel::now_ns());
    0
}

#[kprobe]
pub(crate) fn tw_kill_kprobe(ctx: ProbeContext) -> u32 {
    timewait::ended(
        TimeWait::at(ctx.arg::<u64>(0).unwrap_or(0)),
        kernel::now_ns(),
    );
    0
}

#[kprobe]
pub(crate) fn tw_schedule_kprobe(ctx: ProbeContext) -> u32 {
    timewait::rescheduled(
        TimeWait::at(ctx.arg::<u64>(0).unwrap_or(0)),
        kernel::now_ns(),
    );
    0
}

#[btf_tracepoint(function = "timer_cancel")]
pub(crate) fn timer_cancel(ctx: BtfTracePointContext) -> i32 {
    let timer = Typed(ctx.arg::<*const u8>(0));
    let Some(handler) = TIME_WAIT.get(TIME_WAIT_HANDLER) else {
        return 0;
    };
    if timer.read::<u64>(off!(timer_function)) != *handler {
        return 0;
    }
    let tw = timer.0.wrapping_sub(off!(tw_timer) as usize) as u64;
    timewait::stopped(TimeWait::at(tw), kernel::now_ns());
    0
}

answering! {
    /// Run by the agent. The arguments: `POLL_QUEUED` to look at a few of the time-wait sockets on the list;
    /// returns how many of them it took off. Or `POLL_STOPS` and a CPU, to look at what this one and those
    /// behind it have stopped last; returns of how many it is still uncertain whether that was for good.
    fn poll(arguments) -> u32 {
        let now_ns = kernel::now_ns();
        timewait::begin(now_ns);
        let mut number = 0;
        if arguments[0] == POLL_STOPS {
            let first = arguments[1] as u32;
            for at in 0..STOPS_PER_RUN {
                let cpu = first.wrapping_add(at);
                number += u32::from(timewait::resolve_last_stop(cpu, now_ns));
            }
            return number;
        }
        for _ in 0..POLLS_PER_RUN {
            let Ok(Some(listed)) = POLL_QUEUE.pop() else { break };
            // Read after the pop, so that what was put there meanwhile is not of the future.
            let stays = timewait::poll(TimeWait::listed(listed), kernel::now_ns());
            number += u32::from(!stays);
        }
        maps::count(count::POLL_REMOVED, u64::from(number));
        number
    }
}
