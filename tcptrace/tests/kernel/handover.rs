//! A process that closes a connection it neither opened nor accepted: in the end it is that process's.

use crate::{
    actor::{Actor, Held, Who},
    check::Pair,
    harness::{Test, beside},
    netns::Ip,
    record::{self, Record},
    stage::{Exchange, Stage, Told},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(child_closes_for_the_acceptor).smoke(),
    beside!(child_closes_for_the_client).smoke(),
];

fn closed_by_child(told: &Told, held: &Held, child: &Who) {
    let ours = told.ours();
    let of_it: Vec<&Record> = ours
        .iter()
        .copied()
        .filter(|record| record.is_of(held))
        .collect();
    let close = of_it.last().unwrap();
    assert_eq!(close.event(), "close", "{}", record::lines(&of_it));
    assert_eq!(
        close.int("closer_pid"),
        Some(child.pid.into()),
        "closer_pid in\n{}",
        record::lines(&of_it)
    );
}

fn child_closes_for_the_acceptor() {
    let stage = Stage::open(&[]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    let mut child = server.fork();
    child.rename(b"child");
    "child".clone_into(&mut child.who.comm);
    // Only the last copy of the descriptor closes the connection.
    server.close(&far);
    child.close(&far);
    client.act("eof", &near);
    client.close(&near);

    let told = stage.end(0, &[]);
    let pair = Pair::new(&near, &client.who, &far, &server.who).left_by_server(&child.who);
    told.check(&[pair], &[]);
    closed_by_child(&told, &far, &child.who);
}

fn child_closes_for_the_client() {
    let stage = Stage::open(&[]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V6, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    let mut child = client.fork_orphan();
    client.close(&near);
    let client_who = client.who.clone();
    client.kill();
    child.close(&near);
    server.act("eof", &far);
    server.close(&far);

    let told = stage.end(0, &[]);
    let pair = Pair::new(&near, &client_who, &far, &server.who).left_by_client(&child.who);
    told.check(&[pair], &[]);
    closed_by_child(&told, &near, &child.who);
}
