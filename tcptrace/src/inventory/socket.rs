//! What the kernel says of one TCP socket. Kept small: there may be a hundred thousand of them.

use std::net::{IpAddr, Ipv4Addr};

use tcptrace_common::tcp;

/// A timer that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimerKind {
    /// None runs, or none that this kernel tells of
    #[default]
    None,
    /// Something unacknowledged is sent again
    Retransmit,
    /// The peer is asked whether it is still there
    Keepalive,
    /// `TIME_WAIT` ends
    TimeWait,
    /// The peer's closed window is probed
    Persist,
    /// What was received is acknowledged
    DelayedAck,
    /// The SYN-ACK is sent again
    SynAck,
    /// Nobody waits for the peer's FIN any more
    FinTimeout,
}

impl TimerKind {
    /// As in records; none if none runs.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::None => return None,
            Self::Retransmit => "retransmit",
            Self::Keepalive => "keepalive",
            Self::TimeWait => "time_wait",
            Self::Persist => "persist",
            Self::DelayedAck => "delayed_ack",
            Self::SynAck => "syn_ack",
            Self::FinTimeout => "fin_timeout",
        })
    }
}

/// A TCP socket, a half-open request or a pair in `TIME_WAIT`.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Its id, in all namespaces
    pub cookie: u64,
    /// cgroup v2 id of who made it; 0: not known
    pub cgroup: u64,
    /// Our end
    pub local: IpAddr,
    /// The peer's end
    pub remote: IpAddr,
    /// An IPv6 socket with IPv4-mapped addresses
    pub mapped: bool,
    /// A listener on IPv6 addresses that takes no IPv4
    pub v6_only: bool,
    /// By the kernel's number
    pub state: u8,
    /// What runs
    pub timer: TimerKind,
    /// How often it has
    pub timer_retries: u8,
    /// Whether it has `SO_KEEPALIVE`, where that is known
    pub keepalive: Option<bool>,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2
    pub shutdown: u8,
    /// Our port
    pub lport: u16,
    /// The peer's port
    pub rport: u16,
    /// Which of the namespaces looked at
    pub netns: u16,
    /// Until the timer fires, ms
    pub timer_ms: u32,
    /// Bytes received and not read; of a listener, connections not accepted
    pub recv_queue: u32,
    /// Bytes not acknowledged; of a listener, how many may wait
    pub send_queue: u32,
    /// Who made it; 0 too of a request and in `TIME_WAIT`
    pub uid: u32,
    /// Of its file; 0: it has none
    pub inode: u32,
    /// Interface it is bound to; 0: any
    pub interface: u32,
    /// Memory, if asked for
    pub memory: Option<Memory>,
    /// Its counters, by their place; [`Socket::NONE`]: it has none
    pub counters: u32,
    /// Its listener, by its place; [`Socket::NONE`]: none, or not known
    pub listener: u32,
}

/// What only listeners are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// `sk_drops`
    pub drops: u32,
}

impl Default for Socket {
    fn default() -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            cookie: 0,
            cgroup: 0,
            local: any,
            remote: any,
            mapped: false,
            v6_only: false,
            state: 0,
            timer: TimerKind::None,
            timer_retries: 0,
            keepalive: None,
            shutdown: 0,
            lport: 0,
            rport: 0,
            netns: 0,
            timer_ms: 0,
            recv_queue: 0,
            send_queue: 0,
            uid: 0,
            inode: 0,
            interface: 0,
            memory: None,
            counters: Self::NONE,
            listener: Self::NONE,
        }
    }
}

impl Socket {
    /// No place.
    pub const NONE: u32 = u32::MAX;

    /// Whether it listens.
    pub const fn is_listener(&self) -> bool {
        self.state == tcp::LISTEN
    }

    /// How well a listener suits a connection to this address of ours, as the kernel chooses; none: not at all.
    pub fn suits(&self, local: IpAddr) -> Option<u8> {
        if self.local == local {
            return Some(2);
        }
        if !self.local.is_unspecified() || (local.is_ipv6() && self.local.is_ipv4()) {
            return None;
        }
        if self.local.is_ipv4() == local.is_ipv4() {
            Some(1)
        } else if self.v6_only {
            None
        } else {
            Some(0)
        }
    }

    /// Whether it is a request that waits for the last segment of the handshake.
    pub fn is_half_open(&self) -> bool {
        self.state == tcp::SYN_RECV && self.inode == 0
    }

    /// Whether it is a time-wait socket, in whichever state.
    pub fn is_time_wait(&self) -> bool {
        self.timer == TimerKind::TimeWait
    }

    /// Whether it has a file, and so a process that made it or got it.
    pub const fn has_file(&self) -> bool {
        self.inode != 0
    }

    /// Whether nobody has accepted it yet: what `close()` leaves without a file is in none of these states.
    pub const fn may_be_queued(&self) -> bool {
        self.inode == 0 && matches!(self.state, tcp::ESTABLISHED | tcp::CLOSE_WAIT)
    }
}

/// What the kernel counts of a connection, `struct tcp_info`. What is not known is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Payload sent, with what was sent again
    pub tx_bytes: u64,
    /// Payload received
    pub rx_bytes: u64,
    /// Payload sent again
    pub retrans_bytes: u64,
    /// Segments sent
    pub tx_segs: u32,
    /// Segments received
    pub rx_segs: u32,
    /// Of these, with payload
    pub data_tx_segs: u32,
    /// Of these, with payload
    pub data_rx_segs: u32,
    /// Segments sent again
    pub retransmits: u32,
    /// Segments not acknowledged
    pub unacked: u32,
    /// Of these, taken for lost
    pub lost: u32,
    /// Not yet sent
    pub unsent_bytes: u32,
    /// Smoothed round-trip time
    pub srtt_us: u32,
    /// How much it varies
    pub rttvar_us: u32,
    /// Least of late
    pub min_rtt_us: u32,
    /// Until something is sent again
    pub rto_us: u32,
    /// Largest payload of a segment, bytes
    pub mss: u32,
    /// Congestion window, segments
    pub cwnd: u32,
    /// Where slow start ends, segments
    pub ssthresh: u32,
    /// Since payload was sent, or since it was established
    pub last_sent_ms: u32,
    /// Since payload was received, or since it was established
    pub last_received_ms: u32,
    /// Window scales: ours of what is sent below, of what is received above
    pub wscales: u8,
    /// `TCPI_OPT_*`
    pub options: u8,
    /// Name of the congestion control, NUL-padded
    pub congestion: [u8; 16],
}

impl Counters {
    /// Name of the congestion control.
    pub fn congestion(&self) -> &[u8] {
        let len = self.congestion.iter().position(|byte| *byte == 0);
        &self.congestion[..len.unwrap_or(self.congestion.len())]
    }
}
