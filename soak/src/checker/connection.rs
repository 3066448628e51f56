//! What is remembered of a connection while it is open, and of its pair in `TIME_WAIT`.

use crate::claim::Claim;
use crate::line::{Line, State, hash};

/// Which end of a connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
    Listener,
    Unknown,
}

impl Role {
    pub(super) fn parse(role: &str) -> Option<Self> {
        Some(match role {
            "client" => Self::Client,
            "server" => Self::Server,
            "listener" => Self::Listener,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

/// An owner, as it stands in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pid: u32,
    pub(super) comm: u64,
    pub(super) source: u64,
}

impl Owner {
    pub(super) fn of(line: &Line<'_>) -> Self {
        Self {
            pid: line.pid.unwrap_or(0),
            comm: line.comm_hash(),
            source: hash(line.pid_source.unwrap_or_default()),
        }
    }

    /// Whether it is the process of a claim, known in this way.
    pub(super) fn is(self, claim: &Claim, source: &str) -> bool {
        self.pid == claim.pid && self.comm == hash(claim.comm()) && self.source == hash(source)
    }
}

/// A connection that is open.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) state: Option<State>,
    pub(super) role: Role,
    pub(super) ends: u64,
    pub(super) ours: bool,
    pub(super) owner: Owner,
    /// Owner of the listener, as the record of the acceptance has it
    pub(super) accepted_from: Option<u32>,
    /// When; 0: not yet
    pub(super) accepted_us: u64,
    pub(super) first_us: u64,
    pub(super) last_us: u64,
    /// Its last step, to tell one reported twice from one that follows a loss
    pub(super) last_step: Option<(State, State, u64)>,
    pub(super) last_line: String,
}

/// A pair in `TIME_WAIT`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) since_us: u64,
    pub(super) ours: bool,
}
