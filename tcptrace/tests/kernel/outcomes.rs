//! Filters by what happens to a connection, which is known only later than its first records.

use std::{
    collections::BTreeSet,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use crate::{
    actor::Actor,
    check,
    harness::{Test, beside},
    netns::{Ip, Netns},
    oracle::{self, Life, Oracle},
    peer::First,
    reasons::meet_puppet,
    record::{self, Record},
    stage::{Exchange, part},
    tracer::Tracer,
    wait,
    wire::{ACK, FIN, Puppet, RST, Wire},
};

pub(crate) const TESTS: &[Test] = &[beside!(failed_slow_and_roles), beside!(states)];

/// What a connection's ends were.
type Ends = (std::net::SocketAddr, std::net::SocketAddr);

/// What was done to the ends of some connections.
#[derive(Default)]
struct Done {
    failed: BTreeSet<Ends>,
    /// At connecting, or in the accept queue
    slow: BTreeSet<Ends>,
    accepted: BTreeSet<Ends>,
}

const SLOW: Duration = Duration::from_millis(400);

fn pause() {
    let begun = Instant::now();
    wait::poll(2 * SLOW, || (begun.elapsed() > SLOW).then_some(()));
}

/// Connections of every sort, and a listener.
fn act(netns: &Netns, wire: &Wire) -> Done {
    let mut done = Done::default();
    let mut client = Actor::spawn(netns, "client");
    let mut server = Actor::spawn(netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let addr = listener.local;

    for first in [First::Client, First::Server] {
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(&mut client, &mut server, addr);
        part(&mut client, &near, &mut server, &far, first);
        done.accepted.insert((far.local, far.remote));
    }

    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, addr);
    client.act("linger", &near);
    client.close(&near);
    assert_eq!(server.act("error", &far), "ECONNRESET");
    server.close(&far);
    done.failed.insert((near.local, near.remote));
    done.failed.insert((far.local, far.remote));
    done.accepted.insert((far.local, far.remote));

    let near = client.connect(addr, "");
    pause();
    let far = server.accept(&listener);
    part(&mut client, &near, &mut server, &far, First::Client);
    done.slow.insert((far.local, far.remote));
    done.accepted.insert((far.local, far.remote));

    let here = SocketAddrV4::new(Wire::host(1), 80);
    let near = client.begin(here.into());
    let mut puppet = Puppet::called(wire, here);
    pause();
    puppet.accept();
    client.finish(&near).unwrap();
    client.close(&near);
    puppet.hear(FIN);
    puppet.say(FIN | ACK);
    puppet.hear(ACK);
    done.slow.insert((near.local, near.remote));

    // A failure may take its time, too.
    let here = SocketAddrV4::new(Wire::host(1), 81);
    let near = client.begin(here.into());
    let mut puppet = Puppet::called(wire, here);
    pause();
    puppet.say(RST | ACK);
    assert_eq!(client.finish(&near), Err("ECONNREFUSED".to_owned()));
    done.slow.insert((near.local, near.remote));
    done.failed.insert((near.local, near.remote));

    // Given up when its SYN was sent again; what is given up at once is no failure.
    let here = SocketAddrV4::new(Wire::host(1), 83);
    let near = client.begin(here.into());
    client.close(&near);
    let here = SocketAddrV4::new(Wire::host(1), 84);
    let near = client.begin(here.into());
    wait::poll(Duration::from_secs(5), || {
        let syns = wire.count(|segment| segment.to == here);
        (syns > 1).then_some(())
    });
    client.close(&near);
    done.slow.insert((near.local, near.remote));
    done.failed.insert((near.local, near.remote));

    let (near, mut puppet) = meet_puppet(wire, &mut client, 82);
    client.set(&near, "user-timeout-ms", 300);
    client.act("send", &near);
    puppet.hear_data();
    assert_eq!(client.act("error", &near), "ETIMEDOUT");
    client.close(&near);
    done.failed.insert((near.local, near.remote));

    server.unlisten(&listener);
    netns.settle(0);
    done
}

type Wanted = fn(&Done, &Life) -> bool;

/// Nothing of the connections that were asked for is missing, though they did not show for what
/// they are at first, and nothing of the others is there.
fn failed_slow_and_roles() {
    const CASES: &[(&[&str], Wanted)] = &[
        (&["--failed"], |done, life| {
            done.failed.contains(&life.ends())
        }),
        (&["--slower-than", "300ms"], |done, life| {
            done.slow.contains(&life.ends())
        }),
        (&["--failed", "--slower-than", "300ms"], |done, life| {
            done.failed.contains(&life.ends()) && done.slow.contains(&life.ends())
        }),
        (&["--role", "client"], |_, life| {
            life.steps[0].new == "SYN_SENT"
        }),
        (&["--role", "client,listener"], |_, life| {
            life.steps[0].new != "SYN_RECV"
        }),
        (&["--role", "server", "--failed"], |done, life| {
            life.steps[0].new == "SYN_RECV" && done.failed.contains(&life.ends())
        }),
    ];

    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let oracle = Oracle::record();
    let tracers: Vec<_> = CASES
        .iter()
        .map(|(args, _)| Tracer::start(&[&["--no-existing"], *args].concat()))
        .collect();
    let done = act(&netns, &wire);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);

    let mut faults = Vec::new();
    for ((args, wanted), tracer) in CASES.iter().zip(tracers) {
        let records = tracer.finish().fine();
        let lives: Vec<_> = lives
            .iter()
            .filter(|life| wanted(&done, life))
            .cloned()
            .collect();
        let check = || {
            assert_eq!(records.lost(), 0, "{}", records.losses());
            let shown = records.within(netns.inode);
            check::same_transitions(&lives, &shown);
            record::each_end_has_its_close(&shown);
            accepts(&done, &lives, &shown);
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err() {
            faults.push(format!(
                "{}: {}",
                args.join(" "),
                crate::harness::last_panic()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

fn accepts(done: &Done, lives: &[Life], shown: &[&Record]) {
    let told: BTreeSet<_> = shown
        .iter()
        .filter(|record| record.event() == "accept")
        .map(|accept| (accept.local(), accept.remote().unwrap()))
        .collect();
    let happened: BTreeSet<_> = lives
        .iter()
        .map(Life::ends)
        .filter(|ends| done.accepted.contains(ends))
        .collect();
    assert_eq!(told, happened, "accept records");
}

/// `--state` is about transitions, not about connections.
fn states() {
    const LISTS: &[&str] = &["SYN_SENT", "CLOSE_WAIT,LAST_ACK,LISTEN", "TIME_WAIT"];

    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let start = |args: &[&str]| {
        let all = ["--no-existing", "--events", "transition"];
        Tracer::start(&[&all, args].concat())
    };
    let reference = start(&[]);
    let tracers: Vec<_> = LISTS.iter().map(|list| start(&["--state", list])).collect();
    act(&netns, &wire);
    let transitions = |records: &record::Records| -> Vec<(String, String, String, u64)> {
        let ours = records.within(netns.inode);
        let mut transitions: Vec<_> = ours
            .iter()
            .map(|record| {
                let text = |key| record.text(key).unwrap().to_owned();
                (text("conn"), text("old"), text("new"), record.mono_us())
            })
            .collect();
        transitions.sort();
        transitions
    };
    let all = transitions(&reference.finish().fine());
    for (list, tracer) in LISTS.iter().zip(tracers) {
        let states: Vec<_> = list.split(',').collect();
        let finished = tracer.finish();
        assert!(finished.status.success(), "{}", finished.stderr);
        // Not whole lives.
        let told = transitions(&finished.records);
        let wanted: Vec<_> = all
            .iter()
            .filter(|(_, old, new, _)| {
                states.contains(&old.as_str()) || states.contains(&new.as_str())
            })
            .cloned()
            .collect();
        let ways = |of: &[(String, String, String, u64)]| -> Vec<String> {
            of.iter()
                .map(|(conn, old, new, _)| {
                    // Before 5.12 each tracer has ids of its own.
                    let own = u64::from_str_radix(conn, 16).unwrap() >> 63 != 0;
                    let conn = if own { "" } else { conn };
                    format!("{conn} {old}>{new}")
                })
                .collect()
        };
        assert_eq!(ways(&told), ways(&wanted), "--state {list}");
        assert!(!wanted.is_empty(), "--state {list}");
    }
}
