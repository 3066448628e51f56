//! Many connections over loopback, where the process on the CPU is usually the wrong one.

use std::collections::BTreeSet;

use crate::{actor::Actor, check::Pair, netns::Ip, peer::First, stage::Stage};

pub(crate) fn three_hundred_connections() {
    const EACH: usize = 50;

    let stage = Stage::open(&[]);
    let mut server = Actor::spawn(&stage.netns, "a server");
    let mut client = Actor::spawn(&stage.netns, "a client");
    client.become_user(1234);

    let mut pairs = Vec::new();
    let mut listeners = Vec::new();
    let mut wildcards = Vec::new();
    for ip in [Ip::V4, Ip::V6, Ip::Mapped] {
        let listener = if ip == Ip::Mapped {
            server.listen("[::]:0".parse().unwrap(), "dual")
        } else {
            server.listen(stage.netns.addr(ip, 0), "")
        };
        let addr = stage.netns.addr(ip, listener.local.port());
        for first in [First::Client, First::Server] {
            server.tell_serve(&listener, EACH, first);
            client.tell_dial(addr, EACH, first);
            let dialed = client.clients();
            let accepted = server.clients();
            assert_eq!(
                dialed.iter().collect::<BTreeSet<_>>(),
                accepted.iter().collect::<BTreeSet<_>>()
            );
            pairs.extend(
                dialed
                    .iter()
                    .map(|end| Pair::dialed(*end, addr, &client.who, &server.who)),
            );
        }
        server.unlisten(&listener);
        if listener.local.ip().is_unspecified() {
            wildcards.push(listener.local.port());
        }
        listeners.push(listener.local);
    }

    let told = stage.end(0, &wildcards);
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|local| (local, &server.who))
        .collect();
    told.check(&pairs, &listeners);
    // Three listeners, and both sides of every connection.
    assert_eq!(told.lives.len(), 3 + 2 * 6 * EACH);
    for record in told.ours() {
        let mapped = record.get("mapped").is_some();
        let through_v6 = wildcards.contains(&record.local().port())
            || record
                .remote()
                .is_some_and(|end| wildcards.contains(&end.port()));
        if record.role() != "listener" {
            assert_eq!(mapped, through_v6, "mapped: {}", record.line);
        }
    }
}
