//! What of a tracer is in the kernel, and what is left there when it has been killed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Child, Stdio},
    time::Duration,
};

use aya::{
    maps::{MapData, MapInfo},
    programs::loaded_links,
};

use crate::{
    actor::Actor,
    confinement::Folder,
    harness::{Test, alone},
    netns::{Ip, Netns},
    peer::First,
    record::Record,
    tracer, wait,
};

pub(crate) const TESTS: &[Test] = &[alone!(killed_under_load)];

/// Kind and id: `prog`, `map` or `link`.
type Ids = BTreeSet<(String, u32)>;

/// What BPF the kernel has, of everybody.
fn loaded() -> Ids {
    let programs = aya::programs::loaded_programs()
        .flatten()
        .map(|program| ("prog".to_owned(), program.id()));
    let maps = aya::maps::loaded_maps()
        .flatten()
        .map(|map| ("map".to_owned(), map.id()));
    let links = loaded_links()
        .flatten()
        .map(|link| ("link".to_owned(), link.id()));
    programs.chain(maps).chain(links).collect()
}

/// The map of this name that a process has.
pub(crate) fn map_of(pid: u32, name: &str) -> MapData {
    let (_, id) = held_by(&pid.to_string())
        .into_iter()
        .filter(|(kind, _)| kind == "map")
        .find(|(_, id)| MapInfo::from_id(*id).unwrap().name_as_str() == Some(name))
        .unwrap_or_else(|| panic!("no map {name}"));
    MapData::from_id(id).unwrap()
}

/// What BPF a process has open. Empty if it is gone.
pub(crate) fn held_by(pid: &str) -> Ids {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let texts = files
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| fs::read_to_string(file.path()).ok());
    let mut ids = Ids::new();
    for text in texts {
        for line in text.lines() {
            let kind = line.split_once("_id:").filter(|(kind, _)| {
                // A program's file names its maps and links as well in some kernels.
                ["prog", "map", "link"].contains(kind)
            });
            if let Some((kind, id)) = kind {
                ids.insert((kind.to_owned(), id.trim().parse().unwrap()));
            }
        }
    }
    ids
}

fn held_by_anybody() -> Ids {
    let mut ids = Ids::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            ids.append(&mut held_by(&name));
        }
    }
    ids
}

/// How many entries with this network namespace in them a process's map of this name has.
pub(crate) fn entries_of(pid: u32, name: &str, netns: u64) -> usize {
    const GET_NEXT_KEY: i32 = 4;
    const LOOKUP: i32 = 1;

    let ids = held_by(&pid.to_string());
    let map = ids
        .iter()
        .filter(|(kind, _)| kind == "map")
        .map(|(_, id)| MapInfo::from_id(*id).unwrap())
        .find(|map| map.name_as_str() == Some(name))
        .unwrap_or_else(|| panic!("no map {name}"));
    let mut key = vec![0_u8; map.key_size() as usize];
    let mut value = vec![0_u8; map.value_size() as usize];
    let wanted = u32::try_from(netns).unwrap().to_ne_bytes();
    let fd = map.fd().unwrap();
    let fd = fd.as_fd().as_raw_fd();
    let mut next = key.clone();
    let mut first = true;
    let mut count = 0;
    while map_command(GET_NEXT_KEY, fd, (!first).then_some(&key), &mut next) {
        first = false;
        key.copy_from_slice(&next);
        let found = map_command(LOOKUP, fd, Some(&key), &mut value);
        count += usize::from(found && value.chunks_exact(4).any(|word| word == wanted));
    }
    count
}

/// `bpf(2)` on an entry of a map; false if there is none.
fn map_command(command: i32, map: i32, key: Option<&Vec<u8>>, out: &mut [u8]) -> bool {
    #[repr(C)]
    struct Attr {
        map: u64,
        key: u64,
        out: u64,
        flags: u64,
    }

    let attr = Attr {
        map: u64::try_from(map).unwrap(),
        key: key.map_or(0, |key| key.as_ptr() as u64),
        out: out.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads `attr` and `key`, and writes a key or a value of the map into `out`,
    // which has room for it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Attr>()) };
    result == 0
}

/// The mounts that this process and its children see, and what is pinned.
fn surroundings() -> (String, BTreeSet<std::ffi::OsString>) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pinned = fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    (mounts, pinned.map(|entry| entry.file_name()).collect())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// `kill -9`: nothing of it stays behind, and nobody else notices.
fn killed_under_load() {
    let folder = Folder::new("killed");
    let log = folder.0.join("log");
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_serve_until_told(&listener, First::Client);
    client.tell(&format!("dial-until-told {} client", listener.local));

    let around = surroundings();
    let before = loaded();
    let mut command = tracer::command(&tracer::binary(), &["--json", "--events", "all"]);
    command
        .stdin(Stdio::null())
        .stdout(File::create(&log).unwrap());
    let tracer = Killed(command.spawn().unwrap());
    let pid = tracer.0.id().to_string();
    let grown = wait::poll(Duration::from_mins(1), || {
        let len = fs::metadata(&log).map_or(0, |log| log.len());
        (len > 1_000_000).then_some(())
    });
    assert!(grown.is_some(), "nothing was traced");
    let ours = held_by(&pid);
    let count = |kind: &str| ours.iter().filter(|(other, _)| kind == other).count();
    let counts = ["prog", "map", "link"].map(count);
    assert!(counts[0] >= 8 && counts[1] >= 16, "{counts:?}");
    drop(tracer);
    let killed = std::time::Instant::now();

    // The kernel frees them when nobody can be running or reading them any more.
    let mut left = Ids::new();
    let gone = wait::poll(Duration::from_secs(30), || {
        left = loaded().intersection(&ours).cloned().collect();
        left.is_empty().then_some(())
    });
    assert!(gone.is_some(), "left in the kernel: {left:?}");
    let gone_after = killed.elapsed();
    // Nor anything that it did not have open; others on the host may have loaded something.
    let gone = wait::poll(Duration::from_secs(10), || {
        let mut news: Ids = loaded().difference(&before).cloned().collect();
        let held = held_by_anybody();
        news.retain(|id| !held.contains(id));
        left = news;
        left.is_empty().then_some(())
    });
    assert!(
        gone.is_some(),
        "left in the kernel, and held by nobody: {left:?}"
    );
    assert!(surroundings() == around, "mounts or pins are left");

    client.tell("enough");
    let made: u64 = client.answer().parse().unwrap();
    assert_eq!(server.stop_serving().len() as u64, made);
    // Each line but the last is whole.
    let text = fs::read_to_string(&log).unwrap();
    let (whole, _cut) = text.rsplit_once('\n').unwrap();
    let lines = whole.lines().map(Record::parse).count();
    let [programs, maps, links] = counts;
    crate::harness::figure!(
        "killed after {lines} lines, under {made} connections: {programs} programs, {maps} maps \
         and {links} links were gone after {gone_after:.1?}"
    );
}
