//! Accepts in their place: while many connections come and go, and while connections end at the moment in
//! which they are accepted.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

use crate::{
    actor::Actor,
    check,
    harness::{Test, alone},
    netns::{Ip, Netns},
    peer::First,
    record::{self, Record},
    stage::{Exchange, Stage, part},
    tracer::Tracer,
    wait,
};

pub(crate) const TESTS: &[Test] = &[alone!(against_resets), alone!(open_connections_in_a_storm)];

const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that stay open while many others come and go: each record of them comes at once.
fn open_connections_in_a_storm() {
    const OPEN: usize = 9;

    // The emulated machines have one processor, which takes minutes to check more.
    let single = thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1);
    let storm = if single { 1000 } else { 10_000 };

    let mut stage = Stage::open_for(64 << 10, &["--no-existing", "--buffer", "16M"]);
    let mut crowd = ["crowd out", "crowd in"].map(|name| Actor::spawn(&stage.netns, name));
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let [out, into] = &mut crowd;
    let busy = into.listen(stage.netns.addr(Ip::V4, 0), "");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    into.tell_serve(&busy, storm, First::Client);
    out.tell_dial(busy.local, storm, First::Client);
    let begun = wait::poll(PATIENCE, || {
        (stage.tracer.lines() > storm / 5).then_some(())
    });
    assert!(begun.is_some(), "no storm");

    // These stay open: nothing that they do afterwards brings out how they began.
    let mut open = Vec::new();
    for _ in 0..OPEN {
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
        for (local, event) in [(near.local, "transition"), (near.remote, "accept")] {
            is_told(&stage, local, near.local, event);
        }
        open.push((near, far));
    }
    let mut pairs = Vec::new();
    for (near, far) in &open {
        part(&mut client, near, &mut server, far, First::Server);
        pairs.push(check::Pair::new(near, &client.who, far, &server.who));
    }
    let [out, into] = &mut crowd;
    assert_eq!(out.clients().len(), storm);
    into.clients();
    stage.netns.settle(0);
    stage.know_enough();
    let told = stage.end_now(&[]);

    let ours = told.ours();
    if check::lacks(&told.records, 0) {
        return check::lost_is_counted(&told.lives, &told.records, &ours);
    }
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let on_port = |end: Option<SocketAddr>| end.is_some_and(|end| end == listener.local);
    let of_open: Vec<_> = ours
        .iter()
        .copied()
        .filter(|record| on_port(Some(record.local())) || on_port(record.remote()))
        .collect();
    check::owners(&pairs, &of_open);
}

/// Clients that reset what they have just opened, while others accept it: whoever has accepted a connection
/// that ends at this moment, it is told, once, after the first step and before the totals.
fn against_resets() {
    // The emulated machines have one processor, on which nothing meets.
    let single = thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1);
    let each = if single { 200 } else { 3_000 };
    let own = std::process::id().to_string();
    accepts_in_place(each, &[]);
    // With these, nothing of a connection is told before it is accepted.
    for args in [["-p", &own], ["--slower-than", "0.02ms"]] {
        accepts_in_place(each / 4, &args);
    }
}

fn accepts_in_place(each: usize, args: &[&str]) {
    // As soon as it is dropped.
    let reset = |socket: &TcpStream| set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
    let netns = Netns::new();
    let tracer = Tracer::start(&[&["--no-existing"], args].concat());
    let over = AtomicBool::new(false);
    netns.inside(|| {
        let listener = TcpListener::bind(netns.addr(Ip::V4, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let _gone = listener.accept();
                    }
                });
            }
            let clients = [0, 1].map(|first: usize| {
                scope.spawn(move || {
                    for nth in first..each {
                        let socket = TcpStream::connect(to).unwrap();
                        // A little earlier or later each time.
                        for _ in 0..nth * 997 % 20_000 {
                            std::hint::spin_loop();
                        }
                        reset(&socket);
                    }
                })
            });
            for client in clients {
                client.join().unwrap();
            }
            over.store(true, Ordering::Relaxed);
            for _ in 0..2 {
                reset(&TcpStream::connect(to).unwrap());
            }
        });
    });
    let records = tracer.finish().fine();
    // What the kernel lets no program see is counted, and may be any of it.
    let whole = records.lost() == 0;
    let mut told: HashMap<&str, Vec<&Record>> = HashMap::new();
    for record in records.within(netns.inode) {
        if record.role() == "server" {
            told.entry(record.conn()).or_default().push(record);
        }
    }
    let mut accepts = 0;
    for records in told.values() {
        let at: Vec<_> = (0..records.len())
            .filter(|at| records[*at].event() == "accept")
            .collect();
        let Some(close) = records.iter().position(|it| it.event() == "close") else {
            // Closed by the acceptor first, it waits for the FIN of a client that is gone.
            continue;
        };
        // How long it waited is not known if its end came before the hook, and showed the acceptor.
        let found = at.iter().any(|at| records[*at].get("inferred").is_some());
        let accepted = found || records[close].int("accept_wait_us").is_some();
        let number = if whole {
            at.len()
        } else {
            at.len().max(accepted.into())
        };
        assert_eq!(number, usize::from(accepted), "{}", record::lines(records));
        let in_place = !whole || at.iter().all(|at| (1..close).contains(at));
        assert!(in_place, "{}", record::lines(records));
        accepts += at.len();
    }
    assert!(accepts > 0, "none of {} with {args:?}", told.len());
    crate::harness::figure!(
        "{accepts} accepts of {} connections that were reset {args:?}",
        told.len()
    );
}

/// Waits until something is told of the connection between these two, while it is open.
fn is_told(stage: &Stage, local: SocketAddr, client: SocketAddr, event: &str) {
    let port = format!("port\":{},", client.port());
    let found = stage.tracer.find(PATIENCE, &port, |record| {
        record.event() == event
            && record.local() == local
            && (event == "accept" || record.text("new") == Some("ESTABLISHED"))
    });
    assert!(found.is_some(), "no {event} of {local}, which stays open");
}
