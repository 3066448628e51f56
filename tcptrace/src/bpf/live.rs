//! What a tracer that runs on this host knows of connections: read from its maps, which are found by name. Nothing is
//! pinned, nothing written.

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, loaded_maps},
};
use tcptrace_common::{
    live::{ABI_MAP, ABI_PAIRS_WORD, ABI_SOCKS_WORD, ABI_VERSION_WORD, LIVE_VERSION, pair, sock},
    record::{FLAG_PARTIAL, Owner, PATH_LEN, Step},
};
use zerocopy::FromBytes as _;

use super::object::map;
use crate::error::Error;

/// What a tracer knows of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its id
    pub conn: u64,
    /// When its first transition was; none if that went unseen
    pub began_ns: Option<u64>,
    /// Its last state, and since when
    pub state: Option<(u8, u64)>,
    /// `ROLE_*`
    pub role: u8,
    /// Whose it is; `tgid` 0: not known
    pub owner: Owner,
    /// `SOURCE_*`
    pub source: u8,
}

/// Says where others find what this tracer knows.
pub(super) fn publish(ebpf: &mut Ebpf) -> Result<(), Error> {
    let id = |ebpf: &Ebpf, name: &str| {
        let Some(Map::HashMap(data)) = ebpf.map(name) else {
            return Err(anyhow::anyhow!("the embedded object has no map {name}"));
        };
        Ok(data.info()?.id())
    };
    let (socks, pairs) = (id(ebpf, "SOCKS")?, id(ebpf, "TIME_WAITS")?);
    let mut abi: Array<&mut MapData, u32> = map(ebpf, ABI_MAP)?;
    for (word, value) in [
        (ABI_SOCKS_WORD, socks),
        (ABI_PAIRS_WORD, pairs),
        (ABI_VERSION_WORD, LIVE_VERSION),
    ] {
        abi.set(word, value, 0).map_err(anyhow::Error::new)?;
    }
    Ok(())
}

/// What the tracers that run know, each connection in turn. Returns how many tracers there are whose maps can be read,
/// and how many of another version. Needs `CAP_SYS_ADMIN`.
pub fn read(mut each: impl FnMut(&Known)) -> (usize, usize) {
    let (mut read, mut others) = (0, 0);
    for info in loaded_maps() {
        // Without the right to look at maps there are none.
        let Ok(info) = info else {
            break;
        };
        if info.name_as_str() != Some(ABI_MAP) {
            continue;
        }
        match read_one(info.id(), &mut each) {
            Ok(true) => read += 1,
            Ok(false) => others += 1,
            Err(why) => log::info!("a tracer's maps cannot be read: {why:#}"),
        }
    }
    (read, others)
}

/// Returns whether it is of our version. One that is about to start knows nothing yet.
fn read_one(id: u32, each: &mut impl FnMut(&Known)) -> anyhow::Result<bool> {
    let abi: Array<MapData, u32> = Map::from_map_data(MapData::from_id(id)?)?.try_into()?;
    let version = abi.get(&ABI_VERSION_WORD, 0)?;
    if version != LIVE_VERSION {
        return Ok(version == 0);
    }
    let open = |word| anyhow::Ok(Map::from_map_data(MapData::from_id(abi.get(&word, 0)?)?)?);
    let pairs: HashMap<MapData, u64, [u8; pair::BYTES]> = open(ABI_PAIRS_WORD)?.try_into()?;
    for pair in values(&pairs) {
        each(&of_pair(&pair));
    }
    let socks: HashMap<MapData, u64, [u8; sock::BYTES]> = open(ABI_SOCKS_WORD)?.try_into()?;
    for sock in values(&socks) {
        each(&of_sock(&sock));
    }
    Ok(true)
}

/// The values of a map that others write: where an entry goes while it is looked at, the kernel begins anew
/// (`htab_map_get_next_key`), so there is a limit.
fn values<const N: usize>(map: &HashMap<MapData, u64, [u8; N]>) -> impl Iterator<Item = [u8; N]> {
    const MOST: usize = 4_000_000;
    map.iter()
        .take(MOST)
        .filter_map(Result::ok)
        .map(|(_, value)| value)
}

fn of_pair(bytes: &[u8; pair::BYTES]) -> Known {
    let since_ns = word(bytes, pair::SINCE_NS);
    Known {
        conn: word(bytes, pair::CONN),
        began_ns: None,
        state: Some((tcptrace_common::tcp::TIME_WAIT, since_ns)),
        role: byte(bytes, pair::ROLE),
        owner: owner(bytes, pair::OWNER),
        source: byte(bytes, pair::SOURCE),
    }
}

fn of_sock(bytes: &[u8; sock::BYTES]) -> Known {
    let steps = usize::from(byte(bytes, sock::PATH_LEN_AT)).min(PATH_LEN);
    let step = |at: usize| Step(word(bytes, sock::PATH + at * 8));
    let known = |step: Step| (step.mono_ns() != 0).then_some(step.mono_ns());
    let last = steps.checked_sub(1).map(step);
    let slot = usize::from(byte(bytes, sock::SLOT) & 1);
    let partial = byte(bytes, sock::FLAGS) & FLAG_PARTIAL != 0;
    Known {
        conn: word(bytes, sock::CONN),
        began_ns: if partial || steps == 0 {
            None
        } else {
            known(step(0))
        },
        state: last.and_then(|last| Some((last.state(), known(last)?))),
        role: byte(bytes, sock::ROLE),
        owner: owner(bytes, sock::OWNERS + slot * size_of::<Owner>()),
        source: byte(bytes, sock::SOURCES + slot),
    }
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    word.map_or(0, |word| u64::from_ne_bytes(*word))
}

fn owner(bytes: &[u8], at: usize) -> Owner {
    let bytes = bytes.get(at..).unwrap_or_default();
    Owner::read_from_prefix(bytes).map_or(Owner::default(), |(owner, _)| owner)
}
