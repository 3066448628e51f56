//! Records of single segments: RSTs and what is sent again, with the connection they belong to.

use std::net::SocketAddrV4;

use crate::{
    actor::{Actor, Held, Who},
    harness::{Test, beside},
    netns::{Ip, Netns},
    reasons::meet_puppet,
    record::{self, Record},
    stage::{Exchange, Stage},
    wire::{ACK, Puppet, SYN, Wire},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(resets).smoke(),
    beside!(sent_again).smoke(),
    beside!(sent_again_with_fast_open).smoke(),
];

/// What a record says besides its connection: `direction` and `state`, or `kind` and `state`.
fn said<'ours>(
    ours: &[&'ours Record],
    event: &str,
    key: &str,
    held: &Held,
    who: &Who,
) -> Vec<(&'ours str, &'ours str)> {
    let of_it: Vec<_> = ours
        .iter()
        .copied()
        .filter(|record| record.is_of(held))
        .collect();
    let first = of_it
        .iter()
        .position(|record| record.event() == "transition")
        .unwrap_or_else(|| panic!("no transition of {held:?}"));
    of_it
        .iter()
        .enumerate()
        .filter(|(_, record)| record.event() == event)
        .map(|(at, record)| {
            assert!(at > first, "before its first step: {}", record.line);
            assert_eq!(record.int("pid"), Some(who.pid.into()), "{}", record.line);
            (record.text(key).unwrap(), record.text("state").unwrap())
        })
        .collect()
}

fn resets() {
    let stage = Stage::open(&["--no-existing", "--events", "all"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");

    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    client.act("linger", &near);
    client.close(&near);
    assert_eq!(server.act("error", &far), "ECONNRESET");
    server.close(&far);

    server.tell_accept(&listener, "");
    let (sender, closer) = Exchange::default().meet(&mut client, &mut server, listener.local);
    client.act("send", &sender);
    server.act("readable", &closer);
    server.close(&closer);
    assert_eq!(client.act("error", &sender), "ECONNRESET");
    client.close(&sender);

    let told = stage.end(0, &[]);
    let ours = told.ours();
    let resets = |held, who| said(&ours, "reset", "direction", held, who);
    assert_eq!(resets(&far, &server.who), [("received", "ESTABLISHED")]);
    assert_eq!(resets(&sender, &client.who), [("received", "ESTABLISHED")]);
    // `tcp_disconnect` and `__tcp_close` change the state before they send.
    assert_eq!(resets(&near, &client.who), [("sent", "CLOSE")]);
    assert_eq!(resets(&closer, &server.who), [("sent", "CLOSE")]);
    record::each_end_has_its_close(&ours);
}

fn sent_again() {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing", "--events", "all"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");

    // A SYN that is answered when it comes for the second time.
    let slow = SocketAddrV4::new(Wire::host(1), 80);
    let late = client.begin(slow.into());
    wire.hear("SYN", |segment| segment.to == slow);
    let mut puppet = Puppet::called(&wire, slow);
    puppet.accept();
    client.finish(&late).unwrap();
    // A SYN-ACK likewise.
    let here = SocketAddrV4::new(Wire::host(1), 1000);
    let mut caller = Puppet::calling(&wire, here, listener.local);
    caller.call();
    caller.hear_again(SYN | ACK);
    caller.say(ACK);
    let far = server.accept(&listener);
    // And data.
    let (held, mut deaf) = meet_puppet(&wire, &mut client, 81);
    client.act("send", &held);
    deaf.hear_data();
    deaf.hear_again(ACK);

    for held in [&late, &held] {
        client.act("linger", held);
        client.close(held);
    }
    server.act("linger", &far);
    server.close(&far);
    let told = stage.end(0, &[]);
    let ours = told.ours();
    let again = |held, who| said(&ours, "retransmit", "kind", held, who);
    assert_eq!(again(&late, &client.who)[0], ("syn", "SYN_SENT"));
    assert_eq!(again(&held, &client.who)[0], ("data", "ESTABLISHED"));
    let synacks: Vec<_> = ours
        .iter()
        .filter(|record| record.event() == "retransmit" && record.role() == "listener")
        .collect();
    assert!(!synacks.is_empty(), "no SYN-ACK was sent again");
    for (nth, record) in (1_u64..).zip(&synacks) {
        assert_eq!(record.text("kind"), Some("synack"), "{}", record.line);
        assert_eq!(record.int("count"), Some(nth), "{}", record.line);
        assert_eq!(record.remote(), Some(here.into()), "{}", record.line);
        let pid = u64::from(server.who.pid);
        assert_eq!(record.int("pid"), Some(pid), "{}", record.line);
    }
}

/// The connection is there before its SYN-ACK is answered.
fn sent_again_with_fast_open() {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing", "--events", "all"]);
    let mut server = Actor::spawn(&stage.netns, "server");
    // Without cookies, on each listener.
    stage.netns.set("tcp_fastopen", "1543");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    let here = SocketAddrV4::new(Wire::host(1), 1000);
    let mut caller = Puppet::calling(&wire, here, listener.local);
    caller.call_with(b"x");
    let far = server.accept(&listener);
    caller.hear_again(SYN | ACK);
    caller.say(ACK);
    server.act("linger", &far);
    server.close(&far);

    let told = stage.end(0, &[]);
    let ours = told.ours();
    let again = said(&ours, "retransmit", "kind", &far, &server.who);
    assert_eq!(again[0], ("synack", "SYN_RECV"), "{}", record::lines(&ours));
    let counts = ours
        .iter()
        .filter(|record| record.event() == "retransmit")
        .map(|record| {
            assert_eq!(record.role(), "server", "{}", record.line);
            record.int("count").unwrap()
        });
    assert!(
        counts.eq(1..=again.len() as u64),
        "{}",
        record::lines(&ours)
    );
}
