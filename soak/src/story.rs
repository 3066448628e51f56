//! The main tracer's lines as a stream: what must hold of each, and of each connection.
//!
//! A connection is remembered while it is open, and its pair of ends while that is in `TIME_WAIT`.
//! Where records were lost, steps are missing; that is no fault if the tracer said so, and said it
//! of that time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::claim::{Claim, Kind};
use super::line::{Line, State, hash};
use super::truth::{Hidden, What};

/// Faults that are shown in full.
const MOST_FAULTS: usize = 20;

/// A loss is noticed every 100 ms, unless the tracer waits: for a processor, or for its reader.
const LOSS_LATE_US: u64 = 3_000_000;

/// Output that is kept, to show what led to a fault.
const KEPT_BYTES: usize = 32 << 20;

/// Claims about connections that were never told of are forgotten after one to two of these.
const CLAIMS_TURN_US: u64 = 60_000_000;

/// Nothing of the soak's is silent for as long. What is, has lost its end.
const SILENCE_US: u64 = 150_000_000;

/// How often those are looked for.
const SWEEP_TURN_US: u64 = 30_000_000;

/// More connections than close while an acceptance is on its way.
const JUST_CLOSED: usize = 256;

const NOT_LEFT: &str = "its TIME_WAIT did not end";

/// How long the timer of `TIME_WAIT` takes, with the grain of the timer wheel.
const WAIT_US: [u64; 2] = [60_000_000, 68_000_000];

/// The clock of ftrace is read before the tracer's, or after it.
const HIDDEN_APART_US: u64 = 50_000;

/// The clock of a process that has returned from a system call is later than the tracer's.
const ACCEPT_LATE_US: u64 = 1000;

/// Which end of a connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
    Listener,
    Unknown,
}

impl Role {
    fn parse(role: &str) -> Option<Self> {
        Some(match role {
            "client" => Self::Client,
            "server" => Self::Server,
            "listener" => Self::Listener,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

/// An owner, as it stands in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    comm: u64,
    source: u64,
}

impl Owner {
    fn of(line: &Line<'_>) -> Self {
        Self {
            pid: line.pid.unwrap_or(0),
            comm: line.comm_hash(),
            source: hash(line.pid_source.unwrap_or_default()),
        }
    }

    /// Whether it is the process of a claim, known in this way.
    fn is(self, claim: &Claim, source: &str) -> bool {
        self.pid == claim.pid && self.comm == hash(claim.comm()) && self.source == hash(source)
    }
}

/// A connection that is open.
#[derive(Clone, Debug)]
struct Open {
    state: Option<State>,
    role: Role,
    ends: u64,
    ours: bool,
    owner: Owner,
    /// Owner of the listener, as the record of the acceptance has it
    accepted_from: Option<u32>,
    /// When; 0: not yet
    accepted_us: u64,
    first_us: u64,
    last_us: u64,
    /// Its last step, to tell one told twice from one that follows a loss
    last_step: Option<(State, State, u64)>,
    last_line: String,
}

/// A pair in `TIME_WAIT`.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since_us: u64,
    ours: bool,
}

/// When the main tracer stood still, told by whoever stops it: from when to when, µs.
pub(super) type Stops = Arc<Mutex<Vec<(u64, u64)>>>;

/// Something that was not told, though it happened between these times.
#[derive(Clone, Debug)]
struct Gap {
    from_us: u64,
    to_us: u64,
    /// Local and remote, where known
    ports: Option<[u16; 2]>,
    /// It is the end of `TIME_WAIT`
    expires: bool,
    what: String,
}

/// Numbers for the progress and the report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) lines: u64,
    /// Without ends of `TIME_WAIT`, which the kernel does not report
    pub(super) transitions: u64,
    pub(super) time_wait_ends: u64,
    pub(super) accepts: u64,
    /// Of those, how many came after a step that they happened before
    pub(super) accepts_late: u64,
    pub(super) closes: u64,
    /// Transitions that the tracer said it lost
    pub(super) lost: u64,
    pub(super) lost_accepts: u64,
    pub(super) lost_closes: u64,
    pub(super) lost_time_waits: u64,
    /// Steps that are evidently missing
    pub(super) gaps: u64,
    /// Of these, what the kernel showed to ftrace alone
    pub(super) hidden: u64,
    pub(super) claims: u64,
    /// Connections whose owner a process confirmed
    pub(super) confirmed: u64,
    /// Processes that had a pid which another had before
    pub(super) pids_again: u64,
    pub(super) open: u64,
    pub(super) waiting: u64,
    pub(super) faults: u64,
}

/// All that is remembered of the stream.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) numbers: Numbers,
    pub(super) faults: Vec<String>,
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

impl Story {
    /// `v4_tail`: how the text of the soak's IPv4 addresses ends; `v6_head`: how that of its IPv6
    /// addresses begins.
    pub(super) fn new([v4_tail, v6_head]: [String; 2], stops: Stops) -> Self {
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

    pub(super) fn claim(&mut self, claim: Claim) {
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

    /// Whole lines, and all claims made before the last of them was written.
    pub(super) fn read(&mut self, text: &str) {
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

    /// What is wrong, with what was told of that connection of late.
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
            for told in kept.filter(|told| told.contains(&id)) {
                text.push_str("    ");
                text.push_str(told);
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

    /// Forgets what has been silent since records were lost: there may be very many.
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
        let forgotten = before - self.open.len() - self.waiting.len();
        self.numbers.gaps += forgotten as u64;
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

    fn about_connection(&mut self, line: &Line<'_>, text: &str) {
        let (Some(cookie), Some(role)) = (line.cookie(), line.role.and_then(Role::parse)) else {
            return self.fault("no conn, or no role", None, text);
        };
        if line.lport.is_none_or(|port| port == 0)
            || line.rport == Some(0)
            || line.rport.is_none() != (role == Role::Listener)
        {
            self.fault("a port is missing", Some(cookie), text);
        }
        if line.pid == Some(0) || line.pid.is_none() != (line.pid_source == Some("unknown")) {
            self.fault("pid and pid_source disagree", Some(cookie), text);
        }
        let states = [line.old, line.new].map(|state| state.and_then(State::parse));
        match (line.event, states) {
            ("transition", [Some(State::TimeWait), Some(new)]) => {
                self.waited(line, cookie, new, text);
            }
            ("transition", [Some(old), Some(new)]) => {
                self.step(line, cookie, role, [old, new], text);
            }
            ("socket", _) => {
                let mut open = self.adopt(line, role);
                open.state = line.state.and_then(State::parse);
                self.open.insert(cookie, open);
            }
            ("accept", _) => self.accept(line, cookie, role, text),
            ("close", _) => self.close(line, cookie, text),
            _ => self.fault("not asked for", Some(cookie), text),
        }
    }

    fn adopt(&self, line: &Line<'_>, role: Role) -> Open {
        let [v4_tail, v6_head] = &self.ours;
        let is_ours = |addr: Option<&str>| {
            addr.is_some_and(|addr| {
                (addr.starts_with("127.") && addr.ends_with(v4_tail)) || addr.starts_with(v6_head)
            })
        };
        Open {
            state: None,
            role,
            ends: line.ends(),
            ours: is_ours(line.laddr) || is_ours(line.raddr),
            owner: Owner::of(line),
            accepted_from: None,
            accepted_us: 0,
            first_us: line.mono_us,
            last_us: line.mono_us,
            last_step: None,
            last_line: String::new(),
        }
    }

    /// The end of `TIME_WAIT`.
    fn waited(&mut self, line: &Line<'_>, cookie: u64, new: State, text: &str) {
        self.numbers.time_wait_ends += 1;
        if new != State::Close {
            self.fault("leaves TIME_WAIT for another state", Some(cookie), text);
        }
        let entered_us = line.in_old_us.map(|time| line.mono_us.saturating_sub(time));
        match (self.waiting.remove(&(cookie, line.ends())), entered_us) {
            (Some(told), Some(entered_us)) if told.since_us.abs_diff(entered_us) <= 1 => {}
            (Some(_), _) => self.fault("another time in TIME_WAIT", Some(cookie), text),
            (None, Some(at_us)) => self.gap(
                [at_us; 2],
                "leaves TIME_WAIT, but never entered it",
                cookie,
                text,
            ),
            (None, None) => self.fault("leaves TIME_WAIT from nowhere", Some(cookie), text),
        }
    }

    fn step(
        &mut self,
        line: &Line<'_>,
        cookie: u64,
        role: Role,
        [old, new]: [State; 2],
        text: &str,
    ) {
        self.numbers.transitions += 1;
        let of_closing_listener = (old, new) == (State::Close, State::SynRecv);
        if !old.leads_to(new) || (of_closing_listener && role != Role::Server) {
            self.fault("TCP has no such step", Some(cookie), text);
        }
        // Steps that were not seen happened before the present one, most of them at a known time.
        let known_us = line.in_old_us.map(|time| line.mono_us.saturating_sub(time));
        let born = old == State::Close || (old == State::Listen && new == State::SynRecv);
        let mut open = match self.open.remove(&cookie) {
            Some(former) if born => {
                if former.last_step == Some((old, new, line.mono_us)) {
                    self.fault("told twice", Some(cookie), text);
                }
                let between = [former.last_us, line.mono_us];
                self.gap(between, "the end before it was not told", cookie, text);
                self.adopt(line, role)
            }
            Some(known) => known,
            None => {
                let open = self.adopt(line, role);
                // What was open at start need not be listed, and its past is not known.
                if !born && (open.ours || (known_us.is_some() && !line.partial)) {
                    let at_us = known_us.unwrap_or(line.mono_us);
                    self.gap([at_us; 2], "its beginning was not told", cookie, text);
                }
                open
            }
        };
        if let Some(state) = open.state
            && state != old
        {
            if open.last_step == Some((old, new, line.mono_us)) {
                self.fault("told twice", Some(cookie), text);
            }
            let [from_us, to_us] =
                known_us.map_or([open.last_us, line.mono_us], |at_us| [at_us; 2]);
            self.gap([from_us, to_us], "a step is missing", cookie, text);
        }
        self.follow(&mut open, line, cookie, role, text);
        open.state = Some(new);
        open.last_step = Some((old, new, line.mono_us));
        if new == State::TimeWait {
            let waiting = Waiting {
                since_us: line.mono_us,
                ours: open.ours,
            };
            self.waiting.insert((cookie, open.ends), waiting);
        }
        self.open.insert(cookie, open);
    }

    /// What holds from line to line.
    fn follow(&mut self, open: &mut Open, line: &Line<'_>, cookie: u64, role: Role, text: &str) {
        // An acceptance is stamped before a step on another processor that is in the ring before it;
        // or after the last step, and told before it, because nothing follows the totals.
        let after_it = open.accepted_us != 0 && open.accepted_us == open.last_us;
        let late =
            (line.event == "accept" || after_it) && line.mono_us + ACCEPT_LATE_US >= open.last_us;
        let is_late = line.event == "accept" && late && line.mono_us < open.last_us;
        self.numbers.accepts_late += u64::from(is_late);
        if line.mono_us < open.last_us && !late {
            self.fault("time goes back", Some(cookie), text);
        }
        if open.ends != line.ends() {
            self.fault("its ends change", Some(cookie), text);
        }
        if open.role != role && open.role != Role::Unknown {
            self.fault("its role changes", Some(cookie), text);
        }
        let owner = Owner::of(line);
        if owner != open.owner {
            // A step on another processor and the record of an acceptance do not wait for each
            // other: each of them may come first.
            let source = [open.owner.source, owner.source];
            let accepted = source == ["listener", "accept"].map(hash);
            let in_flight = source == ["accept", "listener"].map(hash)
                && line.mono_us <= open.accepted_us + ACCEPT_LATE_US;
            if !accepted && !in_flight && open.role != Role::Unknown {
                self.fault("its owner changes", Some(cookie), text);
            }
            if !in_flight {
                open.owner = owner;
            }
        }
        open.role = role;
        open.last_us = open.last_us.max(line.mono_us);
        open.last_line.clear();
        open.last_line.push_str(text);
    }

    fn accept(&mut self, line: &Line<'_>, cookie: u64, role: Role, text: &str) {
        self.numbers.accepts += 1;
        let at_us = line.mono_us;
        // Nor does the last record of a connection wait for that of its acceptance.
        let is_just_closed = |(closed, end_us): &(u64, u64)| {
            *closed == cookie && (at_us..=at_us + ACCEPT_LATE_US).contains(end_us)
        };
        if !self.open.contains_key(&cookie) && self.closed.iter().any(is_just_closed) {
            self.numbers.accepts_late += 1;
            return;
        }
        let known = self.open.remove(&cookie);
        let mut open = known.unwrap_or_else(|| {
            let open = self.adopt(line, role);
            if open.ours {
                let before = [at_us.saturating_sub(LOSS_LATE_US), at_us];
                self.gap(before, "accepted, but never told of", cookie, text);
            }
            open
        });
        if open.accepted_us != 0 {
            self.fault("accepted twice", Some(cookie), text);
        }
        self.follow(&mut open, line, cookie, role, text);
        open.accepted_from = line.listener_pid;
        open.accepted_us = line.mono_us;
        self.open.insert(cookie, open);
    }

    fn close(&mut self, line: &Line<'_>, cookie: u64, text: &str) {
        self.numbers.closes += 1;
        let claim = self.take_claim(cookie);
        let Some(mut open) = self.open.remove(&cookie) else {
            let at_us = line.mono_us;
            return self.gap([at_us; 2], "closed, but not open", cookie, text);
        };
        if !open.state.is_some_and(State::is_end) {
            let at_us = line.mono_us;
            self.gap([at_us; 2], "closed, but not at its end", cookie, text);
        }
        let role = line.role.and_then(Role::parse).unwrap_or(open.role);
        self.follow(&mut open, line, cookie, role, text);
        self.closed.truncate(JUST_CLOSED - 1);
        self.closed.push_front((cookie, line.mono_us));
        if let Some(claim) = claim {
            self.confirm(&open, line, cookie, &claim, text);
        }
    }

    /// What the tracer says of the owner against what that process says of itself.
    fn confirm(&mut self, open: &Open, line: &Line<'_>, cookie: u64, claim: &Claim, text: &str) {
        let right = match (claim.kind, open.role) {
            (Kind::Connected, Role::Client) => open.owner.is(claim, "connect"),
            (Kind::Listens, Role::Listener) => open.owner.is(claim, "listen"),
            (Kind::Accepted, Role::Server) => match open.accepted_from {
                Some(listener) => listener == claim.listener && open.owner.is(claim, "accept"),
                // It may have ended before it was accepted.
                None if line.mono_us <= claim.mono_us + ACCEPT_LATE_US => return,
                None => {
                    let born_us = line.mono_us.saturating_sub(line.duration_us.unwrap_or(0));
                    let between = [born_us.min(open.first_us), line.mono_us];
                    return self.gap(between, "its acceptance was not told", cookie, text);
                }
            },
            _ => false,
        };
        if right {
            self.numbers.confirmed += 1;
            return;
        }
        let what = format!(
            "the owner is process {} ({}), {:?}, listener {}",
            claim.pid,
            claim.comm(),
            claim.kind,
            claim.listener
        );
        self.fault(&what, Some(cookie), text);
    }

    /// What is wrong now that nothing more can come. Nothing of the soak's is open any more. What was
    /// hidden nobody can tell of.
    pub(super) fn finish(&mut self, hidden: &[Hidden]) {
        match self.ended {
            None => self.faults.push("there is no end record".to_owned()),
            Some((transitions, lost)) => {
                let told = self.numbers.transitions + self.numbers.time_wait_ends;
                if (transitions, lost) != (told, self.numbers.lost) {
                    self.faults.push(format!(
                        "the end record has {transitions} transitions and {lost} lost; the lines \
                         had {told} and {}",
                        self.numbers.lost
                    ));
                }
            }
        }
        for (cookie, open) in std::mem::take(&mut self.open) {
            if open.ours {
                let since = [open.last_us, u64::MAX];
                self.gap(since, "its end was not told", cookie, &open.last_line);
            }
        }
        for ((cookie, _), waiting) in std::mem::take(&mut self.waiting) {
            if waiting.ours {
                let since = [waiting.since_us, u64::MAX];
                self.gap(since, NOT_LEFT, cookie, "(nothing follows)");
            }
        }
        let before = self.gaps.len();
        self.gaps.retain(|gap| !gap.is_one_of(hidden));
        let excused = self.excused.iter().filter(|gap| gap.is_one_of(hidden));
        self.numbers.hidden = (before - self.gaps.len() + excused.count()) as u64;
        let missing = self.numbers.hidden
            + self.numbers.lost
            + self.numbers.lost_closes
            + self.numbers.lost_accepts
            + self.numbers.lost_time_waits;
        if self.numbers.gaps > missing {
            self.faults.push(format!(
                "{} records are evidently missing, and the tracer says that it lost {missing}",
                self.numbers.gaps
            ));
        }
        for gap in std::mem::take(&mut self.gaps) {
            self.numbers.faults += 1;
            if self.faults.len() < MOST_FAULTS {
                self.faults.push(format!(
                    "between {} and {} us, when nothing was lost: {}",
                    gap.from_us, gap.to_us, gap.what
                ));
            }
        }
        self.numbers.faults = self.numbers.faults.max(self.faults.len() as u64);
    }
}

/// Local and remote, of whom a line is about.
fn ports_of(text: &str) -> Option<[u16; 2]> {
    let line: Line<'_> = serde_json::from_str(text).ok()?;
    Some([line.lport?, line.rport.unwrap_or(0)])
}

impl Gap {
    /// Whether what was hidden explains it.
    fn is_one_of(&self, hidden: &[Hidden]) -> bool {
        let within = |[from_us, to_us]: [u64; 2], at_us: u64| {
            at_us.saturating_add(HIDDEN_APART_US) >= from_us
                && at_us <= to_us.saturating_add(HIDDEN_APART_US)
        };
        hidden.iter().any(|hidden| match hidden.what {
            What::Transition(ports) => {
                self.ports == Some(ports) && within([self.from_us, self.to_us], hidden.at_us)
            }
            What::Expiry => {
                let expected = WAIT_US.map(|wait_us| self.from_us.saturating_add(wait_us));
                self.expires && within(expected, hidden.at_us)
            }
        })
    }

    fn is_in(&self, losses: &[(u64, u64)]) -> bool {
        losses
            .iter()
            .rev()
            .any(|(from_us, to_us)| self.from_us <= *to_us && self.to_us >= *from_us)
    }
}
