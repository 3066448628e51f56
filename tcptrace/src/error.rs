//! What ends the program before its time, and with which exit status.

/// A failure, by who can mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for what cannot be: exit 2.
    #[error("{0}")]
    Usage(String),
    /// This user or this kernel cannot trace: exit 3.
    #[error("{0}")]
    CannotTrace(String),
    /// Something failed on the way: exit 1.
    #[error(transparent)]
    Runtime(#[from] anyhow::Error),
}

impl Error {
    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// The exit status.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Runtime(_) => 1,
            Self::Usage(_) => 2,
            Self::CannotTrace(_) => 3,
        }
    }
}
