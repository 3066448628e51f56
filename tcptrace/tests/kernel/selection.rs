//! `-p`: the connections of some processes, each with its whole history.

use crate::{
    actor::Actor,
    check,
    harness::{Test, beside},
    netns::{Ip, Netns},
    oracle::{self, Life, Oracle},
    peer::First,
    record::{self, Record},
    stage::Exchange,
    tracer::Tracer,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(listener_passed_on).smoke(),
    beside!(one_worker_of_two),
    beside!(client_process),
    beside!(queue_of_a_neighbor).smoke(),
];

/// What a tracer that was told to watch some processes showed, without listeners: workers hold
/// their parent's, too.
fn connections<'records>(records: &[&'records Record]) -> Vec<&'records Record> {
    records
        .iter()
        .copied()
        .filter(|record| record.role() != "listener")
        .collect()
}

fn exactly(records: &[&Record], lives: &[Life], of: &dyn Fn(&Life) -> bool) {
    let shown = connections(records);
    let lives: Vec<_> = lives
        .iter()
        .filter(|life| !life.is_listener() && of(life))
        .cloned()
        .collect();
    assert!(!lives.is_empty(), "the test did nothing");
    check::same_transitions(&lives, &shown);
    record::each_end_has_its_close(&shown);
}

fn one_worker_of_two() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut parent = Actor::spawn(&netns, "parent");
    let listener = parent.listen(netns.addr(Ip::V4, 0), "");
    let addr = listener.local;
    let mut workers = [parent.fork(), parent.fork()];
    let [one, two] = workers.each_ref().map(|worker| worker.who.pid.to_string());

    let oracle = Oracle::record();
    let tracers = [
        Tracer::start(&["-p", &one]),
        Tracer::start(&["-p", &format!("{one},{two}")]),
        Tracer::start(&["-p", &one, "--pid", &two, "--no-existing"]),
    ];

    // Worker one sleeps in accept() when the connection comes, so the transitions before it are
    // the business of nobody but the listener; worker two finds it in the queue.
    let mut ends = [Vec::new(), Vec::new()];
    for turn in 0..20 {
        let worker = turn % 2;
        let server = &mut workers[worker];
        let exchange = Exchange::default();
        let (near, far) = if worker == 0 {
            server.tell_accept(&listener, "");
            server.await_blocked_in_accept();
            exchange.meet(&mut client, server, addr)
        } else {
            let near = client.connect(addr, "");
            (near, server.accept(&listener))
        };
        let first = if turn % 4 < 2 {
            First::Client
        } else {
            First::Server
        };
        crate::stage::part(&mut client, &near, server, &far, first);
        ends[worker].push(far.remote);
    }

    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    let [only_one, list, repeated] = tracers.map(|tracer| tracer.finish().fine());
    for records in [&only_one, &list, &repeated] {
        assert_eq!(records.lost(), 0);
        // Nothing of other namespaces either.
        let all = records
            .all
            .iter()
            .filter(|record| record.is_about_a_connection());
        assert_eq!(all.count(), records.within(netns.inode).len());
    }

    let accepted_by_one = |life: &Life| life.ends().0 == addr && ends[0].contains(&life.ends().1);
    let shown = only_one.within(netns.inode);
    exactly(&shown, &lives, &accepted_by_one);
    for records in [&list, &repeated] {
        exactly(&records.within(netns.inode), &lives, &|life| {
            life.ends().0 == addr
        });
    }

    // The history before accept() comes first, and whole.
    for end in &ends[0] {
        let of_it: Vec<_> = shown
            .iter()
            .copied()
            .filter(|record| record.remote() == Some(*end) && record.event() != "close")
            .collect();
        assert!(
            of_it[0].is("transition", "SYN_RECV"),
            "{}",
            record::lines(&of_it)
        );
        assert!(
            of_it[1].is("transition", "ESTABLISHED"),
            "{}",
            record::lines(&of_it)
        );
        for record in &of_it {
            match record.source() {
                "listener" => {
                    check::names(record, "listener", &parent.who, &of_it);
                }
                _ => check::names(record, "accept", &workers[0].who, &of_it),
            }
        }
    }
}

fn client_process() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut other = Actor::spawn(&netns, "other");
    let mut server = Actor::spawn(&netns, "server");
    let oracle = Oracle::record();
    let tracers =
        [&client, &server].map(|actor| Tracer::start(&["-p", &actor.who.pid.to_string()]));

    let listener = server.listen(netns.addr(Ip::V6, 0), "");
    let addr = listener.local;
    let mut ends = Vec::new();
    for turn in 0..10 {
        let dialer = if turn % 2 == 0 {
            &mut client
        } else {
            &mut other
        };
        let exchange = Exchange::default();
        let pair = exchange.run(dialer, &mut server, &listener, addr);
        if turn % 2 == 0 {
            ends.push(pair.client);
        }
    }
    // Refused: it never gets further than SYN_SENT.
    server.unlisten(&listener);
    client.tell(&format!("connect {addr}"));
    assert_eq!(client.result(), Err("ECONNREFUSED".to_owned()));

    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    let [of_client, of_server] = tracers.map(|tracer| tracer.finish().fine());
    let of_client = of_client.within(netns.inode);
    exactly(&of_client, &lives, &|life| {
        ends.contains(&life.ends().0) || life.steps.last().unwrap().old == "SYN_SENT"
    });
    for record in &of_client {
        check::names(record, "connect", &client.who, &of_client);
    }
    let of_server = of_server.within(netns.inode);
    exactly(&of_server, &lives, &|life| life.ends().0 == addr);
    // Its listener was made, and is its own.
    let listening: Vec<_> = of_server
        .iter()
        .copied()
        .filter(|record| record.role() == "listener")
        .collect();
    let listener: Vec<_> = lives
        .iter()
        .filter(|life| life.is_listener())
        .cloned()
        .collect();
    check::same_transitions(&listener, &listening);
}

/// The descriptor of a listener comes to a process that is watched, from one that is not: the first
/// connection is known from its acceptance on, the next from their beginning.
fn listener_passed_on() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut parent = Actor::spawn(&netns, "parent");
    let mut heir = Actor::spawn(&netns, "heir");
    let oracle = Oracle::record();
    let tracer = Tracer::start(&["-p", &heir.who.pid.to_string()]);
    let listener = parent.listen(netns.addr(Ip::V4, 0), "");
    let addr = listener.local;
    let inherited = heir.inherit(&mut parent, &listener);
    let mut ends = Vec::new();
    for _ in 0..3 {
        let exchange = Exchange::default();
        let pair = exchange.run(&mut client, &mut heir, &inherited, addr);
        ends.push(pair.client);
    }
    // Nobody's that was asked for.
    let exchange = Exchange::default();
    exchange.run(&mut client, &mut parent, &listener, addr);

    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    let records = tracer.finish().fine();
    assert_eq!(records.lost(), 0);
    let shown = records.within(netns.inode);
    let of = |end| {
        let of_end = |record: &&Record| record.remote() == Some(end);
        shown.iter().copied().filter(of_end).collect::<Vec<_>>()
    };

    let first = of(ends[0]);
    let steps: Vec<_> = first
        .iter()
        .filter(|record| record.event() == "transition")
        .map(|record| record.text("new").unwrap())
        .collect();
    assert!(
        steps.ends_with(&["LAST_ACK", "CLOSE"]) && !steps.contains(&"SYN_RECV"),
        "{}",
        record::lines(&first)
    );
    for record in &first {
        check::names(record, "accept", &heir.who, &first);
    }
    let accepts = first.iter().filter(|record| record.event() == "accept");
    assert_eq!(accepts.count(), 1, "{}", record::lines(&first));
    let close = first.last().unwrap();
    assert_eq!(close.event(), "close", "{}", record::lines(&first));
    assert!(close.get("partial").is_some(), "{}", record::lines(&first));

    let rest: Vec<_> = shown
        .iter()
        .copied()
        .filter(|record| record.remote() != Some(ends[0]))
        .collect();
    exactly(&rest, &lives, &|life| {
        life.ends().0 == addr && ends[1..].contains(&life.ends().1)
    });
}

/// Two processes listen on one port, at different addresses, and one of them is asked for. What waits in
/// the queue of the other is not its business, however it ends.
fn queue_of_a_neighbor() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut asked_for = Actor::spawn(&netns, "asked for");
    let mut neighbor = Actor::spawn(&netns, "neighbor");
    let theirs = neighbor.listen(netns.addr(Ip::V4, 0), "");
    let port = theirs.local.port();
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let ours = asked_for.listen(loopback, "");
    let stranger = client.connect(theirs.local, "");
    let tracer = Tracer::start(&["-p", &asked_for.who.pid.to_string()]);
    // A connection of its own shows that the other is not just late.
    let exchange = Exchange::default();
    let pair = exchange.run(&mut client, &mut asked_for, &ours, ours.local);
    neighbor.unlisten(&theirs);
    assert_eq!(client.act("error", &stranger), "ECONNRESET");
    client.close(&stranger);
    netns.settle(0);

    let records = tracer.finish().fine();
    assert_eq!(records.lost(), 0);
    let shown = records.within(netns.inode);
    let shown = connections(&shown);
    assert!(!shown.is_empty());
    for record in &shown {
        assert_eq!(record.remote(), Some(pair.client), "{}", record.line);
    }
}
