//! Ring to lines: the agent's one loop, on a thread of its own.
//!
//! It may block in a write: the kernel's ring then fills, and the kernel counts what it could
//! not take. So the pace of the reader never costs the host anything, and never a record without
//! a count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tcptrace_common::config::{EMIT_ACCEPT, EMIT_CLOSE, EMIT_LISTENER, EMIT_TRANSITION};

use crate::{
    bpf::{Losses, Snapshot, Tracer, Woken},
    error::Error,
    event::{Event, LossCause},
    filter,
    kernel::{self, Kernel, netstat::Cookies},
    output::{Output, Written},
    recording::Recorder,
    settings::Settings,
    sink::{End, Lost, Sink, Start, text},
};

/// Lines gather up to this before they are written.
const BATCH_BYTES: usize = 128 << 10;

/// Then the loop looks up: on a busy host the ring may never be empty.
const BATCHES_PER_TURN: usize = 64;

/// How often losses are looked for.
const LOSS_TURN: Duration = Duration::from_millis(100);

/// How often listeners are looked at.
const LISTENERS_TURN: Duration = Duration::from_secs(1);

/// What the rest of the agent tells the loop.
#[derive(Debug, Default)]
pub struct Control {
    /// Print what has happened and end
    pub stop: AtomicBool,
    /// Open the output file anew
    pub reopen: AtomicBool,
}

/// How the loop ended.
#[derive(Debug)]
pub struct Outcome {
    /// The totals
    pub end: End,
    /// Whether the reader went away
    pub closed: bool,
    /// Whether anything was lost, accept records and totals included
    pub anything_lost: bool,
    /// Records that were lost and are not among those that `end` counts
    pub lost_beside: u64,
    /// Records that could not be understood
    pub malformed: u64,
}

/// The loop and all it works on.
pub struct Pipeline {
    /// The kernel side
    pub tracer: Tracer,
    /// The running kernel
    pub kernel: Kernel,
    /// What the user wants
    pub settings: Arc<Settings>,
    /// How it is printed
    pub sink: Box<dyn Sink + Send>,
    /// Where it is printed
    pub output: Output,
    /// Orders from outside
    pub control: Arc<Control>,
    tally: Tally,
    lines: Vec<u8>,
    reported: Losses,
    recorder: Option<Recorder>,
    cookies: Option<Cookies>,
}

/// Everything counted on the way.
#[derive(Debug, Default)]
struct Tally {
    events: u64,
    records: u64,
    transitions: u64,
    connections: u64,
    lost: u64,
    lost_beside: u64,
    anything_lost: bool,
    malformed: u64,
    /// Of `records`, those that are written
    written: u64,
}

impl Pipeline {
    /// A loop that has not begun.
    pub fn new(
        tracer: Tracer,
        kernel: Kernel,
        settings: Arc<Settings>,
        sink: Box<dyn Sink + Send>,
        output: Output,
        control: Arc<Control>,
    ) -> Self {
        Self {
            tracer,
            kernel,
            settings,
            sink,
            output,
            control,
            tally: Tally::default(),
            lines: Vec::with_capacity(2 * BATCH_BYTES),
            reported: Losses::default(),
            recorder: None,
            cookies: None,
        }
    }

    /// Runs until stopped, until the reader is gone, or until the wanted count is reached. Everything
    /// is written by then; the kernel takes its time over what is detached when this is dropped.
    pub fn run(&mut self) -> Result<Outcome, Error> {
        let outcome = self.trace();
        if outcome.is_err() {
            self.count_unwritten();
        }
        if let Some(recorder) = self.recorder.take()
            && let Err(why) = recorder.finish()
        {
            log::warn!("the recording of the ring is not whole: {why}");
        }
        outcome
    }

    /// Says how much of what has happened by now will not be written.
    fn count_unwritten(&mut self) {
        let rest = self.rest(|pipeline| {
            let Self {
                tracer,
                sink,
                settings,
                tally,
                lines,
                ..
            } = pipeline;
            let records = tracer.ring.drain(|record| {
                // What they would be is needed for nothing but their number.
                lines.clear();
                print_record(record, settings, &mut None, &mut **sink, tally, lines)
            });
            Ok((records, true))
        });
        let left = rest.map_or(0, |(left, _)| left);
        self.report_losses();
        let unwritten = self.tally.records.saturating_sub(self.tally.written);
        let unwritten = unwritten + left + self.tracer.unlisted();
        if unwritten == 0 {
            return;
        }
        let lost = self.tally.lost + self.tally.lost_beside;
        let unwritten = match unwritten {
            1 => "1 record was".to_owned(),
            number => format!("{} records were", text::count(number)),
        };
        log::error!(
            "{unwritten} not written{}",
            if lost == 0 {
                String::new()
            } else {
                format!(", and {} were lost", text::count(lost))
            }
        );
    }

    /// What happened until now, and no more: the tracer is detached, and `read` called until nothing is
    /// left, however busy the host is. It returns how many records there were, and whether the reader
    /// is still there. Returns how many held steps nobody can tell of, and whether the reader is.
    fn rest(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(usize, bool), Error>,
    ) -> Result<(u64, bool), Error> {
        while !self.tracer.look_for_all_hidden() {
            let (_, open) = read(self)?;
            if !open || self.is_full() {
                break;
            }
        }
        self.tracer.detach();
        let mut unseen = None;
        let mut waiting = 0;
        loop {
            // What waits is sent a part at a time.
            let left = self.tracer.flush_all_held();
            unseen = Some(self.tracer.look_for_the_last_time(unseen));
            let (records, open) = read(self)?;
            let none_comes = left == 0 || left == waiting;
            let is_all = records == 0 && unseen == Some(0) && none_comes;
            if is_all || !open || self.is_full() {
                return Ok((left, open));
            }
            waiting = left;
        }
    }

    fn trace(&mut self) -> Result<Outcome, Error> {
        kernel::priority::raise();
        let begin_ns = kernel::mono_ns();
        self.sink.set_clock(kernel::wall_minus_mono_ns());
        self.sink.set_width(self.output.columns(), &mut self.lines);
        let start = Start {
            mono_ns: begin_ns,
            kernel: self.kernel.release.clone(),
            hooks: self.tracer.hooks.facts(),
            reset_reasons: self.kernel.reset_reasons.clone(),
            filters: self.settings.typed_filters(),
        };
        if let Some(path) = &self.settings.run.record_ring {
            let recorder = Recorder::create(path, kernel::wall_minus_mono_ns())
                .with_context(|| format!("failed to create {}", path.display()))?;
            self.recorder = Some(recorder);
        }
        if let Some(fd) = self.output.stdout_fd() {
            self.tracer.ring.watch_hangup(fd);
        }
        // The snapshot before the first line: who starts a load on reading it finds every owner
        // known. What happens meanwhile waits in the ring.
        let snapshot = self.tracer.snapshot(&self.kernel)?;
        if self.settings.records.emit & EMIT_LISTENER != 0 {
            self.cookies = Some(Cookies::begin());
        }
        self.tracer.look_for_connections()?;
        self.sink.start(&start, &mut self.lines);
        let mut open = self.list(&snapshot)?;

        let mut looked = Instant::now();
        let mut listeners = Instant::now();
        let mut left = 0;
        while open && !self.is_full() {
            if self.control.stop.load(Ordering::Acquire) {
                if self.settings.records.emit & EMIT_LISTENER != 0 {
                    self.tracer.look_at_listeners();
                }
                (left, open) = self.rest(Self::turn)?;
                break;
            }
            self.tracer.look_for_connections()?;
            let (records, still_open) = self.turn()?;
            open = still_open;
            self.tracer.flush_held(kernel::mono_ns());
            let look = self.tracer.look_at_time_wait();
            let busy = self.tracer.is_busy();
            let listen = self.look_at_listeners(&mut listeners);
            let hidden = self.tracer.look_for_hidden(records > 0);
            if looked.elapsed() >= LOSS_TURN {
                looked = Instant::now();
                self.report_losses();
            }
            // What found no room may go on finding none: it is told as often as other losses.
            let told_just_now = looked.elapsed() < LOSS_TURN && self.tracer.has_found_no_room();
            let woken = if records == 0 && !busy && !told_just_now {
                looked = Instant::now();
                self.report_losses();
                open = self.write()?;
                let losses = self.tracer.next_look_at_losses();
                self.tracer
                    .sleep([look, listen, hidden, losses].into_iter().flatten().min())
            } else {
                self.tracer.ring.wait_a_turn()
            };
            open &= woken != Woken::Hangup;
        }
        let is_full = self.is_full();
        if is_full {
            self.report_losses();
        }
        self.tracer.detach();
        if is_full {
            // What finds the ring full after the last record that is wanted is missing from nothing. What
            // the kernel hid before that may be certain only now.
            let now = self.tracer.losses().with_ring_of(&self.reported);
            self.report(now);
        } else {
            self.report_losses();
            self.report_untold(left);
        }
        let end_ns = kernel::mono_ns();
        let end = End {
            mono_ns: end_ns,
            transitions: self.tally.transitions,
            connections: self.tally.connections,
            lost: self.tally.lost,
            duration_us: (end_ns - begin_ns) / 1000,
        };
        if open {
            self.sink.end(&end, &mut self.lines);
            open = self.write()?;
        }
        Ok(Outcome {
            end,
            closed: !open,
            anything_lost: self.tally.anything_lost,
            lost_beside: self.tally.lost_beside,
            malformed: self.tally.malformed,
        })
    }

    /// Has listeners looked at when it is time to; how long until it is. None if nobody wants it.
    fn look_at_listeners(&self, last: &mut Instant) -> Option<Duration> {
        if self.settings.records.emit & EMIT_LISTENER == 0 {
            return None;
        }
        if last.elapsed() >= LISTENERS_TURN {
            *last = Instant::now();
            self.tracer.look_at_listeners();
        }
        Some(LISTENERS_TURN.saturating_sub(last.elapsed()))
    }

    /// Prints what was open before.
    fn list(&mut self, snapshot: &Snapshot) -> Result<bool, Error> {
        for (inode, why) in &snapshot.unseen {
            log::info!("connections open in network namespace {inode} are not listed: {why}");
        }
        if self.settings.records.sockets {
            let size = size_of::<tcptrace_common::record::Record>();
            let mut records = snapshot.records.chunks_exact(size);
            while let Some(record) = records.next() {
                if !self.record(record) {
                    break;
                }
                if self.lines.len() < BATCH_BYTES {
                    continue;
                }
                match self.write() {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(why) => {
                        // The others are not written either, and counted.
                        for record in records {
                            self.lines.clear();
                            self.record(record);
                        }
                        return Err(why);
                    }
                }
            }
        }
        self.write()
    }

    /// Prints what is in the ring: how many records, and whether the reader is still there.
    fn turn(&mut self) -> Result<(usize, bool), Error> {
        let is_moved = self.control.reopen.swap(false, Ordering::AcqRel);
        if is_moved && self.output.reopen()? {
            self.sink.header(&mut self.lines);
        }
        self.sink.set_clock(kernel::wall_minus_mono_ns());
        self.sink.set_width(self.output.columns(), &mut self.lines);
        let mut total = 0;
        for _ in 0..BATCHES_PER_TURN {
            let Self {
                tracer,
                sink,
                settings,
                tally,
                lines,
                recorder,
                cookies,
                ..
            } = self;
            let records = tracer.ring.drain(|record| {
                record_bytes(recorder, record);
                print_record(record, settings, cookies, &mut **sink, tally, lines)
                    && lines.len() < BATCH_BYTES
            });
            total += records;
            let full = self.lines.len() >= BATCH_BYTES;
            if !self.write()? {
                return Ok((total, false));
            }
            if !full || self.is_full() {
                break;
            }
        }
        Ok((total, true))
    }

    fn record(&mut self, record: &[u8]) -> bool {
        let Self {
            sink,
            settings,
            tally,
            lines,
            recorder,
            cookies,
            ..
        } = self;
        record_bytes(recorder, record);
        print_record(record, settings, cookies, &mut **sink, tally, lines)
    }

    fn is_full(&self) -> bool {
        self.settings
            .run
            .count
            .is_some_and(|count| self.tally.records >= count)
    }

    /// Writes the lines that have gathered; false if the reader is gone.
    fn write(&mut self) -> Result<bool, Error> {
        if self.lines.is_empty() {
            return Ok(true);
        }
        let written = self.output.write(&self.lines)?;
        self.lines.clear();
        self.tally.written = self.tally.records;
        Ok(written == Written::Whole)
    }

    /// Prints what has been lost since the last time.
    fn report_losses(&mut self) {
        let now = self.tracer.losses();
        self.report(now);
    }

    fn report(&mut self, now: Losses) {
        let before = std::mem::replace(&mut self.reported, now);
        let mono_ns = kernel::mono_ns();
        // A counter that cannot be read is 0.
        let since = u64::saturating_sub;
        let accepts = since(now.ring_accepts, before.ring_accepts);
        // `--failed` needs them to choose by, whether they are printed or not.
        let closes = if self.settings.records.shows(EMIT_CLOSE) {
            since(now.ring_closes, before.ring_closes)
        } else {
            0
        };
        let transitions = since(now.ring_transitions, before.ring_transitions);
        let ring = Lost {
            mono_ns,
            cause: LossCause::RingFull,
            count: if self.settings.records.shows(EMIT_TRANSITION) {
                transitions
            } else {
                accepts + closes
            },
            accepts,
            closes,
            time_waits: since(now.ring_pairs, before.ring_pairs),
            others: since(now.ring_noted, before.ring_noted),
        };
        if ring.count + accepts + closes + ring.time_waits + ring.others > 0 {
            self.lost(ring);
        }
        let plain = |cause, count| Lost {
            mono_ns,
            cause,
            count,
            accepts: 0,
            closes: 0,
            time_waits: 0,
            others: 0,
        };
        let map = Lost {
            time_waits: since(now.map_pairs, before.map_pairs),
            ..plain(LossCause::MapFull, since(now.map_full, before.map_full))
        };
        if map.count + map.time_waits > 0 {
            self.lost(map);
        }
        // Skipped a moment ago and recorded since: what was told stands.
        self.reported.recursion = now.recursion.max(before.recursion);
        let hidden = since(now.recursion, before.recursion);
        let accepts = since(now.recursion_accepts, before.recursion_accepts);
        let count = if self.settings.records.shows(EMIT_TRANSITION) {
            hidden
        } else {
            hidden + accepts
        };
        let recursion = Lost {
            accepts,
            others: since(now.recursion_noted, before.recursion_noted),
            ..plain(LossCause::Recursion, count)
        };
        if recursion.count + recursion.accepts + recursion.others > 0 {
            self.lost(recursion);
        }
    }

    /// Prints how many steps stay untold at the end: of sockets still without their port, or whose port can
    /// no longer be known. `left`: those that are held.
    fn report_untold(&mut self, left: u64) {
        let untold = self.tracer.unlisted() + left;
        if untold > 0 {
            self.lost(Lost {
                mono_ns: kernel::mono_ns(),
                cause: LossCause::MapFull,
                count: untold,
                accepts: 0,
                closes: 0,
                time_waits: 0,
                others: 0,
            });
        }
    }

    fn lost(&mut self, lost: Lost) {
        self.tally.anything_lost = true;
        self.tally.lost += lost.count;
        let beside = if self.settings.records.shows(EMIT_TRANSITION) {
            lost.accepts + lost.closes
        } else {
            // These are what `count` counts.
            0
        };
        self.tally.lost_beside += beside + lost.time_waits + lost.others;
        self.sink.lost(&lost, &mut self.lines);
    }
}

fn record_bytes(recorder: &mut Option<Recorder>, record: &[u8]) {
    if let Some(recording) = recorder
        && let Err(why) = recording.add(record)
    {
        log::warn!("the recording of the ring ends here: {why}");
        *recorder = None;
    }
}

/// Decodes and prints one record; false once the wanted count is reached.
fn print_record(
    record: &[u8],
    settings: &Settings,
    cookies: &mut Option<Cookies>,
    sink: &mut dyn Sink,
    tally: &mut Tally,
    lines: &mut Vec<u8>,
) -> bool {
    if settings.outcome.failed && !filter::Outcome::may_have_failed(record) {
        return true;
    }
    let told = Event::decode(record, |event| {
        let event = match (event, &mut *cookies) {
            (Event::Listener(listener), Some(cookies)) => {
                let mut listener = *listener;
                listener.set_cookies_sent(cookies.since(listener.connection().netns().into()));
                &Event::Listener(listener)
            }
            _ => event,
        };
        print_event(event, settings, sink, tally, lines)
    });
    told.unwrap_or_else(|why| {
        tally.malformed += 1;
        log::debug!("{why}");
        true
    })
}

fn print_event(
    event: &Event,
    settings: &Settings,
    sink: &mut dyn Sink,
    tally: &mut Tally,
    lines: &mut Vec<u8>,
) -> bool {
    // The end of a connection comes with its last transition.
    tally.events += u64::from(!matches!(event, Event::Close(_)));
    let records = &settings.records;
    let shows = |kind| records.shows(kind);
    let (is_shown, begins) = match event {
        Event::Transition(transition) => {
            let shown = shows(EMIT_TRANSITION);
            (shown, shown && transition.connection().is_first())
        }
        Event::Close(close) => {
            // Without transitions, a connection is first heard of when it closes, unless it was listed.
            let was_listed = records.sockets && close.connection().is_partial();
            let is_unheard = !shows(EMIT_TRANSITION) && !was_listed;
            (
                shows(EMIT_CLOSE),
                is_unheard || (close.is_deduced() && close.connection().is_first()),
            )
        }
        Event::Accept(accept) => {
            let shown = shows(EMIT_ACCEPT);
            (shown, shown && accept.connection().is_first())
        }
        event => (true, event.connection().is_first()),
    };
    tally.connections += u64::from(begins);
    if !is_shown || !settings.filters.states.selects(event) {
        return true;
    }
    tally.transitions += u64::from(matches!(event, Event::Transition(_)));
    sink.event(event, lines);
    tally.records += 1;
    settings.run.count.is_none_or(|count| tally.records < count)
}
