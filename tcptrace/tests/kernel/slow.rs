//! What still waits is reported when its limit has passed, and not when it ends.

use std::{
    net::{SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use crate::{
    actor::Actor,
    check,
    harness::{Test, alone, beside},
    netns::{Ip, Netns},
    peer::First,
    record::{self, Record},
    tracer::Tracer,
    wait,
    wire::Wire,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(connect_without_an_answer),
    beside!(nobody_accepts),
    beside!(nothing_waits),
    alone!(fifty_hang_in_a_storm),
];

const LIMIT_US: u64 = 300_000;
const ARGS: &[&str] = &["--no-existing", "--slower-than", "300ms"];
/// From the limit to the record: the promise, and what a busy machine adds.
const LATE_US: u64 = 100_000;

/// What must be said of a connection that waits, at most this much too late.
fn check(record: &Record, phase: &str, state: &str) {
    assert_eq!(record.text("phase"), Some(phase), "{}", record.line);
    assert_eq!(record.text("state"), Some(state), "{}", record.line);
    let waiting_us = record.int("waiting_us").unwrap();
    assert!(
        (LIMIT_US..LIMIT_US + 10 * LATE_US).contains(&waiting_us),
        "{}",
        record.line
    );
}

/// A netns whose only neighbor throws away what it gets.
fn black_hole() -> (Netns, SocketAddr) {
    let netns = Netns::new();
    netns.ip("link add near type veth peer name far\n\
         link set near up\n\
         link set far up\n\
         addr add 192.0.2.1/24 dev near\n\
         neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near nud permanent\n");
    (netns, "192.0.2.2:4000".parse().unwrap())
}

fn connect_without_an_answer() {
    let (netns, remote) = black_hole();
    let mut client = Actor::spawn(&netns, "client");
    let tracer = Tracer::start(ARGS);
    client.ask(&format!("connect {remote} begin"));
    let found = tracer.wait_for("a slow record", Duration::from_secs(10), |record| {
        record.event() == "slow" && record.remote() == Some(remote)
    });
    let (record, _late) = found.unwrap();
    check(&record, "connect", "SYN_SENT");
    check::names(&record, "connect", &client.who, &[]);
    assert!(record.int("syn_retransmits").is_some(), "{}", record.line);
    client.kill();
    netns.settle(0);
    let records = tracer.finish().fine();
    let ours = records.within(netns.inode);
    let slow = ours.iter().filter(|record| record.event() == "slow");
    assert_eq!(slow.count(), 1, "once for each phase");
    let ended = ours.iter().any(|record| record.event() == "close");
    assert!(ended, "it was slow, and is shown to its end");
}

fn nobody_accepts() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "backlog=5");
    let tracer = Tracer::start(ARGS);
    client.ask(&format!("connect {}", listener.local));
    let found = tracer.wait_for("a slow record", Duration::from_secs(10), |record| {
        record.event() == "slow" && record.local() == listener.local
    });
    let (record, _late) = found.unwrap();
    check(&record, "accept", "ESTABLISHED");
    check::names(&record, "listener", &server.who, &[]);
    assert_eq!(record.int("backlog"), Some(1), "{}", record.line);
    assert_eq!(record.int("backlog_max"), Some(5), "{}", record.line);
    drop(client);
    drop(server);
    netns.settle(0);
    let records = tracer.finish().fine();
    let slow = records.within(netns.inode);
    let slow = slow.iter().filter(|record| record.event() == "slow");
    assert_eq!(slow.count(), 1, "the client was connected at once");
}

/// A connection that is accepted at once is not slow, however long it lives.
fn nothing_waits() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let (hole, remote) = black_hole();
    let mut other = Actor::spawn(&hole, "other");
    let tracer = Tracer::start(ARGS);
    client.ask(&format!("connect {}", listener.local));
    let _accepted = server.accept(&listener);
    // Its limit passes later than that of the two ends above would.
    other.ask(&format!("connect {remote} begin"));
    tracer
        .wait_for("a slow record", Duration::from_secs(10), |record| {
            record.event() == "slow" && record.remote() == Some(remote)
        })
        .unwrap();
    let records = tracer.finish().fine();
    for record in records.within(netns.inode) {
        assert!(record.event() != "slow", "{}", record.line);
    }
}

/// Among thousands of connections a second, exactly those that hang are reported, and soon.
fn fifty_hang_in_a_storm() {
    const LIMIT: Duration = Duration::from_millis(500);
    /// The promise is 100 ms; a machine with other work may stop anybody for a moment.
    const LATE_US: u64 = 400_000;
    const HANG: u16 = 50;
    const EACH: usize = 6_000;

    let netns = Netns::new();
    let _wire = Wire::stretch(&netns);
    let inode = netns.inode.to_string();
    let tracer = Tracer::start(&["--slower-than", "500ms", "-N", &inode]);
    let mut pairs: Vec<_> = (0..2)
        .map(|_| {
            let mut server = Actor::spawn(&netns, "server");
            let listener = server.listen(netns.addr(Ip::V4, 0), "");
            server.tell_serve_until_told(&listener, First::Client);
            (Actor::spawn(&netns, "dialer"), server, listener)
        })
        .collect();
    let mut client = Actor::spawn(&netns, "client");
    let begun = Instant::now();
    for (dialer, _, listener) in &mut pairs {
        dialer.tell_dial(listener.local, EACH, First::Client);
    }
    let hanging: Vec<_> = (0..HANG)
        .map(|number| client.begin(SocketAddrV4::new(Wire::host(9), 1000 + number).into()))
        .collect();
    for (dialer, ..) in &mut pairs {
        dialer.clients();
    }
    let storm = begun.elapsed();
    wait::poll(3 * LIMIT, || (begun.elapsed() > 2 * LIMIT).then_some(()));
    for held in &hanging {
        client.close(held);
    }
    let records = tracer.finish().fine();
    let slow: Vec<_> = records.of("slow").collect();
    let of_hanging = slow
        .iter()
        .filter(|record| hanging.iter().any(|held| record.is_of(held)));
    let rate = 2_000 * EACH as u128 / storm.as_millis().max(1);
    assert_eq!(
        (of_hanging.count(), slow.len()),
        (hanging.len(), hanging.len()),
        "at {rate} connections a second:\n{}",
        record::lines(&slow)
    );
    let limit_us = u64::try_from(LIMIT.as_micros()).unwrap();
    let waits = slow.iter().map(|record| record.int("waiting_us").unwrap());
    let longest = waits.max().unwrap();
    assert!(
        (limit_us..limit_us + LATE_US).contains(&longest),
        "reported after {longest} us at {rate} connections a second"
    );
}
