//! The words of records: each an enum with the name that users read.

use tcptrace_common::record::{
    ABORT_DISCONNECT, ABORT_LATE_DATA, ABORT_LINGER, ABORT_UNREAD, ACT_CLOSE, ACT_EXIT, ACT_KILLED,
    ACT_SHUTDOWN, HOW_FORK, HOW_PASSED, RESET_SENT, RETRANSMIT_SYN, RETRANSMIT_SYNACK, ROLE_CLIENT,
    ROLE_LISTENER, ROLE_SERVER, ROLE_UNKNOWN, SLOW_ACCEPT, SOURCE_ACCEPT, SOURCE_CONNECT,
    SOURCE_HANDOVER, SOURCE_LISTEN, SOURCE_LISTENER, SOURCE_SNAPSHOT,
};

/// Defines an enum whose values have names.
macro_rules! term {
    (
        $(#[$about:meta])*
        $term:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $term {
            $($(#[$doc])* $value,)*
        }

        impl $term {
            /// All of them
            pub const ALL: &[Self] = &[$(Self::$value),*];

            /// As users read it
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }
        }
    };
}

term! {
    /// What a socket is in its connection.
    Role {
        /// It called `connect()`
        Client = "client",
        /// It came in at a listener
        Server = "server",
        /// It listens
        Listener = "listener",
        /// Its beginning was not seen
        Unknown = "unknown",
    }
}

impl Role {
    /// The role by its number in records, `ROLE_*`.
    pub const fn from_number(number: u8) -> Self {
        match number {
            ROLE_CLIENT => Self::Client,
            ROLE_SERVER => Self::Server,
            ROLE_LISTENER => Self::Listener,
            _ => Self::Unknown,
        }
    }

    /// `ROLE_*`
    pub const fn number(self) -> u8 {
        match self {
            Self::Client => ROLE_CLIENT,
            Self::Server => ROLE_SERVER,
            Self::Listener => ROLE_LISTENER,
            Self::Unknown => ROLE_UNKNOWN,
        }
    }
}

term! {
    /// What a connection waits for.
    Phase {
        /// The SYN-ACK
        Connect = "connect",
        /// `accept()`
        Accept = "accept",
    }
}

impl Phase {
    /// The phase by its number in records, `SLOW_*`.
    pub const fn from_number(number: u8) -> Self {
        match number {
            SLOW_ACCEPT => Self::Accept,
            _ => Self::Connect,
        }
    }
}

term! {
    /// How a socket came from one process to another.
    How {
        /// To a child
        Fork = "fork",
        /// By a descriptor that was passed
        Passed = "passed",
        /// Nobody knows
        Unknown = "unknown",
    }
}

impl How {
    /// The way by its number in records, `HOW_*`.
    pub const fn from_number(number: u32) -> Self {
        match number {
            HOW_FORK => Self::Fork,
            HOW_PASSED => Self::Passed,
            _ => Self::Unknown,
        }
    }
}

term! {
    /// How the owner of a connection is known.
    OwnerSource {
        /// It called `connect()`
        Connect = "connect",
        /// It called `listen()`
        Listen = "listen",
        /// It owns the listener: provisional, until somebody accepts
        Listener = "listener",
        /// It accepted
        Accept = "accept",
        /// It held the socket's file when the trace began
        Snapshot = "snapshot",
        /// It holds the socket since another process does so no more
        Handover = "handover",
        /// It is not known
        Unknown = "unknown",
    }
}

impl OwnerSource {
    /// By its number in records, `SOURCE_*`.
    pub const fn from_number(number: u8) -> Self {
        match number {
            SOURCE_CONNECT => Self::Connect,
            SOURCE_LISTEN => Self::Listen,
            SOURCE_LISTENER => Self::Listener,
            SOURCE_ACCEPT => Self::Accept,
            SOURCE_SNAPSHOT => Self::Snapshot,
            SOURCE_HANDOVER => Self::Handover,
            _ => Self::Unknown,
        }
    }
}

term! {
    /// Why a connection ended.
    Reason {
        /// FIN both ways
        Normal = "normal",
        /// RST, or an ICMP message that means the same, answered the SYN
        Refused = "refused",
        /// No answer in time
        Timeout = "timeout",
        /// ICMP said that there is no way
        Unreachable = "unreachable",
        /// The peer sent RST
        ResetReceived = "reset_received",
        /// We sent RST
        ResetSent = "reset_sent",
        /// Our process closed it before it was established
        Canceled = "canceled",
        /// The same after its SYN was sent again, or after a second
        GaveUp = "gave_up",
        /// Its listener was closed before anybody accepted it
        ListenerClosed = "listener_closed",
        /// Nothing proves why
        Unknown = "unknown",
    }
}

impl Reason {
    /// Whether the connection failed: what `--failed` selects
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Timeout
                | Self::GaveUp
                | Self::Unreachable
                | Self::ResetReceived
                | Self::ResetSent
        )
    }
}

term! {
    /// By what our side aborted a connection.
    Cause {
        /// `close()` with `SO_LINGER` on and no time to linger
        Linger = "linger",
        /// `close()` with data that nobody has read
        UnreadData = "unread_data",
        /// The peer sent data after our `close()`
        DataAfterClose = "data_after_close",
        /// `connect(AF_UNSPEC)`
        Disconnect = "disconnect",
        /// From outside, as by `ss -K`
        Destroyed = "destroyed",
    }
}

impl Cause {
    /// By its number in records, `ABORT_*`.
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            ABORT_LINGER => Some(Self::Linger),
            ABORT_UNREAD => Some(Self::UnreadData),
            ABORT_DISCONNECT => Some(Self::Disconnect),
            ABORT_LATE_DATA => Some(Self::DataAfterClose),
            _ => None,
        }
    }
}

term! {
    /// By what the process that closed a connection did so.
    Act {
        /// `close()` of its last descriptor
        Close = "close",
        /// `shutdown()`
        Shutdown = "shutdown",
        /// It exited
        Exit = "exit",
        /// A signal ended it
        Killed = "killed",
    }
}

impl Act {
    /// By its number in records, `ACT_*`.
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            ACT_CLOSE => Some(Self::Close),
            ACT_SHUTDOWN => Some(Self::Shutdown),
            ACT_EXIT => Some(Self::Exit),
            number if number > ACT_KILLED => Some(Self::Killed),
            _ => None,
        }
    }
}

term! {
    /// Who closed a connection: who sent the first FIN, or the RST that ended it.
    ClosedBy {
        /// Our side
        Local = "local",
        /// The peer
        Remote = "remote",
        /// Both at once: the FINs crossed
        Both = "both",
    }
}

term! {
    /// Which way an RST went.
    Direction {
        /// We sent it
        Sent = "sent",
        /// It came
        Received = "received",
    }
}

impl Direction {
    /// By its number in a reset record, `RESET_*`.
    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            RESET_SENT => Self::Sent,
            _ => Self::Received,
        }
    }
}

term! {
    /// What was sent again.
    Segment {
        /// A client's SYN
        Syn = "syn",
        /// A server's SYN-ACK
        Synack = "synack",
        /// Anything later
        Data = "data",
    }
}

impl Segment {
    /// By its number in a retransmit record, `RETRANSMIT_*`.
    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            RETRANSMIT_SYN => Self::Syn,
            RETRANSMIT_SYNACK => Self::Synack,
            _ => Self::Data,
        }
    }
}

term! {
    /// A TCP option that both ends agreed on.
    TcpOption {
        /// Selective acknowledgements
        Sack = "sack",
        /// Timestamps
        Timestamps = "timestamps",
        /// Window scaling
        Wscale = "wscale",
        /// Explicit congestion notification
        Ecn = "ecn",
        /// Data in the SYN, acknowledged
        Fastopen = "fastopen",
    }
}

term! {
    /// Why records were lost.
    LossCause {
        /// The ring between kernel and agent was full
        RingFull = "ring_full",
        /// A map of the kernel side was full
        MapFull = "map_full",
        /// An output could not keep up
        SinkFull = "sink_full",
        /// The kernel ran no program, because one was running
        Recursion = "recursion",
        /// No hook saw who accepted, and nothing proved it afterwards
        Overlooked = "overlooked",
    }
}
