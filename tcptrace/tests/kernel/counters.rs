//! The numbers of a connection at its end are those that the kernel tells its owner.
//!
//! `getsockopt(TCP_INFO)` still answers when a socket has come to its end but is not closed. By
//! then nothing changes any more, so every number must be the same.

use serde_json::Value;

use crate::{
    actor::{Actor, Held},
    harness::{Test, beside},
    netns::{Ip, Netns},
    reasons::meet_puppet,
    record::Record,
    stage::{Exchange, Stage, Told},
    wire::{ACK, FIN, Wire},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(both_ends).smoke(),
    beside!(after_a_reset).smoke(),
    beside!(without_options),
    beside!(retransmits).smoke(),
    beside!(open_at_start).smoke(),
];

/// `struct tcp_info` of `linux/tcp.h`, which grows at its end only.
struct Info {
    bytes: Vec<u8>,
    congestion: String,
    /// Whether the peer's FIN has come, which the kernel counts as a byte received
    fin: bool,
}

impl Info {
    fn of(actor: &mut Actor, held: &Held) -> Self {
        let hex = actor.act("info", held);
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Self {
            bytes: (0..hex.len()).step_by(2).map(byte).collect(),
            congestion: actor.act("congestion", held),
            fin: true,
        }
    }

    fn without_fin(self) -> Self {
        Self { fin: false, ..self }
    }

    fn word(&self, at: usize) -> u64 {
        u32::from_ne_bytes(self.bytes[at..at + 4].try_into().unwrap()).into()
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn total_retrans(&self) -> u64 {
        self.word(100)
    }

    fn bytes_retrans(&self) -> u64 {
        self.long(208)
    }

    fn options(&self) -> Vec<&'static str> {
        const NAMES: [(u8, &str); 5] = [
            (1, "timestamps"),
            (2, "sack"),
            (4, "wscale"),
            (8, "ecn"),
            (32, "fastopen"),
        ];
        let mut options: Vec<_> = NAMES
            .iter()
            .filter(|(bit, _)| self.bytes[5] & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        options.sort_unstable();
        options
    }

    /// Every fault in the record.
    fn compare(&self, close: &Record) -> Vec<String> {
        let scaled = self.bytes[5] & 4 != 0;
        // The kernel says 2^32-1 µs where it has no measurement.
        let measured = |us: u64| (us != u64::from(u32::MAX)).then_some(us);
        let scale = |bits: u8| scaled.then_some(u64::from(bits & 15));
        let [low, high] = [self.bytes[6], self.bytes[6] >> 4];
        let [snd, rcv] = if cfg!(target_endian = "little") {
            [low, high]
        } else {
            [high, low]
        };
        let expected = [
            ("tx_bytes", Some(self.long(200))),
            ("rx_bytes", Some(self.long(128) - u64::from(self.fin))),
            ("retrans_bytes", Some(self.bytes_retrans())),
            ("tx_segs", Some(self.word(136))),
            ("rx_segs", Some(self.word(140))),
            ("retransmits", Some(self.total_retrans())),
            ("srtt_us", Some(self.word(68))),
            ("min_rtt_us", measured(self.word(148))),
            ("mss", Some(self.word(16))),
            ("cwnd", Some(self.word(80))),
            ("snd_wscale", scale(snd)),
            ("rcv_wscale", scale(rcv)),
        ];
        let mut faults = Vec::new();
        for (key, value) in expected {
            let told = close.int(key);
            // What is nothing may be left out.
            if told != value && told.unwrap_or(0) != value.unwrap_or(0) {
                faults.push(format!("{key} is {told:?}, and should be {value:?}"));
            }
        }
        if close.text("congestion") != Some(&self.congestion) {
            faults.push(format!("congestion should be {}", self.congestion));
        }
        let told = close.get("options").and_then(Value::as_array);
        let mut told: Vec<_> = told
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        told.sort_unstable();
        if told != self.options() {
            faults.push(format!("options should be {:?}", self.options()));
        }
        faults
    }
}

fn check(told: &Told, infos: &[(&Held, Info)]) {
    assert_eq!(told.records.lost(), 0, "{}", told.records.end().line);
    let mut faults = Vec::new();
    for (held, info) in infos {
        let close = close_of(told, held);
        for fault in info.compare(&close) {
            faults.push(format!("{} -> {}: {fault}", held.local, held.remote));
        }
    }
    let closes: Vec<_> = infos
        .iter()
        .map(|(held, _)| close_of(told, held).line)
        .collect();
    assert!(
        faults.is_empty(),
        "{}\n{}",
        faults.join("\n"),
        closes.join("\n")
    );
}

fn close_of(told: &Told, held: &Held) -> Record {
    let ours = told.ours();
    let close = ours
        .iter()
        .find(|record| record.event() == "close" && record.is_of(held));
    let close = close.unwrap_or_else(|| panic!("no end of {} -> {}", held.local, held.remote));
    (*close).clone()
}

/// Both ends come to their end while their processes still hold them.
fn wind_up(client: &mut Actor, near: &Held, server: &mut Actor, far: &Held) {
    client.act("shutdown", near);
    server.act("eof", far);
    server.act("shutdown", far);
    client.act("eof", near);
}

/// Sends so many bytes each way, in pieces that fit into any buffer.
fn talk(client: &mut Actor, near: &Held, server: &mut Actor, far: &Held, bytes: usize) {
    const PIECE: usize = 16 << 10;
    for at in (0..bytes).step_by(PIECE) {
        let piece = PIECE.min(bytes - at);
        client.act_on("send", near, piece);
        server.act_on("receive", far, piece);
        server.act_on("send", far, piece / 2 + 1);
        client.act_on("receive", near, piece / 2 + 1);
    }
}

fn both_ends() {
    let stage = Stage::open(&["--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let mut held = Vec::new();
    for (ip, bytes) in [
        (Ip::V4, 0),
        (Ip::V4, 1),
        (Ip::V6, 300_000),
        (Ip::Mapped, 70_000),
    ] {
        let listener = server.listen(stage.netns.addr(ip, 0), "");
        let addr = stage.netns.addr(ip, listener.local.port());
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(&mut client, &mut server, addr);
        talk(&mut client, &near, &mut server, &far, bytes);
        wind_up(&mut client, &near, &mut server, &far);
        held.push((near, far));
    }
    stage.netns.settle(0);
    let mut infos = Vec::new();
    for (near, far) in &held {
        infos.push((near, Info::of(&mut client, near)));
        infos.push((far, Info::of(&mut server, far)));
    }
    let told = stage.end(0, &[]);
    check(&told, &infos);
    for (near, far) in &held {
        let [near, far] = [near, far].map(|held| close_of(&told, held));
        // Nothing was lost on the way.
        for (sent, received) in [(&near, &far), (&far, &near)] {
            assert_eq!(
                sent.int("tx_bytes"),
                received.int("rx_bytes"),
                "{}\n{}",
                sent.line,
                received.line
            );
            assert_eq!(
                sent.int("isn"),
                received.int("peer_isn"),
                "{}\n{}",
                sent.line,
                received.line
            );
            assert!(sent.int("isn").is_some(), "{}", sent.line);
        }
    }
}

/// No FIN, so everything that was received was data.
fn after_a_reset() {
    let stage = Stage::open(&["--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    talk(&mut client, &near, &mut server, &far, 1000);
    client.act("linger", &near);
    client.close(&near);
    assert_eq!(server.act("error", &far), "ECONNRESET");
    let info = Info::of(&mut server, &far).without_fin();
    let told = stage.end(0, &[]);
    check(&told, &[(&far, info)]);
    let close = close_of(&told, &near);
    assert_eq!(close.int("tx_bytes"), Some(1000), "{}", close.line);
    assert_eq!(close.int("rx_bytes"), Some(501), "{}", close.line);
}

/// A peer of the last century.
fn without_options() {
    let netns = Netns::new();
    netns.set("tcp_sack", "0");
    netns.set("tcp_timestamps", "0");
    netns.set("tcp_window_scaling", "0");
    let stage = Stage::over(netns, &["--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    talk(&mut client, &near, &mut server, &far, 5000);
    wind_up(&mut client, &near, &mut server, &far);
    stage.netns.settle(0);
    let infos = [
        (&near, Info::of(&mut client, &near)),
        (&far, Info::of(&mut server, &far)),
    ];
    let told = stage.end(0, &[]);
    check(&told, &infos);
    for held in [&near, &far] {
        let close = close_of(&told, held);
        for key in ["snd_wscale", "rcv_wscale"] {
            assert!(close.get(key).is_none(), "{key}: {}", close.line);
        }
    }
}

/// The peer is deaf at first, and the kernel says everything twice: the SYN, data, and the FIN.
fn retransmits() {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing", "--events", "all"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let (near, mut puppet) = meet_puppet(&wire, &mut client, 80);
    client.act_on("send", &near, 700);
    puppet.hear_data();
    puppet.hear_again(ACK);
    puppet.say(ACK);
    client.act("shutdown", &near);
    puppet.hear(FIN);
    puppet.hear_again(FIN);
    puppet.say(FIN | ACK);
    client.act("eof", &near);
    stage.netns.settle(0);
    let info = Info::of(&mut client, &near);
    assert!(info.total_retrans() >= 2, "{}", info.total_retrans());
    assert!(info.bytes_retrans() >= 700, "{}", info.bytes_retrans());
    let count = info.total_retrans();
    let told = stage.end(0, &[]);
    check(&told, &[(&near, info)]);
    let close = close_of(&told, &near);
    assert_eq!(close.int("isn"), Some(puppet.first_heard.into()));
    assert_eq!(close.int("peer_isn"), Some(puppet.first_said.into()));

    let ours = told.ours();
    let again: Vec<_> = ours
        .iter()
        .filter(|record| record.event() == "retransmit" && record.is_of(&near))
        .collect();
    let counts: Vec<_> = again.iter().map(|record| record.int("count")).collect();
    assert_eq!(counts, (1..=count).map(Some).collect::<Vec<_>>());
    let states: Vec<_> = again.iter().map(|record| record.text("state")).collect();
    assert_eq!(states.first(), Some(&Some("ESTABLISHED")));
    assert_eq!(states.last(), Some(&Some("FIN_WAIT1")));
    for record in again {
        assert_eq!(record.text("kind"), Some("data"), "{}", record.line);
        assert_eq!(record.conn(), close.conn(), "{}", record.line);
        assert_eq!(record.int("pid"), Some(client.who.pid.into()));
    }
}

/// What was before the trace is in the kernel's numbers too.
fn open_at_start() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    talk(&mut client, &near, &mut server, &far, 40_000);
    let stage = Stage::over(netns, &[]);
    talk(&mut client, &near, &mut server, &far, 100);
    wind_up(&mut client, &near, &mut server, &far);
    stage.netns.settle(0);
    let infos = [
        (&near, Info::of(&mut client, &near)),
        (&far, Info::of(&mut server, &far)),
    ];
    let told = stage.end(0, &[]);
    check(&told, &infos);
    for held in [&near, &far] {
        let close = close_of(&told, held);
        assert_eq!(
            close.get("partial"),
            Some(&Value::Bool(true)),
            "{}",
            close.line
        );
        for key in ["isn", "peer_isn", "connect_us", "handshake_us"] {
            assert!(close.get(key).is_none(), "{key}: {}", close.line);
        }
    }
}
