//! One line of the tracer's.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher as _};

/// The fields that are looked at.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Line<'text> {
    pub(super) v: u8,
    pub(super) event: &'text str,
    pub(super) mono_us: u64,
    pub(super) conn: Option<&'text str>,
    pub(super) role: Option<&'text str>,
    pub(super) laddr: Option<&'text str>,
    pub(super) lport: Option<u16>,
    pub(super) raddr: Option<&'text str>,
    pub(super) rport: Option<u16>,
    pub(super) pid: Option<u32>,
    #[serde(borrow)]
    pub(super) comm: Option<Cow<'text, str>>,
    pub(super) pid_source: Option<&'text str>,
    pub(super) state: Option<&'text str>,
    pub(super) old: Option<&'text str>,
    pub(super) new: Option<&'text str>,
    pub(super) in_old_us: Option<u64>,
    pub(super) listener_pid: Option<u32>,
    pub(super) duration_us: Option<u64>,
    #[serde(default)]
    pub(super) partial: bool,
    /// Of `lost`
    #[serde(default)]
    pub(super) count: u64,
    #[serde(default)]
    pub(super) accepts: u64,
    #[serde(default)]
    pub(super) closes: u64,
    #[serde(default)]
    pub(super) time_waits: u64,
    /// Of `end`
    pub(super) transitions: Option<u64>,
    pub(super) lost: Option<u64>,
}

/// A state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Close,
    SynSent,
    SynRecv,
    Established,
    FinWait1,
    FinWait2,
    TimeWait,
    Closing,
    CloseWait,
    LastAck,
    Listen,
}

impl State {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "CLOSE" => Self::Close,
            "SYN_SENT" => Self::SynSent,
            "SYN_RECV" => Self::SynRecv,
            "ESTABLISHED" => Self::Established,
            "FIN_WAIT1" => Self::FinWait1,
            "FIN_WAIT2" => Self::FinWait2,
            "TIME_WAIT" => Self::TimeWait,
            "CLOSING" => Self::Closing,
            "CLOSE_WAIT" => Self::CloseWait,
            "LAST_ACK" => Self::LastAck,
            "LISTEN" => Self::Listen,
            _ => return None,
        })
    }

    /// Whether `close` follows at once.
    pub(super) fn is_end(self) -> bool {
        matches!(self, Self::Close | Self::TimeWait)
    }

    /// Whether TCP can go from here to there (RFC 9293, 3.3.2), as Linux reports it.
    pub(super) fn leads_to(self, new: Self) -> bool {
        use State::{
            Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv,
            SynSent, TimeWait,
        };
        // `close()` after `shutdown()` reports the present state once more.
        self == new && matches!(new, FinWait1 | FinWait2 | Closing | LastAck)
            || match self {
                // A child of a listener that is closing begins as a copy of its state.
                Close => matches!(new, SynSent | Listen | SynRecv),
                Listen => matches!(new, SynRecv | Close),
                SynSent => matches!(new, Established | SynRecv | Close),
                SynRecv => matches!(new, Established | FinWait1 | CloseWait | Close),
                Established => matches!(new, FinWait1 | CloseWait | Close),
                FinWait1 => matches!(new, FinWait2 | Closing | TimeWait | Close),
                FinWait2 | Closing => matches!(new, TimeWait | Close),
                CloseWait => matches!(new, LastAck | Close),
                LastAck | TimeWait => new == Close,
            }
    }
}

impl Line<'_> {
    /// The cookie.
    pub(super) fn cookie(&self) -> Option<u64> {
        u64::from_str_radix(self.conn?, 16).ok()
    }

    /// Both ends, as a number by which they are told from others.
    pub(super) fn ends(&self) -> u64 {
        hash(&(self.laddr, self.lport, self.raddr, self.rport))
    }

    pub(super) fn comm_hash(&self) -> u64 {
        hash(self.comm.as_deref().unwrap_or_default())
    }
}

/// For what is compared and never shown.
pub(super) fn hash(of: &(impl std::hash::Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
