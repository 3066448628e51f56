//! On a quiet host a line appears at once, although wake-ups are batched.

use std::{net::SocketAddr, time::Duration};

use crate::{
    actor::Actor,
    check,
    harness::{Test, alone},
    netns::{Ip, Netns},
    stage::Exchange,
    tracer::{Tracer, now_us},
    wait,
};

pub(crate) const TESTS: &[Test] = &[alone!(unanswered_connect), alone!(quiet_line)];

/// From the event in the kernel to the line in the pipe.
const PROMISED: Duration = Duration::from_millis(100);

/// Half of the measurements keep the promise, and none is far from it: a machine with other work
/// may stop anybody for a moment.
fn prompt(mut delays: Vec<Duration>) {
    delays.sort_unstable();
    let median = delays[delays.len() / 2];
    let worst = *delays.last().unwrap();
    assert!(median <= PROMISED, "lines come late: {delays:?}");
    assert!(worst <= 10 * PROMISED, "a line came late: {delays:?}");
}

/// The kernel tells of `SYN_SENT` before it chooses the port, and of nothing else until the peer
/// answers. Here no peer does.
fn unanswered_connect() {
    let netns = Netns::new();
    // The far end of the wire has another hardware address, so it throws away what it gets.
    netns.ip("link add near type veth peer name far\n\
         link set near up\n\
         link set far up\n\
         addr add 192.0.2.1/24 dev near\n\
         neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near nud permanent\n");
    let mut client = Actor::spawn(&netns, "client");
    let tracer = Tracer::start(&["--no-existing"]);
    let mut delays = Vec::new();
    for port in 4000..4007 {
        let remote: SocketAddr = format!("192.0.2.2:{port}").parse().unwrap();
        let answer = client.ask(&format!("connect {remote} begin"));
        let local: SocketAddr = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let found = tracer.wait_for("a line about SYN_SENT", Duration::from_secs(5), |record| {
            record.is("transition", "SYN_SENT") && record.remote() == Some(remote)
        });
        let (record, late) = found.unwrap();
        assert_eq!(record.local(), local, "{}", record.line);
        check::names(&record, "connect", &client.who, &[]);
        delays.push(late);
    }
    prompt(delays);
    client.kill();
    // Nothing stays behind in SYN_SENT, and nothing is told twice.
    netns.settle(0);
    let records = tracer.finish().fine();
    let ours = records.within(netns.inode);
    for port in 4000..4007 {
        let events: Vec<_> = ours
            .iter()
            .filter(|record| record.remote().is_some_and(|remote| remote.port() == port))
            .map(|record| (record.event(), record.text("old"), record.text("new")))
            .collect();
        assert_eq!(
            events,
            [
                ("transition", Some("CLOSE"), Some("SYN_SENT")),
                ("transition", Some("SYN_SENT"), Some("CLOSE")),
                ("close", None, None),
            ]
        );
    }
}

fn quiet_line() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let tracer = Tracer::start(&["--no-existing"]);
    let mut delays = Vec::new();
    for _ in 0..9 {
        let pair = Exchange::default().run(&mut client, &mut server, &listener, listener.local);
        let found = tracer.wait_for("the closing line", Duration::from_secs(5), |record| {
            record.event() == "close"
                && record.is_about_a_connection()
                && record.local() == pair.client
        });
        delays.push(found.unwrap().1);
        // Long enough for a batch that nothing else would push out.
        let quiet_until = now_us() + 30_000;
        wait::poll(Duration::from_millis(200), || {
            (now_us() >= quiet_until).then_some(())
        });
    }
    prompt(delays);
    tracer.finish().fine();
}
