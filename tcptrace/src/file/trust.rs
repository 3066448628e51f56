//! What in a folder that others may write to is ours.
//!
//! The kernel's rules for sticky folders (`may_follow_link`, `may_create_in_sticky`, fs/namei.c), which
//! may be switched off, and the same for folders that others may write to without the sticky bit.

use std::{io, os::unix::ffi::OsStrExt as _, path::PathBuf};

use rustix::{
    fs::{FileType, Stat},
    process::geteuid,
    thread::{CapabilitySet, capabilities, set_capabilities},
};

use super::type_of;
use crate::sink::text::escape;

/// What is in the way, and why it may not be ours.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} {doubt}, in a folder that others may write to, and may lead anywhere; remove it, or choose a \
     folder of your own",
    escape(path.as_os_str().as_bytes())
)]
pub(super) struct Refused {
    pub(super) path: PathBuf,
    pub(super) doubt: Doubt,
}

/// Why something may have been put there by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    /// It is somebody else's
    #[error("belongs to user {0}")]
    Stranger(u32),
    /// Whoever may write there can put anybody's links there
    #[error("is a symbolic link")]
    Link,
    /// Anybody may have given it another name
    #[error("has other names")]
    Names,
}

/// Whether a stranger may have put this into that folder. No stranger makes devices.
pub(super) fn doubt(found: &Stat, folder: &Stat, me: u32) -> Option<Doubt> {
    const GROUP: u32 = 0o020;
    const OTHERS: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let kind = type_of(found);
    let may_be_put = matches!(
        kind,
        FileType::Symlink | FileType::RegularFile | FileType::Fifo
    );
    if folder.st_mode & (GROUP | OTHERS) == 0 || !may_be_put {
        return None;
    }
    if found.st_uid != me && found.st_uid != folder.st_uid {
        return Some(Doubt::Stranger(found.st_uid));
    }
    // There everybody may move everything.
    let is_open = folder.st_mode & (OTHERS | STICKY) == OTHERS;
    match kind {
        FileType::Symlink if is_open => Some(Doubt::Link),
        FileType::RegularFile if found.st_nlink > 1 => Some(Doubt::Names),
        _ => None,
    }
}

/// Runs `work` with the rights to files of whoever runs the program, without those that the program
/// has been given to see more (`CAP_DAC_READ_SEARCH`): they would lead into the folders of others.
pub(super) fn with_own_rights<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    const OF_FILES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH
        .union(CapabilitySet::DAC_OVERRIDE)
        .union(CapabilitySet::FOWNER);
    if geteuid().is_root() {
        return work();
    }
    let before = capabilities(None)?;
    let mut without = before;
    without.effective.remove(OF_FILES);
    if without == before {
        return work();
    }
    // Both are this thread's alone.
    set_capabilities(None, without)?;
    let result = work();
    set_capabilities(None, before)?;
    result
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn what_is_doubted() {
        const LINK: u32 = 0o120_777;
        const FILE: u32 = 0o100_644;
        const DEVICE: u32 = 0o020_666;
        let stat = |mode, uid, links| {
            let mut stat = fstat(std::fs::File::open("/").unwrap()).unwrap();
            (stat.st_mode, stat.st_uid, stat.st_nlink) = (mode, uid, links);
            stat
        };
        let stranger = Some(Doubt::Stranger(1000));
        for (mode, kind, owner, links, expected) in [
            (0o1777, LINK, 1000, 1, stranger),
            (0o1777, LINK, 0, 1, None),
            (0o1777, LINK, 7, 1, None),
            (0o1777, FILE, 0, 1, None),
            (0o1777, FILE, 0, 2, Some(Doubt::Names)),
            (0o1777, DEVICE, 1000, 1, None),
            (0o777, LINK, 1000, 1, stranger),
            (0o777, LINK, 0, 1, Some(Doubt::Link)),
            (0o777, FILE, 0, 1, None),
            (0o1770, LINK, 1000, 1, stranger),
            (0o775, FILE, 1000, 1, stranger),
            (0o775, LINK, 0, 1, None),
            (0o755, LINK, 1000, 1, None),
            (0o755, FILE, 0, 2, None),
        ] {
            let folder = stat(0o40_000 | mode, 7, 3);
            assert_eq!(
                doubt(&stat(kind, owner, links), &folder, 0),
                expected,
                "{mode:o} {kind:o} {owner} {links}"
            );
        }
    }
}
