//! Run by the agent for records that may be of what has ended unseen; see `hidden`.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use tcptrace_common::config::{FINDS_PER_RUN, HIDDEN_SOCKS};

use crate::{hidden, kernel};

answering! {
    /// The arguments: `HIDDEN_*`, and the addresses of records, those that are left over 0. Returns a
    /// bit for each that is of something which has ended unseen.
    fn find_hidden(arguments) -> u32 {
        // By name: the verifier takes no index into the arguments.
        let &[kind, a, b, c, d, e, f, g, h, i, j, k] = arguments;
        let keys: [u64; FINDS_PER_RUN] = [a, b, c, d, e, f, g, h, i, j, k];
        let now_ns = kernel::now_ns();
        let bit = |at: usize| u32::from(is_hidden(kind, keys[at], now_ns)) << at;
        bit(0) | bit(1) | bit(2) | bit(3) | bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(9) | bit(10)
    }
}

/// A function of its own: one copy of it is enough.
#[inline(never)]
fn is_hidden(kind: u64, key: u64, now_ns: u64) -> bool {
    if kind == HIDDEN_SOCKS {
        hidden::is_over(key, now_ns)
    } else {
        hidden::has_left(key)
    }
}

/// The arguments: `HIDDEN_*`, and the address of a record.
#[raw_tracepoint]
pub(crate) fn tell_hidden(ctx: RawTracePointContext) -> u32 {
    // SAFETY: the kernel passes the agent's arguments as an array of twelve words
    // (bpf_prog_test_run_raw_tp).
    let &[kind, key, ..] = unsafe { &*ctx.as_ptr().cast::<[u64; 12]>() };
    let now_ns = kernel::now_ns();
    if kind == HIDDEN_SOCKS {
        hidden::tell_sock(key, now_ns);
    } else {
        hidden::tell_pair(key, now_ns);
    }
    0
}
