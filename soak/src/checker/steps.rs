//! What must hold of a connection from line to line.

use super::connection::{Open, Owner, Role, Waiting};
use super::{Checker, LOSS_LATE_US};
use crate::claim::{Claim, Kind};
use crate::line::{Line, State, hash};

/// More connections than close while an acceptance is on its way.
const JUST_CLOSED: usize = 256;

/// The clock of a process that has returned from a system call is later than the tracer's.
const ACCEPT_LATE_US: u64 = 1000;

impl Checker {
    pub(super) fn about_connection(&mut self, line: &Line<'_>, text: &str) {
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
            // How busy a listener is says nothing of a connection.
            ("listener", _) if role == Role::Listener => {}
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
            (Some(entry), Some(entered_us)) if entry.since_us.abs_diff(entered_us) <= 1 => {}
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
                    self.fault("reported twice", Some(cookie), text);
                }
                let between = [former.last_us, line.mono_us];
                self.gap(between, "the end before it was not reported", cookie, text);
                self.adopt(line, role)
            }
            Some(known) => known,
            None => {
                let open = self.adopt(line, role);
                // What was open at start need not be listed, and its past is not known.
                if !born && (open.ours || (known_us.is_some() && !line.partial)) {
                    let at_us = known_us.unwrap_or(line.mono_us);
                    self.gap([at_us; 2], "its beginning was not reported", cookie, text);
                }
                open
            }
        };
        if let Some(state) = open.state
            && state != old
        {
            if open.last_step == Some((old, new, line.mono_us)) {
                self.fault("reported twice", Some(cookie), text);
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
        // or after the last step, and reported before it, because nothing follows the totals.
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
                self.gap(before, "accepted, but never reported", cookie, text);
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
                    return self.gap(between, "its acceptance was not reported", cookie, text);
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
}
