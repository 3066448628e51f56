//! `TIME_WAIT`, in and out, and the `FIN_WAIT2` that goes on without its socket.
//!
//! The kernel has no transition for either. What they should be is read from `/proc/net/tcp`,
//! again and again while the connections live.

mod course;
pub(crate) mod full_list;
pub(crate) mod storm;

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use crate::{
    actor::{Actor, Held, Listener},
    check::CLOCK_TOLERANCE_US,
    harness::{Test, beside},
    netns::{Ip, Netns},
    reasons::meet_puppet,
    stage::{Exchange, Stage, Told},
    tracer::Tracer,
    wait,
    wire::{ACK, FIN, Puppet, RST, Wire},
};
use course::{Course, Watch, check_all};

pub(crate) const TESTS: &[Test] = &[
    beside!(namespace_ends).smoke(),
    beside!(fin_wait2_goes_on).smoke(),
    beside!(cut_short),
    beside!(used_again).smoke(),
    beside!(none_allowed).smoke(),
    beside!(expiry).smoke().waits(60),
];

/// Until the tracer tells that `TIME_WAIT`, or what remained of `FIN_WAIT2`, is over.
fn await_end(tracer: &Tracer, held: &Held, old: &str, time: Duration) {
    let what = format!("{} -> {} {old}>CLOSE", held.local, held.remote);
    // The tracer's other lines, which may be many, are not read.
    let port = format!("port\":{},", held.local.port());
    let found = tracer.find(time, &port, |record| {
        record.is_about_a_connection()
            && record.is_of(held)
            && record.is("transition", "CLOSE")
            && record.text("old") == Some(old)
    });
    if found.is_none() {
        tracer.fail(&what);
    }
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
        // Destroying it would look the same.
        (&reset, "unknown"),
        (&near, "normal"),
    ] {
        let close = ours
            .iter()
            .find(|record| record.event() == "close" && record.is_of(held))
            .unwrap();
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
    // The first one's may come with the ACK of ours, or too late.
    for (held, reasons) in [
        (&near, &["normal", "unknown"][..]),
        (&crossing, &["normal"]),
        (&orphan, &["unknown"]),
    ] {
        let ours = told.ours();
        let close = ours
            .iter()
            .find(|record| record.event() == "close" && record.is_of(held))
            .unwrap();
        assert!(
            reasons.contains(&close.text("reason").unwrap()),
            "{}",
            close.line
        );
        // A FIN is not among them, whether a time-wait socket has come of it or not.
        assert_eq!(close.int("rx_bytes"), Some(0), "{}", close.line);
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
