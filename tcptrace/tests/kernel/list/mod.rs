//! `tcptrace list`: which sockets there are, and whose.

pub(crate) mod ages;
mod menagerie;
pub(crate) mod owners;
pub(crate) mod ss;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    actor::{Actor, Held, Listener},
    harness::{Impossible, Outcome, Test, alone, beside},
    netns::{Ip, Netns},
    peer::First,
    tracer::binary,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(filters_and_order),
    alone!(comings_and_goings),
    beside!(watched),
];

/// Whether this kernel lists its sockets: a distribution may have left the module out.
pub(crate) fn possible() -> Outcome {
    let output = Command::new(binary()).arg("list").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) && stderr.contains("tcp_diag") {
        return Err(Impossible("the kernel has no tcp_diag".to_owned()));
    }
    Ok(())
}

/// What `tcptrace list` prints as JSON, and on standard error.
fn list(args: &[&str]) -> (Vec<Value>, String) {
    let mut command = Command::new(binary());
    command.args(["list", "--json"]).args(args);
    run(&mut command)
}

fn run(command: &mut Command) -> (Vec<Value>, String) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}: {stderr}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (rows.collect(), stderr)
}

/// The rows of a namespace by their ids. Each is there once.
fn within(rows: &[Value], netns: &Netns) -> BTreeMap<String, Value> {
    let mut by_id = BTreeMap::new();
    for row in rows.iter().filter(|row| row["netns"] == netns.inode) {
        let id = row["conn"].as_str().unwrap().to_owned();
        let twice = by_id.insert(id, row.clone());
        assert!(twice.is_none(), "listed twice: {row}");
    }
    by_id
}

/// What a tracer that somebody runs on this host knows is listed, too: ages, and owners by how they came to be.
fn nobody_else_traces(rows: &BTreeMap<String, Value>) -> Outcome {
    if rows.values().any(|row| row.get("age_us").is_some()) {
        return Err(Impossible("another tracer runs on this host".to_owned()));
    }
    Ok(())
}

fn of<'rows>(rows: &'rows BTreeMap<String, Value>, held: &Held) -> &'rows Value {
    rows.get(&held.cookie)
        .unwrap_or_else(|| panic!("{held:?} is not listed:\n{rows:#?}"))
}

/// The processes that have it open.
fn pids(row: &Value) -> BTreeSet<u64> {
    let owners = row["owners"].as_array();
    let owners = owners.into_iter().flatten();
    owners.map(|owner| owner["pid"].as_u64().unwrap()).collect()
}

/// An address and port as `ss` and the table write them.
fn end(text: &str) -> SocketAddr {
    let (address, port) = text.rsplit_once(':').unwrap();
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.split('%').next().unwrap();
    let address: IpAddr = if address == "*" {
        "::".parse().unwrap()
    } else {
        address.parse().unwrap()
    };
    SocketAddr::new(address.to_canonical(), port.parse().unwrap_or(0))
}

fn meet(
    client: &mut Actor,
    server: &mut Actor,
    listener: &Listener,
    addr: SocketAddr,
) -> (Held, Held) {
    server.tell_accept(listener, "");
    let near = client.connect(addr, "");
    (near, server.held())
}

fn socket_end(row: &Value, address: &str, port: &str) -> SocketAddr {
    let address = row[address]
        .as_str()
        .map_or(IpAddr::from([0_u8; 4]), |address| address.parse().unwrap());
    let port = row[port].as_u64().unwrap_or(0);
    SocketAddr::new(address, u16::try_from(port).unwrap())
}

fn filters_and_order() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let v6 = server.listen(netns.addr(Ip::V6, 0), "");
    let (near, _) = meet(&mut client, &mut server, &listener, listener.local);
    let (near6, _) = meet(&mut client, &mut server, &v6, v6.local);
    let count = |args: &[&str], expected: usize| {
        let (rows, _) = list(args);
        let rows = within(&rows, &netns);
        assert_eq!(rows.len(), expected, "{args:?}: {rows:#?}");
        rows
    };
    count(&[], 6);
    count(&["-4"], 3);
    count(&["-6"], 3);
    let port = listener.local.port().to_string();
    count(&["-L", &port], 2);
    count(&["-D", &port], 1);
    count(&["--port", &port], 3);
    count(&["--state", "listen"], 2);
    count(&["--role", "listener"], 2);
    count(&["--state", "estab"], 4);
    count(&["--idle", "1h"], 0);
    let of_client = count(&["-p", &client.who.pid.to_string()], 2);
    of(&of_client, &near);
    of(&of_client, &near6);
    // The table: sorted, of these columns, without titles.
    let pids = format!("{},{}", client.who.pid, server.who.pid);
    let mut command = Command::new(binary());
    command.args([
        "list",
        "--sort",
        "-local",
        "--columns",
        "pid,local",
        "--no-header",
    ]);
    let output = command.args(["-4", "-p", &pids]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut ends: Vec<_> = text
        .lines()
        .map(|line| end(line.split_whitespace().last().unwrap()))
        .collect();
    assert_eq!(ends.len(), 3, "{text}");
    assert!(ends.is_sorted_by(|one, next| one >= next), "{text}");
    ends.dedup();
    assert_eq!(
        ends.len(),
        2,
        "the listener and its child share an address: {text}"
    );
    Ok(())
}

/// Sockets that come and go while we look: none is there twice, none is another's.
fn comings_and_goings() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_serve_until_told(&listener, First::Client);
    client.tell(&format!("dial-until-told {} client", listener.local));
    let begin = Instant::now();
    for look in 0..20 {
        // Where the machine is emulated, one takes half a minute.
        if look >= 3 && begin.elapsed() > Duration::from_secs(20) {
            break;
        }
        let (rows, _) = list(&[]);
        for row in within(&rows, &netns).values() {
            let owner = row.get("pid").and_then(Value::as_u64);
            let expected = if row["lport"] == listener.local.port() {
                server.who.pid
            } else {
                client.who.pid
            };
            assert!(
                owner.is_none_or(|owner| owner == u64::from(expected)),
                "{row}"
            );
        }
    }
    Ok(())
}

fn watched() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let port = listener.local.port().to_string();
    let mut command = Command::new(binary());
    command.args(["list", "--json", "--watch", "0.1", "--port", &port]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = |change: Option<&str>, conn: Option<&str>| {
        let line = lines.next().unwrap().unwrap();
        let row: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(row.get("change").and_then(Value::as_str), change, "{row}");
        if let Some(conn) = conn {
            assert_eq!(row["conn"], conn, "{row}");
        }
        row
    };
    assert_eq!(next(None, None)["state"], "LISTEN");
    let near = client.connect(listener.local, "");
    let [one, other] = [next(Some("new"), None), next(Some("new"), None)];
    let queued = if one["accepted"] == false { one } else { other };
    assert_eq!(queued["accepted"], false, "{queued}");
    let far = server.accept(&listener);
    let accepted = next(Some("changed"), Some(&far.cookie));
    assert!(accepted.get("accepted").is_none(), "{accepted}");
    client.act("linger", &near);
    client.close(&near);
    // The reset leaves nothing of either end but the server's descriptor, which is no connection any more.
    for _ in 0..2 {
        next(Some("gone"), None);
    }
    let pid = rustix::process::Pid::from_raw(watch.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(watch.wait().unwrap().success());
    Ok(())
}
