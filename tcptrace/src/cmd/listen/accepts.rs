//! What is accepted between two looks: a trace of accept records alone, added up where others are printed.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    error::Error,
    event::{Accept, Event},
    inventory::socket::Socket,
    sink::{End, Lost, Start},
    trace::{Consumer, Flow},
};

/// Waits are counted in steps of an eighth of a power of two.
const STEPS: u64 = 8;
const BUCKETS: usize = 64 * 8;

/// What was accepted at one address of a namespace.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) count: u64,
    /// The most that waited at any time
    pub(super) deepest: Option<u32>,
    pub(super) last_ns: u64,
    /// How many waited how long
    waits: Box<[u32; BUCKETS]>,
}

impl Default for Accepted {
    fn default() -> Self {
        Self {
            count: 0,
            deepest: None,
            last_ns: 0,
            waits: Box::new([0; BUCKETS]),
        }
    }
}

impl Accepted {
    fn wait(&mut self, us: u64) {
        if let Some(many) = self.waits.get_mut(bucket(us)) {
            *many = many.saturating_add(1);
        }
    }

    /// Adds what was accepted at another address of the same listener.
    pub(super) fn join(&mut self, other: &Self) {
        self.count += other.count;
        self.deepest = self.deepest.max(other.deepest);
        self.last_ns = self.last_ns.max(other.last_ns);
        for (many, others) in self.waits.iter_mut().zip(other.waits.iter()) {
            *many = many.saturating_add(*others);
        }
    }

    /// So long waited so many in a thousand, or less.
    pub(super) fn quantile_us(&self, per_mille: u64) -> Option<u64> {
        let all: u64 = self.waits.iter().map(|many| u64::from(*many)).sum();
        let wanted = (all * per_mille).div_ceil(1000).max(1);
        let mut passed = 0;
        for (bucket, many) in self.waits.iter().enumerate() {
            passed += u64::from(*many);
            if passed >= wanted {
                return Some(upper_us(bucket));
            }
        }
        None
    }
}

fn bucket(us: u64) -> usize {
    if us < STEPS {
        return usize::try_from(us).unwrap_or(0);
    }
    let power = u64::from(us.ilog2());
    let step = us >> (power - 3) & (STEPS - 1);
    usize::try_from((power - 2) * STEPS + step).unwrap_or(BUCKETS - 1)
}

/// The longest wait in a bucket.
fn upper_us(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(0);
    if bucket < STEPS {
        return bucket;
    }
    let (power, step) = (bucket / STEPS + 2, bucket % STEPS);
    ((STEPS + step + 1) << (power - 3)) - 1
}

/// What was accepted since it was last taken, by namespace, port and address.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepts(Arc<Mutex<Tally>>);

#[derive(Debug, Default)]
pub(super) struct Tally {
    by: HashMap<(u64, u16, IpAddr), Accepted>,
    /// Records that were lost
    pub(super) lost: u64,
}

impl Accepts {
    /// Takes what there is; it begins anew.
    pub(super) fn take(&self) -> Tally {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn accepted(&self, accept: &Accept) {
        let connection = accept.connection();
        let Some(lport) = connection.lport() else {
            return;
        };
        let key = (connection.netns().into(), lport, connection.laddr());
        self.with(|tally| {
            let accepted = tally.by.entry(key).or_default();
            accepted.count += 1;
            // Those that are left, and the one that was taken.
            let depth = accept.backlog().map(|left| left.saturating_add(1));
            accepted.deepest = accepted.deepest.max(depth);
            accepted.last_ns = accepted.last_ns.max(connection.mono_ns());
            if let Some(us) = accept.wait_us() {
                accepted.wait(us);
            }
        });
    }

    fn with(&self, work: impl FnOnce(&mut Tally)) {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Tally {
    /// What was accepted from these listeners of one address, and from no other: `takes` says of an address of
    /// ours whether it is theirs alone.
    pub(super) fn of(
        &self,
        netns: u64,
        listener: &Socket,
        takes: impl Fn(IpAddr) -> bool,
    ) -> Accepted {
        let mut all = Accepted::default();
        for ((other, port, local), accepted) in &self.by {
            if *other == netns && *port == listener.lport && takes(*local) {
                all.join(accepted);
            }
        }
        all
    }
}

impl Consumer for Accepts {
    fn name(&self) -> &'static str {
        "listen"
    }

    fn start(&mut self, _start: &Start) {}

    fn begin_batch(&mut self, _wall_minus_mono_ns: i64) {}

    fn event(&mut self, event: &Event) -> bool {
        if let Event::Accept(accept) = event {
            self.accepted(accept);
        }
        true
    }

    fn lost(&mut self, lost: &Lost) {
        self.with(|tally| tally.lost += lost.count + lost.accepts);
    }

    fn end(&mut self, _end: &End) {}

    fn flush(&mut self) -> Result<Flow, Error> {
        Ok(Flow::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_close() {
        for us in (0..2000).chain([65_535, 65_536, 1_000_000, u64::from(u32::MAX)]) {
            let upper = upper_us(bucket(us));
            assert!(upper >= us && upper <= us + us / 8, "{us}: {upper}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles() {
        let mut accepted = Accepted::default();
        assert_eq!(accepted.quantile_us(500), None);
        for _ in 0..98 {
            accepted.wait(5);
        }
        accepted.wait(1_000_000);
        accepted.wait(1_000_000);
        assert_eq!(accepted.quantile_us(500), Some(5));
        assert!(accepted.quantile_us(990).unwrap() >= 1_000_000);
    }
}
