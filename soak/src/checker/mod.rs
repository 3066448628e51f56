//! The main tracer's lines as a stream: what must hold of each, and of each connection.
//!
//! A connection is remembered while it is open, and its pair of ends while that is in `TIME_WAIT`.
//! Where records were lost, steps are missing; that is no fault if the tracer said so, and said it
//! of that time.

mod connection;
mod finish;
mod gap;
mod numbers;
mod steps;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::claim::Claim;
use crate::line::{Line, hash};

use connection::{Open, Waiting};
use gap::{Gap, ports_of};
pub(crate) use numbers::Numbers;

/// Faults that are shown in full.
const MOST_FAULTS: usize = 20;

/// A loss is noticed every 100 ms, unless the tracer waits: for a processor, or for its reader.
const LOSS_LATE_US: u64 = 3_000_000;

/// Output that is kept, to show what led to a fault.
const KEPT_BYTES: usize = 32 << 20;

/// Claims about connections that were never reported are forgotten after one to two of these.
const CLAIMS_TURN_US: u64 = 60_000_000;

/// Nothing of the soak's is silent for as long. What is, has lost its end.
const SILENCE_US: u64 = 150_000_000;

/// How often those are looked for.
const SWEEP_TURN_US: u64 = 30_000_000;

const NOT_LEFT: &str = "its TIME_WAIT did not end";

/// When the main tracer stood still, as whoever stops it says: from when to when, µs.
pub(crate) type Stops = Arc<Mutex<Vec<(u64, u64)>>>;

/// All that is remembered of the stream.
#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) numbers: Numbers,
    pub(crate) faults: Vec<String>,
    open: HashMap<u64, Open>,
    /// Those that have closed last, and when; the latest first
    closed: VecDeque<(u64, u64)>,
    /// Pairs in `TIME_WAIT`, by cookie and ends
    waiting: HashMap<(u64, u64), Waiting>,
    claims: [HashMap<u64, Claim>; 2],
    claims_turned_us: u64,
    swept_us: u64,
    /// Which name each pid had last
    names: HashMap<u32, u64>,
    gaps: VecDeque<Gap>,
    /// Those of a time when something was counted as lost, which are no faults
    excused: Vec<Gap>,
    /// When records were lost
    losses: Vec<(u64, u64)>,
    stops: Stops,
    ours: [String; 2],
    kept: VecDeque<Arc<str>>,
    kept_bytes: usize,
    started: bool,
    ended: Option<(u64, u64)>,
}

impl Checker {
    /// `v4_tail`: how the text of the soak's IPv4 addresses ends; `v6_head`: how that of its IPv6
    /// addresses begins.
    pub(crate) fn new([v4_tail, v6_head]: [String; 2], stops: Stops) -> Self {
        Self {
            numbers: Numbers::default(),
            faults: Vec::new(),
            open: HashMap::new(),
            closed: VecDeque::new(),
            waiting: HashMap::new(),
            claims: Default::default(),
            claims_turned_us: 0,
            swept_us: 0,
            names: HashMap::new(),
            gaps: VecDeque::new(),
            excused: Vec::new(),
            losses: Vec::new(),
            stops,
            ours: [v4_tail, v6_head],
            kept: VecDeque::new(),
            kept_bytes: 0,
            started: false,
            ended: None,
        }
    }

    pub(crate) fn claim(&mut self, claim: Claim) {
        self.numbers.claims += 1;
        let comm = hash(claim.comm());
        if self
            .names
            .insert(claim.pid, comm)
            .is_some_and(|before| before != comm)
        {
            self.numbers.pids_again += 1;
        }
        if claim.mono_us > self.claims_turned_us + CLAIMS_TURN_US {
            self.claims_turned_us = claim.mono_us;
            self.claims.swap(0, 1);
            self.claims[0].clear();
        }
        self.claims[0].insert(claim.cookie, claim);
    }

    fn take_claim(&mut self, cookie: u64) -> Option<Claim> {
        let [young, old] = &mut self.claims;
        young.remove(&cookie).or_else(|| old.remove(&cookie))
    }

    /// Complete lines, and all claims made before the last of them was written.
    pub(crate) fn read(&mut self, text: &str) {
        let text: Arc<str> = text.into();
        self.kept_bytes += text.len();
        self.kept.push_back(Arc::clone(&text));
        while self.kept_bytes > KEPT_BYTES
            && let Some(oldest) = self.kept.pop_front()
        {
            self.kept_bytes -= oldest.len();
        }
        for line in text.lines() {
            self.numbers.lines += 1;
            match serde_json::from_str(line) {
                Ok(parsed) => self.line(&parsed, line),
                Err(why) => self.fault(&format!("no record: {why}"), None, line),
            }
        }
        self.numbers.open = self.open.len() as u64;
        self.numbers.waiting = self.waiting.len() as u64;
    }

    /// What is wrong, with what was reported of that connection lately.
    fn fault(&mut self, what: &str, conn: Option<u64>, line: &str) {
        self.numbers.faults += 1;
        if self.faults.len() >= MOST_FAULTS {
            return;
        }
        let fault = format!("{what}\n{}", self.context(conn, line));
        self.faults.push(fault);
    }

    fn context(&self, conn: Option<u64>, line: &str) -> String {
        let mut text = String::new();
        if let Some(conn) = conn {
            let id = format!("\"conn\":\"{conn:x}\"");
            let kept = self.kept.iter().flat_map(|text| text.lines());
            for reported in kept.filter(|reported| reported.contains(&id)) {
                text.push_str("    ");
                text.push_str(reported);
                text.push('\n');
            }
        }
        text + "  > " + line
    }

    fn line(&mut self, line: &Line<'_>, text: &str) {
        if line.v != 1 {
            self.fault("another version of the format", None, text);
        }
        if self.started == (line.event == "start") || self.ended.is_some() {
            self.fault("out of place", None, text);
        }
        match line.event {
            "start" => self.started = true,
            "end" => {
                self.ended = Some((line.transitions.unwrap_or(0), line.lost.unwrap_or(0)));
            }
            "lost" => {
                self.lost(line);
                self.sweep(line.mono_us);
            }
            _ => self.about_connection(line, text),
        }
    }

    fn lost(&mut self, line: &Line<'_>) {
        self.numbers.lost += line.count;
        self.numbers.lost_accepts += line.accepts;
        self.numbers.lost_closes += line.closes;
        self.numbers.lost_time_waits += line.time_waits;
        let to_us = line.mono_us;
        let mut from_us = to_us.saturating_sub(LOSS_LATE_US);
        let stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        for (stopped_us, resumed_us) in &*stops {
            if *resumed_us >= from_us && *stopped_us <= to_us {
                from_us = from_us.min(stopped_us.saturating_sub(LOSS_LATE_US));
            }
        }
        drop(stops);
        match self.losses.last_mut() {
            Some(last) if last.1 >= from_us => *last = (last.0.min(from_us), to_us),
            _ => self.losses.push((from_us, to_us)),
        }
        let (excused, gaps): (VecDeque<_>, _) = std::mem::take(&mut self.gaps)
            .into_iter()
            .partition(|gap| gap.is_in(&self.losses));
        self.excused.extend(excused);
        self.gaps = gaps;
    }

    /// Drops what has been silent since records were lost: there may be very many.
    fn sweep(&mut self, now_us: u64) {
        if now_us < self.swept_us + SWEEP_TURN_US {
            return;
        }
        self.swept_us = now_us;
        let losses = &self.losses;
        let stays = |since_us: u64| {
            let silence = Gap {
                from_us: since_us,
                to_us: now_us,
                ports: None,
                expires: false,
                what: String::new(),
            };
            since_us + SILENCE_US > now_us || !silence.is_in(losses)
        };
        let before = self.open.len() + self.waiting.len();
        self.open
            .retain(|_, open| !open.ours || stays(open.last_us));
        self.waiting
            .retain(|_, waiting| !waiting.ours || stays(waiting.since_us));
        let dropped = before - self.open.len() - self.waiting.len();
        self.numbers.gaps += dropped as u64;
    }

    fn gap(&mut self, [from_us, to_us]: [u64; 2], what: &str, conn: u64, text: &str) {
        self.numbers.gaps += 1;
        let mut gap = Gap {
            from_us,
            to_us,
            ports: None,
            expires: what == NOT_LEFT,
            what: String::new(),
        };
        gap.ports = ports_of(text);
        if gap.is_in(&self.losses) {
            self.excused.push(gap);
            return;
        }
        if self.gaps.len() < 10 * MOST_FAULTS {
            gap.what = format!("{what}\n{}", self.context(Some(conn), text));
        }
        self.gaps.push_back(gap);
    }
}
