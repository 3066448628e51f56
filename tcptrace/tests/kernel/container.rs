//! A tracer that sees other processes than the host has, as in a container.

use crate::{
    actor::Actor,
    check, confinement,
    harness::{Test, beside},
    netns::{Ip, Netns},
    peer::First,
    record,
    stage::{Exchange, Stage, part},
    tracer::{self, Tracer},
};

pub(crate) const TESTS: &[Test] = &[beside!(pids_of_the_host)];

/// The host's ids, or none: whoever is not seen is not named, and nobody else in their place.
fn pids_of_the_host() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let early = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_accept(&early, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, early.local);

    let stage = Stage::with(netns, || in_container(&["--json"]));
    let pid = server.who.pid.to_string();
    let selective = in_container(&["--json", "-p", &pid]);
    part(&mut client, &near, &mut server, &far, First::Client);
    let of_early = Exchange::default().run(&mut client, &mut server, &early, early.local);
    let late = server.listen(stage.netns.addr(Ip::V6, 0), "");
    let of_late = Exchange::default().run(&mut client, &mut server, &late, late.local);
    let netns = stage.netns.inode;
    let told = stage.end(0, &[]);
    let selected = selective.finish().fine();

    assert_eq!(told.records.lost(), 0);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    for record in &ours {
        if of_late.is_of(record) || record.source() != "unknown" {
            let client_side = record.role() == "client";
            let who = if client_side { &client } else { &server };
            check::names(record, record.source(), &who.who, &ours);
        }
        let was_open = record.is_of(&near) || record.is_of(&far);
        let unseen = record.role() == "unknown" || record.get("role_inferred").is_some();
        assert_eq!(was_open, unseen, "{}", record.line);
    }
    let of_late_alone: Vec<_> = ours
        .iter()
        .copied()
        .filter(|record| of_late.is_of(record))
        .collect();
    check::owners(std::slice::from_ref(&of_late), &of_late_alone);

    let selected = selected.within(netns);
    assert!(selected.iter().any(|record| of_early.is_of(record)));
    for record in selected {
        assert_eq!(
            record.int("pid"),
            Some(server.who.pid.into()),
            "{}",
            record.line
        );
    }
}

fn in_container(args: &[&str]) -> Tracer {
    let command = tracer::command(&tracer::binary(), args);
    let tracer = Tracer::run_by(command, confinement::spawn_as_container);
    tracer.await_start();
    tracer
}
