//! What any tracer on this hook costs at least, for `cargo xtask bench` to compare with.
//!
//! Three programs on `tp_btf/inet_sock_set_state`: nothing at all, a record into a ring, and a count;
//! and nothing at all in the other places where tcptrace has to be.
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the size of a port fits everywhere"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macros pass contexts by value"
)]

use aya_ebpf::{
    Global,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::{btf_tracepoint, map, tracepoint},
    maps::{PerCpuArray, RingBuf},
    programs::{BtfTracePointContext, TracePointContext},
};

/// As long as tcptrace's own record of a transition.
#[repr(C)]
struct Record {
    mono_ns: u64,
    skaddr: u64,
    pid_tgid: u64,
    old: u32,
    new: u32,
    rest: [u64; 10],
}

/// The records. A reader comes by a timer, so nothing here wakes it.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// How many transitions there were on the ports of [`PORTS`].
#[map]
static COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Where the running kernel keeps a socket's own and its peer's port, and which ports count: those
/// that are equal to the third after the mask in the fourth. Written before load.
#[unsafe(no_mangle)]
static PORTS: Global<[u32; 4]> = Global::new([0; 4]);

/// Calls nothing, does nothing.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn empty(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Where a kernel without trampolines and kprobes tells that a time-wait socket's timer is stopped.
#[btf_tracepoint(function = "timer_cancel")]
pub(crate) fn empty_timer(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Where such a kernel tells who accepted.
#[tracepoint]
pub(crate) fn empty_accept(_ctx: TracePointContext) -> u32 {
    0
}

/// See [`empty_accept`].
#[tracepoint]
pub(crate) fn empty_accept4(_ctx: TracePointContext) -> u32 {
    0
}

/// One record, with what costs nothing to know.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn ring(ctx: BtfTracePointContext) -> i32 {
    let Some(mut slot) = EVENTS.reserve::<Record>(0) else {
        return 0;
    };
    slot.write(Record {
        // SAFETY: no arguments.
        mono_ns: unsafe { bpf_ktime_get_ns() },
        skaddr: ctx.arg::<*const u8>(0) as u64,
        // SAFETY: no arguments.
        pid_tgid: unsafe { bpf_get_current_pid_tgid() },
        old: ctx.arg(1),
        new: ctx.arg(2),
        rest: [0; 10],
    });
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    0
}

/// One of the words of [`PORTS`].
fn ports(word: usize) -> u32 {
    let words = (&raw const PORTS).cast::<u32>().wrapping_add(word);
    // SAFETY: inside `PORTS`, which is always initialised; volatile, because it is replaced before
    // load.
    unsafe { words.read_volatile() }
}

/// A port of the socket, by its offset, if it is one of those that count.
///
/// Read by probe: its own port is a member of `struct inet_sock`, and `sk_num` is 0 at the end.
fn counts(sk: *const u8, offset: u32) -> bool {
    let mut port = 0_u16;
    // SAFETY: the helper writes two bytes, zeroes on a fault.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut port).cast(),
            size_of::<u16>() as u32,
            sk.wrapping_add(offset as usize).cast(),
        );
    }
    u32::from(u16::from_be(port)) & ports(3) == ports(2)
}

/// Counts, independently of whoever traces.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn count(ctx: BtfTracePointContext) -> i32 {
    let sk = ctx.arg::<*const u8>(0);
    if (counts(sk, ports(0)) || counts(sk, ports(1)))
        && let Some(count) = COUNT.get_ptr_mut(0)
    {
        // SAFETY: a live, aligned map value of this CPU; the kernel does not enter this program
        // again while it runs here.
        unsafe { *count += 1 };
    }
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
