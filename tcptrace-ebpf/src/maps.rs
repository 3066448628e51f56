//! Every map: who writes it, who reads it, who empties it.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, RingBuf},
};
use tcptrace_common::{
    config::{self, AUTOMATON_BYTES, PORT_ROWS, PORT_WORDS, TIME_WAIT_WORDS},
    count::{self, COUNTS},
    map_index::SELECTIONS,
};

use crate::{
    process::{Known, PLACES, SCRATCH_BYTES},
    sock::{Backlog, Sock, TimeWaitRecord, Waiting},
    tuple::{Place, Request},
};

/// One record per live socket, keyed by the address of its `struct sock`.
///
/// Inserted when the socket leaves `CLOSE` or is cloned from a listener (`hook::set_state`), or
/// by `hook::snapshot`; removed when the kernel destroys the socket (`hook::destroy`), or when a
/// filter rejects it. An address recycled for a new socket begins with a birth, which replaces
/// whatever stands here. Sized by the agent.
#[map]
pub(crate) static SOCKS: HashMap<u64, Sock> = HashMap::with_max_entries(1, 0);

/// One record per time-wait socket whose connection was shown, under `TimeWait::key`.
///
/// Inserted by `timewait`, removed by whoever tells of its end. A pair whose peer has not sent its
/// FIN yet still has its whole record, in [`SOCKS`], under the same key. Sized by the agent.
#[map]
pub(crate) static TIME_WAITS: HashMap<u64, TimeWaitRecord> = HashMap::with_max_entries(1, 0);

/// Time-wait sockets (address and cookie) that wait for their FIN, for `hook::time_wait::poll` to look at where nothing
/// else tells when it comes. Pushed by `timewait`.
#[map]
pub(crate) static POLL_QUEUE: Queue<[u64; 2]> = Queue::with_max_entries(65536, 0);

/// Where in [`TIME_WAIT`] it is noted what this CPU stopped the timer of last: the key in [`TIME_WAITS`] or [`SOCKS`];
/// behind it, when that was. 64 bytes for each CPU.
#[inline(always)]
pub(crate) fn stop_of(cpu: u32) -> u32 {
    TIME_WAIT_WORDS.wrapping_mul(cpu.wrapping_add(1))
}

/// How the ends of time-wait sockets are learnt. The agent makes room for each CPU.
#[map]
pub(crate) static TIME_WAIT: Array<u64> = Array::with_max_entries(TIME_WAIT_WORDS, 0);

/// When the first SYN-ACK of a request was sent (µs), of those that had to be sent again. The
/// oldest give way: under a flood of forged SYNs nobody asks for them.
#[map]
pub(crate) static SYNACKS: LruHashMap<Request, u64> = LruHashMap::with_max_entries(8192, 0);

/// What was last told of each listener, by the address of its `struct sock`. Inserted with its
/// record in [`SOCKS`], removed with it.
#[map]
pub(crate) static BACKLOGS: HashMap<u64, Backlog> = HashMap::with_max_entries(4096, 0);

/// Sockets whose first step waits for its port, and since when (`CLOCK_MONOTONIC`, ns).
///
/// Inserted by `publish`; whoever removes the entry (`publish` or `hook::flush`) is the one who
/// sends that step. The agent reads the keys and runs `hook::flush` on those that wait too long.
#[map]
pub(crate) static PENDING: HashMap<u64, u64> = HashMap::with_max_entries(16384, 0);

/// Sockets whose steps are being sent right now; see `publish::contended`.
#[map]
pub(crate) static LOCKS: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

/// With `--slower-than`, connections that wait, in the order in which their limit passes. Pushed where a
/// client sends its SYN and where a connection enters the accept queue, popped by `hook::slow`. Sized by the
/// agent; one that finds no room is counted.
#[map]
pub(crate) static SLOW: Queue<Waiting> = Queue::with_max_entries(1, 0);

/// The one that was popped last and whose limit has not passed yet. Read and written by `hook::slow`.
#[map]
pub(crate) static SLOW_NEXT: Array<Waiting> = Array::with_max_entries(1, 0);

/// Has the agent look at this connection when the limit has passed.
#[inline(always)]
pub(crate) fn wait(key: u64, since_ns: u64) {
    if SLOW.push(&Waiting { key, since_ns }, 0).is_err() {
        count(count::RING_FULL_DETAIL, 1);
    }
}

/// Thread groups that have listeners, by id: 0, or when the last process with this id has ended
/// (`CLOCK_MONOTONIC`, ns). The oldest give way. Written by `keeper`.
#[map]
pub(crate) static KEEPERS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// Thread groups the user asked for, and why (`PID_*`). Written by the agent before attach; with `-f`,
/// `hook::fork` adds children and `hook::exit` removes those that have ended. Sized by the agent.
#[map]
pub(crate) static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(4096, 0);

/// Bitmaps of the ports the user asked for, a row each. Written by the agent before attach.
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(PORT_ROWS * PORT_WORDS, 0);

/// Numbers (`WANTED_*`, number) that are wanted, 1, or unwanted, 0. Written by the agent before attach.
#[map]
pub(crate) static WANTED: HashMap<[u64; 2], u8> = HashMap::with_max_entries(4096, 0);

/// Networks (`NETWORKS_*` and family, address) that are wanted, 1, or unwanted, 0. Written by the agent before
/// attach.
#[map]
pub(crate) static NETWORKS: LpmTrie<[u32; 5], u8> = LpmTrie::with_max_entries(4096, 0);

/// Patterns of names as automata. Written by the agent before attach.
#[map]
pub(crate) static AUTOMATA: Array<[u8; AUTOMATON_BYTES]> =
    Array::with_max_entries(config::AUTOMATA, 0);

/// Processes that came to own something, by their ids. The oldest give way. Inserted by `process`.
#[map]
pub(crate) static KNOWN: LruHashMap<u32, Known> = LruHashMap::with_max_entries(8192, 0);

/// Where a program puts paths together, each in a place of its own (`process::Place`).
#[map]
pub(crate) static SCRATCH: PerCpuArray<[u64; SCRATCH_BYTES / 8]> =
    PerCpuArray::with_max_entries(PLACES, 0);

/// Records for the agent. Sized by the agent.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Not 0 while the agent sleeps: the next record must wake it. Set by the agent before it
/// sleeps, cleared by whoever wakes it.
#[map]
pub(crate) static ASLEEP: Array<u32> = Array::with_max_entries(1, 0);

/// What `hook::snapshot` has found in accept queues: address of the `struct sock` to that of its listener. Read in
/// the same walk.
#[map]
pub(crate) static QUEUED: HashMap<u64, u64> = HashMap::with_max_entries(8192, 0);

/// Where somebody listened when tracing began. Written and read by `hook::snapshot`. What finds no room is not
/// inferred from.
#[map]
pub(crate) static LISTENING: HashMap<Place, u8> =
    HashMap::with_max_entries(16384, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// Which pass `hook::snapshot` is in. Written by the agent.
#[map]
pub(crate) static SNAPSHOT_PASS: Array<u32> = Array::with_max_entries(1, 0);

/// The transition this CPU is at, of those that a program has recorded: `[1]` of sockets that a task has
/// locked, `[0]` of all others. The next program records what differs.
#[map]
pub(crate) static CURRENT: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(2, 0);

/// Which connections there is anything to do for. With `-p`, as long as nothing is `ACTIVE`, only for
/// one that begins; the agent reads that, and then attaches what is needed from there on.
#[map]
pub(crate) static SELECTION: Array<u32> = Array::with_max_entries(SELECTIONS, 0);

/// Counters, indexed by `tcptrace_common::count`. Read by the agent.
#[map]
pub(crate) static COUNT: PerCpuArray<[u64; COUNTS]> = PerCpuArray::with_max_entries(1, 0);

/// Adds to a counter. Two programs of one CPU may interrupt each other, so the addition is a
/// single instruction.
#[inline(always)]
pub(crate) fn count(index: usize, by: u64) {
    if let Some(counters) = COUNT.get_ptr_mut(0) {
        let counter = counters.cast::<u64>().wrapping_add(index);
        // SAFETY: the pointer is a live, aligned map value of this CPU; the instruction changes
        // nothing else. `core` offers no atomics for this target.
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({counter} + 0) += {by}",
                counter = in(reg) counter,
                by = in(reg) by,
            );
        }
    }
}

/// Where another tcptrace finds what this tracer knows (`tcptrace_common::live`). Written by the agent, read by no
/// program.
#[map]
pub(crate) static TCPTRACE_ABI: Array<u32> =
    Array::with_max_entries(tcptrace_common::live::ABI_WORDS, 0);
