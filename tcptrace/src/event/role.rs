//! What a socket is in its connection.

use tcptrace_common::record::{ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, ROLE_UNKNOWN};

/// What a socket is in its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It called `connect()`
    Client,
    /// Born of a listener
    Server,
    /// It listens
    Listener,
    /// First seen half-way
    #[default]
    Unknown,
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

    /// `client`, `server`, `listener` or `unknown`
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Listener => "listener",
            Self::Unknown => "unknown",
        }
    }
}
