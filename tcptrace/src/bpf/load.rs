//! From the embedded object to running programs.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, Endianness, VerifierLogLevel,
    maps::{Array, HashMap, MapData},
    programs::{ProgramError, tp_btf::BtfTracePointLink},
    util::{nr_cpus, online_cpus},
};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{MembarrierCommand, membarrier},
};
use tcptrace_common::config::{
    Config, EMIT_CLOSE, EMIT_LISTENER, EMIT_RESET, EMIT_RETRANSMIT, EMIT_TRANSITION,
    PIN_TRACEPOINTS, PIN_TRAMPOLINES, PORT_WORDS, PORTS_ANY, PORTS_LOCAL, PORTS_NONE, PORTS_REMOTE,
    TIME_WAIT_WORDS,
};
use zerocopy::IntoBytes as _;

use super::{
    attach::{self, Hooks, TimeWait},
    counts::{Counts, Losses, Open},
    exchange,
    held::Held,
    hidden::Hidden,
    kfunc,
    looks::Looks,
    object::{brief, chain, map, take},
    ring::{Ring, Woken},
    snapshot,
};
use crate::{
    error::Error,
    filter::PortList,
    kernel::{self, Kernel},
    settings::Settings,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcptrace.bpf.o"));

/// A ring smaller than this wakes the agent by its fill as well, not by the agent's timer alone.
const TIMER_SUFFICES_BYTES: u32 = 4 << 20;

/// Reads the kernel side's own messages.
pub type Logger = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Everything that is attached and everything to read from.
pub struct Tracer {
    /// Keeps programs and links alive.
    ebpf: Ebpf,
    /// Fact to mechanism
    pub hooks: Hooks,
    /// Records
    pub ring: Ring,
    /// Counters
    counts: Counts,
    /// Steps held in the records of their sockets
    held: Held,
    /// What brings records of states, in the order in which it is detached: `destroy`, `set_state`, and
    /// those that stand in for it. The end of a socket whose last steps nobody sees any more would be
    /// a close without them.
    state_links: VecDeque<BtfTracePointLink>,
    /// What brings other records
    links: Vec<attach::Link>,
    /// What was in the middle of something when it was last asked for
    open: Open,
    /// When to look at time-wait sockets
    looks: Looks,
    /// What the kernel lets nobody see
    hidden: Hidden,
    /// Which connections the kernel side follows
    selection: Array<MapData, u32>,
    /// Programs that stand in for the first
    rescuers: &'static [&'static str],
    /// With `-p`: no connection has been seen that may be shown
    idle: bool,
    /// What found no room when losses were last asked for
    without_room: u64,
}

/// Index into the kernel side's `SELECTION`: the trace ends.
const ENDING: u32 = 2;
/// Index into the kernel side's `SELECTION`: its programs are detached.
const OVER: u32 = 3;

/// Longer than the first steps of a connection take, unless they wait for a port.
const FIRST_STEPS: Duration = Duration::from_millis(20);

/// One more than the highest number of a CPU, as far as is known: they may leave some out. Of one that is not
/// among them, the time-wait sockets that end there are found later.
fn cpu_ids() -> u32 {
    let possible = nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok());
    let online = online_cpus().ok().and_then(|cpus| cpus.into_iter().max());
    let online = online.map(|highest| highest.saturating_add(1));
    possible.max(online).unwrap_or(1)
}

/// Loads and attaches everything, with room for the records of `max_sockets`.
pub fn start(settings: &Settings, kernel: &Kernel, max_sockets: u32) -> Result<Tracer, Error> {
    let log_level: u8 = match settings.verbose {
        0 => 0,
        1 => 3,
        _ => 4,
    };
    let config = config(settings, kernel);
    let without_exchanges = Config {
        exchanges: 0,
        ..config
    };
    let without_helpers = Config {
        cookie_helper: 0,
        typed_task: 0,
        ..without_exchanges
    };
    let cpus = cpu_ids();
    let layout = kernel.layout;
    let mut loader = new_loader();
    loader
        .verifier_log_level(VerifierLogLevel::DEBUG)
        .map_max_entries("SOCKS", max_sockets)
        .map_max_entries("PAIRS", max_sockets)
        .map_max_entries("TIME_WAIT", TIME_WAIT_WORDS * (cpus + 1))
        .map_max_entries("EVENTS", settings.ring_bytes)
        .override_global("LAYOUT", layout.as_bytes(), true)
        .override_global("AYA_LOG_LEVEL", &log_level, false);
    let object = kernel
        .preemption
        .map(|preemption| kfunc::resolve(OBJECT, preemption));
    let object = object.as_deref().unwrap_or(OBJECT);
    let btf = Btf::parse(&kernel.btf, Endianness::default())
        .map_err(|why| Error::CannotTrace(format!("this kernel's BTF cannot be used: {why}")))?;

    // What loads decides, not the version.
    let rescuers = attach::rescuers(config.pinned & PIN_TRACEPOINTS != 0);
    let mut loaded = Err(ProgramError::NotLoaded);
    for config in [
        &config,
        // On arm64 before 5.18.
        &without_exchanges,
        // Before 5.12 tracing programs get no cookie, before 5.11 no typed task.
        &without_helpers,
    ] {
        loader.override_global("CONFIG", config.as_bytes(), true);
        let mut ebpf = if config.exchanges == 0 {
            load(&mut loader, &exchange::remove(object))?
        } else {
            load(&mut loader, object)?
        };
        loaded = attach::load_core(&mut ebpf, &btf, rescuers).map(|()| (ebpf, config));
        match &loaded {
            Ok(_) => break,
            Err(why) => log::debug!("{}", chain(why)),
        }
    }
    // Where it was for none of these, the last was refused for the same reason as the first.
    let (mut ebpf, config) = loaded.map_err(|why| refused(&why, settings))?;
    fill_filters(&mut ebpf, settings)?;
    let mut hooks = attach::attach_accept_hook(&mut ebpf, &btf, &layout, &settings.hooks);

    hooks.cookie = config.cookie_helper != 0;
    hooks.wanted = settings.emit;
    hooks.lacking = kernel
        .lacking
        .iter()
        .map(|lacking| (lacking.fact, lacking.why.to_string()))
        .collect();
    let links = attach_optional(&mut ebpf, &btf, settings, &mut hooks)?;

    let counts = Counts::new(&mut ebpf, settings.emit)?;
    let held = Held::new(&mut ebpf)?;
    let ring = Ring::new(&mut ebpf)?;
    let attach = |ebpf: &mut Ebpf, name| {
        attach::attach_tracepoint(ebpf, name).map_err(|why| refused(&why, settings))
    };
    let mut state_links = VecDeque::new();
    if settings.pids.is_empty() {
        state_links.push_back(attach(&mut ebpf, "destroy")?);
    }
    snapshot::find(&mut ebpf)?;
    state_links.push_back(attach(&mut ebpf, "set_state")?);
    let selection = take(&mut ebpf, "SELECTION")?;
    let mut tracer = Tracer {
        ebpf,
        hooks,
        ring,
        counts,
        held,
        state_links,
        links,
        open: Open::default(),
        looks: Looks::new(cpus),
        hidden: Hidden::new(),
        selection,
        rescuers,
        idle: true,
        without_room: 0,
    };
    if settings.pids.is_empty() {
        tracer.attach_rest()?;
    }
    Ok(tracer)
}

impl Tracer {
    /// What is lost by now.
    pub fn losses(&mut self) -> Losses {
        let mut losses = self.counts.losses(&self.ebpf, kernel::mono_ns());
        self.without_room = losses.map_full + losses.map_pairs;
        if self.hidden.is_blind() {
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

    fn attach_rest(&mut self) -> Result<(), Error> {
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
        for name in self.rescuers {
            self.state_links.push_back(attach(name)?);
        }
        if self.hooks.time_wait == TimeWait::Timer {
            self.links.push(Box::new(attach("timer_cancel")?));
        }
        // What was skipped until now was before the trace's first record.
        self.counts.begin(&self.ebpf);
        Ok(())
    }

    /// Attaches what only connections need, once there is one.
    pub fn look_for_connections(&mut self) -> Result<(), Error> {
        if self.idle && has_begun(&self.selection) {
            self.attach_rest()?;
        }
        Ok(())
    }

    /// Steps held back that found no room to wait.
    pub fn unlisted(&self) -> u64 {
        self.counts.open().unlisted
    }

    /// Whether there is something to look at soon, whatever happens until then: steps held back, at the last
    /// [`Tracer::flush_held`], or stopped timers, at the last [`Tracer::look_at_time_wait`].
    pub fn is_busy(&self) -> bool {
        self.open.held > 0 || self.held.is_any() || self.looks.is_due_soon()
    }

    /// Sends the held steps that waited too long at `now_ns`. `events`: how many there were since the
    /// last time.
    pub fn flush_held(&mut self, now_ns: u64, events: u64) {
        self.held.keep_pace(events);
        if self.held.is_any() {
            self.held.turn(&self.ebpf, now_ns);
        }
        self.open = self.counts.open();
        if self.open.held > 0 {
            self.ring.flush_held(&self.ebpf, now_ns);
        }
    }

    /// Waits until there is something to do, at most `timeout`.
    pub fn sleep(&mut self, timeout: Option<Duration>) -> Woken {
        let Self {
            ring,
            counts,
            held,
            looks,
            selection,
            idle,
            without_room,
            ..
        } = self;
        ring.sleep(
            || {
                let open = counts.open();
                counts.without_room() > *without_room
                    || open.held > 0
                    || held.has_begun()
                    || looks.has_more(open)
                    || (*idle && has_begun(selection))
            },
            timeout,
        )
    }

    /// Looks at the time-wait sockets that were in question at the last [`Tracer::flush_held`], if it is time
    /// to. Returns how long to wait until the next look; none if there are none.
    pub fn look_at_time_wait(&mut self) -> Option<Duration> {
        self.looks.turn(&self.ebpf, self.open)
    }

    fn look_at_stops(&mut self) {
        if self.hooks.time_wait == TimeWait::Timer {
            self.looks.look_at_stops(&self.ebpf);
        }
    }

    /// Looks at time-wait sockets once the trace is over, and no timer tells of them any more: at each on
    /// the list once, as many at a time as the ring has room for. `left`: what the call before returned,
    /// how many there are still to look at, or more than 0 if that is not known.
    pub fn look_for_the_last_time(&mut self, left: Option<u64>) -> u64 {
        if left == Some(0) {
            return 0;
        }
        let left = left.unwrap_or_else(|| {
            self.look_at_stops();
            self.counts.open().watched
        });
        let left = left.saturating_sub(Ring::look(&self.ebpf, left).looks);
        if left == 0 && self.counts.unclaimed() > 0 {
            return u64::from(!self.hidden.rest(&mut self.ebpf));
        }
        left
    }

    /// Has the kernel side tell of ends that it could not see, if it is time to look for them. `active`:
    /// something has happened since the last call. Returns how long to wait until the next look.
    pub fn look_for_hidden(&mut self, active: bool) -> Option<Duration> {
        self.hidden.turn(&mut self.ebpf, active)
    }

    /// Looks for all of them, a part at each call. Returns whether that was the last part: then it is time to
    /// [`Tracer::detach`].
    pub fn look_for_all_hidden(&mut self) -> bool {
        self.look_at_stops();
        self.hidden.end(&mut self.ebpf)
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
        // From here on the rescuer may be called alone.
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
        self.held.set(false);
        self.tell(ENDING);
        let deadline = Instant::now() + FIRST_STEPS;
        // What has no port yet gets it now: of a socket that has ended since it can no longer be read.
        while (self.flush_all_held() > 0 || self.unlisted() > 0) && Instant::now() < deadline {
            std::thread::sleep(FIRST_STEPS / 20);
        }
    }

    /// Sets a mark in the kernel side's `SELECTION`.
    fn tell(&mut self, mark: u32) {
        if let Err(why) = self.selection.set(mark, 1, 0) {
            log::debug!("the kernel side is not told of the end: {why}");
        }
    }

    /// Sends the steps that are held, however long they have waited. Returns how many stay: they find
    /// no room, or still have no port.
    pub fn flush_all_held(&mut self) -> u64 {
        let stay = self.held.send_all(&self.ebpf);
        self.ring.flush_held_since(&self.ebpf, u64::MAX);
        self.counts.open().held + stay
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
        // With `nohz_full` it is refused.
        log::debug!("programs may still run when the ring is read for the last time: {why}");
    }
}

/// Whether a connection has been seen that may be shown.
fn has_begun(selection: &Array<MapData, u32>) -> bool {
    selection.get(&0, 0).is_ok_and(|active| active != 0)
}

/// Attaches what tracing can do without.
fn attach_optional(
    ebpf: &mut Ebpf,
    btf: &Btf,
    settings: &Settings,
    hooks: &mut Hooks,
) -> Result<Vec<attach::Link>, Error> {
    let wants = |events| settings.emit & events != 0;
    let mut links = Vec::new();
    if wants(EMIT_TRANSITION | EMIT_CLOSE) && !hooks.lacks("time_wait") {
        let (mechanism, mut attached) = attach::attach_time_wait_hooks(ebpf, btf, &settings.hooks);
        hooks.time_wait = mechanism;
        links.append(&mut attached);
        map::<Array<&mut MapData, u64>>(ebpf, "TIME_WAIT")?
            .set(0, mechanism.mode(), 0)
            .map_err(anyhow::Error::new)?;
        if mechanism == TimeWait::Timer {
            // The first look, at nothing, begins to count ticks.
            Ring::look(ebpf, 1);
        }
    }
    let mut attach = |name, tracepoint| {
        attach::load_and_attach_tracepoint(ebpf, btf, name, tracepoint)
            .map(|link| links.push(link))
            .map_err(|why| log::warn!("{tracepoint} is not seen: {}", brief(&chain(&why))))
            .is_ok()
    };
    if wants(EMIT_CLOSE | EMIT_RESET) {
        hooks.reset =
            attach("reset_sent", "tcp_send_reset") & attach("reset_received", "tcp_receive_reset");
    }
    if wants(EMIT_CLOSE | EMIT_RETRANSMIT | EMIT_LISTENER) {
        attach("retransmit_synack", "tcp_retransmit_synack");
    }
    if wants(EMIT_RETRANSMIT) {
        attach("retransmit", "tcp_retransmit_skb");
    }
    if wants(EMIT_LISTENER)
        && !hooks.lacks("listener")
        && let Err(why) = attach::load_own(ebpf, "backlog")
    {
        hooks.lacking.push(("listener", chain(&why)));
    }
    Ok(links)
}

/// A loader without the kernel's BTF: nothing in the object is to be relocated by it.
///
/// `EbpfLoader::new` parses all of it unasked, which takes twice the memory of all else here. So
/// it is made while no file can be opened; nothing else runs yet.
fn new_loader() -> EbpfLoader<'static> {
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: limit.maximum,
    };
    let lowered = setrlimit(Resource::Nofile, none).is_ok();
    let mut loader = EbpfLoader::new();
    if lowered && let Err(why) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of open files stays 0: {why}");
    }
    loader.btf(None);
    loader
}

/// Parses the object and makes its maps.
fn load(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, Error> {
    loader.load(object).map_err(|why| {
        let hint = if lacks_memory(&why) {
            "give smaller --max-sockets and --buffer".to_owned()
        } else {
            kernel::capability_hint()
        };
        Error::CannotTrace(format!(
            "the kernel refused tcptrace's maps: {}; {hint}",
            chain(&why)
        ))
    })
}

fn lacks_memory(why: &EbpfError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(why);
    while let Some(why) = cause {
        if let Some(why) = why.downcast_ref::<std::io::Error>() {
            return why.kind() == std::io::ErrorKind::OutOfMemory;
        }
        cause = why.source();
    }
    false
}

fn config(settings: &Settings, kernel: &Kernel) -> Config {
    let by = |set: &Option<PortList>| u8::from(set.is_some());
    Config {
        wake_bytes: if settings.ring_bytes < TIMER_SUFFICES_BYTES {
            settings.ring_bytes / 4
        } else {
            0
        },
        families: settings.families,
        emit: settings.emit,
        by_pid: u8::from(!settings.pids.is_empty()),
        only_pid: match settings.pids.as_slice() {
            [only] => *only,
            _ => 0,
        },
        by_lport: by(&settings.lports),
        by_rport: by(&settings.rports),
        by_port: by(&settings.ports),
        reset_reason: u8::from(kernel.tells_reset_reason),
        retransmit_err: u8::from(kernel.tells_retransmit_err),
        pinned: match (kernel.preemption, kernel.preempts_tracepoints) {
            (None, _) => 0,
            (Some(_), false) => PIN_TRAMPOLINES,
            (Some(_), true) => PIN_TRACEPOINTS | PIN_TRAMPOLINES,
        },
        roles: settings.roles,
        failed: u8::from(settings.failed),
        lists: u8::from(settings.sockets),
        slower_ns: settings.slower.map_or(0, |slower| {
            u64::try_from(slower.as_nanos()).unwrap_or(u64::MAX)
        }),
        ..Config::DEFAULT
    }
}

fn fill_filters(ebpf: &mut Ebpf, settings: &Settings) -> Result<(), Error> {
    let mut pids: HashMap<&mut MapData, u32, u8> = map(ebpf, "PIDS")?;
    for pid in &settings.pids {
        pids.insert(pid, 1, 0).map_err(anyhow::Error::new)?;
    }
    let mut ports: Array<&mut MapData, u64> = map(ebpf, "PORTS")?;
    for (row, list, words) in [
        (
            PORTS_LOCAL,
            &settings.lports,
            PortList::wanted as fn(&PortList) -> &[u64],
        ),
        (PORTS_REMOTE, &settings.rports, PortList::wanted),
        (PORTS_ANY, &settings.ports, PortList::wanted),
        (PORTS_NONE, &settings.ports, PortList::unwanted),
    ] {
        for (index, word) in (row * PORT_WORDS..).zip(list.iter().flat_map(words)) {
            ports.set(index, word, 0).map_err(anyhow::Error::new)?;
        }
    }
    Ok(())
}

/// The kernel's refusal of a program, in one line; with `-v` the verifier's log.
fn refused(why: &ProgramError, settings: &Settings) -> Error {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = why
    {
        let log = verifier_log.to_string();
        if settings.verbose > 0 {
            log::warn!("verifier log:\n{log}");
        }
        let last = log
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty() && !line.starts_with("processed"));
        return Error::CannotTrace(match last {
            Some(last) => format!(
                "the kernel refused a program: {io_error}: {}; run with -v for the verifier's log",
                last.trim()
            ),
            None => format!(
                "the kernel refused a program: {io_error}; {}",
                kernel::capability_hint()
            ),
        });
    }
    Error::CannotTrace(format!(
        "cannot attach: {}; run `tcptrace check`",
        chain(why)
    ))
}
