//! One file per fact the kernel tells us.

/// A program that the agent runs, and that answers: what aya's macro makes of a function throws away
/// what it returns. The arguments are twelve words (`bpf_prog_test_run_raw_tp`).
macro_rules! answering {
    ($(#[$doc:meta])* fn $name:ident($arguments:ident) -> u32 $body:block) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "raw_tp")]
        pub(crate) extern "C" fn $name($arguments: &[u64; 12]) -> u32 $body
    };
}

pub(crate) mod accept;
mod backlog;
mod destroy;
mod exit;
mod flush;
mod fork;
mod holders;
mod introduce;
mod open;
mod reset;
mod retransmit;
mod set_state;
mod slow;
mod snapshot;
mod stale;
mod time_wait;
