//! Run by the agent for sockets of which steps have been held for a turn; see `held`.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use tcptrace_common::config::HELD_PER_RUN;

use crate::held;

/// The arguments: send what is held since then or before (`CLOCK_MONOTONIC`, ns), and the addresses of
/// the sockets, of which the first 0 ends them. Returns a bit for each of which something stays and no
/// hint tells.
#[raw_tracepoint]
pub(crate) fn send_held(ctx: RawTracePointContext) -> u32 {
    // SAFETY: the kernel passes the agent's arguments as an array of twelve words
    // (bpf_prog_test_run_raw_tp).
    let &[latest_ns, a, b, c, d, ..] = unsafe { &*ctx.as_ptr().cast::<[u64; 12]>() };
    let keys: [u64; HELD_PER_RUN] = [a, b, c, d];
    let mut left = 0;
    for (at, key) in keys.into_iter().enumerate() {
        if key == 0 {
            break;
        }
        left |= u32::from(held::send(key, latest_ns)) << at;
    }
    left
}
