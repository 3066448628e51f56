//! Each record names its owner.

use std::{collections::BTreeMap, net::SocketAddr};

use super::own_ids;
use crate::{
    actor::{Held, Who},
    record::{self, Record},
};

/// Around `accept()` returning, either owner is right: the record of the acceptance and a
/// transition on another CPU do not wait for each other.
const ACCEPT_TOLERANCE_US: u64 = 1000;

/// Who is behind a connection between two processes of a test.
#[derive(Clone, Debug)]
pub struct Pair {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub dialer: Who,
    pub listener: Who,
    /// [`None`]: nobody accepted
    pub acceptor: Option<Who>,
    /// Who has each socket at its end, if another than whoever connected or accepted: client's, server's
    pub heirs: [Option<Who>; 2],
    /// Cookies of the client's and the server's socket, where known
    pub cookies: [Option<String>; 2],
}

impl Pair {
    pub fn new(client: &Held, dialer: &Who, server: &Held, acceptor: &Who) -> Self {
        Self {
            client: client.local,
            server: client.remote,
            dialer: dialer.clone(),
            listener: acceptor.clone(),
            acceptor: Some(acceptor.clone()),
            heirs: [None, None],
            cookies: [Some(client.cookie.clone()), Some(server.cookie.clone())],
        }
    }

    /// A connection of which only the ends are known.
    pub fn dialed(client: SocketAddr, server: SocketAddr, dialer: &Who, acceptor: &Who) -> Self {
        Self {
            client,
            server: SocketAddr::new(server.ip().to_canonical(), server.port()),
            dialer: dialer.clone(),
            listener: acceptor.clone(),
            acceptor: Some(acceptor.clone()),
            heirs: [None, None],
            cookies: [None, None],
        }
    }

    /// The listening process is not the accepting one.
    pub fn listened_by(mut self, listener: &Who) -> Self {
        self.listener = listener.clone();
        self
    }

    /// The client's socket is this process's in the end.
    pub fn left_by_client(mut self, heir: &Who) -> Self {
        self.heirs[0] = Some(heir.clone());
        self
    }

    /// The server's socket is this process's in the end.
    pub fn left_by_server(mut self, heir: &Who) -> Self {
        self.heirs[1] = Some(heir.clone());
        self
    }

    /// Whether the record is about either of its sockets.
    pub fn is_of(&self, record: &Record) -> bool {
        let sides = |remote| self.matches(record.local(), remote).contains(&true);
        record.remote().is_some_and(sides)
    }

    fn matches(&self, local: SocketAddr, remote: SocketAddr) -> [bool; 2] {
        [
            (local, remote) == (self.client, self.server),
            (local, remote) == (self.server, self.client),
        ]
    }
}

/// The accept hook in use, as the start record names it.
pub fn accept_hook(start: &Record) -> &str {
    start
        .get("hooks")
        .and_then(|hooks| hooks.get("accept"))
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
}

/// Whether the tracer can name who accepts through `io_uring`: by the hooks inside the kernel's
/// accept, not by those at the end of the system call.
pub fn sees_io_uring_accept(start: &Record) -> bool {
    let hook = accept_hook(start);
    ["__inet_accept", "sock_graft", "inet_csk_accept"]
        .iter()
        .any(|inside| hook.contains(inside))
}

/// Whether the tracer can name who sits in `accept()` since before it was started: not where it
/// learns of the return from a function that was entered before.
pub fn sees_blocked_accept(start: &Record) -> bool {
    let hook = accept_hook(start);
    !hook.is_empty() && hook != "none" && !hook.starts_with("kretprobe")
}

/// Every record about a connection names the process whose connection it is: on the client's side
/// the one that connected, on the server's the listening one and then the accepting one.
pub fn owners(pairs: &[Pair], records: &[&Record]) {
    let mut sides: BTreeMap<(SocketAddr, SocketAddr), Vec<&Record>> = BTreeMap::new();
    for record in records {
        if let Some(remote) = record.remote() {
            sides
                .entry((record.local(), remote))
                .or_default()
                .push(record);
        }
    }
    for (&(local, remote), records) in &sides {
        assert!(
            pairs
                .iter()
                .any(|pair| pair.matches(local, remote).contains(&true)),
            "nobody made this connection:\n{}",
            record::lines(records)
        );
    }
    for pair in pairs {
        let side = |local, remote| {
            sides
                .get(&(local, remote))
                .unwrap_or_else(|| panic!("no record of {local} -> {remote}"))
        };
        let client = side(pair.client, pair.server);
        client_side(&pair.dialer, inherited(client, pair.heirs[0].as_ref()));
        let server = side(pair.server, pair.client);
        server_side(pair, inherited(server, pair.heirs[1].as_ref()));
        for (records, cookie) in [client, server].into_iter().zip(&pair.cookies) {
            if let Some(cookie) = cookie {
                assert!(
                    records[0].conn() == cookie || own_ids(),
                    "conn is not the socket's cookie {cookie}:\n{}",
                    record::lines(records)
                );
            }
        }
    }
}

/// From the record that says so on, all name the heir. Returns those before.
fn inherited<'ours>(records: &'ours [&'ours Record], heir: Option<&Who>) -> &'ours [&'ours Record] {
    let handover = records.iter().position(|record| record.event() == "owner");
    let (before, after) = records.split_at(handover.unwrap_or(records.len()));
    assert_eq!(
        handover.is_some(),
        heir.is_some(),
        "`owner` records:\n{}",
        record::lines(records)
    );
    for record in after {
        names(record, "handover", heir.unwrap(), records);
    }
    before
}

/// The accept went unseen: who accepted shows when that process changes the connection's state, and until then
/// nobody is named but the listening process.
pub fn found_later(pair: &Pair, records: &[&Record]) {
    let acceptor: u64 = pair.acceptor.as_ref().unwrap().pid.into();
    let (server, client): (Vec<_>, Vec<_>) = records
        .iter()
        .copied()
        .partition(|record| record.role() == "server");
    client_side(&pair.dialer, &client);
    let told = |event: &str| -> Vec<_> {
        let of_event = server.iter().filter(|record| record.event() == event);
        of_event.map(|record| record.int("pid")).collect()
    };
    assert_eq!(
        (told("accept"), told("close")),
        (vec![Some(acceptor)], vec![Some(acceptor)]),
        "{}",
        record::lines(records)
    );
    let listener: u64 = pair.listener.pid.into();
    for record in server {
        let is_inferred = record.get("inferred").is_some();
        assert!(record.event() != "accept" || is_inferred, "{}", record.line);
        let named = record.int("pid");
        assert!(
            named.is_none_or(|pid| pid == acceptor || pid == listener),
            "{}",
            record.line
        );
    }
}

/// The records of a socket that connected.
pub fn client_side(dialer: &Who, records: &[&Record]) {
    for record in records {
        assert_eq!(record.role(), "client", "{}", record::lines(records));
        names(record, "connect", dialer, records);
    }
}

/// The records of a socket that a listener made.
pub fn server_side(pair: &Pair, records: &[&Record]) {
    let accepts: Vec<_> = records
        .iter()
        .filter(|record| record.event() == "accept")
        .collect();
    let expected = usize::from(pair.acceptor.is_some());
    assert_eq!(
        accepts.len(),
        expected,
        "accept records:\n{}",
        record::lines(records)
    );
    let accepted_us = accepts.first().map(|accept| accept.mono_us());
    for record in records {
        assert_eq!(record.role(), "server", "{}", record::lines(records));
        let at_us = record.mono_us();
        let before = accepted_us.is_none_or(|accept| at_us + ACCEPT_TOLERANCE_US < accept);
        let after = accepted_us.is_some_and(|accept| at_us > accept + ACCEPT_TOLERANCE_US);
        match (&pair.acceptor, record.source()) {
            (_, "listener") if !after && !matches!(record.event(), "accept") => {
                names(record, "listener", &pair.listener, records);
            }
            (Some(acceptor), _) if !before => names(record, "accept", acceptor, records),
            _ => names(record, "listener", &pair.listener, records),
        }
    }
    if let Some(accept) = accepts.first() {
        assert_eq!(
            accept.int("listener_pid"),
            Some(pair.listener.pid.into()),
            "listener_pid: {}",
            accept.line
        );
        assert!(accept.int("wait_us").is_some(), "wait_us: {}", accept.line);
    }
}

/// The record names this owner, known in this way.
pub fn names(record: &Record, source: &str, who: &Who, context: &[&Record]) {
    let named = (
        record.source(),
        record.int("pid"),
        record.text("comm"),
        record.int("uid"),
    );
    let expected = (
        source,
        Some(who.pid.into()),
        Some(who.comm.as_str()),
        Some(u64::from(who.uid)),
    );
    assert_eq!(
        named,
        expected,
        "owner (how known, pid, comm, uid) in\n{}\namong\n{}",
        record.line,
        record::lines(context)
    );
}
