//! Every socket of every namespace as `ss` sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::Command,
};

use serde_json::Value;

use super::{
    end, list,
    menagerie::{MANY, Menagerie},
    of, pids, possible, socket_end, within,
};
use crate::{
    harness::{Impossible, Outcome, Test, beside},
    netns::Netns,
};

pub(crate) const TESTS: &[Test] = &[beside!(as_ss_sees_it)];

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
    if let (Some(recv), Some(send)) = (recv, send) {
        assert_eq!((recv, send), line.queues, "{}", told());
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
