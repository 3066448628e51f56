//! Many connections over loopback, where the process on the CPU is usually the wrong one.

use std::{collections::BTreeSet, env, fs, process};

use crate::{
    actor::Actor,
    check::Pair,
    harness::{Test, beside},
    netns::Ip,
    peer::First,
    stage::Stage,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(read_by_helpers_alone),
    beside!(three_hundred_connections),
];

fn three_hundred_connections() {
    many(&[]);
}

/// Where the kernel refuses the function that makes reading memory cheap, it is read as on older kernels.
/// Here another has its name.
fn read_by_helpers_alone() {
    let mut types = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let mut rename = |name: &[u8; 17], by: &[u8; 17]| {
        let found = types.windows(name.len()).position(|window| window == name);
        if let Some(at) = found {
            types[at..at + by.len()].copy_from_slice(by);
        }
    };
    rename(b"\0bpf_rdonly_cast\0", b"\0_pf_rdonly_cast\0");
    rename(b"\0inet_csk_accept\0", b"\0bpf_rdonly_cast\0");
    let path = env::temp_dir().join(format!("tcptrace-types-{}", process::id()));
    fs::write(&path, types).unwrap();
    many(&["--btf", path.to_str().unwrap()]);
    fs::remove_file(&path).unwrap();
}

fn many(args: &[&str]) {
    const EACH: usize = 50;

    let stage = Stage::open(args);
    let mut server = Actor::spawn(&stage.netns, "a server");
    let mut client = Actor::spawn(&stage.netns, "a client");
    client.become_user(1234);

    let mut pairs = Vec::new();
    let mut listeners = Vec::new();
    let mut wildcards = Vec::new();
    for ip in [Ip::V4, Ip::V6, Ip::Mapped] {
        let listener = if ip == Ip::Mapped {
            server.listen("[::]:0".parse().unwrap(), "dual")
        } else {
            server.listen(stage.netns.addr(ip, 0), "")
        };
        let addr = stage.netns.addr(ip, listener.local.port());
        for first in [First::Client, First::Server] {
            server.tell_serve(&listener, EACH, first);
            client.tell_dial(addr, EACH, first);
            let dialed = client.clients();
            let accepted = server.clients();
            assert_eq!(
                dialed.iter().collect::<BTreeSet<_>>(),
                accepted.iter().collect::<BTreeSet<_>>()
            );
            pairs.extend(
                dialed
                    .iter()
                    .map(|end| Pair::dialed(*end, addr, &client.who, &server.who)),
            );
        }
        server.unlisten(&listener);
        if listener.local.ip().is_unspecified() {
            wildcards.push(listener.local.port());
        }
        listeners.push(listener.local);
    }

    let told = stage.end(0, &wildcards);
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|local| (local, &server.who))
        .collect();
    told.check(&pairs, &listeners);
    // Three listeners, and both sides of every connection.
    assert_eq!(told.lives.len(), 3 + 2 * 6 * EACH);
    for record in told.ours() {
        let mapped = record.get("mapped").is_some();
        let through_v6 = wildcards.contains(&record.local().port())
            || record
                .remote()
                .is_some_and(|end| wildcards.contains(&end.port()));
        if record.role() != "listener" {
            assert_eq!(mapped, through_v6, "mapped: {}", record.line);
        }
    }
}
