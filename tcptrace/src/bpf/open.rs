//! Has the kernel side report what is still open as the trace ends.

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use tcptrace_common::config::{FINDS_PER_RUN, SOCK_WORDS};

use super::ring::run;

/// The program that reports.
pub(super) const PROGRAM: &str = "still_open";

/// So many at a time: between two, what the ring has is read.
const PART: usize = 1024;

/// What there is to report, a part at each call.
#[derive(Debug)]
pub(super) struct StillOpen {
    keys: Vec<u64>,
    /// Which is next: in the first round come those that began during the trace, in the second the others
    next: usize,
    before: u64,
}

impl StillOpen {
    /// All records there are now.
    pub(super) fn of(ebpf: &Ebpf) -> Self {
        let records: Option<HashMap<&MapData, u64, [u64; SOCK_WORDS]>> = ebpf
            .map("SOCKS")
            .and_then(|map| HashMap::try_from(map).ok());
        let keys = records.iter().flat_map(|records| records.keys().flatten());
        Self {
            keys: keys.collect(),
            next: 0,
            before: 0,
        }
    }

    /// Returns whether that was the last part. `with_former`: those that were open before the trace, too.
    pub(super) fn report(&mut self, ebpf: &Ebpf, with_former: bool) -> bool {
        let part = self.keys.iter().skip(self.next).take(PART);
        let part: Vec<u64> = part.copied().collect();
        for keys in part.chunks(FINDS_PER_RUN) {
            let mut args = [0; FINDS_PER_RUN + 1];
            args[0] = self.before;
            args[1..=keys.len()].copy_from_slice(keys);
            run(ebpf, PROGRAM, &args);
        }
        self.next += part.len();
        if self.next < self.keys.len() {
            return false;
        }
        if !with_former || self.before == 1 {
            return true;
        }
        self.before = 1;
        self.next = 0;
        false
    }
}
