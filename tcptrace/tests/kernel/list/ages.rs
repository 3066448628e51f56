//! What a tracer that runs on this host knows beside the kernel: ages, time in state, former owners.

use super::{list, meet, of, possible, within};
use crate::{
    actor::Actor,
    harness::{Outcome, Test, alone},
    netns::{Ip, Netns},
    peer::First,
    stage::part,
    tracer::{Tracer, now_us},
};
use serde_json::Value;

pub(crate) const TESTS: &[Test] = &[alone!(ages_from_a_tracer)];

/// What a tracer that runs has seen: since when a connection has been there and in its state, whose it is, and
/// whose it was.
fn ages_from_a_tracer() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let mut early = vec![meet(&mut client, &mut server, &listener, listener.local)];
    let tracer = Tracer::start(&[]);
    let begin_us = now_us();
    let mut open: Vec<_> = (0..20)
        .map(|_| meet(&mut client, &mut server, &listener, listener.local))
        .collect();
    let opened_us = now_us();
    let closed: Vec<_> = open.drain(..10).collect();
    for (near, far) in &closed {
        part(&mut client, near, &mut server, far, First::Client);
    }
    let closed_us = now_us();

    let (rows, _) = list(&[]);
    let rows = within(&rows, &netns);
    let age = |row: &Value, name: &str| {
        let us = row[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {row}"));
        row["mono_us"].as_u64().unwrap() - us
    };
    for (near, far) in &open {
        for (held, who, source, role) in [
            (near, &client.who, "connect", "client"),
            (far, &server.who, "accept", "server"),
        ] {
            let row = of(&rows, held);
            assert_eq!(row["pid"], who.pid, "{row}");
            assert_eq!(
                (&row["pid_source"], &row["role"]),
                (&source.into(), &role.into()),
                "{row}"
            );
            let (began, entered) = (age(row, "age_us"), age(row, "in_state_us"));
            assert!(
                begin_us - 1 <= began && began <= entered && entered <= opened_us + 1,
                "{row}"
            );
        }
    }
    for (near, _) in &closed {
        let row = of(&rows, near);
        assert_eq!(row["state"], "TIME_WAIT", "{row}");
        assert_eq!(row["pid"], client.who.pid, "{row}");
        assert_eq!(row["comm"], "client", "{row}");
        assert!(
            row.get("owners").is_none(),
            "nobody has it open any more: {row}"
        );
        let entered = age(row, "in_state_us");
        assert!(begin_us <= entered && entered <= closed_us + 1, "{row}");
    }
    // It was there before the tracer: when it began nobody knows.
    let (near, _) = early.pop().unwrap();
    let row = of(&rows, &near);
    assert_eq!(
        (&row["pid"], row.get("age_us")),
        (&client.who.pid.into(), None),
        "{row}"
    );
    tracer.signal(rustix::process::Signal::INT);
    tracer.wait().fine();
    let (rows, _) = list(&[]);
    let rows = within(&rows, &netns);
    let row = of(&rows, &closed[0].0);
    assert!(row.get("pid").is_none(), "the tracer has ended: {row}");
    Ok(())
}
