//! Ring bytes in a file, to be replayed: what `--record-ring` writes and the replay tests read.
//!
//! Layout, in the byte order of the machine: `tcptrace`, `ABI_VERSION` (u32), the difference of
//! the wall clock to `CLOCK_MONOTONIC` (i64, ns); then each record as its length (u32) and its
//! bytes.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use tcptrace_common::record::ABI_VERSION;

use crate::file;

const MAGIC: &[u8; 8] = b"tcptrace";

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<File>,
}

impl Recorder {
    /// Begins a recording.
    pub fn create(path: &Path, wall_minus_mono_ns: i64) -> std::io::Result<Self> {
        let mut file = BufWriter::new(file::create(path)?);
        file.write_all(MAGIC)?;
        file.write_all(&ABI_VERSION.to_ne_bytes())?;
        file.write_all(&wall_minus_mono_ns.to_ne_bytes())?;
        Ok(Self { file })
    }

    /// Adds a record.
    pub fn add(&mut self, record: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(record.len()).map_err(std::io::Error::other)?;
        self.file.write_all(&len.to_ne_bytes())?;
        self.file.write_all(record)
    }

    /// Writes what has gathered.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A recording in memory.
#[derive(Clone, Debug)]
pub struct Recording<'a> {
    /// How far the wall clock was ahead of `CLOCK_MONOTONIC`, ns
    pub wall_minus_mono_ns: i64,
    records: &'a [u8],
}

impl<'a> Recording<'a> {
    /// Reads the head of a recording; none if it is not one of this version.
    pub fn open(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(MAGIC)?;
        let (version, bytes) = bytes.split_first_chunk()?;
        if u32::from_ne_bytes(*version) != ABI_VERSION {
            return None;
        }
        let (clock, records) = bytes.split_first_chunk()?;
        Some(Self {
            wall_minus_mono_ns: i64::from_ne_bytes(*clock),
            records,
        })
    }
}

impl<'a> Iterator for Recording<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.records.split_first_chunk()?;
        let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
        let (record, rest) = rest.split_at_checked(len)?;
        self.records = rest;
        Some(record)
    }
}
