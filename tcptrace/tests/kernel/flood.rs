//! Listeners in trouble: requests that nobody finishes, and connections that nobody accepts.

use std::{
    collections::BTreeSet,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    actor::Actor,
    check::{self, CLOCK_TOLERANCE_US},
    fate::{self, Fate},
    harness::{Test, alone},
    netns::{Ip, Netns},
    peer::First,
    reasons::await_queue,
    record::{self, Record},
    stage::{Exchange, Stage, part},
    tracer::now_us,
    wait,
    wire::{SYN, Segment, Wire},
};

/// Other namespaces are entered, to read what they count.
const KEEP: &str = "--keep-privileges";

pub(crate) const TESTS: &[Test] = &[
    alone!(forged_requests),
    alone!(unanswered_requests),
    alone!(nobody_accepts),
];

const EVENTS: &str = "socket,transition,accept,close,listener";
const SECOND_US: u64 = 1_000_000;

pub(crate) fn request(wire: &Wire, number: u16, to: SocketAddrV4) {
    let [host, _] = number.to_be_bytes();
    wire.say(&Segment {
        from: SocketAddrV4::new(Wire::host(host), number | 1),
        to,
        seq: u32::from(number) << 8,
        ack: 0,
        flags: SYN,
        options: Vec::new(),
        data: Vec::new(),
    });
}

fn sum(records: &[&Record], key: &str) -> u64 {
    records.iter().filter_map(|record| record.int(key)).sum()
}

/// One line a second at most tells of it.
fn check_pace(lines: &[&Record], time: Duration) {
    assert!(!lines.is_empty(), "no listener record");
    for pair in lines.windows(2) {
        let apart_us = pair[1].mono_us() - pair[0].mono_us();
        assert!(
            apart_us + CLOCK_TOLERANCE_US >= SECOND_US,
            "{apart_us} us between\n{}",
            record::lines(pair)
        );
    }
    let seconds = usize::try_from(time.as_secs()).unwrap();
    assert!(
        lines.len() <= seconds + 2,
        "{} lines in {time:?}:\n{}",
        lines.len(),
        record::lines(lines)
    );
}

/// Nobody is behind the addresses that these requests come from.
fn forged_requests() {
    const ROUNDS: u16 = 5;
    const EACH: u16 = 4000;
    const BACKLOG: u64 = 64;
    const GROWTH_KIB: u64 = 4 << 10;

    let netns = Netns::new();
    netns.set("tcp_syncookies", "1");
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing", "--events", EVENTS, KEEP]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let addr = stage.netns.addr(Ip::V4, 0);
    let listener = server.listen(addr, &format!("backlog={BACKLOG}"));
    let std::net::SocketAddr::V4(to) = listener.local else {
        panic!("not IPv4: {}", listener.local);
    };

    let mut fates = Vec::new();
    let mut exchange = |fates: &mut Vec<Fate>| {
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
        part(&mut client, &near, &mut server, &far, First::Client);
        let ends = [(&near, &client.who), (&far, &server.who)];
        fates.extend(Fate::peace("meanwhile", ends));
    };
    exchange(&mut fates);
    let before_kib = stage.tracer.anonymous_kib();
    let begun = Instant::now();
    let mut most_half_open = 0;
    for round in 0..ROUNDS {
        for number in 0..EACH {
            request(&wire, (round * EACH + number).wrapping_mul(3), to);
        }
        exchange(&mut fates);
        let half_open = stage.netns.half_open(listener.local);
        most_half_open = most_half_open.max(half_open);
        // The tracer has a second to say something in.
        let until = Duration::from_millis(700) * u32::from(round + 1);
        wait::poll(until, || (begun.elapsed() > until).then_some(()));
    }
    let grown_kib = stage.tracer.anonymous_kib().saturating_sub(before_kib);
    let cookies = stage.netns.counter("SyncookiesSent");
    let last = stage
        .tracer
        .wait_for("the last listener record", Duration::from_secs(5), {
            let since_us = now_us();
            move |record| record.event() == "listener" && record.mono_us() > since_us
        });
    assert!(last.is_some());
    let time = begun.elapsed();
    server.unlisten(&listener);

    let told = stage.end(0, &[]);
    fate::check(&told, &fates);
    assert!(
        grown_kib <= GROWTH_KIB,
        "the tracer grew by {grown_kib} KiB"
    );
    let ours = told.ours();
    let known: BTreeSet<_> = told.lives.iter().map(crate::oracle::Life::ends).collect();
    assert_eq!(known.len(), told.lives.len());
    let lines: Vec<_> = ours
        .iter()
        .copied()
        .filter(|record| record.event() == "listener")
        .collect();
    check_pace(&lines, time);
    assert!(lines.len() >= 3, "{time:?}:\n{}", record::lines(&lines));
    for line in &lines {
        assert_eq!(line.local(), listener.local, "{}", line.line);
        check::names(line, "listen", &server.who, &lines);
        assert_eq!(line.int("backlog_max"), Some(BACKLOG), "{}", line.line);
        let half_open = line.int("half_open").unwrap();
        let most = line.int("half_open_max").unwrap();
        assert!((BACKLOG..=most + 1).contains(&half_open), "{}", line.line);
        assert!(
            half_open.abs_diff(most_half_open) <= 1,
            "{most_half_open}: {}",
            line.line
        );
    }
    assert!(cookies > 0);
    assert_eq!(
        sum(&lines, "cookies_sent"),
        cookies,
        "{}",
        record::lines(&lines)
    );
}

/// The kernel gives up on a request after it has sent its SYN-ACK in vain so many times.
fn unanswered_requests() {
    const COUNT: u16 = 300;

    let netns = Netns::new();
    netns.set("tcp_synack_retries", "1");
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing", "--events", EVENTS, KEEP]);
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    let std::net::SocketAddr::V4(to) = listener.local else {
        panic!("not IPv4: {}", listener.local);
    };
    let begun = Instant::now();
    for number in 0..COUNT {
        request(&wire, number * 3, to);
    }
    // On a busy machine what comes over the wire waits for ksoftirqd.
    let half_open = u64::from(COUNT);
    let all = wait::poll(Duration::from_secs(5), || {
        (stage.netns.half_open(listener.local) == half_open).then_some(())
    });
    assert!(all.is_some(), "{}", stage.netns.half_open(listener.local));
    let gone = wait::poll(Duration::from_secs(20), || {
        (stage.netns.half_open(listener.local) == 0).then_some(())
    });
    assert!(gone.is_some());
    let total = std::cell::Cell::new(0);
    stage.tracer.wait_for(
        "all unanswered requests",
        Duration::from_secs(5),
        |record| {
            if record.event() == "listener" && record.local() == listener.local {
                total.set(total.get() + record.int("unanswered").unwrap_or(0));
            }
            total.get() >= half_open
        },
    );
    let time = begun.elapsed();
    server.unlisten(&listener);
    let told = stage.end(0, &[]);
    fate::check(&told, &[]);
    let ours = told.ours();
    let lines: Vec<_> = ours
        .iter()
        .copied()
        .filter(|record| record.event() == "listener")
        .collect();
    check_pace(&lines, time);
    assert_eq!(
        sum(&lines, "unanswered"),
        half_open,
        "{}",
        record::lines(&lines)
    );
    assert_eq!(sum(&lines, "dropped"), 0, "{}", record::lines(&lines));
    // All hosts of the wire are in one network.
    for line in &lines {
        let from = match line.int("unanswered") {
            None | Some(0) => None,
            Some(number) => Some(json!([{"prefix": "192.0.2.0/24", "count": number}])),
        };
        assert_eq!(line.get("half_open_from"), from.as_ref(), "{}", line.line);
    }
}

/// The accept queue is full, and nobody calls `accept()`.
fn nobody_accepts() {
    let netns = Netns::new();
    let stage = Stage::over(netns, &["--no-existing", "--events", EVENTS, KEEP]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let addr = stage.netns.addr(Ip::V4, 0);
    let listener = server.listen(addr, "backlog=1");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    let accepted_us = now_us();
    part(&mut client, &near, &mut server, &far, First::Client);
    let clients: Vec<_> = (0..10).map(|_| client.begin(listener.local)).collect();
    await_queue(&stage.netns, &listener, 2);
    let (record, _) = stage
        .tracer
        .wait_for("a listener record", Duration::from_secs(5), |record| {
            record.event() == "listener" && record.local() == listener.local
        })
        .unwrap();
    for held in &clients {
        client.close(held);
    }
    let dropped = stage.netns.counter("ListenDrops");
    let told = std::cell::Cell::new(0);
    stage
        .tracer
        .wait_for("all that was dropped", Duration::from_secs(5), |record| {
            if record.event() == "listener" && record.local() == listener.local {
                told.set(told.get() + record.int("dropped").unwrap_or(0));
            }
            told.get() >= dropped
        });
    server.unlisten(&listener);
    let told = stage.end(0, &[]);
    fate::check(&told, &[]);
    check::names(&record, "listen", &server.who, &[]);
    assert_eq!(record.int("backlog"), Some(2), "{}", record.line);
    assert_eq!(record.int("backlog_max"), Some(1), "{}", record.line);
    assert!(record.int("dropped") >= Some(8), "{}", record.line);
    let since_us = record.mono_us() - accepted_us;
    let told_us = record.int("not_accepted_us").unwrap_or(0);
    assert!(
        told_us.abs_diff(since_us) <= CLOCK_TOLERANCE_US,
        "{since_us} us since accept():\n{}",
        record.line
    );
    let ours = told.ours();
    let lines: Vec<_> = ours
        .iter()
        .copied()
        .filter(|record| record.event() == "listener")
        .collect();
    assert_eq!(sum(&lines, "dropped"), dropped, "{}", record::lines(&lines));
}
