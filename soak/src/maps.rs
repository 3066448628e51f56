//! What is in the tracer's BPF maps, by the kernel's own interface.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use tcptrace_common::count::{self, COUNTS};

use toolchain::process::bpf_maps;

// Commands of `bpf(2)`, and where `union bpf_attr` and `struct bpf_map_info` have their fields
// (include/uapi/linux/bpf.h).
const LOOKUP: i64 = 1;
const NEXT_KEY: i64 = 4;
const FD_BY_ID: i64 = 14;
const INFO_BY_FD: i64 = 15;
const INFO_LEN: usize = 88;
const NAME_AT: usize = 24;
const NAME_LEN: usize = 16;

/// `union bpf_attr`, as far as these commands use it.
type Attr = [u64; 8];

/// A map that is open here too.
#[derive(Debug)]
struct Map {
    fd: OwnedFd,
    name: String,
    key_size: usize,
    value_size: usize,
}

fn bpf(command: i64, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: the callers leave addresses of live buffers in `attr`, of the sizes that the map has.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of::<Attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn address(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr().expose_provenance() as u64
}

/// Two fields of four bytes, in the order of memory.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

impl Map {
    fn open(id: u32) -> Result<Self> {
        let mut attr = Attr::default();
        attr[0] = pair(id, 0);
        let raw = i32::try_from(bpf(FD_BY_ID, &mut attr)?)?;
        // SAFETY: the kernel has just made it, for us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut info = vec![0; INFO_LEN];
        let mut attr = Attr::default();
        attr[0] = pair(u32::try_from(raw)?, u32::try_from(INFO_LEN)?);
        attr[1] = address(&mut info);
        bpf(INFO_BY_FD, &mut attr)?;
        let word = |at: usize| -> Result<usize> {
            Ok(u32::from_ne_bytes(info[at..at + 4].try_into()?).try_into()?)
        };
        let name = &info[NAME_AT..NAME_AT + NAME_LEN];
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self {
            fd,
            name: String::from_utf8_lossy(name).into_owned(),
            key_size: word(8)?,
            value_size: word(12)?,
        })
    }

    fn attr(&self, key: &mut [u8], other: &mut [u8]) -> Attr {
        let mut attr = Attr::default();
        attr[0] = pair(self.fd.as_raw_fd().cast_unsigned(), 0);
        attr[1] = if key.is_empty() { 0 } else { address(key) };
        attr[2] = address(other);
        attr
    }

    /// Its keys by now: what goes while we look may be among them.
    fn keys(&self) -> Result<HashSet<Vec<u8>>> {
        let mut keys = HashSet::new();
        let mut last = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            match bpf(NEXT_KEY, &mut self.attr(&mut last, &mut next)) {
                Ok(_) => {}
                Err(why) if why.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(why) => return Err(why.into()),
            }
            // If the last one is gone, the kernel begins anew.
            if !keys.insert(next.clone()) {
                return Ok(keys);
            }
            last = next;
        }
    }

    /// None if it has gone.
    fn value(&self, key: &[u8], len: usize) -> Result<Option<Vec<u8>>> {
        let mut key = key.to_vec();
        let mut value = vec![0; len];
        match bpf(LOOKUP, &mut self.attr(&mut key, &mut value)) {
            Ok(_) => Ok(Some(value)),
            Err(why) if why.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }
}

/// The maps of one tracer.
#[derive(Debug)]
pub(super) struct Maps {
    maps: Vec<Map>,
    /// Addresses as they stand in records: the soak's own, and nobody else's
    ours: Vec<Vec<u8>>,
}

/// What is left in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Records of the soak's sockets and pairs: the map and the record in hexadecimal
    pub(super) ours: Vec<String>,
    /// Keys of each map, whosever
    pub(super) entries: Vec<(String, usize)>,
    /// Keys of `PENDING`, `LOCKS` and `BACKLOGS` without a record in `SOCKS`
    pub(super) astray: Vec<String>,
    /// Counters that should agree, and by how much they do not
    pub(super) unbalanced: Vec<(&'static str, i64)>,
}

impl Left {
    pub(super) fn is_nothing(&self) -> bool {
        self.ours.is_empty() && self.astray.is_empty() && self.unbalanced.is_empty()
    }
}

impl Maps {
    pub(super) fn of(pid: u32, ours: Vec<Vec<u8>>) -> Result<Self> {
        let maps: Result<Vec<_>> = bpf_maps(pid)?.into_iter().map(Map::open).collect();
        Ok(Self { maps: maps?, ours })
    }

    fn named(&self, name: &str) -> Result<&Map> {
        let map = self.maps.iter().find(|map| map.name == name);
        map.with_context(|| format!("the tracer has no map {name}"))
    }

    /// Looks through all of them.
    pub(super) fn left(&self) -> Result<Left> {
        let mut left = Left::default();
        // The listener's and the waiting record's first, so that a new one is not taken for astray.
        let mut others = Vec::new();
        for name in ["PENDING", "LOCKS", "BACKLOGS"] {
            others.push((name, self.named(name)?.keys()?));
        }
        let mut socks = HashSet::new();
        for name in ["SOCKS", "TIME_WAITS"] {
            let map = self.named(name)?;
            let keys = map.keys()?;
            left.entries.push((name.to_owned(), keys.len()));
            for key in &keys {
                if let Some(value) = map.value(key, map.value_size)?
                    && self.is_ours(&value)
                {
                    left.ours.push(format!("{name} {}", hex(&value)));
                }
            }
            if name == "SOCKS" {
                socks = keys;
            }
        }
        for (name, keys) in others {
            left.entries.push((name.to_owned(), keys.len()));
            for key in keys.difference(&socks) {
                // Or gone by now, with its record.
                if self
                    .named(name)?
                    .value(key, self.named(name)?.value_size)?
                    .is_some()
                {
                    left.astray.push(format!("{name} {}", hex(key)));
                }
            }
        }
        for (what, more, less) in [
            ("deferred steps", count::DEFERRED, count::DEFERRED_SENT),
            (
                "deferred steps without an entry",
                count::UNLISTED,
                count::UNLISTED_SENT,
            ),
            (
                "time-wait sockets watched",
                count::POLL_ADDED,
                count::POLL_REMOVED,
            ),
        ] {
            let difference = self.counted(more)? - self.counted(less)?;
            if difference != 0 {
                left.unbalanced.push((what, difference));
            }
        }
        Ok(left)
    }

    /// Whether a record has one of the soak's addresses in it: both ends of its connections have.
    fn is_ours(&self, value: &[u8]) -> bool {
        self.ours.iter().any(|address| {
            let at = |at: usize| value.get(at..at + address.len()) == Some(address);
            (0..value.len()).step_by(4).any(at)
        })
    }

    /// Of all processors.
    fn counted(&self, index: usize) -> Result<i64> {
        let map = self.named("COUNT")?;
        if map.value_size != size_of::<[u64; COUNTS]>() {
            bail!("these are not our counters");
        }
        let value = map.value(
            &0_u32.to_ne_bytes(),
            map.value_size * possible_processors()?,
        )?;
        let value = value.context("no counters")?;
        let (words, _) = value.as_chunks::<{ size_of::<u64>() }>();
        let processors = words.chunks_exact(COUNTS);
        Ok(processors
            .map(|words| i64::from_ne_bytes(words[index]))
            .sum())
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in bytes {
        // Text has room.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

/// For each the kernel has a value of its own: `0-3`.
fn possible_processors() -> Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().unwrap_or_default();
    Ok(last.parse::<usize>()? + 1)
}
