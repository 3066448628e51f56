//! The wall clock is set while a trace runs.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::{
    actor::Actor,
    confinement,
    harness::{Impossible, Outcome, Test, alone},
    netns::Ip,
    record::Record,
    stage::{Exchange, Stage},
    tracer::now_us,
};

pub(crate) const TESTS: &[Test] = &[alone!(steps)];

const HOUR_US: i64 = 3_600_000_000;
/// Reading two clocks is not one moment.
const TOLERANCE_US: i64 = 50_000;

/// The wall clock as it was, whatever happens in between.
struct Clock {
    /// It is ahead of the monotonic clock by this much, µs
    ahead_us: i64,
}

impl Clock {
    fn ahead() -> i64 {
        let wall = clock_gettime(ClockId::Realtime);
        let wall_us = wall.tv_sec * 1_000_000 + wall.tv_nsec / 1000;
        wall_us - i64::try_from(now_us()).unwrap()
    }

    fn set(ahead_us: i64) {
        let wall_us = i64::try_from(now_us()).unwrap() + ahead_us;
        let wall = Timespec {
            tv_sec: wall_us / 1_000_000,
            tv_nsec: wall_us % 1_000_000 * 1000,
        };
        clock_settime(ClockId::Realtime, wall).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        Self::set(self.ahead_us);
    }
}

/// How far `ts` is ahead of `mono_us`.
fn ahead(record: &Record) -> i64 {
    let wall: Timestamp = record.text("ts").unwrap().parse().unwrap();
    wall.as_microsecond() - i64::try_from(record.mono_us()).unwrap()
}

/// Forward and back by an hour: `ts` follows, `mono_us` and durations know nothing of it.
fn steps() -> Outcome {
    if !confinement::in_guest() {
        return Err(Impossible(
            "the clock of this machine is not the tests' to set; `cargo xtask vm` does".to_owned(),
        ));
    }
    let clock = Clock {
        ahead_us: Clock::ahead(),
    };
    let stage = Stage::open(&["--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    let addr = listener.local;
    // Open from before the first step to after the last.
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, addr);

    let mut expected = Vec::new();
    for ahead_us in [clock.ahead_us, clock.ahead_us + HOUR_US, clock.ahead_us] {
        Clock::set(ahead_us);
        // What is read in the same turn as the step may have the time of before it or after it.
        let [first, second] = [(); 2].map(|()| {
            let pair = Exchange::default().run(&mut client, &mut server, &listener, addr);
            for end in [pair.client, pair.server] {
                stage
                    .tracer
                    .wait_for("its end", Duration::from_secs(20), |record| {
                        record.event() == "close" && pair.is_of(record) && record.local() == end
                    });
            }
            pair
        });
        expected.push((first, second, ahead_us));
    }
    crate::stage::part(
        &mut client,
        &near,
        &mut server,
        &far,
        crate::peer::First::Client,
    );
    server.unlisten(&listener);
    let told = stage.end(0, &[]);
    drop(clock);

    assert_eq!(told.records.lost(), 0);
    let ours = told.ours();
    crate::check::same_transitions(&told.lives, &ours);
    let mut late = 0;
    for (at, (first, second, ahead_us)) in expected.iter().enumerate() {
        let before = expected[at.saturating_sub(1)].2;
        for record in &ours {
            let off = (ahead(record) - ahead_us).abs();
            if first.is_of(record) && off > TOLERANCE_US {
                assert!(
                    (ahead(record) - before).abs() <= TOLERANCE_US,
                    "{off} us off the time after step {at}: {}",
                    record.line
                );
                late += 1;
            }
            assert!(
                !second.is_of(record) || off <= TOLERANCE_US,
                "{off} us off, long after step {at}: {}",
                record.line
            );
        }
    }
    let of_long: Vec<_> = ours.iter().filter(|record| record.is_of(&near)).collect();
    let close = of_long
        .iter()
        .find(|record| record.event() == "close")
        .unwrap();
    let lasted = close.mono_us() - of_long[0].mono_us();
    let told_us = close.int("duration_us").unwrap();
    assert!(told_us.abs_diff(lasted) <= 1, "{lasted} us: {}", close.line);
    crate::harness::figure!(
        "the clock went an hour forward and back: {late} of {} records had the time of before, in \
         the first connection after a step; one over both steps lasted {told_us} us by its record \
         and {lasted} by mono_us",
        ours.len()
    );
    Ok(())
}
