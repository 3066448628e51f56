//! What a record says, field by field: the one list behind every format and export.
//!
//! The order is that of `docs/events.md`. What is not known is not named.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{End, Lost, Start, reset_reason};
use crate::{
    event::{Close, Connection, Event, Network, State, TcpOption},
    explain,
    identity::process::{Process, Processes},
};

/// The name of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As in `docs/events.md`
    pub name: &'static str,
    /// As a JSON object has it after the first: `,"name":`
    pub(super) json: &'static str,
}

macro_rules! field {
    ($name:literal) => {
        Field {
            name: $name,
            json: concat!(",\"", $name, "\":"),
        }
    };
}

/// Takes the fields of one record, in order.
pub trait Fields {
    /// A number that is never larger than 2^53.
    fn number(&mut self, field: Field, number: u64);
    /// A number that can be larger, and is a text therefore.
    fn large(&mut self, field: Field, number: u64);
    /// A number in lower-case hexadecimal.
    fn hex(&mut self, field: Field, number: u64);
    /// A text of ours: printable ASCII without quotes and backslashes.
    fn text(&mut self, field: Field, text: &str);
    /// Bytes that somebody else has chosen.
    fn outside(&mut self, field: Field, bytes: &[u8]);
    /// An address.
    fn address(&mut self, field: Field, address: IpAddr);
    /// Something that is so; it is not named where it is not.
    fn yes(&mut self, field: Field);
    /// States and the time spent in each, µs.
    fn states(&mut self, field: Field, states: impl Iterator<Item = (State, u64)>);
    /// Words of ours.
    fn words(&mut self, field: Field, words: impl Iterator<Item = &'static str>);
    /// Networks and how many of something came from each.
    fn networks(&mut self, field: Field, networks: impl Iterator<Item = (Network, u32)>);
    /// Names of ours with what belongs to each: text from outside.
    fn table(&mut self, field: Field, table: &BTreeMap<&'static str, String>);
    /// A state change.
    fn change(&mut self, old: State, new: State) {
        self.text(field!("old"), old.name());
        self.text(field!("new"), new.name());
    }
    /// A number, if it is known.
    fn known(&mut self, field: Field, number: Option<impl Into<u64>>) {
        if let Some(number) = number {
            self.number(field, number.into());
        }
    }
}

/// What a record is about: `event` of each format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first
    Start,
    /// A connection open at start
    Socket,
    /// A state change
    Transition,
    /// `accept()` returned a connection
    Accept,
    /// A segment was sent again
    Retransmit,
    /// RST sent or received
    Reset,
    /// Another process has become the owner
    Owner,
    /// What goes wrong at a listener
    Listener,
    /// What still waits when the limit has passed
    Slow,
    /// A connection still open at the end
    Open,
    /// The end of a connection, and its totals
    Close,
    /// What did not reach the reader
    Lost,
    /// The last
    End,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Start,
        Self::Socket,
        Self::Transition,
        Self::Accept,
        Self::Retransmit,
        Self::Reset,
        Self::Owner,
        Self::Listener,
        Self::Slow,
        Self::Open,
        Self::Close,
        Self::Lost,
        Self::End,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Socket => "socket",
            Self::Transition => "transition",
            Self::Accept => "accept",
            Self::Retransmit => "retransmit",
            Self::Reset => "reset",
            Self::Owner => "owner",
            Self::Listener => "listener",
            Self::Slow => "slow",
            Self::Open => "open",
            Self::Close => "close",
            Self::Lost => "lost",
            Self::End => "end",
        }
    }
}

impl From<&Event> for Kind {
    fn from(event: &Event) -> Self {
        match event {
            Event::Socket(_) => Self::Socket,
            Event::Transition(_) => Self::Transition,
            Event::Accept(_) => Self::Accept,
            Event::Retransmit(_) => Self::Retransmit,
            Event::Reset(_) => Self::Reset,
            Event::Owner(_) => Self::Owner,
            Event::Listener(_) => Self::Listener,
            Event::Slow(_) => Self::Slow,
            Event::Open(_) => Self::Open,
            Event::Close(_) => Self::Close,
        }
    }
}

/// What fields are worked out with.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Names of the kernel's reasons for an RST
    pub reset_reasons: HashMap<u32, String>,
    /// Whether to say in words what a transition means
    pub explain: bool,
    /// The processes that own connections
    pub processes: Processes,
}

/// Names what an event says beside what every one says of its connection.
#[inline]
pub fn details(event: &Event, names: &Names, to: &mut impl Fields) {
    match event {
        Event::Socket(socket) => to.text(field!("state"), socket.state().name()),
        Event::Transition(step) => {
            to.change(step.oldstate(), step.newstate());
            to.known(field!("in_old_us"), step.in_old_us());
            if step.is_inferred() {
                to.yes(field!("inferred"));
            }
            if names.explain {
                to.text(field!("explain"), explain::transition(step));
            }
        }
        Event::Accept(accept) => {
            to.known(field!("wait_us"), accept.wait_us());
            to.known(field!("backlog"), accept.backlog());
            to.known(field!("backlog_max"), accept.backlog_max());
            to.known(field!("listener_pid"), accept.listener_pid());
            if accept.is_inferred() {
                to.yes(field!("inferred"));
            }
        }
        Event::Retransmit(retransmit) => {
            to.text(field!("kind"), retransmit.segment().name());
            to.text(field!("state"), retransmit.state().name());
            to.known(field!("count"), retransmit.count());
        }
        Event::Reset(reset) => {
            to.text(field!("direction"), reset.direction().name());
            let named = |reason| reset_reason(&names.reset_reasons, reason);
            if let Some(reason) = reset.reason().and_then(named) {
                to.outside(field!("reason"), reason.as_bytes());
            }
            to.text(field!("state"), reset.state().name());
            if reset.is_inferred() {
                to.yes(field!("inferred"));
            }
        }
        Event::Owner(owner) => {
            to.known(field!("old_pid"), owner.old_pid());
            let comm = owner.old_comm();
            if !comm.is_empty() {
                to.outside(field!("old_comm"), &comm);
            }
            to.text(field!("how"), owner.how().name());
            to.text(field!("state"), owner.state().name());
        }
        Event::Listener(listener) => {
            to.known(field!("backlog"), listener.backlog());
            to.known(field!("backlog_max"), listener.backlog_max());
            to.known(field!("half_open"), listener.half_open());
            to.known(field!("half_open_max"), listener.backlog_max());
            to.known(field!("dropped"), listener.dropped());
            to.known(field!("unanswered"), listener.unanswered());
            to.known(field!("cookies_sent"), listener.cookies_sent());
            to.known(field!("not_accepted_us"), listener.not_accepted_us());
            if listener.half_open_from().next().is_some() {
                to.networks(field!("half_open_from"), listener.half_open_from());
            }
        }
        Event::Slow(slow) => {
            to.text(field!("phase"), slow.phase().name());
            to.text(field!("state"), slow.state().name());
            to.known(field!("waiting_us"), slow.waiting_us());
            to.known(field!("syn_retransmits"), slow.syn_retransmits());
            if let Some((backlog, limit)) = slow.backlog() {
                to.number(field!("backlog"), backlog.into());
                to.number(field!("backlog_max"), limit.into());
            }
        }
        Event::Open(open) => {
            to.text(field!("state"), open.state().name());
            to.known(field!("age_us"), open.age_us());
            to.known(field!("in_state_us"), open.in_state_us());
        }
        Event::Close(close) => end_of(close, to),
    }
}

/// Names what every record says of its connection.
#[inline]
pub fn about(connection: &Connection, names: &Names, to: &mut impl Fields) {
    to.hex(field!("conn"), connection.id());
    to.text(field!("role"), connection.role().name());
    if connection.is_role_inferred() {
        to.yes(field!("role_inferred"));
    }
    to.text(
        field!("family"),
        if connection.is_v4() { "ipv4" } else { "ipv6" },
    );
    if connection.is_mapped() {
        to.yes(field!("mapped"));
    }
    to.address(field!("laddr"), connection.laddr());
    to.known(field!("lport"), connection.lport());
    if let Some(raddr) = connection.raddr() {
        to.address(field!("raddr"), raddr);
    }
    to.known(field!("rport"), connection.rport());
    to.known(field!("pid"), connection.pid());
    if !connection.comm().is_empty() {
        to.outside(field!("comm"), connection.comm());
    }
    to.known(field!("uid"), connection.uid());
    to.text(field!("pid_source"), connection.owner_source().name());
    to.number(field!("netns"), u64::from(connection.netns()));
    if let Some(cgroup) = connection.cgroup() {
        to.large(field!("cgroup"), cgroup);
    }
    let which = connection.process();
    if let Some(process) = which.and_then(|(pid, which)| names.processes.get(pid, which)) {
        who(&process, to);
    }
}

/// Names what an owner is.
fn who(process: &Process, to: &mut impl Fields) {
    to.known(field!("ppid"), process.ppid);
    let cgroup = &process.names;
    for (field, text) in [
        (field!("exe"), &process.exe),
        (field!("args"), &process.args),
        (field!("container"), &cgroup.container),
        (field!("pod_uid"), &cgroup.pod_uid),
        (field!("unit"), &cgroup.unit),
    ] {
        if let Some(text) = text {
            to.outside(field, text.as_bytes());
        }
    }
}

fn end_of(close: &Close, to: &mut impl Fields) {
    to.text(field!("reason"), close.reason().name());
    if let Some(cause) = close.cause() {
        to.text(field!("cause"), cause.name());
    }
    if let Some(side) = close.closed_by() {
        to.text(field!("closed_by"), side.name());
    }
    if let Some(errno) = close.errno() {
        to.text(field!("errno"), &errno);
    }
    to.known(field!("closer_pid"), close.closer_pid());
    if let Some(act) = close.closed_because() {
        to.text(field!("closed_because"), act.name());
    }
    if let Some(signal) = close.signal() {
        to.text(field!("signal"), &signal);
    }
    to.known(field!("duration_us"), close.duration_us());
    to.states(field!("states"), close.states());
    to.known(field!("connect_us"), close.connect_us());
    to.known(field!("handshake_us"), close.handshake_us());
    to.known(field!("accept_wait_us"), close.accept_wait_us());
    counters(close, to);
    if close.is_inferred() || close.is_reason_inferred() {
        to.yes(field!("inferred"));
    }
    if close.connection().is_partial() {
        to.yes(field!("partial"));
    }
}

/// What the kernel has counted.
fn counters(close: &Close, to: &mut impl Fields) {
    let Some(counters) = close.counters() else {
        return;
    };
    to.number(field!("tx_bytes"), counters.tx_bytes);
    to.known(field!("rx_bytes"), close.rx_bytes());
    to.number(field!("retrans_bytes"), counters.retrans_bytes);
    to.number(field!("tx_segs"), u64::from(counters.tx_segs));
    to.number(field!("rx_segs"), u64::from(counters.rx_segs));
    to.number(field!("retransmits"), u64::from(counters.retransmits));
    to.known(field!("syn_retransmits"), close.syn_retransmits());
    // Before the handshake is complete these are what the kernel would begin with.
    if !close.was_established() {
        return;
    }
    to.known(field!("srtt_us"), close.srtt_us());
    to.known(field!("min_rtt_us"), close.min_rtt_us());
    to.number(field!("mss"), u64::from(counters.mss_bytes));
    to.number(field!("cwnd"), u64::from(counters.cwnd));
    if let Some(name) = close.congestion() {
        to.outside(field!("congestion"), name);
    }
    if let Some((send, receive)) = close.wscales() {
        to.number(field!("snd_wscale"), u64::from(send));
        to.number(field!("rcv_wscale"), u64::from(receive));
    }
    to.words(field!("options"), close.options().map(TcpOption::name));
    if let Some((ours, theirs)) = close.isns() {
        to.number(field!("isn"), u64::from(ours));
        to.number(field!("peer_isn"), u64::from(theirs));
    }
}

/// Names what the first record says.
pub fn start(start: &Start, to: &mut impl Fields) {
    to.text(field!("version"), env!("CARGO_PKG_VERSION"));
    to.outside(field!("kernel"), start.kernel.as_bytes());
    to.table(field!("hooks"), &start.hooks);
    to.table(field!("filters"), &start.filters);
}

/// Names what a loss says.
pub fn lost(lost: &Lost, to: &mut impl Fields) {
    to.number(field!("count"), lost.count);
    to.text(field!("cause"), lost.cause.name());
    for (field, number) in [
        (field!("accepts"), lost.accepts),
        (field!("closes"), lost.closes),
        (field!("time_waits"), lost.time_waits),
        (field!("others"), lost.others),
    ] {
        if number > 0 {
            to.number(field, number);
        }
    }
}

/// Names what the last record says.
pub fn end(end: &End, to: &mut impl Fields) {
    to.number(field!("transitions"), end.transitions);
    to.number(field!("connections"), end.connections);
    to.number(field!("listeners"), end.listeners);
    to.known(field!("open"), end.open);
    to.number(field!("lost"), end.lost);
    to.number(field!("duration_us"), end.duration_us);
}
