//! More time-wait sockets than can be looked at one by one.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};

use rustix::process::Signal;
use tcptrace_common::config::{POLL_QUEUED, POLL_STOPS};

use crate::{
    actor::Actor,
    check, confinement,
    harness::{Impossible, Test, alone},
    leftovers,
    netns::{Ip, Netns},
    oracle::{self, Oracle},
    peer::First,
    record::{self, Record},
    tracer::Tracer,
};

pub(crate) const TESTS: &[Test] = &[
    alone!(within_the_limit),
    alone!(under_watch),
    alone!(over_the_limit),
    alone!(stopped_behind),
];

/// As many come out as went in, and as the kernel counts.
fn within_the_limit() {
    let (sockets, entered) = storm_with("100000", |_| ());
    assert_eq!(entered, sockets / 2, "one end of each connection waits");
}

/// The moment at which a timer is stopped tells of no end before the timer is off, which is a little
/// later: also one that is looked at in between comes out.
fn under_watch() -> Result<(), Impossible> {
    let mut possible = false;
    storm_with("100000", |tracer| {
        let looker = Looker::beside(tracer);
        possible = looker.is_some();
        looker
    });
    if possible {
        Ok(())
    } else {
        Err(Impossible(
            "here no time-wait socket has to be looked at".to_owned(),
        ))
    }
}

/// Most find no room to wait, and end at once.
fn over_the_limit() {
    let (sockets, entered) = storm_with("100", |_| ());
    assert!(
        (100..sockets / 4).contains(&entered),
        "{entered} of {sockets} waited"
    );
}

/// A storm with so many time-wait sockets allowed, and with company; how many sockets there were, and how
/// many waited.
fn storm_with<Company>(limit: &str, company: impl FnOnce(&Tracer) -> Company) -> (usize, usize) {
    let each: usize = if confinement::in_guest() { 500 } else { 800 };
    let mut netns = Netns::new();
    netns.set("tcp_max_tw_buckets", limit);
    let oracle = Oracle::with_buffer(16 << 10);
    let tracer = Tracer::start(&["--no-existing", "--buffer", "64M"]);
    let company = company(&tracer);
    let mut actors = Vec::new();
    for first in [First::Client, First::Server] {
        let mut client = Actor::spawn(&netns, "client");
        let mut server = Actor::spawn(&netns, "server");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        server.tell_serve(&listener, each, first);
        client.tell_dial(listener.local, each, first);
        actors.push((client, server, listener));
    }
    for (client, server, listener) in &mut actors {
        assert_eq!(client.clients().len(), each);
        assert_eq!(server.clients().len(), each);
        server.unlisten(listener);
    }
    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    let entered = lives.iter().filter(|life| life.time_waits()).count();
    let sockets = lives.iter().filter(|life| !life.is_listener()).count();
    assert_eq!(sockets, 4 * each, "two ends of each connection");
    drop(actors);
    netns.destroy();

    let left = std::cell::Cell::new(0);
    let told_all = tracer.look_for(Duration::from_mins(1), |record| {
        let ours = record.is_about_a_connection() && record.int("netns") == Some(netns.inode);
        if ours && record.text("old") == Some("TIME_WAIT") {
            left.set(left.get() + 1);
        }
        left.get() == entered
    });
    drop(company);
    let records = tracer.finish().fine();
    let ours = records.within(netns.inode);
    if check::lacks(&records, 0) {
        check::lost_is_counted(&lives, &records, &ours);
        return (sockets, entered);
    }
    let count = |of: &dyn Fn(&Record) -> bool| ours.iter().filter(|record| of(record)).count();
    check::same_transitions(&lives, &ours);
    let told_in = count(&|record| record.is("transition", "TIME_WAIT"));
    let told_out = count(&|record| record.text("old") == Some("TIME_WAIT"));
    assert_eq!((told_in, told_out), (entered, entered));
    assert!(told_all.is_some(), "the last exit came after a minute");
    record::each_end_has_its_close(&ours);
    (sockets, entered)
}

/// Told to stop while it has thousands of time-wait sockets to look at, it looks at each.
fn stopped_behind() {
    let connections = if confinement::in_guest() {
        2_500
    } else {
        4_000
    };

    let netns = Netns::new();
    netns.set("tcp_max_tw_buckets", "100000");
    let oracle = Oracle::with_buffer(16 << 10);
    let tracer = Tracer::start(&["--no-existing", "--buffer", "64M"]);
    tracer.signal(Signal::STOP);
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_serve(&listener, connections, First::Client);
    client.tell_dial(listener.local, connections, First::Client);
    assert_eq!(client.clients().len(), connections);
    assert_eq!(server.clients().len(), connections);
    server.unlisten(&listener);
    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    tracer.signal(Signal::INT);
    tracer.signal(Signal::CONT);
    let records = tracer.wait().fine();
    let ours = records.within(netns.inode);
    if check::lacks(&records, 0) {
        return check::lost_is_counted(&lives, &records, &ours);
    }
    check::same_transitions(&lives, &ours);
    record::each_end_has_its_close(&ours);
}

/// Looks at time-wait sockets as the tracer does itself, but all the time.
struct Looker {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Looker {
    /// None if the tracer has no need to look.
    fn beside(tracer: &Tracer) -> Option<Self> {
        let programs = leftovers::held_by(&tracer.pid().to_string());
        let info = aya::programs::loaded_programs().flatten().find(|program| {
            program.name_as_str() == Some("poll")
                && programs.contains(&("prog".to_owned(), program.id()))
        })?;
        let program = RawTracePoint::from_program_info(info, Cow::Borrowed("poll")).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let look = move || {
            while !is_over.load(Ordering::Relaxed) {
                for what in [POLL_QUEUED, POLL_STOPS] {
                    let mut options = RawTracePointRunOptions::new();
                    options.args[0] = what;
                    program.test_run(options).unwrap();
                }
            }
        };
        let thread = Some(std::thread::spawn(look));
        Some(Self { over, thread })
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}
