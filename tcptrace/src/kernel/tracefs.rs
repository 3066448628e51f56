//! tracefs: needed only for the tracepoints of system calls, mounted by us if nobody did.

use std::{io, path::Path, thread};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const MOUNT_POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Whether tracefs can be seen.
pub fn is_mounted() -> bool {
    MOUNT_POINTS
        .iter()
        .any(|point| Path::new(point).join("events").exists())
}

/// Runs `work` where tracefs can be seen, if that can be had.
///
/// If it is not mounted, `work` runs on a thread with a mount namespace of its own in which it
/// is, so that the host stays as it was.
pub fn within<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if is_mounted() {
        return Ok(work());
    }
    thread::scope(|scope| {
        thread::Builder::new()
            .spawn_scoped(scope, || {
                if let Err(why) = mount_privately() {
                    log::info!(
                        "tracefs is not mounted, and mounting it for ourselves failed: {why}"
                    );
                }
                work()
            })?
            .join()
            .map_err(|_panic| io::Error::other("the thread that attaches failed"))
    })
}

fn mount_privately() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(
        Some("tracefs"),
        MOUNT_POINTS[0],
        Some("tracefs"),
        MsFlags::empty(),
        NONE,
    )
}
