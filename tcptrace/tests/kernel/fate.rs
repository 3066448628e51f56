//! How a connection should be said to have ended, and what the oracle says of its times.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    actor::{Held, Who},
    check::{self, CLOCK_TOLERANCE_US},
    oracle::Life,
    record::{self, Record},
    stage::Told,
};

/// What the `close` record of one end should say.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    /// For the reader of a failure
    scene: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    /// [`None`]: the listener's owner at most, since nobody accepted it
    owner: Option<Who>,
    reason: &'static str,
    closed_by: Option<&'static str>,
    errno: Option<&'static str>,
    closer: Option<u32>,
    /// Whether `closer` has to be named
    proven: bool,
    /// What `inferred` is to be, if that matters
    inferred: Option<bool>,
    /// What else `reason` may be, on a slow machine
    or: Option<&'static str>,
    /// What `cause` is to be, if that matters; empty: left out
    cause: Option<&'static str>,
    /// What `closed_because` and `signal` are to be, if that matters
    because: Option<(&'static str, Option<&'static str>)>,
}

impl Fate {
    /// Nobody closed it, and there is no error, until more is said.
    pub(crate) fn of(scene: &'static str, held: &Held, owner: &Who, reason: &'static str) -> Self {
        Self {
            scene,
            local: held.local,
            remote: held.remote,
            owner: Some(owner.clone()),
            reason,
            closed_by: None,
            errno: None,
            closer: None,
            proven: true,
            inferred: None,
            or: None,
            cause: None,
            because: None,
        }
    }

    /// The same, of a socket of which the test knows its ends alone.
    pub(crate) fn between(
        scene: &'static str,
        local: SocketAddr,
        remote: SocketAddr,
        owner: &Who,
        reason: &'static str,
    ) -> Self {
        Self::of(scene, &Held::at(local, remote), owner, reason)
    }

    /// The other end of a connection that nobody accepted.
    pub(crate) fn waiting(scene: &'static str, client: &Held, reason: &'static str) -> Self {
        Self {
            scene,
            local: client.remote,
            remote: client.local,
            owner: None,
            reason,
            closed_by: None,
            errno: None,
            closer: None,
            proven: true,
            inferred: None,
            or: None,
            cause: None,
            because: None,
        }
    }

    /// `side`: `local`, `remote` or `both`.
    pub(crate) fn by(mut self, side: &'static str) -> Self {
        self.closed_by = Some(side);
        self
    }

    pub(crate) fn errno(mut self, errno: &'static str) -> Self {
        self.errno = Some(errno);
        self
    }

    pub(crate) fn closer(mut self, who: &Who) -> Self {
        self.closer = Some(who.pid);
        self
    }

    /// The process that ended it did so without holding the socket's lock as its user does, which
    /// is the proof that a process closes for itself.
    pub(crate) fn closer_if_named(mut self, pid: u32) -> Self {
        self.closer = Some(pid);
        self.proven = false;
        self
    }

    pub(crate) fn inferred(mut self, inferred: bool) -> Self {
        self.inferred = Some(inferred);
        self
    }

    /// Its SYN may have been sent again.
    pub(crate) fn or(mut self, reason: &'static str) -> Self {
        self.or = Some(reason);
        self
    }

    pub(crate) fn cause(mut self, cause: &'static str) -> Self {
        self.cause = Some(cause);
        self
    }

    pub(crate) fn without_cause(mut self) -> Self {
        self.cause = Some("");
        self
    }

    pub(crate) fn because(mut self, act: &'static str) -> Self {
        self.because = Some((act, None));
        self
    }

    pub(crate) fn killed_by(mut self, signal: &'static str) -> Self {
        self.because = Some(("killed", Some(signal)));
        self
    }

    /// A connection that both ends closed in peace.
    pub(crate) fn peace(scene: &'static str, ends: [(&Held, &Who); 2]) -> [Self; 2] {
        let [(near, first), (far, second)] = ends;
        [
            Self::of(scene, near, first, "normal")
                .by("local")
                .closer(first),
            Self::of(scene, far, second, "normal")
                .by("remote")
                .closer(second),
        ]
    }

    /// A connection that the first end aborted.
    pub(crate) fn abort(scene: &'static str, ends: [(&Held, &Who); 2]) -> [Self; 2] {
        let [(near, first), (far, second)] = ends;
        [
            Self::of(scene, near, first, "reset_sent")
                .by("local")
                .closer(first),
            Self::of(scene, far, second, "reset_received")
                .by("remote")
                .errno("ECONNRESET"),
        ]
    }

    fn records<'told>(&self, told: &'told Told) -> Vec<&'told Record> {
        let ends = (self.local, Some(self.remote));
        let mut records = told.ours();
        records.retain(|record| {
            record.role() != "listener" && (record.local(), record.remote()) == ends
        });
        records
    }

    fn check(&self, told: &Told) {
        let records = self.records(told);
        let closes: Vec<_> = records
            .iter()
            .filter(|record| record.event() == "close")
            .collect();
        let [close] = closes[..] else {
            panic!(
                "{} close records of {} -> {}:\n{}",
                closes.len(),
                self.local,
                self.remote,
                brief(&records)
            );
        };
        let closer = close.int("closer_pid");
        let named = closer.is_some() || self.proven;
        let said = (
            close.text("reason"),
            close.text("closed_by"),
            close.text("errno"),
            closer,
        );
        let reason = self.or.filter(|or| close.text("reason") == Some(or));
        let expected = (
            reason.or(Some(self.reason)),
            self.closed_by,
            self.errno,
            self.closer.filter(|_| named).map(u64::from),
        );
        assert_eq!(
            said,
            expected,
            "(reason, closed_by, errno, closer_pid) in\n{}",
            brief(&records)
        );
        if let Some(cause) = self.cause {
            let told = close.text("cause").unwrap_or_default();
            assert_eq!(told, cause, "cause in\n{}", brief(&records));
        }
        if let Some((act, signal)) = self.because {
            let said = (close.text("closed_because"), close.text("signal"));
            assert_eq!(said, (Some(act), signal), "{}", close.line);
        }
        if let Some(inferred) = self.inferred {
            assert_eq!(close.get("inferred").is_some(), inferred, "{}", close.line);
        }
        if let Some(owner) = &self.owner {
            assert_eq!(
                close.int("pid"),
                Some(owner.pid.into()),
                "the owner is {owner}:\n{}",
                brief(&records)
            );
        }
        let life = told
            .lives
            .iter()
            .find(|life| !life.is_listener() && life.ends() == (self.local, self.remote));
        let life = life.unwrap_or_else(|| panic!("the kernel has not seen {}", close.line));
        times(life, close, &records);
    }
}

/// What happened is what was told, and each of these ended as it should be said to.
pub(crate) fn check(told: &Told, fates: &[Fate]) {
    assert_eq!(told.records.lost(), 0, "{}", told.records.end().line);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let faults: Vec<_> = fates
        .iter()
        .filter_map(|fate| {
            let check = std::panic::AssertUnwindSafe(|| fate.check(told));
            let failed = std::panic::catch_unwind(check).is_err();
            failed.then(|| format!("{}: {}", fate.scene, crate::harness::last_panic()))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// The path, and the end in full.
fn brief(records: &[&Record]) -> String {
    let lines = records.iter().map(|record| match record.event() {
        "close" => record.line.clone(),
        event => {
            let state = |key| record.text(key).unwrap_or_default();
            let (at_us, old, new) = (record.mono_us(), state("old"), state("new"));
            format!("{at_us} {event} {old} {new} ({})", record.source())
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The times in a `close` record are those between the kernel's own transitions.
fn times(life: &Life, close: &Record, records: &[&Record]) {
    let mut stays: BTreeMap<&str, u64> = BTreeMap::new();
    for pair in life.steps.windows(2) {
        *stays.entry(pair[0].new).or_default() += (pair[1].at_ns - pair[0].at_ns) / 1000;
    }
    let [first, last] = [life.steps.first(), life.steps.last()].map(Option::unwrap);
    let lived_us = (last.at_ns - first.at_ns) / 1000;
    // What remains in FIN_WAIT2 goes on after what the kernel calls its end.
    let goes_on = life.time_waits() && last.old == "FIN_WAIT2";
    let near = |what: &str, told: Option<u64>, true_us: Option<u64>, may_be_longer: bool| {
        let fine = match (told, true_us) {
            (Some(told), Some(true_us)) => {
                told.abs_diff(true_us) <= CLOCK_TOLERANCE_US || (may_be_longer && told > true_us)
            }
            (told, true_us) => told == true_us,
        };
        assert!(
            fine,
            "{what} is {told:?}, and should be {true_us:?}:\n{}",
            brief(records)
        );
    };
    near(
        "duration_us",
        close.int("duration_us"),
        Some(lived_us),
        goes_on,
    );
    let states = close.get("states").and_then(serde_json::Value::as_object);
    let states = states.unwrap_or_else(|| panic!("no states: {}", close.line));
    let named: Vec<_> = states.keys().map(String::as_str).collect();
    assert!(
        named.len() == stays.len() && named.iter().all(|name| stays.contains_key(name)),
        "states are {named:?}, and should be {:?}:\n{}",
        stays.keys(),
        close.line
    );
    for (state, stay_us) in &stays {
        let told = states[*state].as_u64();
        near(
            state,
            told,
            Some(*stay_us),
            goes_on && *state == "FIN_WAIT2",
        );
    }

    let at_us = |new: &str| {
        let step = life.steps.iter().find(|step| step.new == new);
        step.map(|step| step.at_ns / 1000)
    };
    let connected_us = at_us("SYN_SENT").and_then(|sent_us| {
        let done_us = at_us("ESTABLISHED").or(at_us("CLOSE"))?;
        Some(done_us - sent_us)
    });
    near("connect_us", close.int("connect_us"), connected_us, false);
    let accept = records.iter().find(|record| record.event() == "accept");
    let waited_us = accept.and_then(|accept| {
        let established_us = at_us("ESTABLISHED").filter(|at_us| *at_us <= accept.mono_us());
        Some(accept.mono_us() - established_us.or(at_us("SYN_RECV"))?)
    });
    if let Some(accept) = accept {
        near("wait_us", accept.int("wait_us"), waited_us, false);
    }
    near(
        "accept_wait_us",
        close.int("accept_wait_us"),
        waited_us,
        false,
    );
    if close.role() == "client" {
        assert_eq!(close.int("handshake_us"), None, "{}", close.line);
    }
}
