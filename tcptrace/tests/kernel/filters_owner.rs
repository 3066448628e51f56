//! Filters by who owns a connection and where it leads, each against what the processes themselves claim.

use std::collections::BTreeSet;

use crate::{
    actor::{Actor, Held},
    confinement::NOBODY,
    harness::{Test, alone},
    netns::{Ip, Netns},
    peer::First,
    record::Record,
    stage::{Exchange, part},
    tracer::Tracer,
};

pub(crate) const TESTS: &[Test] = &[alone!(each_and_combined)];

/// A connection's end, and what a filter may ask of its owner.
struct End {
    held: Held,
    /// Who connected, and who accepted
    comm: &'static str,
    uid: u32,
    netns: u64,
}

/// Whether a filter takes it. With the first namespace's IPv4 address, and the second namespace.
type Wanted = fn(&End, &str, u64) -> bool;

/// A name and a user that no other process has.
fn each_and_combined() {
    let places = [Netns::new(), Netns::new()];
    let second = places[1].inode.to_string();
    let own_exe = std::env::current_exe().unwrap();
    let own_exe = own_exe.to_str().unwrap();
    let folder = format!(
        "{}/*",
        std::path::Path::new(own_exe).parent().unwrap().display()
    );
    let user = NOBODY.to_string();
    let v4 = places[0].addr(Ip::V4, 0).ip().to_string();
    let not_v4 = format!("!{v4}");
    let cases: Vec<(Vec<&str>, Wanted)> = vec![
        (vec!["-c", "red-client"], |end, _, _| {
            end.comm == "red-client"
        }),
        (vec!["-c", "red-*"], |end, _, _| {
            end.comm.starts_with("red-")
        }),
        (vec!["-c", "red-*,!*-server"], |end, _, _| {
            end.comm == "red-client"
        }),
        (vec!["-c", "no-such-name"], |_, _, _| false),
        (vec!["--exe", own_exe, "-c", "*client"], |end, _, _| {
            end.comm.ends_with("client")
        }),
        (vec!["--exe", &folder, "-u", &user], |end, _, _| {
            end.uid == NOBODY
        }),
        (vec!["--exe", "/no/such/file"], |_, _, _| false),
        (vec!["-u", &user, "-c", "blue-client"], |end, _, _| {
            end.uid == NOBODY && end.comm == "blue-client"
        }),
        (vec!["-N", &second], |end, _, second| end.netns == second),
        (vec!["-N", &second, "-u", &user], |end, _, second| {
            end.netns == second && end.uid == NOBODY
        }),
        (vec!["--raddr", &v4], |end, v4, _| {
            end.held.remote.ip().to_string() == v4
        }),
        (vec!["--addr", &not_v4], |end, v4, _| {
            end.held.remote.ip().to_string() != v4 && end.held.local.ip().to_string() != v4
        }),
        (vec!["--laddr", "::/0", "-c", "red-server"], |end, _, _| {
            end.held.local.is_ipv6() && end.comm == "red-server"
        }),
        (
            vec!["--addr", &v4, "-c", "!red-client", "-N", "!0"],
            |end, v4, _| {
                let ends = [end.held.local, end.held.remote];
                end.comm != "red-client" && ends.iter().any(|end| end.ip().to_string() == v4)
            },
        ),
    ];
    let tracers: Vec<_> = cases
        .iter()
        .map(|(args, _)| {
            let mut all = vec!["--no-existing", "--max-sockets", "2048", "--buffer", "1M"];
            all.extend(args);
            Tracer::start(&all)
        })
        .collect();
    let mut ends = Vec::new();
    for netns in &places {
        for (client_name, server_name, uid) in [
            ("red-client", "red-server", 0),
            ("blue-client", "blue-server", NOBODY),
        ] {
            let mut client = Actor::spawn(netns, client_name);
            let mut server = Actor::spawn(netns, server_name);
            if uid != 0 {
                client.become_user(uid);
                server.become_user(uid);
            }
            for ip in [Ip::V4, Ip::V6] {
                let listener = server.listen(netns.addr(ip, 0), "");
                server.tell_accept(&listener, "");
                let (near, far) =
                    Exchange::default().meet(&mut client, &mut server, listener.local);
                part(&mut client, &near, &mut server, &far, First::Client);
                for (held, comm) in [(near, client_name), (far, server_name)] {
                    ends.push(End {
                        held,
                        comm,
                        uid,
                        netns: netns.inode,
                    });
                }
            }
        }
    }
    for netns in &places {
        netns.settle(0);
    }
    for ((args, wanted), tracer) in cases.iter().zip(tracers) {
        let records = tracer.finish().fine();
        assert_eq!(records.lost(), 0, "{args:?}");
        let ours: Vec<&Record> = places
            .iter()
            .flat_map(|netns| records.within(netns.inode))
            .filter(|record| record.role() != "listener")
            .collect();
        let told: BTreeSet<_> = ours.iter().map(|record| record.conn().to_owned()).collect();
        let expected: Vec<_> = ends
            .iter()
            .filter(|end| wanted(end, &v4, places[1].inode))
            .collect();
        assert_eq!(
            told.len(),
            expected.len(),
            "{args:?}\n{}",
            crate::record::lines(&ours)
        );
        for end in expected {
            let of_it: Vec<_> = ours
                .iter()
                .filter(|record| record.is_of(&end.held))
                .collect();
            let states: Vec<_> = of_it
                .iter()
                .filter_map(|record| record.text("new"))
                .collect();
            // Whole: from its first step on.
            let first = if end.comm.ends_with("client") {
                "SYN_SENT"
            } else {
                "SYN_RECV"
            };
            assert_eq!(states.first(), Some(&first), "{args:?} {}", end.held.local);
            assert!(
                of_it.iter().any(|record| record.event() == "close"),
                "{args:?}"
            );
        }
    }
}
