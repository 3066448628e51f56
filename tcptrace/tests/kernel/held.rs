//! While many connections come and go, the kernel side holds steps back to send them together. None of
//! them is late, lost, or told with another's owner.

use std::{net::SocketAddr, time::Duration};

use tcptrace::recording::Recording;

use crate::{
    actor::Actor,
    check,
    netns::Ip,
    peer::First,
    record,
    stage::{Exchange, Stage, part},
    wait,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// [`tcptrace_common::record::KIND_TRANSITION`], and where a record has its kind: a step alone.
const ALONE: (usize, u8) = (100, 1);

pub(crate) fn open_connections_in_a_storm() {
    const OPEN: usize = 9;

    // The emulated machines have one processor, which takes minutes to check more.
    let single = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1);
    let storm = if single { 1000 } else { 10_000 };

    let path = std::env::temp_dir().join(format!("tcptrace-held-{}", std::process::id()));
    let recording = path.to_string_lossy().into_owned();
    let mut stage = Stage::open_for(64 << 10, &["--no-existing", "--record-ring", &recording]);
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

    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (place, kind) = ALONE;
    let records = Recording::open(&bytes).unwrap();
    let alone = records.filter(|record| record[place] == kind).count();
    let transitions = ours.iter().filter(|it| it.event() == "transition").count();
    // Older kernels have not what it takes.
    assert!(
        check::own_ids() || alone < transitions / 2,
        "{alone} of {transitions} steps had a record of their own"
    );
    crate::figure!("in a storm, {alone} of {transitions} steps had a record of their own");
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
