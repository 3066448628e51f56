//! What goes well, and looks at a glance as if it did not: `--failed` shows none of it.

use std::{collections::BTreeMap, net::SocketAddrV4};

use crate::{
    actor::Actor,
    harness::{Test, alone},
    netns::{Ip, Netns},
    peer::First,
    record,
    stage::Exchange,
    tracer::Tracer,
    wire::Wire,
};

pub(crate) const TESTS: &[Test] = &[alone!(nothing_has_failed)];

/// Each has two ends.
const SHORT: usize = 10_000;
const POOL: usize = 10;
const LOSERS: u16 = 50;

fn nothing_has_failed() {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let inode = netns.inode.to_string();
    let failed = Tracer::start(&["--failed", "-N", &inode]);
    let all = Tracer::start(&["-s", "-N", &inode, "--no-existing"]);

    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    for first in [First::Client, First::Server] {
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        server.tell_serve_until_told(&listener, first);
        client.tell_dial(listener.local, SHORT / 2, first);
        client.clients();
        server.stop_serving();
        // From `LISTEN` to `CLOSE`.
        server.unlisten(&listener);
    }
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    // A pool of connections that wait for work, closed by one side or the other.
    let pool: Vec<_> = (0..POOL)
        .map(|_| {
            server.tell_accept(&listener, "");
            Exchange::default().meet(&mut client, &mut server, listener.local)
        })
        .collect();
    for (at, (near, far)) in pool.iter().enumerate() {
        if at % 2 == 0 {
            client.close(near);
            server.act("eof", far);
            server.close(far);
        } else {
            server.close(far);
            client.act("eof", near);
            client.close(near);
        }
    }
    // The race of addresses (RFC 8305): who is not the first is given up at once.
    for number in 0..LOSERS {
        let nobody = SocketAddrV4::new(Wire::host(9), 1000 + number);
        let loser = client.begin(nobody.into());
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
        client.close(&loser);
        client.close(&near);
        server.act("eof", &far);
        server.close(&far);
    }
    server.unlisten(&listener);
    netns.settle(0);

    let records = all.finish().fine();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for close in records.of("close") {
        let reason = match close.role() {
            "listener" => "listener",
            _ => close.text("reason").unwrap(),
        };
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }
    let normal = 2 * (SHORT + POOL + usize::from(LOSERS));
    let expected = [
        ("canceled".to_owned(), usize::from(LOSERS)),
        ("listener".to_owned(), 3),
        ("normal".to_owned(), normal),
    ];
    assert_eq!(reasons, expected.into(), "{}", records.end().line);
    let records = failed.finish().fine();
    let shown = records.within(netns.inode);
    assert!(shown.is_empty(), "{}", record::lines(&shown));
    drop(wire);
}
