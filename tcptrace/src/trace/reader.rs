//! The agent's one loop, on a thread of its own: read, account, hand on.
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

use tcptrace_common::{config::EMIT_LISTENER, record::Record};

use super::{
    Flow, Totals, child::Gate, consumer::Outputs, dispatch::Dispatch, drain::Drain, source::Source,
};
use crate::{
    bpf::{Snapshot, Tracer, Woken},
    error::Error,
    kernel::{self, Kernel, netstat::Cookies},
    privileges::Fence,
    service::Manager,
    settings::Settings,
    sink::{Start, text},
};

/// Batches in one turn at most: on a busy host the ring may never be empty.
const BATCHES_PER_TURN: usize = 64;

/// How often losses are looked for.
const LOSS_TURN: Duration = Duration::from_millis(100);

/// Orders to the loop from the rest of the agent.
#[derive(Debug, Default)]
pub struct Control {
    /// Report what has happened and end
    pub stop: AtomicBool,
    /// Open the output file anew
    pub reopen: AtomicBool,
    /// End with the last of the processes that are asked for or followed, and their connections
    pub drain: AtomicBool,
}

/// The loop and all it works on.
pub struct Reader {
    source: Source,
    dispatch: Dispatch,
    kernel: Kernel,
    settings: Arc<Settings>,
    control: Arc<Control>,
    fence: Option<Fence>,
    manager: Manager,
    /// Opened once the beginning is reported
    gate: Option<Gate>,
    drain: Drain,
}

impl Reader {
    /// A loop that has not begun.
    pub fn new(
        tracer: Tracer,
        kernel: Kernel,
        settings: Arc<Settings>,
        outputs: Outputs,
        control: Arc<Control>,
    ) -> Self {
        let drain = Drain::new(!settings.command.is_empty());
        Self {
            source: Source::new(tracer, &settings),
            dispatch: Dispatch::new(&settings, outputs),
            kernel,
            settings,
            control,
            fence: None,
            manager: Manager::default(),
            gate: None,
            drain,
        }
    }

    /// Gives up what only the start needs, once it is over.
    #[must_use]
    pub fn behind(mut self, fence: Option<Fence>) -> Self {
        self.fence = fence;
        self
    }

    /// Tells the service manager how it goes.
    #[must_use]
    pub fn managed(mut self, manager: Manager) -> Self {
        self.manager = manager;
        self
    }

    /// The same, which lets the command begin once it has reported its own beginning.
    #[must_use]
    pub fn opening(mut self, gate: Option<Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Runs until stopped, until the reader of the output is gone, or until the wanted count is reached.
    /// Everything is written by then; the kernel takes its time over what is detached when this is dropped.
    pub fn run(&mut self) -> Result<Totals, Error> {
        let totals = self.trace();
        if totals.is_err() {
            self.count_unwritten();
        }
        self.source.end();
        let left = self.drain();
        totals.map(|totals| Totals {
            anything_lost: totals.anything_lost || left > 0,
            ..totals
        })
    }

    /// Gives the outputs time to deliver what they have: to all of them the same. Returns how many events
    /// are left.
    fn drain(&mut self) -> u64 {
        let deadline = Instant::now() + self.settings.exports.drain;
        let outputs = &mut self.dispatch.outputs;
        outputs.each(|consumer| consumer.finish_by(deadline));
        let mut all = 0;
        outputs.each(|consumer| {
            let left = consumer.finish(deadline.saturating_duration_since(Instant::now()));
            if left > 0 {
                let name = consumer.name();
                log::warn!("{name}: {} events were not delivered", text::count(left));
            }
            all += left;
        });
        all
    }

    fn trace(&mut self) -> Result<Totals, Error> {
        kernel::priority::raise();
        let begin_ns = kernel::mono_ns();
        self.begin_batch();
        let start = Start {
            mono_ns: begin_ns,
            kernel: self.kernel.release.clone(),
            hooks: self.source.tracer.hooks.facts(),
            reset_reasons: self.kernel.reset_reasons.clone(),
            filters: self.settings.typed_filters(),
            processes: self.dispatch.processes.clone(),
        };
        // The snapshot before the first line: who starts a load on reading it finds every owner
        // known. What happens meanwhile waits in the ring.
        let snapshot = self.source.begin(&self.settings, &self.kernel)?;
        // What processes are stands in the ring, and is to be known before their sockets are listed.
        let early = self.source.drain_to_memory();
        for record in &early {
            self.dispatch.learn(record);
        }
        if self.settings.records.emit & EMIT_LISTENER != 0 {
            self.dispatch.cookies = Some(Cookies::begin());
        }
        self.dispatch
            .outputs
            .each(|consumer| consumer.start(&start));
        self.manager.ready();
        let mut flow = self.list(&snapshot)?;
        drop(snapshot);
        for record in early {
            if flow == Flow::Closed || self.dispatch.accounting.is_full() {
                break;
            }
            if !self.dispatch.take(&record) {
                flow = self.dispatch.flush()?;
            }
        }
        self.give_up_rights();
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
        let mut deferred = 0;
        if flow == Flow::Open {
            (flow, deferred) = self.follow()?;
        }
        self.report_last_losses(deferred);
        let end = self.dispatch.accounting.end(begin_ns, kernel::mono_ns());
        if flow == Flow::Open {
            self.dispatch.outputs.each(|consumer| consumer.end(&end));
            flow = self.dispatch.flush()?;
        }
        let is_closed = flow == Flow::Closed;
        Ok(self.dispatch.accounting.totals(end, is_closed))
    }

    /// What only the start needs. Not before the first line: whoever waits for that waits for nothing else.
    fn give_up_rights(&mut self) {
        let Some(fence) = &self.fence else {
            return;
        };
        let tracer = &mut self.source.tracer;
        tracer.load_rest();
        if let Err(why) = fence.raise_where(|| tracer.answers()) {
            log::warn!("the reader keeps its privileges: {why:#}");
        }
    }

    /// Reports what was open before.
    fn list(&mut self, snapshot: &Snapshot) -> Result<Flow, Error> {
        if self.settings.records.sockets {
            let mut records = snapshot.records.chunks_exact(size_of::<Record>());
            while let Some(record) = records.next() {
                self.source.record(record);
                if self.dispatch.take(record) {
                    continue;
                }
                if self.dispatch.accounting.is_full() {
                    break;
                }
                match self.dispatch.flush() {
                    Ok(Flow::Open) => {}
                    Ok(Flow::Closed) => return Ok(Flow::Closed),
                    Err(why) => {
                        // The others are not written either, and counted.
                        self.dispatch.mute();
                        for record in records {
                            self.dispatch.take(record);
                        }
                        return Err(why);
                    }
                }
            }
        }
        self.dispatch.flush()
    }

    /// Follows what happens until the trace is to end. Returns whether the reader is still there, and how
    /// many deferred steps nobody can report.
    fn follow(&mut self) -> Result<(Flow, u64), Error> {
        let mut looked = Instant::now();
        let mut woken = Woken::Time;
        while !self.dispatch.accounting.is_full() {
            let drained = self.control.drain.load(Ordering::Acquire)
                && self.drain.is_done(&self.source.tracer);
            if drained || self.control.stop.load(Ordering::Acquire) {
                self.manager.stopping();
                return self.follow_rest();
            }
            let heartbeat = self.manager.alive();
            self.source.tracer.look_for_connections()?;
            let (records, flow) = self.turn()?;
            if flow == Flow::Closed {
                return Ok((flow, 0));
            }
            let mut due = self.source.ask(records > 0);
            due.at_most(heartbeat);
            if looked.elapsed() >= LOSS_TURN {
                looked = Instant::now();
                self.report_losses();
            }
            // What found no room may go on finding none: it is reported as often as other losses.
            let reported_just_now =
                looked.elapsed() < LOSS_TURN && self.source.tracer.has_found_no_room();
            // A step that waits for its port wakes the loop, and may be no record for it even later: whoever
            // connects a thousand times a second is not to wake it as often.
            let is_quiet = records == 0 && woken != Woken::Work;
            woken = if is_quiet && !due.soon && !reported_just_now {
                looked = Instant::now();
                self.report_losses();
                if self.dispatch.flush()? == Flow::Closed {
                    return Ok((Flow::Closed, 0));
                }
                let drain = self.control.drain.load(Ordering::Acquire);
                self.source.sleep(due, drain.then_some(Drain::TURN))
            } else {
                self.source.wait_a_turn()
            };
            if woken == Woken::Hangup {
                return Ok((Flow::Closed, 0));
            }
        }
        Ok((Flow::Open, 0))
    }

    /// Reports what has happened until now.
    fn follow_rest(&mut self) -> Result<(Flow, u64), Error> {
        let Self {
            source,
            dispatch,
            control,
            ..
        } = self;
        let mut last = Flow::Open;
        let deferred = source.rest(dispatch, |source, dispatch| {
            let (records, flow) = turn(source, dispatch, control)?;
            last = flow;
            Ok((
                records,
                flow == Flow::Open && !dispatch.accounting.is_full(),
            ))
        })?;
        Ok((last, deferred))
    }

    fn begin_batch(&mut self) {
        begin_batch(&mut self.dispatch);
    }

    fn turn(&mut self) -> Result<(usize, Flow), Error> {
        turn(&mut self.source, &mut self.dispatch, &self.control)
    }

    /// Reports what has been lost since the last time.
    fn report_losses(&mut self) {
        let now = self.source.losses();
        let Dispatch {
            accounting,
            outputs,
            ..
        } = &mut self.dispatch;
        accounting.report(now, kernel::mono_ns(), outputs);
    }

    /// Ends the flow of records and reports what was lost before. `deferred`: steps that nobody can report.
    fn report_last_losses(&mut self, deferred: u64) {
        if self.dispatch.accounting.is_full() {
            self.report_losses();
            self.source.tracer.detach();
            // What finds the ring full after the last record that is wanted is missing from nothing. What
            // the kernel missed before that may be certain only now.
            let losses = self.source.losses();
            let accounting = &mut self.dispatch.accounting;
            let losses = losses.with_ring_of(accounting.reported());
            accounting.report(losses, kernel::mono_ns(), &mut self.dispatch.outputs);
        } else {
            self.source.tracer.detach();
            self.report_losses();
            let steps = self.source.tracer.unlisted() + deferred;
            let accounting = &mut self.dispatch.accounting;
            accounting.report_deferred(steps, kernel::mono_ns(), &mut self.dispatch.outputs);
        }
    }

    /// Says how much of what has happened by now will not be written.
    fn count_unwritten(&mut self) {
        let written = self.dispatch.accounting.written;
        self.dispatch.mute();
        self.source.forgo_open();
        let left = self.follow_rest().map_or(0, |(_, deferred)| deferred);
        self.report_losses();
        let accounting = &self.dispatch.accounting;
        let unwritten = accounting.records.saturating_sub(written);
        let unwritten = unwritten + left + self.source.tracer.unlisted();
        if unwritten == 0 {
            return;
        }
        let unwritten = match unwritten {
            1 => "1 record was".to_owned(),
            number => format!("{} records were", text::count(number)),
        };
        let lost = match accounting.all_lost() {
            0 => String::new(),
            lost => format!(", and {} were lost", text::count(lost)),
        };
        log::error!("{unwritten} not written{lost}");
    }
}

fn begin_batch(dispatch: &mut Dispatch) {
    let wall_minus_mono_ns = kernel::wall_minus_mono_ns();
    dispatch
        .outputs
        .each(|consumer| consumer.begin_batch(wall_minus_mono_ns));
}

/// Reports what is in the ring: how many records, and whether the reader is still there.
fn turn(
    source: &mut Source,
    dispatch: &mut Dispatch,
    control: &Control,
) -> Result<(usize, Flow), Error> {
    if control.reopen.swap(false, Ordering::AcqRel) {
        dispatch.outputs.reopen()?;
    }
    begin_batch(dispatch);
    let mut total = 0;
    for _ in 0..BATCHES_PER_TURN {
        total += source.drain(|record| dispatch.take(record));
        let is_batch_full = dispatch.is_batch_full();
        if dispatch.flush()? == Flow::Closed {
            return Ok((total, Flow::Closed));
        }
        if !is_batch_full || dispatch.accounting.is_full() {
            break;
        }
    }
    Ok((total, Flow::Open))
}
