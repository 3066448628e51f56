//! What a tracer that runs on this host knows beside the kernel: ages, time in state, former owners.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::{list, meet, nobody_else_traces, of, possible, within};
use crate::{
    actor::Actor,
    harness::{Impossible, Outcome, Test, alone},
    netns::{Ip, Netns},
    peer::First,
    stage::part,
    tracer::{Tracer, now_us},
};

/// Connections that stay, and as many that are closed.
const MANY: usize = 1000;

pub(crate) const TESTS: &[Test] = &[alone!(ages_from_a_tracer)];

/// Does it, and tells from when to when, on the clock of records. Times are whole microseconds there.
fn timed<T>(what: impl FnOnce() -> T) -> (T, RangeInclusive<u64>) {
    let begin_us = now_us();
    let done = what();
    (done, begin_us.saturating_sub(1)..=now_us() + 1)
}

/// What a tracer that runs has seen: since when a connection has been there and in its state, whose it is, and
/// whose it was.
fn ages_from_a_tracer() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let (early, _) = meet(&mut client, &mut server, &listener, listener.local);
    let (rows, _) = list(&[]);
    nobody_else_traces(&within(&rows, &netns))?;
    let tracer = Tracer::spawn(&["--json"]);
    let start: Value = serde_json::from_str(&tracer.await_start().line).unwrap();
    if start["hooks"]["conn"] != "bpf_get_socket_cookie" {
        return Err(Impossible(
            "the tracer knows sockets by its own numbers here".to_owned(),
        ));
    }
    let open: Vec<_> = (0..MANY)
        .map(|_| timed(|| meet(&mut client, &mut server, &listener, listener.local)))
        .collect();
    let mut closed = Vec::new();
    for _ in 0..MANY {
        let (near, far) = meet(&mut client, &mut server, &listener, listener.local);
        let ((), parted) = timed(|| part(&mut client, &near, &mut server, &far, First::Client));
        closed.push((near, parted));
    }

    let (rows, _) = list(&[]);
    let rows = within(&rows, &netns);
    let age = |row: &Value, name: &str| {
        let us = row[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {row}"));
        row["mono_us"].as_u64().unwrap() - us
    };
    for ((near, far), met) in &open {
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
                met.contains(&began) && met.contains(&entered),
                "{met:?} {row}"
            );
            assert!(began <= entered, "{row}");
        }
    }
    for (near, parted) in &closed {
        let row = of(&rows, near);
        assert_eq!(row["state"], "TIME_WAIT", "{row}");
        assert_eq!(row["pid"], client.who.pid, "{row}");
        assert_eq!(row["comm"], "client", "{row}");
        assert!(
            row.get("owners").is_none(),
            "nobody has it open any more: {row}"
        );
        let entered = age(row, "in_state_us");
        assert!(parted.contains(&entered), "{parted:?} {row}");
    }
    // It was there before the tracer: when it began nobody knows.
    let row = of(&rows, &early);
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
