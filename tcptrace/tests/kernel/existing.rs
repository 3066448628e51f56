//! Connections that were there before the tracer.

use std::time::Duration;

use serde_json::Value;

use crate::{
    actor::{Actor, Held},
    check,
    harness::{Test, alone, beside},
    netns::{Ip, Netns},
    peer::First,
    record::{self, Record},
    stage::{Exchange, Stage, part},
    tracer::Tracer,
    wait,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(connections_open_at_start).smoke(),
    beside!(left_out_on_request),
    beside!(roles_are_inferred).smoke(),
    beside!(waiting_in_the_accept_queue).smoke(),
    alone!(not_slow),
];

fn of_socket<'records>(records: &[&'records Record], held: &Held) -> Vec<&'records Record> {
    records
        .iter()
        .copied()
        .filter(|record| record.is_of(held))
        .collect()
}

fn connections_open_at_start() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    client.become_user(1234);
    let mut open = Vec::new();
    let mut listeners = Vec::new();
    for ip in [Ip::V4, Ip::V6, Ip::Mapped] {
        let listener = server.listen(netns.addr(ip, 0), "");
        let addr = netns.addr(ip, listener.local.port());
        server.tell_accept(&listener, "");
        open.push(Exchange::default().meet(&mut client, &mut server, addr));
        listeners.push(listener);
    }

    let stage = Stage::over(netns, &[]);
    // A child of a listener that was there before.
    let addr = stage.netns.addr(Ip::V4, listeners[0].local.port());
    let later = Exchange::default().run(&mut client, &mut server, &listeners[0], addr);
    for (near, far) in &open {
        part(&mut client, near, &mut server, far, First::Client);
    }
    for listener in &listeners {
        server.unlisten(listener);
    }

    let told = stage.end(0, &[]);
    assert_eq!(told.records.lost(), 0);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);

    let first_transition = told
        .records
        .all
        .iter()
        .position(|record| record.event() == "transition");
    let last_socket = told
        .records
        .all
        .iter()
        .rposition(|record| record.event() == "socket");
    assert!(
        last_socket < first_transition,
        "socket records come before all transitions"
    );
    let sockets = ours
        .iter()
        .filter(|record| record.event() == "socket")
        .count();
    assert_eq!(
        sockets,
        3 * open.len(),
        "a listener, a client and a server of each family"
    );

    for (near, far) in &open {
        for (held, who, role) in [(near, &client.who, "client"), (far, &server.who, "server")] {
            let of_it = of_socket(&ours, held);
            let lines = || record::lines(&of_it);
            assert!(!of_it.is_empty(), "nothing about {held:?}");
            let socket = of_it[0];
            assert_eq!(socket.event(), "socket", "{}", lines());
            assert_eq!(socket.text("state"), Some("ESTABLISHED"), "{}", lines());
            assert_eq!(
                (socket.local(), socket.remote()),
                (held.local, Some(held.remote))
            );
            for record in &of_it {
                check::names(record, "snapshot", who, &of_it);
                let said = (record.role(), record.get("role_inferred"));
                assert_eq!(said, (role, Some(&Value::Bool(true))), "{}", lines());
            }
            let close = of_it.last().unwrap();
            assert_eq!(close.event(), "close", "{}", lines());
            assert_eq!(
                close.get("partial"),
                Some(&Value::Bool(true)),
                "{}",
                close.line
            );
        }
    }
    for listener in &listeners {
        let of_it: Vec<_> = ours
            .iter()
            .copied()
            .filter(|record| {
                record.role() == "listener" && record.local().port() == listener.local.port()
            })
            .collect();
        assert_eq!(of_it[0].event(), "socket", "{}", record::lines(&of_it));
        assert_eq!(
            of_it[0].text("state"),
            Some("LISTEN"),
            "{}",
            record::lines(&of_it)
        );
        for record in &of_it {
            check::names(record, "snapshot", &server.who, &of_it);
        }
    }
    // The connection made later has nothing of the past, and its provisional owner too.
    let side = |local, remote| {
        let of_it: Vec<&Record> = ours
            .iter()
            .copied()
            .filter(|record| record.local() == local && record.remote() == Some(remote))
            .collect();
        assert!(!of_it.is_empty());
        assert!(of_it.iter().all(|record| record.get("partial").is_none()));
        of_it
    };
    let client_side = side(later.client, later.server);
    let server_side = side(later.server, later.client);
    let mut both = client_side;
    both.extend(server_side);
    check::owners(&[later], &both);
}

fn left_out_on_request() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);

    let stage = Stage::over(netns, &["--no-existing"]);
    // Seen again when something happens to it.
    part(&mut client, &near, &mut server, &far, First::Server);
    let told = stage.end(0, &[]);
    let sockets: Vec<_> = told.records.of("socket").collect();
    assert!(sockets.is_empty(), "{}", record::lines(&sockets));
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    for close in ours.iter().filter(|record| record.event() == "close") {
        assert_eq!(
            close.get("partial"),
            Some(&Value::Bool(true)),
            "{}",
            close.line
        );
    }
}

/// What was open at start is a server's where somebody listens, a client's where nobody does and the kernel
/// chooses ports, and else unknown.
fn roles_are_inferred() {
    const PORTS: (u16, u16) = (40_000, 41_000);
    let netns = Netns::new();
    netns.set("ip_local_port_range", &format!("{} {}", PORTS.0, PORTS.1));
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let mut met = Vec::new();
    for port in [PORTS.0 - 1, PORTS.0 - 2] {
        let listener = server.listen(netns.addr(Ip::V4, port), "");
        server.tell_accept(&listener, "");
        let ends = Exchange::default().meet(&mut client, &mut server, listener.local);
        met.push((listener, ends));
    }
    let [(listener, open), (gone, orphaned)] = met.try_into().unwrap();
    server.unlisten(&gone);
    let wanted = [
        ("client", vec![&open.0, &orphaned.0]),
        ("server", vec![&open.1]),
        ("unknown", vec![&orphaned.1]),
    ];
    let tracers = wanted.map(|(role, held)| (role, held, Tracer::start(&["--role", role])));
    for (near, far) in [&open, &orphaned] {
        part(&mut client, near, &mut server, far, First::Client);
    }
    server.unlisten(&listener);
    netns.settle(0);
    for (role, held, tracer) in tracers {
        let records = tracer.finish().fine();
        let ours = records.within(netns.inode);
        for held in &held {
            let of_it = of_socket(&ours, held);
            let events: Vec<_> = of_it.iter().map(|record| record.event()).collect();
            assert_eq!(events.first(), Some(&"socket"), "{}", record::lines(&ours));
            assert_eq!(events.last(), Some(&"close"), "{}", record::lines(&ours));
        }
        for record in &ours {
            assert_eq!(record.role(), role, "{}", record.line);
            let inferred = record.get("role_inferred").is_some();
            assert_eq!(inferred, role != "unknown", "{}", record.line);
            assert!(
                held.iter().any(|held| record.is_of(held)),
                "{}",
                record.line
            );
        }
    }
}

fn waiting_in_the_accept_queue() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let near = client.connect(listener.local, "");

    let stage = Stage::over(netns, &[]);
    let far = server.accept(&listener);
    part(&mut client, &near, &mut server, &far, First::Client);
    let told = stage.end(0, &[]);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let of_it = of_socket(&ours, &far);
    let lines = || record::lines(&of_it);
    assert!(
        !of_it.is_empty(),
        "nothing about {far:?}:\n{}",
        record::lines(&ours)
    );
    let accept = of_it.iter().position(|record| record.event() == "accept");
    let accept = accept.unwrap_or_else(|| panic!("no accept record:\n{}", lines()));
    for (at, record) in of_it.iter().enumerate() {
        if at < accept {
            check::names(record, "listener", &server.who, &of_it);
        } else {
            check::names(record, "accept", &server.who, &of_it);
        }
    }
}

/// How long it took to connect nobody knows of what was open at start.
fn not_slow() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    let tracer = Tracer::start(&["--slower-than", "50ms"]);
    client.close(&near);
    server.act("eof", &far);
    let half_closed = std::time::Instant::now();
    wait::poll(Duration::from_secs(5), || {
        (half_closed.elapsed() > Duration::from_millis(100)).then_some(())
    });
    server.close(&far);
    server.unlisten(&listener);
    netns.settle(0);
    let records = tracer.finish().fine();
    let shown = records.within(netns.inode);
    assert!(shown.is_empty(), "{}", record::lines(&shown));
}
