//! Run by the agent to find stale records, and to report the ends of their sockets; see `stale`.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use tcptrace_common::config::{FINDS_PER_RUN, STALE_SOCKETS};

use crate::{kernel, stale};

answering! {
    /// The arguments: `STALE_SOCKETS` or a kind of pairs, and the keys of records, of which the first 0 ends
    /// them. Returns a bit for each that is of something which has ended unseen.
    fn find_stale(arguments) -> u32 {
        let &[kind, a, b, c, d, ..] = arguments;
        let keys: [u64; FINDS_PER_RUN] = [a, b, c, d];
        let now_ns = kernel::now_ns();
        let mut found = 0;
        for (at, key) in keys.into_iter().enumerate() {
            if key == 0 {
                break;
            }
            found |= u32::from(is_stale(kind, key, now_ns)) << at;
        }
        found
    }
}

/// A function of its own: one copy of it is enough.
#[inline(never)]
fn is_stale(kind: u64, key: u64, now_ns: u64) -> bool {
    if kind == STALE_SOCKETS {
        stale::is_stale_socket(key, now_ns)
    } else {
        stale::is_stale_pair(key, kind, now_ns)
    }
}

/// The arguments: `STALE_SOCKETS` or a kind of pairs, and the key of a record.
#[raw_tracepoint]
pub(crate) fn report_stale(ctx: RawTracePointContext) -> u32 {
    // SAFETY: the kernel passes the agent's arguments as an array of twelve words
    // (bpf_prog_test_run_raw_tp).
    let &[kind, key, ..] = unsafe { &*ctx.as_ptr().cast::<[u64; 12]>() };
    let now_ns = kernel::now_ns();
    if kind == STALE_SOCKETS {
        stale::report_socket(key, now_ns);
    } else {
        stale::report_pair(key, kind, now_ns);
    }
    0
}
