//! `tcptrace list` against `ss`, which asks the same kernel in its own way, one namespace at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr, SocketAddrV4},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    actor::{Actor, Held, Listener, Who},
    harness::{Impossible, Outcome, Test, alone, beside},
    netns::{Ip, Netns},
    peer::First,
    stage::part,
    tracer::{Tracer, binary, now_us},
    wire::{ACK, FIN, Puppet, Wire},
};

// `list` knows more of a connection while any tracer runs on this host: where that matters, none of another
// test may.
pub(crate) const TESTS: &[Test] = &[
    beside!(as_ss_sees_it),
    alone!(all_owners).smoke(),
    alone!(not_accepted),
    beside!(filters_and_order),
    beside!(by_proc_alone),
    alone!(comings_and_goings),
    alone!(ages_from_a_tracer),
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

/// A line of `ss -tanpieOH`.
#[derive(Debug)]
struct Line {
    state: String,
    queues: (u64, u64),
    local: SocketAddr,
    remote: SocketAddr,
    /// What follows, as `name:value`
    fields: BTreeMap<String, String>,
    pids: BTreeSet<u64>,
    text: String,
}

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

impl Line {
    fn parse(text: &str) -> (String, Self) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [state, recv, send, local, remote, ref rest @ ..] = words[..] else {
            panic!("ss: {text}");
        };
        let fields: BTreeMap<String, String> = rest
            .iter()
            .filter_map(|word| word.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let pids = text
            .split("pid=")
            .skip(1)
            .map(|rest| rest.split(',').next().unwrap().parse().unwrap());
        let line = Self {
            state: state.to_owned(),
            queues: (recv.parse().unwrap(), send.parse().unwrap()),
            local: end(local),
            remote: end(remote),
            pids: pids.collect(),
            text: text.to_owned(),
            fields,
        };
        (line.fields["sk"].clone(), line)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name).and_then(|value| value.parse().ok())
    }

    /// What runs, until when (ms), how often it has.
    fn timer(&self) -> Option<(&str, u64, u64)> {
        let timer = self.fields.get("timer")?;
        let parts: Vec<_> = timer.trim_matches(['(', ')']).split(',').collect();
        let [name, until, retries] = parts[..] else {
            panic!("{timer}");
        };
        Some((name, milliseconds(until), retries.parse().unwrap()))
    }
}

/// `1min2sec`, `59sec`, `1.200ms` (that is 1.2 s), `200ms`
fn milliseconds(text: &str) -> u64 {
    let (minutes, rest) = text.split_once("min").unwrap_or(("0", text));
    let minutes: u64 = minutes.parse().unwrap();
    let rest = match (rest.strip_suffix("sec"), rest.strip_suffix("ms")) {
        (Some(seconds), _) => seconds.parse::<u64>().unwrap() * 1000,
        (_, Some(ms)) => match ms.split_once('.') {
            Some((seconds, ms)) => {
                seconds.parse::<u64>().unwrap() * 1000 + ms.parse::<u64>().unwrap()
            }
            None => ms.parse().unwrap(),
        },
        _ => 0,
    };
    minutes * 60_000 + rest
}

fn ss(netns: &Netns) -> BTreeMap<String, Line> {
    let mut command = Command::new("ss");
    command.arg("-tanpieOH");
    let output = netns.enter(&mut command).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(Line::parse).collect()
}

/// Connections of each menagerie that are like all others.
const MANY: usize = 450;

/// Sockets in each state that there is, and what keeps them there.
struct Menagerie {
    netns: Netns,
    wire: Wire,
    /// They end with it
    actors: Vec<Actor>,
    listeners: Vec<Listener>,
    established: Vec<(Held, Held)>,
    queued: Vec<Held>,
    silent: Vec<Held>,
}

impl Menagerie {
    fn gather() -> Self {
        let netns = Netns::new();
        let wire = Wire::stretch(&netns);
        let mut client = Actor::spawn(&netns, "client");
        let mut server = Actor::spawn(&netns, "server");
        client.become_user(1234);
        let mut established = Vec::new();
        let mut listeners = Vec::new();
        for ip in [Ip::V4, Ip::V6, Ip::Mapped] {
            let listener = server.listen(netns.addr(ip, 0), "backlog=7");
            let addr = netns.addr(ip, listener.local.port());
            for _ in 0..3 {
                established.push(meet(&mut client, &mut server, &listener, addr));
            }
            listeners.push(listener);
        }
        let everywhere = "[::]:0".parse().unwrap();
        listeners.push(server.listen(everywhere, "dual"));
        let first = server.listen(netns.addr(Ip::V4, 0), "reuseport");
        client.tell_hold(first.local, MANY);
        server.tell_take(&first, MANY);
        client.answer();
        server.answer();
        let mut second = Actor::spawn(&netns, "second");
        listeners.push(second.listen(first.local, "reuseport"));
        listeners.push(first);
        // Queues, timers and options.
        client.set(&established[0].0, "keepalive", 60);
        client.act_on("send", &established[1].0, 1000);
        // Whom nobody accepts.
        let queued: Vec<_> = (0..4)
            .map(|_| client.connect(netns.addr(Ip::V4, listeners[0].local.port()), ""))
            .collect();
        let mut actors = vec![server.fork(), client.fork()];
        actors.extend([server, client, second]);
        let mut menagerie = Self {
            netns,
            wire,
            actors,
            listeners,
            established,
            queued,
            silent: Vec::new(),
        };
        menagerie.close_some();
        menagerie.speak_with_silent_hosts();
        menagerie
    }

    /// `FIN_WAIT2`, `CLOSE_WAIT`, `TIME_WAIT`.
    fn close_some(&mut self) {
        let addr = self.netns.addr(Ip::V4, self.listeners[0].local.port());
        // The children have no copies of these.
        let mut half = Actor::spawn(&self.netns, "half");
        let mut other = Actor::spawn(&self.netns, "other");
        let listener = other.listen(self.netns.addr(Ip::V4, 0), "");
        assert_ne!(addr, listener.local);
        for both in [false, true] {
            let (near, far) = meet(&mut half, &mut other, &listener, listener.local);
            half.close(&near);
            other.act("eof", &far);
            if both {
                other.close(&far);
            }
        }
        let (near, _) = meet(&mut half, &mut other, &listener, listener.local);
        half.act("shutdown", &near);
        self.actors.extend([half, other]);
    }

    /// `SYN_SENT`, `SYN_RECV`, `FIN_WAIT1`, `CLOSING`, `LAST_ACK`: of hosts that do not answer.
    fn speak_with_silent_hosts(&mut self) {
        let host = |port| SocketAddrV4::new(Wire::host(9), port);
        let mut caller = Actor::spawn(&self.netns, "caller");
        self.silent.push(caller.begin(host(1).into()));
        let listener = SocketAddr::V4(SocketAddrV4::new(
            self.netns.v4,
            self.listeners[0].local.port(),
        ));
        // The queue of the first listener has room for them.
        for port in [2, 3] {
            Puppet::calling(&self.wire, host(port), listener).call();
        }
        for (port, their_fin_first, their_fin) in
            [(4, false, false), (5, true, false), (6, false, true)]
        {
            let held = caller.begin(host(port).into());
            let mut puppet = Puppet::called(&self.wire, host(port));
            puppet.accept();
            caller.finish(&held).unwrap();
            if their_fin_first {
                puppet.say(FIN | ACK);
                caller.act("eof", &held);
            }
            caller.close(&held);
            let fin = puppet.hear(FIN);
            puppet.unhear(&fin);
            if their_fin {
                puppet.say(FIN | ACK);
            }
        }
        self.actors.push(caller);
    }
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

fn as_ss_sees_it() -> Outcome {
    possible()?;
    if Command::new("ss").arg("-V").output().is_err() {
        return Err(Impossible("there is no ss here".to_owned()));
    }
    let all: Vec<_> = (0..5).map(|_| Menagerie::gather()).collect();
    let (before, _) = list(&[]);
    let seen: Vec<_> = all.iter().map(|one| ss(&one.netns)).collect();
    let (after, _) = list(&[]);
    for (one, seen) in all.iter().zip(&seen) {
        let (before, after) = (within(&before, &one.netns), within(&after, &one.netns));
        let ids = |rows: &BTreeMap<String, Value>| rows.keys().cloned().collect::<Vec<_>>();
        let theirs: Vec<_> = seen.keys().cloned().collect();
        assert_eq!(ids(&before), theirs, "{before:#?}\n{seen:#?}");
        assert_eq!(ids(&after), theirs);
        assert!(before.len() > 2 * MANY);
        let states: BTreeSet<_> = before
            .values()
            .map(|row| row["state"].as_str().unwrap())
            .collect();
        assert_eq!(
            states.len(),
            10,
            "all states that a listed socket can have: {states:?}"
        );
        for (id, line) in seen {
            same(&before[id], line, &after[id]);
        }
        assert_eq!(one.queued.len(), 4);
        assert_eq!(one.silent.len(), 1);
        for (near, far) in &one.established {
            assert_eq!(pids(of(&before, near)).len(), 2, "its child has a copy");
            assert_eq!(pids(of(&before, far)).len(), 2, "its child has a copy");
        }
    }
    Ok(())
}

fn socket_end(row: &Value, address: &str, port: &str) -> SocketAddr {
    let address = row[address]
        .as_str()
        .map_or(IpAddr::from([0_u8; 4]), |address| address.parse().unwrap());
    let port = row[port].as_u64().unwrap_or(0);
    SocketAddr::new(address, u16::try_from(port).unwrap())
}

/// One socket as it was told before and after `ss` has.
fn same(before: &Value, line: &Line, after: &Value) {
    let told = || format!("{before}\n{}\n{after}", line.text);
    let state = match before["state"].as_str().unwrap() {
        "ESTABLISHED" => "ESTAB".to_owned(),
        "FIN_WAIT1" => "FIN-WAIT-1".to_owned(),
        "FIN_WAIT2" => "FIN-WAIT-2".to_owned(),
        other => other.replace('_', "-"),
    };
    assert_eq!(state, line.state, "{}", told());
    assert_eq!(before["state"], after["state"], "{}", told());
    assert_eq!(
        socket_end(before, "laddr", "lport"),
        line.local,
        "{}",
        told()
    );
    if state != "LISTEN" {
        assert_eq!(
            socket_end(before, "raddr", "rport"),
            line.remote,
            "{}",
            told()
        );
    }
    let queues = if state == "LISTEN" {
        ["backlog", "backlog_max"]
    } else {
        ["recv_queue_bytes", "send_queue_bytes"]
    };
    let [recv, send] = queues.map(|name| before[name].as_u64());
    // Requests and pairs in TIME_WAIT have none.
    if recv.is_some() {
        assert_eq!((recv.unwrap(), send.unwrap()), line.queues, "{}", told());
    } else {
        assert_eq!(line.queues, (0, 0), "{}", told());
    }
    assert_eq!(
        before["inode"].as_u64().unwrap_or(0),
        line.number("ino").unwrap_or(0),
        "{}",
        told()
    );
    assert_eq!(pids(before), line.pids, "{}", told());
    same_timer(before, line, after);
    for (ours, theirs) in [
        ("mss", "mss"),
        ("cwnd", "cwnd"),
        ("tx_bytes", "bytes_sent"),
        ("tx_segs", "segs_out"),
        ("rx_segs", "segs_in"),
    ] {
        // Left out by ss where it is 0, and what is sent again may be counted meanwhile.
        if before[ours] == after[ours]
            && let Some(number) = line.number(theirs)
            && state != "LISTEN"
            && before.get(ours).is_some()
        {
            assert_eq!(before[ours].as_u64(), Some(number), "{ours}: {}", told());
        }
    }
}

fn same_timer(before: &Value, line: &Line, after: &Value) {
    let told = || format!("{before}\n{}\n{after}", line.text);
    let Some((name, until_ms, retries)) = line.timer() else {
        // It may run again meanwhile, or not yet.
        assert!(
            before.get("timer").is_none() || after.get("timer").is_none(),
            "{}",
            told()
        );
        return;
    };
    let names: &[&str] = match name {
        "on" => &["retransmit", "syn_ack"],
        "keepalive" => &["keepalive", "fin_timeout"],
        "timewait" => &["time_wait"],
        "persist" => &["persist"],
        other => panic!("timer {other}"),
    };
    let ours = |row: &Value| {
        let known = row["timer"]
            .as_str()
            .is_some_and(|name| names.contains(&name));
        known.then(|| {
            (
                row["timer_us"].as_u64().unwrap() / 1000,
                row["timer_retries"].as_u64().unwrap(),
            )
        })
    };
    let (Some(first), Some(last)) = (ours(before), ours(after)) else {
        panic!("another timer: {}", told());
    };
    assert!((first.1..=last.1).contains(&retries), "{}", told());
    if first.1 == last.1 && name != "on" {
        // ss leaves milliseconds out of what is longer than nine seconds.
        let rounding = if until_ms > 9000 { 1000 } else { 1 };
        assert!(
            last.0 <= until_ms + rounding && until_ms <= first.0 + rounding,
            "{}",
            told()
        );
    }
}

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

/// Sockets that come and go while we look: none is there twice, none is another's.
fn comings_and_goings() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_serve_until_told(&listener, First::Client);
    client.tell(&format!("dial-until-told {} client", listener.local));
    for _ in 0..20 {
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

/// What a tracer that runs has seen: since when a connection has been there and in its state, whose it is, and
/// whose it was.
fn ages_from_a_tracer() -> Outcome {
    possible()?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let mut early = vec![meet(&mut client, &mut server, &listener, listener.local)];
    let tracer = Tracer::start(&[]);
    let begin_us = now_us();
    let mut open: Vec<_> = (0..20)
        .map(|_| meet(&mut client, &mut server, &listener, listener.local))
        .collect();
    let opened_us = now_us();
    let closed: Vec<_> = open.drain(..10).collect();
    for (near, far) in &closed {
        part(&mut client, near, &mut server, far, First::Client);
    }
    let closed_us = now_us();

    let (rows, _) = list(&[]);
    let rows = within(&rows, &netns);
    let age = |row: &Value, name: &str| {
        let us = row[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {row}"));
        row["mono_us"].as_u64().unwrap() - us
    };
    for (near, far) in &open {
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
                begin_us - 1 <= began && began <= entered && entered <= opened_us + 1,
                "{row}"
            );
        }
    }
    for (near, _) in &closed {
        let row = of(&rows, near);
        assert_eq!(row["state"], "TIME_WAIT", "{row}");
        assert_eq!(row["pid"], client.who.pid, "{row}");
        assert_eq!(row["comm"], "client", "{row}");
        assert!(
            row.get("owners").is_none(),
            "nobody has it open any more: {row}"
        );
        let entered = age(row, "in_state_us");
        assert!(begin_us <= entered && entered <= closed_us + 1, "{row}");
    }
    // It was there before the tracer: when it began nobody knows.
    let (near, _) = early.pop().unwrap();
    let row = of(&rows, &near);
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
