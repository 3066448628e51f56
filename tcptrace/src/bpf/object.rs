//! Parts of the loaded object by name.

use aya::Ebpf;

use crate::error::Error;

/// One of the object's maps, borrowed.
pub(super) fn map<'a, M>(ebpf: &'a mut Ebpf, name: &str) -> Result<M, Error>
where
    M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf
        .map_mut(name)
        .ok_or_else(|| anyhow::anyhow!("the embedded object has no map {name}"))?;
    Ok(M::try_from(map).map_err(anyhow::Error::new)?)
}

/// One of the object's maps, taken out of it.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, Error>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| anyhow::anyhow!("the embedded object has no map {name}"))?;
    Ok(M::try_from(map).map_err(anyhow::Error::new)?)
}

/// Without the verifier's log, which is many lines long.
pub(super) fn brief(error: &str) -> &str {
    let brief = error.split(" Verifier output:").next().unwrap_or_default();
    brief.trim_end_matches(['.', ' ', ':'])
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
