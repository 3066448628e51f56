//! tracefs: needed only for the tracepoints of system calls, mounted by us if nobody did.

use std::{fs, io, path::Path, thread};

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
        scope
            .spawn(|| {
                if let Err(why) = mount_privately() {
                    log::info!(
                        "tracefs is not mounted, and mounting it for ourselves failed: {why}"
                    );
                }
                work()
            })
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

/// Offset of `ret` in the record of `syscalls:sys_exit_accept4`, as its format file tells.
pub fn sys_exit_ret() -> Option<u32> {
    let format = MOUNT_POINTS.iter().find_map(|point| {
        fs::read_to_string(Path::new(point).join("events/syscalls/sys_exit_accept4/format")).ok()
    })?;
    field_offset(&format, "ret", 8)
}

/// Offset of a field of `size` bytes in a tracepoint's format file; none if it is not there in
/// that size.
///
/// A line reads `field:long ret; offset:16; size:8; signed:1;`, with tabs in it.
pub fn field_offset(format: &str, field: &str, size: u32) -> Option<u32> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declaration = parts.next()?.strip_prefix("field:")?;
        if declaration.rsplit([' ', '*']).next()? != field {
            return None;
        }
        let mut value = |key: &str| parts.next()?.strip_prefix(key)?.parse::<u32>().ok();
        let offset = value("offset:")?;
        (value("size:")? == size).then_some(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: sys_exit_accept4\nID: 1234\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:long ret;\toffset:16;\tsize:8;\tsigned:1;\n\n\
        print fmt: \"0x%lx\", REC->ret\n";

    #[test]
    fn finds_a_field_by_name_and_size() {
        assert_eq!(field_offset(FORMAT, "ret", 8), Some(16));
        assert_eq!(field_offset(FORMAT, "__syscall_nr", 4), Some(8));
        assert_eq!(field_offset(FORMAT, "ret", 4), None);
        assert_eq!(field_offset(FORMAT, "rets", 8), None);
        assert_eq!(
            field_offset("field:long ret;offset:x;size:8;", "ret", 8),
            None
        );
    }
}
