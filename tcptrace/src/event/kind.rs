//! What each kind of record says besides its connection; all but the end, which is [`super::Close`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_common::record::{FLAG_NO_FASTOPEN, ORIGINS, Origin, UNKNOWN};

use super::{Close, Connection, Direction, How, Phase, Segment, State};

/// Numbers that a record brings along; what they are, its kind says.
type Numbers = [u32; 6];

/// None for a number that is not known
fn known(number: u32) -> Option<u32> {
    (number != UNKNOWN).then_some(number)
}

/// A connection that was open at start.
#[derive(Clone, Copy, Debug)]
pub struct Socket(pub(super) Connection);

impl Socket {
    /// The connection
    pub const fn connection(&self) -> &Connection {
        &self.0
    }

    /// The state it is in
    pub const fn state(&self) -> State {
        self.0.oldstate()
    }
}

/// A connection that is still open as the trace ends.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    pub(super) head: Connection,
    pub(super) numbers: Numbers,
}

impl Open {
    /// The connection
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// The state it is in
    pub const fn state(&self) -> State {
        self.head.oldstate()
    }

    /// Since its first transition; none if that was before the trace
    pub fn age_us(&self) -> Option<u64> {
        let [low, high, ..] = self.numbers;
        known(high).map(|high| u64::from(high) << 32 | u64::from(low))
    }

    /// Since its last transition; none if that was before the trace
    pub fn in_state_us(&self) -> Option<u64> {
        self.head.span_us()
    }
}

/// A state change.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    pub(super) head: Connection,
    pub(super) close: Option<Close>,
}

impl Transition {
    /// The connection, with who owned it at that moment
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// State before
    pub const fn oldstate(&self) -> State {
        self.head.oldstate()
    }

    /// State after
    pub const fn newstate(&self) -> State {
        self.head.newstate()
    }

    /// Time in the old state; none if its beginning was missed
    pub fn in_old_us(&self) -> Option<u64> {
        self.head.span_us()
    }

    /// Whether the kernel gave no direct sight of it: its time is when it was found
    pub const fn is_inferred(&self) -> bool {
        self.head.is_inferred()
    }

    /// Whether the listener of its connection takes no Fast Open
    pub const fn is_without_fastopen(&self) -> bool {
        self.head.0.flags & FLAG_NO_FASTOPEN != 0
    }

    /// One that is not its connection's last
    pub const fn in_mid_life(head: Connection) -> Self {
        Self { head, close: None }
    }

    /// How the connection ended, if this was its last: the next event
    pub const fn close(&self) -> Option<&Close> {
        self.close.as_ref()
    }
}

/// `accept()` returned the connection.
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    pub(super) head: Connection,
    pub(super) numbers: Numbers,
}

impl Accept {
    /// The connection; its owner is the process that accepted
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// Time in the accept queue; none if its beginning was missed
    pub fn wait_us(&self) -> Option<u64> {
        self.head.span_us()
    }

    /// Whether no hook saw it: then its time is when it was found
    pub const fn is_inferred(&self) -> bool {
        self.head.is_inferred()
    }

    /// The listening process
    pub fn listener_pid(&self) -> Option<u32> {
        (self.head.0.peer_pid != 0).then_some(self.head.0.peer_pid)
    }

    /// Connections left in the accept queue
    pub fn backlog(&self) -> Option<u32> {
        known(self.numbers[0])
    }

    /// The accept queue's limit
    pub fn backlog_max(&self) -> Option<u32> {
        known(self.numbers[1])
    }
}

/// A segment was sent again.
#[derive(Clone, Copy, Debug)]
pub struct Retransmit {
    pub(super) head: Connection,
    pub(super) numbers: Numbers,
}

impl Retransmit {
    /// The connection
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// What was sent again
    pub const fn segment(&self) -> Segment {
        Segment::from_number(self.head.0.seq)
    }

    /// The state it is in
    pub const fn state(&self) -> State {
        self.head.oldstate()
    }

    /// How many so far
    pub fn count(&self) -> Option<u32> {
        known(self.numbers[0])
    }
}

/// RST sent or received.
#[derive(Clone, Copy, Debug)]
pub struct Reset {
    pub(super) head: Connection,
    pub(super) numbers: Numbers,
}

impl Reset {
    /// The connection
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// Which way it went
    pub const fn direction(&self) -> Direction {
        Direction::from_number(self.head.0.seq)
    }

    /// The state the connection was in
    pub const fn state(&self) -> State {
        self.head.oldstate()
    }

    /// The kernel's reason, a value of `enum sk_rst_reason`
    pub fn reason(&self) -> Option<u32> {
        known(self.numbers[0])
    }

    /// Whether the direction is not certain
    pub const fn is_inferred(&self) -> bool {
        self.head.is_inferred()
    }
}

/// The limit of `--slower-than` has passed, and it still waits.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    pub(super) head: Connection,
    pub(super) numbers: Numbers,
}

impl Slow {
    /// The connection
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// What it waits for
    pub const fn phase(&self) -> Phase {
        Phase::from_number(self.head.0.seq)
    }

    /// The state it is in
    pub const fn state(&self) -> State {
        self.head.oldstate()
    }

    /// How long it has waited
    pub fn waiting_us(&self) -> Option<u64> {
        self.head.span_us()
    }

    /// Of a connect: SYNs sent again
    pub fn syn_retransmits(&self) -> Option<u32> {
        let is_connect = self.phase() == Phase::Connect;
        known(self.numbers[0]).filter(|_| is_connect)
    }

    /// Of an accept: connections in the accept queue, and its limit
    pub fn backlog(&self) -> Option<(u32, u32)> {
        let is_accept = self.phase() == Phase::Accept;
        known(self.numbers[0])
            .zip(known(self.numbers[1]))
            .filter(|_| is_accept)
    }
}

/// Another process has become the owner.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub(super) head: Connection,
    pub(super) numbers: Numbers,
}

impl Owner {
    /// The connection, with its new owner
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// The state it is in
    pub const fn state(&self) -> State {
        self.head.oldstate()
    }

    /// The former owner
    pub fn old_pid(&self) -> Option<u32> {
        known(self.numbers[0]).filter(|pid| *pid != 0)
    }

    /// Name of the former owner, without its end; bytes that anybody may have chosen
    pub fn old_comm(&self) -> Vec<u8> {
        let words = self.numbers.iter().skip(2);
        let bytes = words.flat_map(|word| word.to_ne_bytes());
        bytes.take_while(|byte| *byte != 0).collect()
    }

    /// How it became the owner
    pub const fn how(&self) -> How {
        How::from_number(self.numbers[1])
    }
}

/// So many networks are told of.
const ORIGINS_SHOWN: usize = 5;

/// A network: an address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// With all other bits 0
    pub address: IpAddr,
    /// Bits
    pub bits: u8,
}

impl Network {
    fn of(origin: &Origin) -> Self {
        let prefix = origin.prefix.to_ne_bytes();
        if origin.family == 4 {
            let mut bytes = [0; 4];
            bytes[..3].copy_from_slice(&prefix[..3]);
            return Self {
                address: Ipv4Addr::from(bytes).into(),
                bits: 24,
            };
        }
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&prefix[..6]);
        Self {
            address: Ipv6Addr::from(bytes).into(),
            bits: 48,
        }
    }
}

/// What goes wrong at a listener.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    pub(super) head: Connection,
    pub(super) numbers: Numbers,
    pub(super) origins: [Origin; ORIGINS],
}

impl Listener {
    /// The listener
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// Connections in the accept queue
    pub fn backlog(&self) -> Option<u32> {
        known(self.numbers[0])
    }

    /// The accept queue's limit
    pub fn backlog_max(&self) -> Option<u32> {
        known(self.numbers[1])
    }

    /// Requests half-open
    pub fn half_open(&self) -> Option<u32> {
        known(self.numbers[2])
    }

    /// Requests and connections dropped since the last such record
    pub fn dropped(&self) -> Option<u32> {
        known(self.numbers[3])
    }

    /// Requests whose SYN-ACK was not answered in time, since the last such record
    pub fn unanswered(&self) -> Option<u32> {
        known(self.numbers[4])
    }

    /// SYN cookies sent in its network namespace since the last such record
    pub fn cookies_sent(&self) -> Option<u32> {
        known(self.numbers[5])
    }

    /// Networks that requests came from whose SYN-ACK was not answered in time, and at least how many requests
    /// from each; the most first
    pub fn half_open_from(&self) -> impl Iterator<Item = (Network, u32)> {
        let mut origins = self.origins;
        origins.sort_unstable_by_key(|origin| (std::cmp::Reverse(origin.count), origin.prefix));
        let seen = origins.into_iter().filter(|origin| origin.count > 0);
        seen.take(ORIGINS_SHOWN)
            .map(|origin| (Network::of(&origin), origin.count))
    }

    /// Time since it last accepted; none if it never has
    pub fn not_accepted_us(&self) -> Option<u64> {
        self.head.span_us()
    }

    /// Adds the SYN cookies sent, which the kernel counts elsewhere.
    pub fn set_cookies_sent(&mut self, sent: Option<u64>) {
        self.numbers[5] = sent.map_or(UNKNOWN, |sent| u32::try_from(sent).unwrap_or(UNKNOWN));
    }
}
