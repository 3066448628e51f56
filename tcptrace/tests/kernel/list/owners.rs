//! Whose a socket is: all that have it open, and the listener's where it has not been accepted.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, SocketAddrV4},
    process::Command,
};

use rustix::thread::CapabilitySet;
use serde_json::Value;

use super::{list, meet, nobody_else_traces, of, pids, possible, run, socket_end, within};
use crate::{
    actor::{Actor, Held, Who},
    confinement::{Folder, as_root_with, with_capabilities},
    harness::{Outcome, Test, alone, beside},
    netns::{Ip, Netns},
    wire::{Puppet, Wire},
};

// `list` knows more of a connection while any tracer runs on this host: where that matters, none of another
// test may.
pub(crate) const TESTS: &[Test] = &[
    alone!(all_owners).smoke(),
    alone!(not_accepted),
    beside!(by_proc_alone),
    beside!(without_rights),
];

fn all_owners() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    client.become_user(1234);
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let (near, far) = meet(&mut client, &mut server, &listener, listener.local);
    let child = server.fork();
    let (rows, stderr) = list(&[]);
    assert_eq!(stderr, "", "nothing is missing for root");
    let rows = within(&rows, &netns);
    nobody_else_traces(&rows)?;
    assert_eq!(rows.len(), 3);
    let names = |row: &Value, who: &Who, source: &str| {
        assert_eq!(row["pid"], who.pid, "{row}");
        assert_eq!(row["comm"], who.comm.as_str(), "{row}");
        assert_eq!(row["uid"], who.uid, "{row}");
        assert_eq!(row["pid_source"], source, "{row}");
    };
    names(of(&rows, &near), &client.who, "snapshot");
    names(of(&rows, &far), &server.who, "snapshot");
    let far = of(&rows, &far);
    // The one that started first is the owner, and comes first.
    let owners = far["owners"].as_array().unwrap();
    assert_eq!(owners.len(), 2, "{far}");
    assert_eq!(owners[0]["pid"], server.who.pid);
    assert_eq!(owners[1]["pid"], child.who.pid);
    assert_eq!(
        owners[0]["fds"], owners[1]["fds"],
        "a fork keeps the numbers"
    );
    assert!(owners[0]["exe"].as_str().unwrap().starts_with('/'), "{far}");
    let fd = owners[0]["fds"][0].as_u64().unwrap();
    let link = std::fs::read_link(format!("/proc/{}/fd/{fd}", server.who.pid)).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", far["inode"]));
    let listening = rows.values().find(|row| row["role"] == "listener").unwrap();
    assert_eq!(pids(listening).len(), 2, "{listening}");
    assert_eq!(listening["half_open"], 0);
    Ok(())
}

fn not_accepted() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let mut other = Actor::spawn(&netns, "other");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let near = client.connect(listener.local, "");
    let from = SocketAddrV4::new(Wire::host(9), 77);
    Puppet::calling(&wire, from, listener.local).call();
    // Of two listeners on a port nobody can tell which one has it.
    let first = server.listen(netns.addr(Ip::V4, 0), "reuseport");
    let second = other.listen(first.local, "reuseport");
    assert_eq!(first.local, second.local);
    let unclear = client.connect(first.local, "");

    let (rows, _) = list(&[]);
    let rows = within(&rows, &netns);
    nobody_else_traces(&rows)?;
    let mirror = |held: &Held| {
        let row = rows.values().find(|row| {
            socket_end(row, "laddr", "lport") == held.remote
                && socket_end(row, "raddr", "rport") == held.local
        });
        row.unwrap_or_else(|| panic!("no other end of {held:?}: {rows:#?}"))
    };
    let listening = rows
        .values()
        .find(|row| row["role"] == "listener" && row["lport"] == listener.local.port())
        .unwrap();
    assert_eq!(
        (&listening["backlog"], &listening["half_open"]),
        (&1.into(), &1.into())
    );
    let queued = mirror(&near);
    assert_eq!(queued["accepted"], false, "{queued}");
    assert_eq!(queued["listener_conn"], listening["conn"], "{queued}");
    assert_eq!(queued["pid"], server.who.pid, "{queued}");
    assert_eq!(queued["pid_source"], "listener", "{queued}");
    assert_eq!(queued["role"], "server", "{queued}");
    assert!(
        queued.get("owners").is_none(),
        "nobody has it open: {queued}"
    );
    let request = rows
        .values()
        .find(|row| row["state"] == "SYN_RECV")
        .unwrap();
    assert_eq!(request["listener_conn"], listening["conn"], "{request}");
    assert_eq!(request["pid"], server.who.pid, "{request}");
    assert_eq!(request["timer"], "syn_ack", "{request}");
    assert_eq!(socket_end(request, "raddr", "rport"), SocketAddr::V4(from));
    let unclear = mirror(&unclear);
    assert_eq!(unclear["accepted"], false, "{unclear}");
    assert!(unclear.get("listener_conn").is_none(), "{unclear}");
    assert!(unclear.get("pid").is_none(), "{unclear}");
    Ok(())
}

/// Without the right to load programs: the same, from `/proc`.
fn by_proc_alone() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let (near, far) = meet(&mut client, &mut server, &listener, listener.local);
    let child = server.fork();
    // As if the kernel had no types to tell.
    let (rows, _) = list(&["--btf", "/nonexistent"]);
    let rows = within(&rows, &netns);
    assert_eq!(rows.len(), 3);
    assert_eq!(of(&rows, &near)["pid"], client.who.pid);
    assert_eq!(of(&rows, &far)["pid"], server.who.pid);
    let both = BTreeSet::from([u64::from(server.who.pid), u64::from(child.who.pid)]);
    assert_eq!(pids(of(&rows, &far)), both);
    Ok(())
}

/// Whoever may not look sees the sockets and no owners, and reads in one line that it is so.
fn without_rights() -> Outcome {
    possible()?;
    let folder = Folder::new("list");
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    meet(&mut client, &mut server, &listener, listener.local);
    let network = CapabilitySet::NET_ADMIN;
    let confine: [&dyn Fn(&mut Command); 3] = [
        &|command| {
            with_capabilities(command, CapabilitySet::empty(), None);
        },
        &|command| {
            with_capabilities(command, network, None);
        },
        &|command| {
            as_root_with(command, network);
        },
    ];
    let program = folder.program();
    for confine in confine {
        let mut command = Command::new(&program);
        command.args(["list", "--json"]).current_dir("/");
        netns.enter(&mut command);
        confine(&mut command);
        let (rows, stderr) = run(&mut command);
        let rows = within(&rows, &netns);
        assert_eq!(rows.len(), 3, "{rows:#?}");
        // A tracer that runs here may know, and tells nobody without the right to ask.
        assert!(rows.values().all(|row| pids(row).is_empty()), "{rows:#?}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in ["not shown: what ", " processes hold", "run it with sudo"] {
            assert!(stderr.contains(part), "{stderr}");
        }
    }
    Ok(())
}
