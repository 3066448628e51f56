//! Memory and descriptors of the tracer, from its start to its end.

use std::time::{Duration, Instant};

use anyhow::Result;

use toolchain::process::{files, memory_kib};

/// Until the ring has been filled once and every path has been walked.
const WARM_UP: Duration = Duration::from_secs(15);

/// It may move by so much without having grown.
const TOLERANCE_KIB: u64 = 1 << 10;

/// One look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    at: Instant,
    pub(super) rss_kib: u64,
    pub(super) anon_kib: u64,
    pub(super) files: usize,
}

/// All looks.
#[derive(Debug)]
pub(super) struct Health {
    pid: u32,
    begun: Instant,
    samples: Vec<Sample>,
}

/// What was seen in one half.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Half {
    /// The most
    pub(super) rss_kib: u64,
    /// The most
    pub(super) anon_kib: u64,
    /// The fewest: a tracer opens some for a moment, which says nothing
    pub(super) files: Option<usize>,
}

impl Health {
    pub(super) fn of(pid: u32) -> Self {
        Self {
            pid,
            begun: Instant::now(),
            samples: Vec::new(),
        }
    }

    pub(super) fn look(&mut self) -> Result<Sample> {
        let sample = Sample {
            at: Instant::now(),
            rss_kib: memory_kib(self.pid, "VmRSS")?,
            anon_kib: memory_kib(self.pid, "RssAnon")?,
            files: files(self.pid)?,
        };
        self.samples.push(sample);
        Ok(sample)
    }

    /// What was seen in the first half after the warm-up, and in the second.
    pub(super) fn halves(&self) -> [Half; 2] {
        let mut halves = [Half::default(); 2];
        let Some(last) = self.samples.last() else {
            return halves;
        };
        let all = last.at - self.begun;
        let from = self.begun + WARM_UP.min(all / 5);
        let middle = from + (last.at - from) / 2;
        for sample in self.samples.iter().filter(|sample| sample.at >= from) {
            let half = &mut halves[usize::from(sample.at > middle)];
            half.rss_kib = half.rss_kib.max(sample.rss_kib);
            half.anon_kib = half.anon_kib.max(sample.anon_kib);
            half.files = Some(
                half.files
                    .map_or(sample.files, |files| files.min(sample.files)),
            );
        }
        halves
    }

    /// What has grown.
    pub(super) fn faults(&self) -> Vec<String> {
        let [first, second] = self.halves();
        let mut faults = Vec::new();
        for (what, before, after) in [
            ("resident memory", first.rss_kib, second.rss_kib),
            ("anonymous memory", first.anon_kib, second.anon_kib),
        ] {
            if after > before + TOLERANCE_KIB {
                faults.push(format!(
                    "{what} grows: {before} KiB at most in the first half, {after} KiB in the second"
                ));
            }
        }
        if let (Some(before), Some(after)) = (first.files, second.files)
            && after > before
        {
            faults.push(format!(
                "open files grow: {before} at least in the first half, {after} in the second"
            ));
        }
        faults
    }
}
