//! Indices into maps that both sides use.

/// Index into `SELECTION`: not 0 once a connection has been seen that may be shown. Until then, with `-p`,
/// only what may begin one is attached. Set by the programs, read by the agent.
pub const ACTIVE: u32 = 0;
/// Index into `SELECTION`: not 0 once a process asked for has accepted from a listener that it was not known
/// to have: from then on any new connection may be its.
pub const ANY_LISTENER: u32 = 1;
/// Index into `SELECTION`: not 0 once the trace ends. What begins from then on is not followed, so that
/// nothing is half told when the programs are detached. Set by the agent.
pub const ENDING: u32 = 2;
/// Index into `SELECTION`: not 0 once the programs are detached. Nobody is told any more that a socket has
/// ended, and another may have its address. Set by the agent.
pub const OVER: u32 = 3;
/// Index into `SELECTION`: not 0 once a process that had a listener has ended. Set by the programs.
pub const KEEPER_GONE: u32 = 4;
/// Values of `SELECTION`.
pub const SELECTIONS: u32 = 5;

/// Index into `TIME_WAIT`: a `TIME_WAIT_*` of the configuration, or 0 if nothing tells what becomes of
/// time-wait sockets. Set by the agent.
pub const TIME_WAIT_MODE: u32 = 0;
/// Index into `TIME_WAIT`: address of the kernel's `tw_timer_handler`, learnt from the first time-wait socket.
pub const TIME_WAIT_HANDLER: u32 = 1;
/// Index into `TIME_WAIT`: `CLOCK_MONOTONIC` (ns) at the first look.
pub const TIME_WAIT_BEGIN_NS: u32 = 2;
/// Index into `TIME_WAIT`: the kernel's ticks at that moment.
pub const TIME_WAIT_BEGIN_JIFFIES: u32 = 3;
