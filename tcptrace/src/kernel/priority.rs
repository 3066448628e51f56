//! The scheduler's priority of the thread that reads the ring.

use rustix::process::{getpriority_process, setpriority_process};

/// What the thread asks for: it needs a few per cent of one processor, but soon. Where all processors
/// are busy with closing 50,000 connections, a thread like any other came to its turn after the ring
/// was full: one in five records was lost; with this, none.
const NICE: i32 = -10;

/// Raises the calling thread's priority, unless somebody has chosen one by `nice`.
pub fn raise() {
    if getpriority_process(None) != Ok(0) {
        return;
    }
    if let Err(why) = setpriority_process(None, NICE) {
        log::info!("the reader keeps its priority (it takes CAP_SYS_NICE to raise it): {why}");
    }
}
