//! Every way from one state to another that Linux has, of those in the diagram of RFC 9293 and
//! of those it leaves to the text.
//!
//! The peer is a script ([`wire`](crate::wire)) in most of them: segments that cross each other
//! are a matter of luck between two kernels.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, SocketAddrV4},
    time::Duration,
};

use crate::{
    actor::{Actor, Held, Listener},
    fate,
    harness::{Test, beside},
    netns::{Ip, Netns},
    reasons::meet_puppet,
    record::Record,
    stage::{Exchange, Stage},
    timewait::await_state,
    wire::{ACK, FIN, Puppet, RST, SYN, Wire},
};

pub(crate) const TESTS: &[Test] = &[beside!(all).smoke()];

/// A way between two states, and the part of this file that takes it.
type Edge = (&'static str, &'static str, &'static str);

/// RFC 9293, figure 5, and the resets and time-outs of its section 3.10.
///
/// Not in it, since Linux does not have them: `LISTEN` to `SYN_SENT` (a listener cannot send), and
/// `SYN_RECV` back to `LISTEN` (a listener's request is no socket until its last ACK).
/// `FIN_WAIT1` to `TIME_WAIT`, by a FIN that acknowledges ours, leads through `FIN_WAIT2`, which
/// lasts no time.
const EDGES: &[Edge] = &[
    ("CLOSE", "LISTEN", "listener"),
    ("LISTEN", "CLOSE", "listener"),
    ("CLOSE", "SYN_SENT", "client"),
    ("SYN_SENT", "ESTABLISHED", "client"),
    ("LISTEN", "SYN_RECV", "server"),
    ("SYN_RECV", "ESTABLISHED", "server"),
    ("SYN_SENT", "SYN_RECV", "crossing_syns"),
    ("SYN_RECV", "FIN_WAIT1", "closed_in_syn_recv"),
    ("ESTABLISHED", "FIN_WAIT1", "client"),
    ("ESTABLISHED", "CLOSE_WAIT", "server"),
    ("FIN_WAIT1", "FIN_WAIT2", "client"),
    ("FIN_WAIT1", "CLOSING", "crossing_fins"),
    ("FIN_WAIT2", "TIME_WAIT", "client"),
    ("CLOSING", "TIME_WAIT", "crossing_fins"),
    ("CLOSE_WAIT", "LAST_ACK", "server"),
    ("LAST_ACK", "CLOSE", "server"),
    ("TIME_WAIT", "CLOSE", "reset_everywhere"),
    ("SYN_SENT", "CLOSE", "reset_everywhere"),
    ("SYN_RECV", "CLOSE", "reset_everywhere"),
    ("ESTABLISHED", "CLOSE", "reset_everywhere"),
    ("FIN_WAIT1", "CLOSE", "reset_everywhere"),
    ("FIN_WAIT2", "CLOSE", "reset_everywhere"),
    ("CLOSING", "CLOSE", "reset_everywhere"),
    ("CLOSE_WAIT", "CLOSE", "reset_everywhere"),
    // What the kernel reports when a socket is closed that is on its way out already.
    ("FIN_WAIT1", "FIN_WAIT1", "closed_twice"),
    ("FIN_WAIT2", "FIN_WAIT2", "closed_twice"),
    ("CLOSING", "CLOSING", "closed_twice"),
    ("LAST_ACK", "LAST_ACK", "closed_twice"),
];

struct Set<'wire> {
    netns: &'wire Netns,
    wire: &'wire Wire,
    client: Actor,
    server: Actor,
    listener: Listener,
    ports: std::ops::RangeFrom<u16>,
    /// Whose connection it is, by its own port and the peer's
    takers: RefCell<BTreeMap<(u16, u16), &'static str>>,
}

impl<'wire> Set<'wire> {
    fn note(&self, local: SocketAddr, remote: SocketAddr, taker: &'static str) {
        let ports = (local.port(), remote.port());
        self.takers.borrow_mut().insert(ports, taker);
    }

    /// A connection to the script, established.
    fn puppet(&mut self, taker: &'static str) -> (Held, Puppet<'wire>) {
        let port = self.ports.next().unwrap();
        let (held, puppet) = meet_puppet(self.wire, &mut self.client, port);
        self.note(held.local, held.remote, taker);
        (held, puppet)
    }

    /// One whose SYN is on its way.
    fn caller(&mut self, taker: &'static str) -> (Held, Puppet<'wire>) {
        let here = SocketAddrV4::new(Wire::host(1), self.ports.next().unwrap());
        let held = self.client.begin(here.into());
        self.note(held.local, held.remote, taker);
        (held, Puppet::called(self.wire, here))
    }

    fn reaches(&self, held: &Held, state: &str) {
        await_state(self.netns, held, Some(state));
    }

    fn is_gone(&self, held: &Held) {
        await_state(self.netns, held, None);
    }

    /// Both from the first to the last segment.
    fn client_and_server(&mut self) {
        self.server.tell_accept(&self.listener, "");
        let (client, server) = (&mut self.client, &mut self.server);
        let (near, far) = Exchange::default().meet(client, server, self.listener.local);
        client.close(&near);
        server.act("eof", &far);
        server.close(&far);
        self.note(near.local, near.remote, "client");
        self.note(far.local, far.remote, "server");
    }

    fn syns_cross(&mut self, taker: &'static str) -> (Held, Puppet<'wire>) {
        let (held, mut puppet) = self.caller(taker);
        puppet.say(SYN);
        puppet.hear_again(SYN | ACK);
        self.reaches(&held, "SYN_RECV");
        (held, puppet)
    }

    fn crossing_syns(&mut self) {
        let (held, mut puppet) = self.syns_cross("crossing_syns");
        puppet.say(ACK);
        self.client.finish(&held).unwrap();
        puppet.say(RST | ACK);
        self.is_gone(&held);
        self.client.close(&held);
    }

    fn closed_in_syn_recv(&mut self) {
        let (held, mut puppet) = self.syns_cross("closed_in_syn_recv");
        self.client.close(&held);
        self.reaches(&held, "FIN_WAIT1");
        puppet.say(RST | ACK);
        self.is_gone(&held);
    }

    fn fins_cross(&mut self, taker: &'static str, last: &str) -> (Held, Puppet<'wire>) {
        let (held, mut puppet) = self.puppet(taker);
        self.client.act(last, &held);
        let fin = puppet.hear(FIN);
        puppet.unhear(&fin);
        puppet.say(FIN | ACK);
        self.reaches(&held, "CLOSING");
        puppet.hear(FIN);
        (held, puppet)
    }

    fn crossing_fins(&mut self) {
        let (held, mut puppet) = self.fins_cross("crossing_fins", "close");
        puppet.say(ACK);
        self.reaches(&held, "TIME_WAIT");
    }

    /// The process closes a socket that it has shut down, in each state in which that is no
    /// change.
    fn closed_twice(&mut self) {
        const TAKER: &str = "closed_twice";
        let (held, mut puppet) = self.puppet(TAKER);
        self.client.act("shutdown", &held);
        puppet.hear(FIN);
        self.client.close(&held);
        puppet.say(RST | ACK);
        self.is_gone(&held);

        let (held, mut puppet) = self.puppet(TAKER);
        self.client.act("shutdown", &held);
        puppet.hear(FIN);
        puppet.say(ACK);
        self.reaches(&held, "FIN_WAIT2");
        self.client.close(&held);
        puppet.say(FIN | ACK);
        self.reaches(&held, "TIME_WAIT");

        let (held, mut puppet) = self.fins_cross(TAKER, "shutdown");
        self.client.close(&held);
        puppet.say(ACK);
        self.reaches(&held, "TIME_WAIT");

        let (held, mut puppet) = self.puppet(TAKER);
        puppet.say(FIN | ACK);
        self.client.act("eof", &held);
        self.client.act("shutdown", &held);
        puppet.hear(FIN);
        self.client.close(&held);
        puppet.say(ACK);
        self.is_gone(&held);
    }

    fn reset_everywhere(&mut self) {
        const TAKER: &str = "reset_everywhere";
        let reset = |set: &Self, held: &Held, mut puppet: Puppet<'_>| {
            puppet.say(RST | ACK);
            set.is_gone(held);
        };
        let (held, puppet) = self.caller(TAKER);
        reset(self, &held, puppet);

        let (held, puppet) = self.syns_cross(TAKER);
        reset(self, &held, puppet);

        let (held, puppet) = self.puppet(TAKER);
        reset(self, &held, puppet);

        let (held, mut puppet) = self.puppet(TAKER);
        self.client.act("shutdown", &held);
        puppet.hear(FIN);
        self.reaches(&held, "FIN_WAIT1");
        reset(self, &held, puppet);

        let (held, mut puppet) = self.puppet(TAKER);
        self.client.act("shutdown", &held);
        puppet.hear(FIN);
        puppet.say(ACK);
        self.reaches(&held, "FIN_WAIT2");
        reset(self, &held, puppet);

        let (held, puppet) = self.fins_cross(TAKER, "shutdown");
        reset(self, &held, puppet);

        let (held, mut puppet) = self.puppet(TAKER);
        self.client.act("shutdown", &held);
        puppet.hear(FIN);
        puppet.say(FIN | ACK);
        puppet.hear(ACK);
        self.reaches(&held, "TIME_WAIT");
        reset(self, &held, puppet);

        let (held, mut puppet) = self.puppet(TAKER);
        puppet.say(FIN | ACK);
        self.reaches(&held, "CLOSE_WAIT");
        reset(self, &held, puppet);

        let (held, mut puppet) = self.puppet(TAKER);
        puppet.say(FIN | ACK);
        self.client.act("eof", &held);
        self.client.close(&held);
        puppet.hear(FIN);
        self.reaches(&held, "LAST_ACK");
        reset(self, &held, puppet);
    }
}

fn all() {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let stage = Stage::over(netns, &["--no-existing"]);
    let client = Actor::spawn(&stage.netns, "client");
    let mut server = Actor::spawn(&stage.netns, "server");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    let at = listener.local;
    let mut set = Set {
        netns: &stage.netns,
        wire: &wire,
        client,
        server,
        listener,
        ports: 2000..,
        takers: RefCell::default(),
    };
    set.client_and_server();
    set.crossing_syns();
    set.closed_in_syn_recv();
    set.crossing_fins();
    set.closed_twice();
    set.reset_everywhere();
    set.server.unlisten(&set.listener);
    let takers = set.takers.into_inner();
    let taker = |record: &Record| match record.remote() {
        None if record.local() == at => Some("listener"),
        None => None,
        Some(remote) => {
            let ports = (record.local().port(), remote.port());
            takers.get(&ports).copied()
        }
    };
    // The only TIME_WAIT that ends here: nothing else waits for it.
    stage
        .tracer
        .wait_for("the end of TIME_WAIT", Duration::from_secs(5), |record| {
            record.event() == "transition"
                && record.text("old") == Some("TIME_WAIT")
                && taker(record) == Some("reset_everywhere")
        });

    let told = stage.end(0, &[]);
    fate::check(&told, &[]);
    let seen: BTreeSet<_> = told
        .ours()
        .into_iter()
        .filter_map(|record| {
            Some((
                record.text("old")?.to_owned(),
                record.text("new")?.to_owned(),
                taker(record)?,
            ))
        })
        .collect();
    let missing: Vec<_> = EDGES
        .iter()
        .filter(|(old, new, taker)| !seen.contains(&((*old).to_owned(), (*new).to_owned(), *taker)))
        .collect();
    assert!(missing.is_empty(), "nobody took {missing:?}\nbut {seen:#?}");
    let strange: Vec<_> = seen
        .iter()
        .filter(|(old, new, _)| !EDGES.iter().any(|edge| (edge.0, edge.1) == (old, new)))
        .collect();
    assert!(strange.is_empty(), "no way that is known: {strange:?}");
}
