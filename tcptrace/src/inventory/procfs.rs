//! Who has sockets open, as far as `/proc` shows it: without the right to load programs.

use std::{
    collections::HashMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, readlinkat},
    io::Errno,
};

use super::holding::{Holdings, Process};

/// Adds what each process holds of the sockets with these inodes. Returns how many processes could not be
/// looked into.
pub(super) fn holders(places: &HashMap<u32, u32>, holdings: &mut Holdings) -> u64 {
    let mut hidden = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let folder = entry.path();
        match fs::read_dir(folder.join("fd")) {
            Ok(descriptors) => {
                if !look(places, pid, &folder, descriptors, holdings) {
                    hidden += 1;
                }
            }
            Err(why) if why.kind() == std::io::ErrorKind::PermissionDenied => hidden += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    hidden
}

/// Adds what a process holds; whether all its descriptors could be read. Of a process with more rights than we
/// have, even as the same user, there is a list of them and nothing else.
fn look(
    places: &HashMap<u32, u32>,
    pid: u32,
    folder: &Path,
    descriptors: fs::ReadDir,
    holdings: &mut Holdings,
) -> bool {
    let mut is_all = true;
    // One buffer for the targets of all links of the process.
    let mut target = Vec::new();
    for descriptor in descriptors.flatten() {
        target = match readlinkat(CWD, descriptor.path(), target) {
            Ok(target) => target.into_bytes(),
            Err(why) => {
                is_all &= why != Errno::ACCESS;
                Vec::new()
            }
        };
        let Some(place) = inode(&target).and_then(|inode| places.get(&inode)) else {
            continue;
        };
        let Some(fd) = descriptor
            .file_name()
            .to_str()
            .and_then(|fd| fd.parse().ok())
        else {
            continue;
        };
        holdings.add(*place, pid, fd, || process(pid, folder));
    }
    is_all
}

/// `socket:[4711]`
fn inode(target: &[u8]) -> Option<u32> {
    let digits = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn process(pid: u32, folder: &Path) -> Process {
    let mut comm = [0; 16];
    let name = fs::read(folder.join("comm")).unwrap_or_default();
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    let len = name.len().min(comm.len() - 1);
    comm[..len].copy_from_slice(&name[..len]);
    Process {
        pid,
        uid: fs::metadata(folder).ok().map(|metadata| metadata.uid()),
        start: start(&fs::read(folder.join("stat")).unwrap_or_default()).unwrap_or(u64::MAX),
        comm,
    }
}

/// Field 22 of `/proc/PID/stat`; a name may hold anything, so it is counted from its end.
fn start(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let after = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    after.split_whitespace().nth(19)?.parse().ok()
}

/// The executable of a process; `None` of a kernel thread, and where that may not be seen.
pub fn executable(pid: u32) -> Option<Vec<u8>> {
    let path = fs::read_link(PathBuf::from(format!("/proc/{pid}/exe"))).ok()?;
    Some(path.as_os_str().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_sockets() {
        assert_eq!(inode(b"socket:[4711]"), Some(4711));
        for other in [
            "pipe:[1]",
            "socket:[",
            "socket:[]",
            "socket:[x]",
            "/tmp/socket:[1]",
            "",
        ] {
            assert_eq!(inode(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_name_hides_nothing() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9";
        assert_eq!(start(stat), Some(12345));
        assert_eq!(start(b""), None);
    }
}
