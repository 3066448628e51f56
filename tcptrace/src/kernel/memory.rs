//! How much memory there is for records of sockets: the machine's, and what our cgroup leaves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::Error;

/// One part in this many of the machine's memory may hold records of sockets.
const MEMORY_SHARE: u64 = 64;
/// What one connection costs the kernel: its record and that of its time-wait socket, with the hash
/// tables' own parts, rounded up.
const RECORD_BYTES: u64 = 600;
const SOCKETS_MIN: u64 = 16_384;
const SOCKETS_MAX: u64 = 262_144;

/// What a trace takes besides those records and the ring, rounded up: programs, other maps, the
/// agent, and the kernel's types while it starts.
const OTHER_BYTES: u64 = 40 << 20;
/// With room for fewer sockets than this a trace would say little.
const SOCKETS_LEAST: u64 = 1024;
/// A cgroup is not filled to its last page, over which we would be killed.
const CGROUP_SHARE: u64 = 2;

/// So much leaves room for verifying several programs at once.
const AMPLE_BYTES: u64 = 512 << 20;

const MIB: u64 = 1 << 20;

/// How many sockets to keep a record of: as many as were asked for, or as memory allows. Refuses
/// what our cgroup has no room for: the kernel kills whoever tries.
pub fn sockets(asked: Option<u32>, ring_bytes: u32) -> Result<u32, Error> {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let room = room();
    let fixed = OTHER_BYTES + u64::from(ring_bytes);
    let sockets = choose(asked.map(u64::from), machine, room, fixed).map_err(|needed| {
        Error::CannotTrace(format!(
            "its memory cgroup leaves {} MiB, and this takes {} MiB: raise the limit (MemoryMax= of \
             a service, --memory of a container), or give smaller --max-sockets and --buffer",
            room.unwrap_or(0) / MIB,
            needed.div_ceil(MIB)
        ))
    })?;
    if let Some(room) = room {
        log::info!(
            "records of {sockets} sockets; its memory cgroup leaves {} MiB",
            room / MIB
        );
    }
    Ok(u32::try_from(sockets).unwrap_or(u32::MAX))
}

/// Whether programs may be verified side by side, which takes several times the memory of one after the
/// other: not counted in what [`sockets`] leaves.
pub fn is_ample() -> bool {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    room().unwrap_or(machine).min(machine) >= AMPLE_BYTES
}

/// The number of sockets, or how many bytes there would have to be.
fn choose(asked: Option<u64>, machine: u64, room: Option<u64>, fixed: u64) -> Result<u64, u64> {
    let by_machine = (machine / MEMORY_SHARE / RECORD_BYTES).clamp(SOCKETS_MIN, SOCKETS_MAX);
    let Some(room) = room else {
        return Ok(asked.unwrap_or(by_machine));
    };
    let fits = room.saturating_sub(fixed) / RECORD_BYTES;
    let (wanted, least) = match asked {
        Some(asked) => (asked, asked),
        None => (by_machine.min(fits / CGROUP_SHARE), SOCKETS_LEAST),
    };
    if wanted < least || fits < least {
        return Err(fixed + least * RECORD_BYTES * if asked.is_none() { CGROUP_SHARE } else { 1 });
    }
    Ok(wanted)
}

/// What the limits of our memory cgroup and of those above it leave; none without a limit.
fn room() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = groups(&cgroups, &mounts);
    groups.iter().filter_map(Group::room).min()
}

/// A cgroup that may limit our memory.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    /// Of the second version of cgroups
    unified: bool,
}

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        // `max` is none.
        fs::read_to_string(self.folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn room(&self) -> Option<u64> {
        // Above `memory.high` nobody is killed, but everybody is slowed down until little happens.
        let (limits, used, names): (&[_], _, _) = if self.unified {
            (
                &["memory.max", "memory.high"],
                "memory.current",
                ["file", "shmem"],
            )
        } else {
            let names = ["total_cache", "total_shmem"];
            (&["memory.limit_in_bytes"], "memory.usage_in_bytes", names)
        };
        let limit = limits.iter().filter_map(|file| self.number(file)).min()?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let [files, shared] = names.map(|name| value(&stat, name));
        // What files are cached in gives way.
        let used = self.number(used).unwrap_or(0);
        let used = used.saturating_sub(files.saturating_sub(shared));
        (limit < UNLIMITED).then(|| limit.saturating_sub(used))
    }
}

/// From here on a limit of the first version is none: it is the largest number of whole pages.
const UNLIMITED: u64 = 1 << 62;

/// A line of `memory.stat`.
fn value(stat: &str, name: &str) -> u64 {
    let mut lines = stat.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Our cgroups and those above them, of either version, as far as they can be seen.
fn groups(cgroups: &str, mounts: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        if let Some((root, mount)) = mounts.lines().find_map(|line| mount(line, unified)) {
            // Outside what is mounted, as in a container, the mount itself is the nearest.
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            // An empty path would be joined as a slash.
            let folder: PathBuf = mount.iter().chain(below.iter()).collect();
            groups.extend(
                folder
                    .ancestors()
                    .take_while(|folder| folder.starts_with(mount))
                    .map(|folder| Group {
                        folder: folder.to_owned(),
                        unified,
                    }),
            );
        }
    }
    groups
}

/// Which part of the hierarchy is mounted where, if this line of `mountinfo` is about it.
fn mount(line: &str, unified: bool) -> Option<(&Path, &Path)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let wanted = if unified { "cgroup2" } else { "cgroup" };
    let is_memory = |options: &str| options.split(',').any(|option| option == "memory");
    if kind.next()? != wanted || !(unified || is_memory(kind.nth(1)?)) {
        return None;
    }
    let mut place = place.split(' ').skip(3);
    Some((Path::new(place.next()?), Path::new(place.next()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(cgroups: &str, mounts: &str) -> Vec<(String, bool)> {
        let groups = groups(cgroups, mounts);
        let folder = |group: &Group| (group.folder.display().to_string(), group.unified);
        groups.iter().map(folder).collect()
    }

    #[test]
    fn cgroups_are_found_with_those_above() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = folders("0::/system.slice/a.service\n", mounts);
        let expected = [
            "/sys/fs/cgroup/system.slice/a.service",
            "/sys/fs/cgroup/system.slice",
        ];
        assert_eq!(found[0], (expected[0].to_owned(), true));
        assert_eq!(found[1], (expected[1].to_owned(), true));
        assert_eq!(found[2], ("/sys/fs/cgroup".to_owned(), true));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn the_first_version_has_a_hierarchy_for_memory() {
        let mounts = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 /docker/b /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        // Inside a container, with the host's view of its own path and without.
        for path in ["/docker/b", "/"] {
            let cgroups = format!("5:cpu:/docker/b\n4:memory:{path}\n0::/\n");
            let memory = ("/sys/fs/cgroup/memory".to_owned(), false);
            let unified = ("/sys/fs/cgroup/unified".to_owned(), true);
            assert_eq!(folders(&cgroups, mounts), [memory, unified], "{path}");
        }
    }

    #[test]
    fn sockets_are_as_many_as_fit() {
        let machine = 24 << 30;
        let fixed = 40 * MIB;
        assert_eq!(choose(None, machine, None, fixed), Ok(SOCKETS_MAX));
        assert_eq!(choose(None, 0, None, fixed), Ok(SOCKETS_MIN));
        assert_eq!(choose(None, machine, Some(1 << 40), fixed), Ok(SOCKETS_MAX));
        assert_eq!(choose(Some(16), machine, Some(41 * MIB), fixed), Ok(16));
        let some = choose(None, machine, Some(64 * MIB), fixed).unwrap();
        assert!((SOCKETS_LEAST..SOCKETS_MAX).contains(&some), "{some}");
        for (asked, room) in [(None, 40 * MIB), (Some(SOCKETS_MAX), 64 * MIB), (None, 0)] {
            let needed = choose(asked, machine, Some(room), fixed).unwrap_err();
            assert!(choose(asked, machine, Some(needed), fixed).is_ok());
        }
    }

    #[test]
    fn statistics_are_read_by_their_whole_name() {
        let stat = "cache 1\ntotal_cache 4096\ntotal_cachelike 2\nfile 7\n";
        assert_eq!(value(stat, "total_cache"), 4096);
        assert_eq!(value(stat, "file"), 7);
        assert_eq!(value(stat, "shmem"), 0);
    }
}
