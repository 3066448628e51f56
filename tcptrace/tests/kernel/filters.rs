//! Which connections, and which records of them.

use std::{collections::BTreeSet, net::SocketAddrV4, time::Duration};

use crate::{
    actor::Actor,
    check,
    harness::{Test, alone, beside},
    netns::{Ip, Netns},
    oracle::{self, Life, Oracle},
    peer::First,
    record,
    stage::{Exchange, Stage},
    tracer::{Tracer, now_us},
    wire::Wire,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(endpoints),
    beside!(events),
    beside!(summary),
    beside!(still_open_at_the_end).smoke(),
    beside!(count),
    alone!(duration),
];

type Wanted<'ports> = Box<dyn Fn(&Life) -> bool + 'ports>;

/// Several tracers watch the same connections, each through a filter of its own.
fn endpoints() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    // The ports must be known before the tracers start, the listeners made after it.
    let ports = [Ip::V4, Ip::V6, Ip::Mapped].map(|ip| {
        let listener = server.listen(netns.addr(ip, 0), "");
        server.unlisten(&listener);
        listener.local.port()
    });
    let [a, b, c] = ports;
    let has = |life: &Life, port| {
        let (local, remote) = life.ends();
        local.port() == port || (!life.is_listener() && remote.port() == port)
    };
    let cases: Vec<(Vec<String>, Wanted<'_>)> = vec![
        (vec!["-4".into()], Box::new(|life| life.ends().0.is_ipv4())),
        (vec!["-6".into()], Box::new(|life| life.ends().0.is_ipv6())),
        (vec!["-4".into(), "-6".into()], Box::new(|_| true)),
        (
            vec!["-L".into(), a.to_string()],
            Box::new(move |life| life.ends().0.port() == a),
        ),
        (
            vec!["-D".into(), format!("{a},{b}")],
            Box::new(move |life| !life.is_listener() && [a, b].contains(&life.ends().1.port())),
        ),
        (
            vec!["--port".into(), format!("{b}-{b},{c}")],
            Box::new(move |life| has(life, b) || has(life, c)),
        ),
        (
            vec!["--port".into(), format!("1-65535,!{a}")],
            // A connection that has another port at its other end is still not wanted.
            Box::new(move |life| !has(life, a)),
        ),
        (
            vec!["--port".into(), format!("!{a},!{b}")],
            Box::new(move |life| !has(life, a) && !has(life, b)),
        ),
        (
            vec!["-4".into(), "--lport".into(), c.to_string()],
            Box::new(move |life| life.ends().0.port() == c),
        ),
        (
            vec!["-6".into(), "--rport".into(), a.to_string()],
            Box::new(|_| false),
        ),
    ];

    let oracle = Oracle::record();
    let tracers: Vec<_> = cases
        .iter()
        .map(|(args, _)| {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            Tracer::start(&args)
        })
        .collect();
    for (ip, port) in [Ip::V4, Ip::V6, Ip::Mapped].into_iter().zip(ports) {
        let listener = server.listen(netns.addr(ip, port), "");
        let addr = netns.addr(ip, port);
        for first in [First::Client, First::Server] {
            let exchange = Exchange {
                first,
                ..Exchange::default()
            };
            exchange.run(&mut client, &mut server, &listener, addr);
        }
        server.unlisten(&listener);
    }
    netns.settle(0);
    // Making the ports known was before the recording.
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);

    let mut faults = Vec::new();
    for ((args, wanted), tracer) in cases.iter().zip(tracers) {
        let records = tracer.finish().fine();
        let lives: Vec<_> = lives.iter().filter(|life| wanted(life)).cloned().collect();
        let check = || {
            let shown = records.within(netns.inode);
            check::same_transitions(&lives, &shown);
            record::each_end_has_its_close(&shown);
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err() {
            faults.push(format!(
                "{}: {}",
                args.join(" "),
                crate::harness::last_panic()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

fn events() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let early = server.listen(netns.addr(Ip::V6, 0), "");
    let cases = [
        ("transition", &["transition"][..]),
        ("close", &["close"]),
        ("accept", &["accept"]),
        ("socket,accept", &["socket", "accept"]),
        ("transition,close", &["transition", "close"]),
        (
            "socket,transition,accept,close",
            &["socket", "transition", "accept", "close"],
        ),
    ];
    let tracers = cases.map(|(list, _)| Tracer::start(&["--events", list]));
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    Exchange::default().run(&mut client, &mut server, &listener, listener.local);
    server.unlisten(&listener);
    server.unlisten(&early);
    netns.settle(0);

    for ((list, events), tracer) in cases.iter().zip(tracers) {
        let records = tracer.finish().fine();
        let shown: BTreeSet<_> = records
            .all
            .iter()
            .filter(|record| record.is_about_a_connection())
            .map(|record| record.event().to_owned())
            .collect();
        let wanted: BTreeSet<_> = events.iter().map(|event| (*event).to_owned()).collect();
        assert!(shown.is_subset(&wanted), "--events {list}: {shown:?}");
        let ours: BTreeSet<_> = records
            .within(netns.inode)
            .iter()
            .map(|record| record.event().to_owned())
            .collect();
        assert_eq!(ours, wanted, "--events {list}");
    }
}

/// What outlives the trace is listed and counted, what began during the trace first.
fn still_open_at_the_end() {
    const PAIRS: usize = 11;
    let netns = Netns::new();
    let _wire = Wire::stretch(&netns);
    let inode = netns.inode.to_string();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let mut meet = || {
        server.tell_accept(&listener, "");
        Exchange::default().meet(&mut client, &mut server, listener.local)
    };
    let former = meet();
    let all = [
        (&["--all"][..], 2 * PAIRS + 3, 2),
        (&[][..], 20, 0),
        (&["--all", "--no-existing"][..], 2 * PAIRS + 1, 0),
    ];
    let tracers = all.map(|(more, listed, formers)| {
        let args = [&["-s", "-N", &inode][..], more].concat();
        (Tracer::start(&args), listed, formers)
    });
    let begun: Vec<_> = (0..PAIRS).map(|_| meet()).collect();
    // One that nobody answers, of which its SYN is all that happens.
    let nobody = SocketAddrV4::new(Wire::host(9), 443);
    let hanging = client.begin(nobody.into());
    for (tracer, listed, formers) in tracers {
        let records = tracer.finish().fine();
        let open: Vec<_> = records.of("open").collect();
        assert_eq!(open.len(), listed, "{}", record::lines(&open));
        let hangs = open.iter().filter(|record| record.is_of(&hanging)).count();
        assert!(hangs == 1 || listed == 20, "{}", record::lines(&open));
        for (at, record) in open.iter().enumerate() {
            let hangs = record.is_of(&hanging);
            let state = if hangs { "SYN_SENT" } else { "ESTABLISHED" };
            assert_eq!(record.text("state"), Some(state), "{}", record.line);
            let is_former = at >= listed - formers;
            let of_pair = |(near, far)| record.is_of(near) || record.is_of(far);
            let known = if is_former {
                of_pair((&former.0, &former.1))
            } else {
                begun.iter().any(|(near, far)| of_pair((near, far)))
            };
            assert!(known || hangs, "{}", record::lines(&open));
            assert_eq!(record.int("age_us").is_none(), is_former, "{}", record.line);
            let since = record.int("in_state_us");
            assert!(
                is_former || since <= record.int("age_us"),
                "{}",
                record.line
            );
        }
        let end = records.end();
        let number = end.int("open");
        assert!(number >= Some(listed as u64), "{}", end.line);
        assert_eq!(number, end.int("connections"), "{}", end.line);
    }
}

fn summary() {
    let stage = Stage::open(&["-s", "--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    let mut pairs = Vec::new();
    for _ in 0..5 {
        pairs.push(Exchange::default().run(&mut client, &mut server, &listener, listener.local));
    }
    server.unlisten(&listener);
    let told = stage.end(0, &[]);
    let ours = told.ours();
    for record in &ours {
        assert_eq!(record.event(), "close", "{}", record::lines(&ours));
    }
    for pair in &pairs {
        for (local, remote, who) in [
            (pair.client, pair.server, &client.who),
            (pair.server, pair.client, &server.who),
        ] {
            let of_it: Vec<_> = ours
                .iter()
                .copied()
                .filter(|record| (record.local(), record.remote()) == (local, Some(remote)))
                .collect();
            assert_eq!(
                of_it.len(),
                1,
                "{local} -> {remote}:\n{}",
                record::lines(&of_it)
            );
            assert_eq!(
                of_it[0].int("pid"),
                Some(who.pid.into()),
                "{}",
                of_it[0].line
            );
            assert_eq!(of_it[0].text("reason"), Some("normal"), "{}", of_it[0].line);
            assert!(of_it[0].int("duration_us").is_some(), "{}", of_it[0].line);
        }
    }
}

/// `-n`: it ends by itself after so many records.
fn count() {
    let stage = Stage::open(&["-n", "7", "--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    for _ in 0..5 {
        Exchange::default().run(&mut client, &mut server, &listener, listener.local);
    }
    let finished = stage.tracer.wait();
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    let records = finished.records;
    records.keep_their_promises();
    let count = records
        .all
        .iter()
        .filter(|record| record.is_about_a_connection())
        .count();
    assert_eq!(count, 7);
}

/// `-d`: it ends by itself after a time.
fn duration() {
    for (text, time) in [
        ("1", Duration::from_secs(1)),
        ("300ms", Duration::from_millis(300)),
    ] {
        let tracer = Tracer::start(&["-d", text]);
        let finished = tracer.wait();
        let ended_us = now_us();
        let records = finished.fine();
        let ran_us = u128::from(ended_us - records.start().mono_us());
        // It may not be shorter; how much longer is the machine's affair, within reason.
        assert!(
            (time.as_micros()..time.as_micros() + 2_000_000).contains(&ran_us),
            "-d {text} took {ran_us} us"
        );
    }
}
