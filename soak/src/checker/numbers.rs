//! What is counted of the stream.

/// Numbers for the progress and the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) lines: u64,
    /// Without ends of `TIME_WAIT`, which the kernel does not report
    pub(crate) transitions: u64,
    pub(crate) time_wait_ends: u64,
    pub(crate) accepts: u64,
    /// Of those, how many came after a step that they happened before
    pub(crate) accepts_late: u64,
    pub(crate) closes: u64,
    /// Transitions that the tracer said it lost
    pub(crate) lost: u64,
    pub(crate) lost_accepts: u64,
    pub(crate) lost_closes: u64,
    pub(crate) lost_time_waits: u64,
    /// Steps that are evidently missing
    pub(crate) gaps: u64,
    /// Of these, what the kernel showed to ftrace alone
    pub(crate) missed: u64,
    pub(crate) claims: u64,
    /// Connections whose owner a process confirmed
    pub(crate) confirmed: u64,
    /// Processes that had a pid which another had before
    pub(crate) pids_again: u64,
    pub(crate) open: u64,
    pub(crate) waiting: u64,
    pub(crate) faults: u64,
}
