//! What is attached, while it is: what the agent's loop asks of the kernel side.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::tp_btf::BtfTracePointLink,
};
use rustix::thread::{MembarrierCommand, membarrier};
use tcptrace_common::{
    config::{PID_FOLLOWED, SOCK_WORDS},
    live::sock,
    map_index::{ACTIVE, ENDING, OVER},
    record::{PATH_LEN, Step},
    tcp,
};

use super::{
    attach::{self, Hooks, TimeWait},
    counts::{Counts, Losses, Open},
    object::chain,
    open::StillOpen,
    poll::Poll,
    ring::{Ring, Woken},
    slow::Slow,
    snapshot,
    stale::StaleSearch,
};
use crate::{
    error::Error,
    kernel::{self, Kernel},
};

/// Reads the kernel side's own messages.
pub type Logger = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Everything that is attached and everything to read from.
pub struct Tracer {
    /// Keeps programs and links alive.
    pub(super) ebpf: Ebpf,
    /// Fact to mechanism
    pub hooks: Hooks,
    /// Records
    pub ring: Ring,
    /// Counters
    pub(super) counts: Counts,
    /// What brings records of states, in the order in which it is detached: `destroy`, `set_state`, and
    /// those that stand in for it. The end of a socket whose last steps nobody sees any more would be
    /// a close without them.
    pub(super) state_links: VecDeque<BtfTracePointLink>,
    /// What brings other records
    pub(super) links: Vec<attach::Link>,
    /// What was in the middle of something when it was last asked for
    pub(super) open: Open,
    /// When to look at time-wait sockets
    pub(super) poll: Poll,
    /// What the kernel lets nobody see
    pub(super) stale: StaleSearch,
    /// Which connections the kernel side follows
    pub(super) selection: Array<MapData, u32>,
    /// Processes that are asked for, and why
    pub(super) pids: HashMap<MapData, u32, u8>,
    /// Programs that stand in for the first
    pub(super) fallbacks: &'static [&'static str],
    /// With `-p`: no connection has been seen that may be shown
    pub(super) idle: bool,
    /// With `--slower-than`, when to look for what still waits
    pub(super) slow: Option<Slow>,
    /// What is still open at the end, and not yet reported
    pub(super) open_left: Option<StillOpen>,
    /// What found no room when losses were last asked for
    pub(super) without_room: u64,
}

/// Longer than the first steps of a connection take, unless they wait for a port.
const FIRST_STEPS: Duration = Duration::from_millis(20);

impl Tracer {
    /// What is lost by now.
    pub fn losses(&mut self) -> Losses {
        let mut losses = self.counts.losses(&self.ebpf, kernel::mono_ns());
        self.without_room = losses.map_full + losses.map_pairs;
        if self.stale.is_blind() {
            // Rather one that somebody else has told of.
            losses.map_pairs += self.counts.unclaimed();
        }
        losses
    }

    /// Whether anything has found no room in a map since they were last asked for.
    pub fn has_found_no_room(&self) -> bool {
        self.counts.without_room() > self.without_room
    }

    /// When to ask for them again at the latest.
    pub fn next_look_at_losses(&self) -> Option<Duration> {
        self.counts.next_look()
    }

    /// Attaches what only connections need.
    pub(super) fn attach_rest(&mut self) -> Result<(), Error> {
        self.idle = false;
        let ebpf = &mut self.ebpf;
        let mut attach = |name| {
            attach::attach_tracepoint(ebpf, name)
                .map_err(|why| anyhow::anyhow!("cannot attach all programs: {}", chain(&why)))
        };
        if self.state_links.len() == 1 {
            // A socket that ends before leaves its record behind until its address is used again.
            self.state_links.push_front(attach("destroy")?);
        }
        // Programs run in the order of attaching: these come after the one they stand in for.
        for name in self.fallbacks {
            self.state_links.push_back(attach(name)?);
        }
        if self.hooks.time_wait == TimeWait::Timer {
            self.links.push(Box::new(attach("timer_cancel")?));
        }
        // What was skipped until now was before the trace's first record.
        self.counts.begin(&self.ebpf);
        Ok(())
    }

    /// Loads what is otherwise loaded when it is first needed: rights are about to be given up.
    pub fn load_rest(&mut self) {
        self.stale.load_now(&mut self.ebpf);
    }

    /// Whether more is to be attached later.
    pub const fn is_idle(&self) -> bool {
        self.idle
    }

    /// Whether the kernel lets us use our maps, with the rights that this thread has.
    pub fn answers(&self) -> bool {
        self.counts.answers()
    }

    /// Whether a process that is followed is still there.
    pub fn follows_any(&self) -> bool {
        self.pids
            .iter()
            .flatten()
            .any(|(_, why)| why == PID_FOLLOWED)
    }

    /// Whether a socket that is recorded has not ended yet. A record may outlive its socket, if that was freed
    /// before `destroy` was attached.
    pub fn has_open_sockets(&self) -> bool {
        self.ebpf
            .map("SOCKS")
            .and_then(|map| HashMap::<_, u64, [u64; SOCK_WORDS]>::try_from(map).ok())
            .is_some_and(|records| records.iter().flatten().any(|(_, words)| is_open(&words)))
    }

    /// Attaches what only connections need, once there is one.
    pub fn look_for_connections(&mut self) -> Result<(), Error> {
        if self.idle && has_begun(&self.selection) {
            self.attach_rest()?;
        }
        Ok(())
    }

    /// With `--slower-than`: has what still waits reported. Returns how long it is until the next time.
    pub fn report_slow(&mut self) -> Option<Duration> {
        let slow = self.slow.as_mut()?;
        Some(slow.turn(&self.ebpf))
    }

    /// Once nothing more is attached: has reported what is still open, a part at each call. Returns whether that
    /// was the last part. `with_former`: what was open before the trace, too.
    pub fn report_open(&mut self, with_former: bool) -> bool {
        let Self {
            ebpf, open_left, ..
        } = self;
        let left = open_left.get_or_insert_with(|| StillOpen::of(ebpf));
        left.report(ebpf, with_former)
    }

    /// Deferred steps that found no room to wait.
    pub fn unlisted(&self) -> u64 {
        self.counts.open().unlisted
    }

    /// Whether there is something to look at soon, whatever happens until then: deferred steps, at the last
    /// [`Tracer::flush_deferred`], or stopped timers, at the last [`Tracer::poll_time_wait`].
    pub fn is_busy(&self) -> bool {
        self.open.deferred > 0 || self.poll.is_due_soon()
    }

    /// Sends the deferred steps that waited too long at `now_ns`.
    pub fn flush_deferred(&mut self, now_ns: u64) {
        self.open = self.counts.open();
        if self.open.deferred > 0 {
            self.ring.flush_deferred(&self.ebpf, now_ns);
        }
    }

    /// Waits until there is something to do, at most `timeout`.
    pub fn sleep(&mut self, timeout: Option<Duration>) -> Woken {
        let Self {
            ring,
            counts,
            poll,
            selection,
            idle,
            without_room,
            ..
        } = self;
        ring.sleep(
            || {
                let open = counts.open();
                counts.without_room() > *without_room
                    || open.deferred > 0
                    || poll.has_more(open)
                    || (*idle && has_begun(selection))
            },
            timeout,
        )
    }

    /// Poll at the time-wait sockets that were in question at the last [`Tracer::flush_deferred`], if it is time
    /// to. Returns how long to wait until the next look; none if there are none.
    pub fn poll_time_wait(&mut self) -> Option<Duration> {
        self.poll.turn(&self.ebpf, self.open)
    }

    fn resolve_stops(&mut self) {
        if self.hooks.time_wait == TimeWait::Timer {
            self.poll.resolve_stops(&self.ebpf);
        }
    }

    /// Poll at time-wait sockets once the trace is over, and no timer tells of them any more: at each on
    /// the list once, as many at a time as the ring has room for. `left`: what the call before returned,
    /// how many there are still to look at, or more than 0 if that is not known.
    pub fn poll_for_the_last_time(&mut self, left: Option<u64>) -> u64 {
        if left == Some(0) {
            return 0;
        }
        let left = left.unwrap_or_else(|| {
            self.resolve_stops();
            self.counts.open().watched
        });
        let left = left.saturating_sub(Ring::look(&self.ebpf, left).looks);
        if left == 0 && self.counts.unclaimed() > 0 {
            return u64::from(!self.stale.rest(&mut self.ebpf));
        }
        left
    }

    /// Has the kernel side tell of ends that it could not see, if it is time to look for them. `active`:
    /// something has happened since the last call. Returns how long to wait until the next look.
    pub fn search_stale(&mut self, active: bool) -> Option<Duration> {
        self.stale.turn(&mut self.ebpf, active)
    }

    /// Poll for all of them, a part at each call. Returns whether that was the last part: then it is time to
    /// [`Tracer::detach`].
    pub fn search_all_stale(&mut self) -> bool {
        self.resolve_stops();
        self.stale.end(&mut self.ebpf)
    }

    /// Has the kernel side tell what goes wrong at listeners.
    pub fn look_at_listeners(&self) {
        self.ring.look_at_listeners(&self.ebpf);
    }

    /// Ends the flow of records; those in the ring can still be read.
    pub fn detach(&mut self) {
        if self.state_links.is_empty() {
            return;
        }
        self.end_beginnings();
        if !self.hooks.cookie {
            // Whoever accepts a socket cannot tell then whether its record is still its own.
            self.tell(OVER);
        }
        // From here on the fallbacks may be called alone.
        self.counts.settle(&self.ebpf, kernel::mono_ns());
        self.state_links.clear();
        // Not before: what still brings steps is to have their owner.
        self.tell(OVER);
        self.links.clear();
        let_programs_end();
        self.counts.end();
    }

    /// Lets nothing new begin, and waits for what is in the middle of its first steps: they are told
    /// together, and the kernel takes both in one softirq.
    fn end_beginnings(&mut self) {
        self.tell(ENDING);
        let deadline = Instant::now() + FIRST_STEPS;
        // What has no port yet gets it now: of a socket that has ended since it can no longer be read.
        while (self.flush_all_deferred() > 0 || self.unlisted() > 0) && Instant::now() < deadline {
            std::thread::sleep(FIRST_STEPS / 20);
        }
    }

    /// Sets a mark in the kernel side's `SELECTION`.
    fn tell(&mut self, mark: u32) {
        if let Err(why) = self.selection.set(mark, 1, 0) {
            log::debug!("the kernel side is not told of the end: {why}");
        }
    }

    /// Sends the deferred steps, however long they have waited. Returns how many stay: they find
    /// no room, or still have no port.
    pub fn flush_all_deferred(&mut self) -> u64 {
        self.ring.flush_deferred_since(&self.ebpf, u64::MAX);
        self.counts.open().deferred
    }

    /// The kernel side's own messages, for `-v`.
    pub fn logger(&mut self) -> Option<Logger> {
        match aya_log::EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => Some(logger),
            Err(why) => {
                log::info!("no messages from the kernel side: {why}");
                None
            }
        }
    }

    /// Finds the connections that are open now; their `socket` records, one after another.
    ///
    /// Call it once, after [`start`]: live events that came first are kept.
    pub fn snapshot(&mut self, kernel: &Kernel) -> Result<snapshot::Snapshot, Error> {
        snapshot::take(&mut self.ebpf, kernel)
    }
}

/// Waits until programs that were running when they were detached have ended: one that is in the middle
/// of a record holds up all that come after it in the ring, and they would look like its end.
///
/// `bpf_trace_run*()` runs programs as readers of RCU; `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu()`
/// where there is more than one processor (`kernel/sched/membarrier.c`).
fn let_programs_end() {
    if let Err(why) = membarrier(MembarrierCommand::Global) {
        // With `nohz_full` it is refused. Only a processor that is stopped takes longer than this.
        log::debug!("programs may still run when the ring is read for the last time: {why}");
        std::thread::sleep(FIRST_STEPS);
    }
}

/// Whether a connection has been seen that may be shown.
fn has_begun(selection: &Array<MapData, u32>) -> bool {
    selection.get(&ACTIVE, 0).is_ok_and(|active| active != 0)
}

/// Whether what this record of `SOCKS` is of has not ended.
fn is_open(words: &[u64; SOCK_WORDS]) -> bool {
    let byte = |at: usize| words[at / 8].to_ne_bytes()[at % 8];
    let steps = usize::from(byte(sock::PATH_LEN_AT)).min(PATH_LEN);
    let last = steps
        .checked_sub(1)
        .map(|last| words[sock::PATH / 8 + last]);
    let has_ended = last.is_some_and(|step| tcp::is_end(Step(step).state()));
    byte(sock::LIFE) != sock::DEAD && !has_ended
}
