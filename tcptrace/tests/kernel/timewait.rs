//! `TIME_WAIT`, in and out, and the `FIN_WAIT2` that goes on without its socket.
//!
//! The kernel has no transition for either. What they should be is read from `/proc/net/tcp`,
//! again and again while the connections live.

use std::{
    net::{SocketAddr, SocketAddrV4},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    Scenario,
    Scenario::Always,
    actor::{Actor, Held, Listener, Who},
    check::{self, CLOCK_TOLERANCE_US},
    confinement,
    netns::{self, Ip, Netns},
    peer::First,
    reasons::meet_puppet,
    record::{self, Record},
    stage::{Exchange, Stage, Told},
    tracer::{Tracer, now_us},
    truth::{self, Truth},
    wait,
    wire::{ACK, FIN, Puppet, RST, Wire},
};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("timewait::namespace_ends", Always(namespace_ends)),
    ("timewait::fin_wait2_goes_on", Always(fin_wait2_goes_on)),
    ("timewait::cut_short", Always(cut_short)),
    ("timewait::used_again", Always(used_again)),
    ("timewait::none_allowed", Always(none_allowed)),
    ("timewait::expiry", Always(expiry)),
    ("timewait::storm", Always(storm)),
    (
        "timewait::storm_over_the_limit",
        Always(storm_over_the_limit),
    ),
    ("timewait::stopped_behind", Always(stopped_behind)),
];

/// The tracer may have to ask for it, too.
const POLLED_US: u64 = 150_000;

/// A pair of addresses that was seen in `TIME_WAIT`.
#[derive(Clone, Debug)]
struct Stay {
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
struct Watch {
    enough: Arc<AtomicBool>,
    stays: Arc<Mutex<Vec<Stay>>>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn over(netns: &Netns, interval: Duration) -> Self {
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
    fn sees(&self, held: &Held) {
        let ends = (held.local, held.remote);
        let seen = wait::poll(SOON, || {
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

    fn stop(self) -> Vec<Stay> {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.stays.lock().unwrap())
    }
}

/// How one end of a connection should come to its end, from `ESTABLISHED` on.
struct Course {
    scene: &'static str,
    held: Held,
    who: Who,
    states: &'static [&'static str],
    /// The socket was gone when the peer's FIN came
    orphan: bool,
}

impl Course {
    fn new(scene: &'static str, held: &Held, who: &Who, states: &'static [&'static str]) -> Self {
        Self {
            scene,
            held: held.clone(),
            who: who.clone(),
            states,
            orphan: false,
        }
    }

    fn orphan(mut self) -> Self {
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
            assert!(
                entered_us.abs_diff(at_us) <= CLOCK_TOLERANCE_US,
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
fn check_all(told: &Told, courses: &[Course], stays: &[Stay]) {
    assert_eq!(told.records.lost(), 0, "{}", told.records.end().line);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let mut faults = Vec::new();
    for course in courses {
        let check = std::panic::AssertUnwindSafe(|| course.check(told, stays));
        if std::panic::catch_unwind(check).is_err() {
            faults.push(format!("{}: {}", course.scene, crate::last_panic()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// Until the tracer tells that `TIME_WAIT`, or what remained of `FIN_WAIT2`, is over.
fn await_end(tracer: &Tracer, held: &Held, old: &str, time: Duration) {
    let what = format!("{} -> {} {old}>CLOSE", held.local, held.remote);
    tracer.wait_for(&what, time, |record| {
        record.is_about_a_connection()
            && record.is_of(held)
            && record.is("transition", "CLOSE")
            && record.text("old") == Some(old)
    });
}

/// Until the namespace's table has the connection in this state, or not at all.
pub(crate) fn await_state(netns: &Netns, held: &Held, state: Option<&str>) {
    let mut last = None;
    let reached = wait::poll(Duration::from_secs(10), || {
        last = netns
            .table()
            .into_iter()
            .find(|entry| (entry.local, entry.remote) == (held.local, held.remote))
            .map(|entry| entry.state);
        (last == state).then_some(())
    });
    assert!(
        reached.is_some(),
        "{} -> {} should be in {state:?}, and is in {last:?}",
        held.local,
        held.remote
    );
}

/// The states from the end of the data on, for whoever closes first.
const CLOSED_FIRST: &[&str] = &["ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"];
const CLOSED_FIRST_TO_THE_END: &[&str] = &[
    "ESTABLISHED",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
];
const NO_TIME_WAIT: &[&str] = &["ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSE"];

const LOOKS: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(5);

fn company(stage: &Stage) -> (Actor, Actor, Listener) {
    let client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    (client, server, listener)
}

fn meet(client: &mut Actor, server: &mut Actor, listener: &Listener) -> (Held, Held) {
    server.tell_accept(listener, "");
    Exchange::default().meet(client, server, listener.local)
}

/// Everything that waits goes with its namespace, also of processes that are no more.
fn namespace_ends() {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let mut stage = Stage::over(netns, &["--no-existing"]);
    let watch = Watch::over(&stage.netns, LOOKS);
    let (mut client, mut server, listener) = company(&stage);
    let mut courses = Vec::new();

    let (near, far) = meet(&mut client, &mut server, &listener);
    client.close(&near);
    server.act("eof", &far);
    server.close(&far);
    let scene = "closed";
    courses.push(Course::new(
        scene,
        &near,
        &client.who,
        CLOSED_FIRST_TO_THE_END,
    ));

    // The socket is still there when its connection is over.
    let (near, far) = meet(&mut client, &mut server, &listener);
    client.act("shutdown", &near);
    server.act("eof", &far);
    server.close(&far);
    client.act("eof", &near);
    let scene = "shut down, and held";
    courses.push(Course::new(
        scene,
        &near,
        &client.who,
        CLOSED_FIRST_TO_THE_END,
    ));

    let (far, near) = meet(&mut client, &mut server, &listener);
    server.close(&near);
    client.act("eof", &far);
    client.close(&far);
    let scene = "closed by the server";
    courses.push(Course::new(
        scene,
        &near,
        &server.who,
        CLOSED_FIRST_TO_THE_END,
    ));

    let (near, mut puppet) = meet_puppet(&wire, &mut client, 80);
    client.close(&near);
    let fin = puppet.hear(FIN);
    puppet.unhear(&fin);
    puppet.say(FIN | ACK);
    puppet.hear(FIN);
    puppet.say(ACK);
    let states = &["ESTABLISHED", "FIN_WAIT1", "CLOSING", "TIME_WAIT", "CLOSE"];
    courses.push(Course::new("crossing FINs", &near, &client.who, states));

    stage.netns.settle(0);
    for course in &courses {
        watch.sees(&course.held);
    }
    let stays = watch.stop();
    client.kill();
    server.kill();
    drop(wire);
    stage.netns.destroy();
    for course in &courses {
        await_end(
            &stage.tracer,
            &course.held,
            "TIME_WAIT",
            Duration::from_secs(20),
        );
    }
    check_all(&stage.end_now(&[]), &courses, &stays);
}

/// An orphan in `FIN_WAIT2` is a time-wait socket at once, but not in `TIME_WAIT` before its peer's
/// FIN.
fn fin_wait2_goes_on() {
    const FIN_TIMEOUT: Duration = Duration::from_secs(2);

    let netns = Netns::new();
    netns.set("tcp_fin_timeout", &FIN_TIMEOUT.as_secs().to_string());
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing"]);
    let watch = Watch::over(&stage.netns, LOOKS);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut courses = Vec::new();
    let closed = |client: &mut Actor, port| {
        let (near, mut puppet) = meet_puppet(&wire, client, port);
        client.close(&near);
        puppet.hear(FIN);
        puppet.say(ACK);
        await_state(&stage.netns, &near, Some("FIN_WAIT2"));
        (near, puppet)
    };

    let (silent, _puppet) = closed(&mut client, 80);
    courses.push(Course::new("no FIN", &silent, &client.who, NO_TIME_WAIT).orphan());
    let begun = Instant::now();

    // The other way into it: the socket is closed when it is in FIN_WAIT2 already.
    let (held, mut puppet) = meet_puppet(&wire, &mut client, 81);
    client.act("shutdown", &held);
    puppet.hear(FIN);
    puppet.say(ACK);
    await_state(&stage.netns, &held, Some("FIN_WAIT2"));
    client.close(&held);
    let states = &[
        "ESTABLISHED",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "FIN_WAIT2",
        "CLOSE",
    ];
    courses.push(Course::new("no FIN, closed late", &held, &client.who, states).orphan());

    let (near, mut puppet) = closed(&mut client, 82);
    let (reset, mut resetter) = closed(&mut client, 83);
    let (late, mut late_puppet) = closed(&mut client, 84);
    // Long enough that a time that was not asked for again would be wrong.
    let asked = Instant::now();
    wait::poll(SOON, || {
        (asked.elapsed() > Duration::from_millis(300)).then_some(())
    });
    puppet.say(FIN | ACK);
    puppet.hear(ACK);
    watch.sees(&near);
    courses.push(Course::new("a late FIN", &near, &client.who, CLOSED_FIRST).orphan());

    resetter.say(RST);
    await_state(&stage.netns, &reset, None);
    courses.push(Course::new("a reset", &reset, &client.who, NO_TIME_WAIT).orphan());

    // Nobody can read it any more, so the kernel answers with a reset.
    late_puppet.say_with(ACK, &[], b"late");
    await_state(&stage.netns, &late, None);
    courses.push(Course::new("late data", &late, &client.who, NO_TIME_WAIT).orphan());

    // And a reset that finds the socket itself still there.
    let (full, mut puppet) = meet_puppet(&wire, &mut client, 85);
    client.act("shutdown", &full);
    puppet.hear(FIN);
    puppet.say(ACK);
    await_state(&stage.netns, &full, Some("FIN_WAIT2"));
    puppet.say(RST);
    await_state(&stage.netns, &full, None);
    client.close(&full);
    courses.push(Course::new(
        "a reset of the socket",
        &full,
        &client.who,
        NO_TIME_WAIT,
    ));

    let deadline = FIN_TIMEOUT + SOON;
    for held in [&silent, &held, &reset, &late] {
        await_end(&stage.tracer, held, "FIN_WAIT2", deadline);
    }
    assert!(begun.elapsed() >= FIN_TIMEOUT, "{:?}", begun.elapsed());
    let told = stage.end(0, &[]);
    check_all(&told, &courses, &watch.stop());

    let fin_timeout_us = u64::try_from(FIN_TIMEOUT.as_micros()).unwrap();
    let ours = told.ours();
    let end_of = |held: &Held| {
        let mut ends = ours.iter().filter(|record| record.is_of(held));
        ends.rfind(|record| record.is("transition", "CLOSE"))
            .unwrap()
    };
    let waited_us = end_of(&silent).int("in_old_us").unwrap();
    assert!(
        (fin_timeout_us - CLOCK_TOLERANCE_US..2 * fin_timeout_us).contains(&waited_us),
        "{}",
        end_of(&silent).line
    );
    for (held, reason) in [
        (&silent, "timeout"),
        (&reset, "reset_received"),
        (&near, "normal"),
    ] {
        let close = ours
            .iter()
            .find(|record| record.event() == "close" && record.is_of(held))
            .unwrap();
        // Before `tcp:tcp_send_reset` tells of time-wait sockets as well, as it does where it gives
        // its reason, nobody knows whether it was their RST or ours.
        let unknown = reason == "reset_received" && !truth::tells_reset_reason();
        let reason = if unknown { "unknown" } else { reason };
        assert_eq!(close.text("reason"), Some(reason), "{}", close.line);
    }
}

/// A reset ends `TIME_WAIT`, and so does a SYN from the same client.
fn cut_short() {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing"]);
    let watch = Watch::over(&stage.netns, LOOKS);
    let (mut client, mut server, listener) = company(&stage);
    let mut courses = Vec::new();

    let (near, mut puppet) = meet_puppet(&wire, &mut client, 80);
    client.close(&near);
    puppet.hear(FIN);
    puppet.say(FIN | ACK);
    puppet.hear(ACK);
    watch.sees(&near);
    puppet.say(RST);
    await_end(&stage.tracer, &near, "TIME_WAIT", SOON);
    courses.push(Course::new(
        "a reset",
        &near,
        &client.who,
        CLOSED_FIRST_TO_THE_END,
    ));

    let here = SocketAddrV4::new(Wire::host(1), 1000);
    let mut puppet = Puppet::calling(&wire, here, listener.local);
    puppet.call();
    puppet.say(ACK);
    let first = server.accept(&listener);
    server.close(&first);
    puppet.hear(FIN);
    puppet.say(FIN | ACK);
    puppet.hear(ACK);
    watch.sees(&first);
    let mut again = Puppet::calling(&wire, here, listener.local);
    again.next = puppet.next.wrapping_add(100_000);
    again.call();
    await_end(&stage.tracer, &first, "TIME_WAIT", SOON);
    again.say(ACK);
    let second = server.accept(&listener);
    assert_eq!((first.local, first.remote), (second.local, second.remote));
    again.say(RST | ACK);
    assert_eq!(server.act("error", &second), "ECONNRESET");
    server.close(&second);

    let told = stage.end(0, &[]);
    check_all(&told, &courses, &watch.stop());
    let lives = lives_of(&told, &first);
    assert_eq!(lives.len(), 2, "{lives:#?}");
    assert!(
        lives[0].ends_with("FIN_WAIT2>TIME_WAIT>CLOSE"),
        "{lives:#?}"
    );
    assert!(lives[1].ends_with("ESTABLISHED>CLOSE"), "{lives:#?}");
}

/// The states of each connection that was between these ends, one after the other, under an id of
/// its own.
fn lives_of(told: &Told, held: &Held) -> Vec<String> {
    let mut lives: Vec<(String, String)> = Vec::new();
    for record in told.ours() {
        let Some(new) = record.text("new").filter(|_| record.is_of(held)) else {
            continue;
        };
        let known = lives.iter().position(|(conn, _)| conn == record.conn());
        let at = known.unwrap_or_else(|| {
            lives.push((
                record.conn().to_owned(),
                record.text("old").unwrap().to_owned(),
            ));
            lives.len() - 1
        });
        let path = &mut lives[at].1;
        assert!(
            path.ends_with(record.text("old").unwrap()),
            "{path}: {}",
            record.line
        );
        path.push('>');
        path.push_str(new);
    }
    lives.into_iter().map(|(_, path)| path).collect()
}

/// A client takes its old addresses again, and a socket connects again while what remains of its
/// last connection waits.
fn used_again() {
    // The kernel lets it only after a second of its own, which may have begun just before.
    const REUSE: Duration = Duration::from_millis(2100);

    let netns = Netns::new();
    netns.set("tcp_tw_reuse", "1");
    let stage = Stage::over(netns, &["--no-existing"]);
    let (mut client, mut server, listener) = company(&stage);
    let (near, far) = meet(&mut client, &mut server, &listener);
    client.act("shutdown", &near);
    server.act("eof", &far);
    server.close(&far);
    client.act("eof", &near);
    await_state(&stage.netns, &near, Some("TIME_WAIT"));
    let waits = Instant::now();

    client.act("disconnect", &near);
    server.tell_accept(&listener, "");
    let second = client.reconnect(&near, listener.local);
    let second_far = server.held();
    assert_eq!(near.cookie, second.cookie);
    assert_ne!(near.local, second.local);

    wait::poll(SOON, || (waits.elapsed() > REUSE).then_some(()));
    let only = near.local.port();
    let range = format!("{only} {only}");
    stage.netns.set("ip_local_port_range", &range);
    server.tell_accept(&listener, "");
    let third = client.connect(listener.local, "");
    let third_far = server.held();
    assert_eq!(near.local, third.local);
    await_end(&stage.tracer, &near, "TIME_WAIT", SOON);
    for (held, far) in [(&third, &third_far), (&second, &second_far)] {
        client.close(held);
        server.act("eof", far);
        server.close(far);
    }

    let told = stage.end(0, &[]);
    check_all(&told, &[], &[]);
    let lives = lives_of(&told, &near);
    assert_eq!(lives.len(), 2, "{lives:#?}");
    assert!(
        lives[0].ends_with("FIN_WAIT2>TIME_WAIT>CLOSE"),
        "{lives:#?}"
    );
    assert!(lives[1].ends_with("FIN_WAIT2>TIME_WAIT"), "{lives:#?}");
    let lives = lives_of(&told, &second);
    assert_eq!(lives.len(), 1, "{lives:#?}");
    assert!(lives[0].ends_with("FIN_WAIT2>TIME_WAIT"), "{lives:#?}");
}

/// The kernel has a limit, beyond which nothing waits.
fn none_allowed() {
    let netns = Netns::new();
    netns.set("tcp_max_tw_buckets", "0");
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing"]);
    let watch = Watch::over(&stage.netns, LOOKS);
    let (mut client, mut server, listener) = company(&stage);
    let mut courses = Vec::new();

    let (near, far) = meet(&mut client, &mut server, &listener);
    client.close(&near);
    server.act("eof", &far);
    server.close(&far);
    courses.push(Course::new("closed", &near, &client.who, NO_TIME_WAIT));

    let (crossing, mut puppet) = meet_puppet(&wire, &mut client, 80);
    client.close(&crossing);
    let fin = puppet.hear(FIN);
    puppet.unhear(&fin);
    puppet.say(FIN | ACK);
    puppet.hear(FIN);
    puppet.say(ACK);
    let states = &["ESTABLISHED", "FIN_WAIT1", "CLOSING", "CLOSE"];
    courses.push(Course::new("crossing FINs", &crossing, &client.who, states));

    let (orphan, mut puppet) = meet_puppet(&wire, &mut client, 81);
    client.close(&orphan);
    puppet.hear(FIN);
    puppet.say(ACK);
    courses.push(Course::new("orphan", &orphan, &client.who, NO_TIME_WAIT));

    let told = stage.end(0, &[]);
    assert!(told.lives.iter().all(|life| !life.time_waits()));
    check_all(&told, &courses, &watch.stop());
    for held in [&near, &crossing] {
        let ours = told.ours();
        let close = ours
            .iter()
            .find(|record| record.event() == "close" && record.is_of(held))
            .unwrap();
        assert_eq!(close.text("reason"), Some("normal"), "{}", close.line);
    }
}

/// A minute, and what the kernel's timers add to it.
fn expiry() {
    const MINUTE_US: std::ops::Range<u64> = 60_000_000..63_000_000;

    let mut stage = Stage::open(&["--no-existing"]);
    // The machine may be a slow one, and a look takes it a while.
    let watch = Watch::over(&stage.netns, Duration::from_millis(20));
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut victim = Actor::spawn(&stage.netns, "victim");
    let mut server = Actor::spawn(&stage.netns, "server");
    let mut courses = Vec::new();
    for ip in [Ip::V4, Ip::V6, Ip::Mapped] {
        let listener = server.listen(stage.netns.addr(ip, 0), "");
        let (near, far) = meet(&mut client, &mut server, &listener);
        client.close(&near);
        server.act("eof", &far);
        server.close(&far);
        let scene = "closed by the client";
        courses.push(Course::new(
            scene,
            &near,
            &client.who,
            CLOSED_FIRST_TO_THE_END,
        ));
    }
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    let (near, far) = meet(&mut client, &mut server, &listener);
    server.close(&far);
    client.act("eof", &near);
    client.close(&near);
    let scene = "closed by the server";
    courses.push(Course::new(
        scene,
        &far,
        &server.who,
        CLOSED_FIRST_TO_THE_END,
    ));
    let (near, far) = meet(&mut victim, &mut server, &listener);
    let who = victim.who.clone();
    victim.kill();
    server.act("eof", &far);
    server.close(&far);
    let scene = "closed by a kill";
    courses.push(Course::new(scene, &near, &who, CLOSED_FIRST_TO_THE_END));

    stage.netns.settle(0);
    stage.know_enough();
    for course in &courses {
        await_end(
            &stage.tracer,
            &course.held,
            "TIME_WAIT",
            Duration::from_secs(70),
        );
    }
    let told = stage.end(0, &[]);
    check_all(&told, &courses, &watch.stop());
    for course in &courses {
        let ours = told.ours();
        let exit = ours
            .iter()
            .find(|record| record.is_of(&course.held) && record.text("old") == Some("TIME_WAIT"))
            .unwrap();
        let waited_us = exit.int("in_old_us");
        assert!(
            waited_us.is_some_and(|waited| MINUTE_US.contains(&waited)),
            "{}",
            exit.line
        );
    }
}

/// As many come out as went in, and as the kernel counts.
fn storm() {
    let (sockets, entered) = storm_with("100000");
    assert_eq!(entered, sockets / 2, "one end of each connection waits");
}

/// Most find no room to wait, and end at once.
fn storm_over_the_limit() {
    let (sockets, entered) = storm_with("100");
    assert!(
        (100..sockets / 4).contains(&entered),
        "{entered} of {sockets} waited"
    );
}

/// A storm with so many time-wait sockets allowed; how many sockets there were, and how many waited.
fn storm_with(limit: &str) -> (usize, usize) {
    let each: usize = if confinement::in_guest() { 500 } else { 1500 };
    let mut netns = Netns::new();
    netns.set("tcp_max_tw_buckets", limit);
    let truth = Truth::with_buffer(16 << 10);
    let tracer = Tracer::start(&["--no-existing", "--buffer", "64M"]);
    let mut actors = Vec::new();
    for first in [First::Client, First::Server] {
        let mut client = Actor::spawn(&netns, "client");
        let mut server = Actor::spawn(&netns, "server");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        server.tell_serve(&listener, each, first);
        client.tell_dial(listener.local, each, first);
        actors.push((client, server, listener));
    }
    for (client, server, listener) in &mut actors {
        assert_eq!(client.clients().len(), each);
        assert_eq!(server.clients().len(), each);
        server.unlisten(listener);
    }
    netns.settle(0);
    let lives = truth::lives_in(&truth.stop(), &netns, &[]);
    let entered = lives.iter().filter(|life| life.time_waits()).count();
    let sockets = lives.iter().filter(|life| !life.is_listener()).count();
    assert_eq!(sockets, 4 * each, "two ends of each connection");
    drop(actors);
    netns.destroy();

    let left = std::cell::Cell::new(0);
    let told_all = tracer.look_for(Duration::from_mins(1), |record| {
        let ours = record.is_about_a_connection() && record.int("netns") == Some(netns.inode);
        if ours && record.text("old") == Some("TIME_WAIT") {
            left.set(left.get() + 1);
        }
        left.get() == entered
    });
    let records = tracer.finish().fine();
    let ours = records.within(netns.inode);
    if check::lacks(&records, 0) {
        check::lost_is_counted(&lives, &records, &ours);
        return (sockets, entered);
    }
    let count = |of: &dyn Fn(&Record) -> bool| ours.iter().filter(|record| of(record)).count();
    check::same_transitions(&lives, &ours);
    let told_in = count(&|record| record.is("transition", "TIME_WAIT"));
    let told_out = count(&|record| record.text("old") == Some("TIME_WAIT"));
    assert_eq!((told_in, told_out), (entered, entered));
    assert!(told_all.is_some(), "the last exit came after a minute");
    record::each_end_has_its_close(&ours);
    (sockets, entered)
}

/// Told to stop while it has thousands of time-wait sockets to look at, it looks at each.
fn stopped_behind() {
    let connections = if confinement::in_guest() {
        2_500
    } else {
        10_000
    };

    let netns = Netns::new();
    netns.set("tcp_max_tw_buckets", "100000");
    let truth = Truth::with_buffer(16 << 10);
    let tracer = Tracer::start(&["--no-existing", "--buffer", "64M"]);
    tracer.signal(Signal::STOP);
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_serve(&listener, connections, First::Client);
    client.tell_dial(listener.local, connections, First::Client);
    assert_eq!(client.clients().len(), connections);
    assert_eq!(server.clients().len(), connections);
    server.unlisten(&listener);
    netns.settle(0);
    let lives = truth::lives_in(&truth.stop(), &netns, &[]);
    tracer.signal(Signal::INT);
    tracer.signal(Signal::CONT);
    let records = tracer.wait().fine();
    let ours = records.within(netns.inode);
    if check::lacks(&records, 0) {
        return check::lost_is_counted(&lives, &records, &ours);
    }
    check::same_transitions(&lives, &ours);
    record::each_end_has_its_close(&ours);
}
