//! `tcptrace listen`: queues that are full, what fills them, and what is accepted meanwhile.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::{
    actor::Actor,
    harness::{Outcome, Test, beside},
    list::possible,
    netns::{Ip, Netns},
    tracer::binary,
    wait,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(full_queue),
    beside!(one_row_for_an_address),
    beside!(accepts_between_looks),
];

fn listen(args: &[&str]) -> Vec<Value> {
    let mut command = Command::new(binary());
    let output = command
        .args(["listen", "--json"])
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn at(rows: &[Value], netns: &Netns, addr: SocketAddr) -> Value {
    let row = rows.iter().find(|row| {
        row["netns"] == netns.inode
            && row["lport"] == addr.port()
            && row["laddr"] == addr.ip().to_string().as_str()
    });
    row.unwrap_or_else(|| panic!("nobody listens on {addr}: {rows:#?}"))
        .clone()
}

/// What the kernel has counted in the namespace: dropped, and of these for a full queue.
fn counted(netns: &Netns) -> (u64, u64) {
    let text = netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let of = |wanted: &str| {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs
            .find(|(name, _)| *name == wanted)
            .unwrap()
            .1
            .parse()
            .unwrap()
    };
    (of("ListenDrops"), of("ListenOverflows"))
}

fn full_queue() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "sleepy");
    let listener = server.listen(netns.addr(Ip::V4, 0), "backlog=4");
    let idle = server.listen(netns.addr(Ip::V6, 0), "");
    for _ in 0..20 {
        client.begin(listener.local);
    }
    // Whom there is no room for tries again and again: two looks at what the kernel counts, around ours.
    let full = wait::poll(std::time::Duration::from_secs(20), || {
        let before = counted(&netns).0;
        let rows = listen(&[]);
        let row = at(&rows, &netns, listener.local);
        (before > 0 && row["drops"] == before && counted(&netns).0 == before).then_some(row)
    });
    let row = full.expect("as many drops as the kernel has counted");
    assert_eq!(row["backlog"], 5, "one more than the limit: {row}");
    assert_eq!(row["backlog_max"], 4, "{row}");
    assert_eq!(row["limited_by"], "listen", "{row}");
    assert_eq!(row["pid"], server.who.pid, "{row}");
    assert!(row["waiting_us"].as_u64().is_some(), "{row}");
    let trouble = row["trouble"]
        .as_str()
        .unwrap_or_else(|| panic!("no trouble: {row}"));
    for part in [
        "5 wait, the limit is 4",
        &format!("sleepy ({}) is in ", server.who.pid),
        "the argument of listen()",
        "net.core.somaxconn",
        "dropped",
    ] {
        assert!(trouble.contains(part), "{part:?} is not in {trouble:?}");
    }
    let rows = listen(&["--port", &idle.local.port().to_string()]);
    let idle = at(&rows, &netns, idle.local);
    assert!(idle.get("trouble").is_none(), "{idle}");
    assert_eq!(
        (&idle["backlog"], &idle["drops"]),
        (&0.into(), &0.into()),
        "{idle}"
    );
    Ok(())
}

fn one_row_for_an_address() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut first = Actor::spawn(&netns, "first");
    let mut second = Actor::spawn(&netns, "second");
    let one = first.listen(netns.addr(Ip::V4, 0), "reuseport backlog=3");
    let other = second.listen(one.local, "reuseport backlog=4");
    assert_eq!(one.local, other.local);
    let child = first.fork();
    let rows = listen(&[]);
    let of_ours: Vec<_> = rows
        .iter()
        .filter(|row| row["netns"] == netns.inode)
        .collect();
    assert_eq!(of_ours.len(), 1, "{of_ours:#?}");
    let row = of_ours[0];
    assert_eq!(
        (&row["sockets"], &row["backlog_max"]),
        (&2.into(), &7.into()),
        "{row}"
    );
    let owners = row["owners"].as_array().unwrap().iter();
    let mut pids: Vec<_> = owners.map(|owner| owner["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    let mut expected = [first.who.pid, second.who.pid, child.who.pid].map(u64::from);
    expected.sort_unstable();
    assert_eq!(pids, expected, "{row}");
    Ok(())
}

/// Ends with the test, whatever becomes of it.
struct Live(Child);

impl Drop for Live {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        self.0.wait().unwrap();
    }
}

fn accepts_between_looks() -> Outcome {
    const MANY: usize = 30;
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "backlog=64");
    let port = listener.local.port().to_string();
    let mut command = Command::new(binary());
    command.args(["listen", "--json", "-i", "0.2", "-L", &port]);
    let mut live = Live(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(live.0.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    // What is accepted from here on is seen.
    next();
    client.tell_hold(listener.local, MANY);
    client.answer();
    server.tell_take(&listener, MANY);
    server.answer();
    let (mut accepted, mut deepest) = (0, 0);
    while accepted < MANY as u64 {
        let row = next();
        assert_eq!(row["pid"], server.who.pid, "{row}");
        accepted += row["accepts"].as_u64().unwrap_or(0);
        deepest = deepest.max(row["backlog_deepest"].as_u64().unwrap_or(0));
        if row["accepts"].as_u64().unwrap_or(0) > 0 {
            assert!(
                row["accept_wait_p50_us"].is_u64() && row["accept_wait_p99_us"].is_u64(),
                "{row}"
            );
        }
    }
    assert_eq!(accepted, MANY as u64);
    assert_eq!(deepest, MANY as u64, "all of them waited at once");
    let row = next();
    assert_eq!(row["accepts"], 0, "{row}");
    assert!(row["not_accepted_us"].as_u64().unwrap() > 0, "{row}");
    let pid = Pid::from_raw(live.0.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert!(live.0.wait().unwrap().success());
    Ok(())
}
