//! What cannot be shown is counted: emitted and lost together are all that happened.

use rustix::process::Signal;

use crate::{
    actor::Actor,
    confinement,
    harness::{Test, alone},
    netns::{Ip, Netns},
    oracle::{self, Oracle, Step},
    peer::First,
    record::Records,
    tracer::Tracer,
};

pub(crate) const TESTS: &[Test] = &[
    alone!(full_ring),
    alone!(small_ring_in_a_burst),
    alone!(reader_that_stops_reading),
];

/// Loss is not told per namespace, so what others on the host do counts too. At the edges of a
/// run that is ambiguous; then it is played again.
const TRIES: usize = 4;

pub(crate) enum Counted {
    Exactly,
    Disturbed(String),
}

/// Emitted and lost transitions against the oracle, from the start line to the interrupt. The oracle
/// goes on for longer, so that it knows of what others did up to then.
///
/// A softirq's transition between the two programs of another makes the second program take the other for
/// missed: what is lost to `recursion` may have been counted twice.
pub(crate) fn count(records: &Records, steps: &[Step], netns: &Netns) -> Counted {
    let recursions = records
        .of("lost")
        .filter(|lost| lost.text("cause") == Some("recursion"))
        .filter_map(|lost| lost.int("count"))
        .sum::<u64>();
    count_or_more(records, steps, netns, usize::try_from(recursions).unwrap())
}

/// The same, where up to `twice` transitions may have been counted as lost twice.
pub(crate) fn count_or_more(
    records: &Records,
    steps: &[Step],
    netns: &Netns,
    twice: usize,
) -> Counted {
    let start_ns = records.start().mono_us() * 1000;
    let since = steps.iter().filter(|step| step.at_ns >= start_ns);
    let happened = since.clone().count();
    let over_first = since.filter(|step| step.over_first).count();
    // The kernel reports no transition for the end of a time-wait socket.
    let emitted = records
        .of("transition")
        .filter(|record| record.text("old") != Some("TIME_WAIT"))
        .count();
    let lost = usize::try_from(records.lost()).unwrap();
    if (happened - over_first..=happened + twice).contains(&(emitted + lost)) {
        return Counted::Exactly;
    }
    let ours: usize = oracle::lives_in(steps, netns, &[])
        .iter()
        .map(|life| life.steps.len())
        .sum();
    let report = format!(
        "{happened} transitions happened ({} of them others', {over_first} over the first process); \
         {emitted} were shown and {lost} \
         counted as lost, which makes {}\n{}",
        happened.saturating_sub(ours),
        emitted + lost,
        lost_lines(records)
    );
    if ours < steps.len() {
        return Counted::Disturbed(report);
    }
    panic!("{report}");
}

fn lost_lines(records: &Records) -> String {
    let lines: Vec<_> = records
        .of("lost")
        .map(|record| record.line.clone())
        .collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

pub(crate) fn until_undisturbed(mut play: impl FnMut() -> Counted) {
    let mut last = String::new();
    for _ in 0..TRIES {
        match play() {
            Counted::Exactly => return,
            Counted::Disturbed(report) => last = report,
        }
    }
    panic!("each of {TRIES} tries was off, though others made connections meanwhile:\n{last}");
}

fn reported_while_running(records: &Records) {
    let at = |event: &str| {
        records
            .all
            .iter()
            .position(|record| record.event() == event)
    };
    assert!(
        at("lost").is_some_and(|at| at < records.all.len() - 1),
        "no lost record before the end"
    );
}

const ONLY_TRANSITIONS: [&str; 3] = ["--events", "transition", "--no-existing"];

/// The tracer stands still while forty times as much happens as the ring holds.
fn full_ring() {
    until_undisturbed(|| {
        let netns = Netns::new();
        let mut server = Actor::spawn(&netns, "server");
        let mut client = Actor::spawn(&netns, "client");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        let oracle = Oracle::record();
        let mut args = vec!["--buffer", "4K", "--fail-on-loss"];
        args.extend(ONLY_TRANSITIONS);
        let tracer = Tracer::start(&args);
        tracer.signal(Signal::STOP);
        server.tell_serve(&listener, 150, First::Client);
        client.tell_dial(listener.local, 150, First::Client);
        client.clients();
        server.clients();
        netns.settle(0);
        tracer.signal(Signal::CONT);
        let records = tracer.finish().ended_with(4);
        let steps = oracle.stop();
        assert!(
            records.lost() > 0,
            "nothing was lost: {}",
            records.end().line
        );
        reported_while_running(&records);
        assert!(
            records
                .of("lost")
                .any(|lost| lost.text("cause") == Some("ring_full"))
        );
        count(&records, &steps, &netns)
    });
}

/// The tracer runs, and may or may not keep up.
fn small_ring_in_a_burst() {
    until_undisturbed(|| {
        let netns = Netns::new();
        let mut server = Actor::spawn(&netns, "server");
        let mut client = Actor::spawn(&netns, "client");
        let listener = server.listen(netns.addr(Ip::V6, 0), "");
        let oracle = Oracle::with_buffer(16 << 10);
        let mut args = vec!["--buffer", "4K"];
        args.extend(ONLY_TRANSITIONS);
        let tracer = Tracer::start(&args);
        server.tell_serve(&listener, 3000, First::Server);
        client.tell_dial(listener.local, 3000, First::Server);
        client.clients();
        server.clients();
        netns.settle(0);
        let records = tracer.finish().fine();
        let steps = oracle.stop();
        count(&records, &steps, &netns)
    });
}

/// Seconds without a reader, under load.
fn reader_that_stops_reading() {
    let for_ms = if confinement::in_guest() { 1500 } else { 5000 };
    until_undisturbed(|| {
        let netns = Netns::new();
        let mut server = Actor::spawn(&netns, "server");
        let mut client = Actor::spawn(&netns, "client");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        let oracle = Oracle::with_buffer(128 << 10);
        let mut args = vec!["--buffer", "64K", "--fail-on-loss"];
        args.extend(ONLY_TRANSITIONS);
        let tracer = Tracer::start(&args);
        tracer.pause_reading(true);
        server.tell_serve_until_told(&listener, First::Client);
        client.ask(&format!("dial-for {} {for_ms} client", listener.local));
        tracer.pause_reading(false);
        // Some more, that the tracer has to show again.
        client.ask(&format!("dial-for {} 200 client", listener.local));
        server.stop_serving();
        netns.settle(0);
        let records = tracer.finish();
        let steps = oracle.stop();
        let lost = records.records.lost();
        let records = records.ended_with(if lost > 0 { 4 } else { 0 });
        assert!(
            records.lost() > 0,
            "nothing was lost: {}",
            records.end().line
        );
        reported_while_running(&records);
        count(&records, &steps, &netns)
    });
}
