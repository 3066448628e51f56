//! What really became of connections after their sockets, and what was told of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    actor::{Held, Who},
    check::{self, CLOCK_TOLERANCE_US},
    netns::{self, Netns},
    record::{self, Record},
    stage::Told,
    tracer::now_us,
    wait,
};

/// The tracer may have to ask for it, too.
const POLLED_US: u64 = 150_000;

/// A pair of addresses that was seen in `TIME_WAIT`.
#[derive(Clone, Debug)]
pub(super) struct Stay {
    local: SocketAddr,
    remote: SocketAddr,
    /// When it was looked for in vain for the last time
    before_us: u64,
    first_us: u64,
    last_us: u64,
    /// When it was looked for in vain again
    after_us: Option<u64>,
}

/// Looks into the namespace's table of connections.
pub(super) struct Watch {
    enough: Arc<AtomicBool>,
    stays: Arc<Mutex<Vec<Stay>>>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub(super) fn over(netns: &Netns, interval: Duration) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let stays = Arc::new(Mutex::new(Vec::<Stay>::new()));
        let shared = Arc::clone(&stays);
        let thread = netns.spawn(move || {
            let mut before_us = now_us();
            while !told.load(Ordering::Relaxed) {
                let look_us = now_us();
                let table = netns::table();
                let looked_us = now_us();
                let waiting = table.iter().filter(|entry| entry.state == "TIME_WAIT");
                let waiting: Vec<_> = waiting.map(|entry| (entry.local, entry.remote)).collect();
                let mut stays = shared.lock().unwrap();
                for stay in stays.iter_mut().filter(|stay| stay.after_us.is_none()) {
                    if waiting.contains(&(stay.local, stay.remote)) {
                        stay.last_us = look_us;
                    } else {
                        stay.after_us = Some(looked_us);
                    }
                }
                for &(local, remote) in &waiting {
                    let known = stays.iter().any(|stay| {
                        (stay.local, stay.remote) == (local, remote) && stay.after_us.is_none()
                    });
                    if !known {
                        stays.push(Stay {
                            local,
                            remote,
                            before_us,
                            first_us: looked_us,
                            last_us: look_us,
                            after_us: None,
                        });
                    }
                }
                drop(stays);
                before_us = look_us;
                std::thread::sleep(interval);
            }
        });
        Self {
            enough,
            stays,
            thread,
        }
    }

    /// Until it has seen the connection in `TIME_WAIT`.
    pub(super) fn sees(&self, held: &Held) {
        let ends = (held.local, held.remote);
        let seen = wait::poll(super::SOON, || {
            let stays = self.stays.lock().unwrap();
            let mut stays = stays.iter();
            stays
                .find(|stay| (stay.local, stay.remote) == ends)
                .map(drop)
        });
        assert!(
            seen.is_some(),
            "{} -> {} is not in TIME_WAIT",
            held.local,
            held.remote
        );
    }

    pub(super) fn stop(self) -> Vec<Stay> {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.stays.lock().unwrap())
    }
}

/// How one end of a connection should come to its end, from `ESTABLISHED` on.
pub(super) struct Course {
    scene: &'static str,
    pub(super) held: Held,
    who: Who,
    states: &'static [&'static str],
    /// The socket was gone when the peer's FIN came
    orphan: bool,
}

impl Course {
    pub(super) fn new(
        scene: &'static str,
        held: &Held,
        who: &Who,
        states: &'static [&'static str],
    ) -> Self {
        Self {
            scene,
            held: held.clone(),
            who: who.clone(),
            states,
            orphan: false,
        }
    }

    pub(super) fn orphan(mut self) -> Self {
        self.orphan = true;
        self
    }

    fn check(&self, told: &Told, stays: &[Stay]) {
        let records: Vec<_> = told
            .ours()
            .into_iter()
            .filter(|record| record.is_of(&self.held) && record.event() != "accept")
            .collect();
        let lines = || record::lines(&records);
        let from = records
            .iter()
            .position(|record| record.text("old") == Some("ESTABLISHED"));
        let end =
            &records[from.unwrap_or_else(|| panic!("never left ESTABLISHED:\n{}", lines()))..];

        let mut told_states = vec!["ESTABLISHED"];
        for record in end.iter().filter(|record| record.event() == "transition") {
            assert_eq!(
                record.text("old"),
                told_states.last().copied(),
                "{}",
                lines()
            );
            told_states.push(record.text("new").unwrap());
        }
        assert_eq!(told_states, self.states, "{}", lines());
        for record in &records {
            assert_eq!(record.conn(), records[0].conn(), "conn:\n{}", lines());
            assert_eq!(
                record.int("pid"),
                Some(self.who.pid.into()),
                "pid:\n{}",
                lines()
            );
        }

        // The totals come with the end of the socket.
        let closes: Vec<_> = (0..end.len())
            .filter(|at| end[*at].event() == "close")
            .collect();
        let [close] = closes[..] else {
            panic!("{} close records:\n{}", closes.len(), lines());
        };
        let last = end[close - 1];
        let out = self.states.iter().position(|state| *state == "TIME_WAIT");
        let ends_in = if out.is_some() { "TIME_WAIT" } else { "CLOSE" };
        assert_eq!(last.text("new"), Some(ends_in), "{}", lines());
        assert_eq!(last.mono_us(), end[close].mono_us(), "{}", lines());

        for record in &records {
            let polled = record.get("inferred").is_some();
            // On a slow machine a peer's FIN can come late without being told to.
            let may_be =
                record.text("old") == Some("FIN_WAIT2") && sees_by_timers(told.records.start());
            assert!(
                !polled || may_be || record.event() == "close",
                "inferred:\n{}",
                lines()
            );
        }
        self.check_times(told, stays, end, last);
    }

    fn check_times(&self, told: &Told, stays: &[Stay], end: &[&Record], last: &Record) {
        let lines = || record::lines(end);
        let ends = (self.held.local, self.held.remote);
        let stays: Vec<_> = stays
            .iter()
            .filter(|stay| (stay.local, stay.remote) == ends)
            .collect();
        if !self.states.contains(&"TIME_WAIT") {
            assert!(
                stays.is_empty(),
                "it was in TIME_WAIT: {stays:?}\n{}",
                lines()
            );
            return;
        }
        let [stay] = stays[..] else {
            panic!("was in TIME_WAIT {} times:\n{}", stays.len(), lines());
        };
        let late_us = if last.get("inferred").is_some() {
            POLLED_US
        } else {
            CLOCK_TOLERANCE_US
        };
        let entered_us = last.mono_us();
        assert!(
            (stay.before_us - CLOCK_TOLERANCE_US..=stay.first_us + late_us).contains(&entered_us),
            "entered TIME_WAIT between: {stay:?}\n{}",
            lines()
        );
        if !self.orphan {
            let life = told.lives.iter().find(|life| life.ends() == ends).unwrap();
            let at_us = life.steps.last().unwrap().at_ns / 1000;
            // On a slow machine the peer's FIN can come when the socket is gone, as of an orphan.
            let fin_was_late = last.get("inferred").is_some() && entered_us > at_us;
            assert!(
                fin_was_late || entered_us.abs_diff(at_us) <= CLOCK_TOLERANCE_US,
                "entered TIME_WAIT at {at_us}:\n{}",
                lines()
            );
        }
        if let Some(exit) = end
            .iter()
            .find(|record| record.text("old") == Some("TIME_WAIT"))
        {
            let after_us = stay.after_us.unwrap_or(u64::MAX - CLOCK_TOLERANCE_US);
            assert!(
                (stay.last_us - CLOCK_TOLERANCE_US..=after_us + CLOCK_TOLERANCE_US)
                    .contains(&exit.mono_us()),
                "left TIME_WAIT between: {stay:?}\n{}",
                lines()
            );
        }
    }
}

fn sees_by_timers(start: &Record) -> bool {
    let hooks = start.get("hooks");
    let hook = hooks.and_then(|hooks| hooks.get("time_wait"));
    let hook = hook.and_then(serde_json::Value::as_str);
    hook.expect("hooks.time_wait in the start record")
        .contains("timer")
}

/// What happened is what was told, and each of these took its course.
pub(super) fn check_all(told: &Told, courses: &[Course], stays: &[Stay]) {
    assert_eq!(told.records.lost(), 0, "{}", told.records.losses());
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let mut faults = Vec::new();
    for course in courses {
        let check = std::panic::AssertUnwindSafe(|| course.check(told, stays));
        if std::panic::catch_unwind(check).is_err() {
            faults.push(format!(
                "{}: {}",
                course.scene,
                crate::harness::last_panic()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
