//! The connections that are open when tracing begins.

use std::{
    fs::File,
    io::{self, Read as _},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::Iter,
};

use super::object::map;
use crate::{error::Error, kernel::Kernel};

/// The `socket` records of what was open, and what could not be looked at.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Records, one after another
    pub records: Vec<u8>,
    /// Network namespaces that could not be entered, and why
    pub unseen: Vec<(u64, String)>,
}

/// Finds what processes hold, before the state hooks are attached.
pub(super) fn find(ebpf: &mut Ebpf) -> Result<(), Error> {
    iterate(ebpf, "snapshot_files", &mut Vec::new())
}

/// Runs `hook::snapshot`: twice over all files, then over the sockets of each network namespace.
pub(super) fn take(ebpf: &mut Ebpf, kernel: &Kernel) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot::default();
    for pass in 0..2 {
        map::<Array<&mut MapData, u32>>(ebpf, "SNAPSHOT_PASS")?
            .set(0, pass, 0)
            .map_err(anyhow::Error::new)?;
        iterate(ebpf, "snapshot_files", &mut snapshot.records)?;
    }
    let ours = kernel.netns;
    iterate(ebpf, "snapshot_tcp", &mut snapshot.records)?;
    for namespace in crate::kernel::netns::all() {
        if Some(namespace.inode) == ours {
            continue;
        }
        let file = open(ebpf, "snapshot_tcp")?;
        // An iterator belongs to the namespace of the thread that starts it.
        let read = crate::kernel::netns::within(&namespace, || {
            read(file.and_then(|link| link.into_file().map_err(anyhow::Error::new)))
        });
        match read {
            Ok(records) => snapshot.records.extend(records),
            Err(why) => snapshot.unseen.push((namespace.inode, format!("{why:#}"))),
        }
    }
    Ok(snapshot)
}

pub(super) type Link = aya::programs::iter::IterLink;

pub(super) fn open(ebpf: &mut Ebpf, name: &str) -> Result<anyhow::Result<Link>, Error> {
    let program: &mut Iter = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow::anyhow!("the embedded object has no program {name}"))?
        .try_into()
        .map_err(anyhow::Error::new)?;
    Ok(program
        .attach()
        .and_then(|link| program.take_link(link))
        .map_err(anyhow::Error::new))
}

fn iterate(ebpf: &mut Ebpf, name: &str, records: &mut Vec<u8>) -> Result<(), Error> {
    let link = open(ebpf, name)?;
    records.extend(read(
        link.and_then(|link| link.into_file().map_err(anyhow::Error::new)),
    )?);
    Ok(())
}

fn read(file: anyhow::Result<File>) -> anyhow::Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut file = file?;
    loop {
        match file.read_to_end(&mut records) {
            Ok(_) => return Ok(records),
            // The kernel pauses after a million objects without a word (`bpf_seq_read`), and goes on from
            // there.
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            Err(why) => return Err(why.into()),
        }
    }
}
