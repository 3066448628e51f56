//! What is wrong once nothing more can come.

use super::{Checker, MOST_FAULTS, NOT_LEFT};
use crate::oracle::Missed;

impl Checker {
    /// What is wrong now that nothing more can come. Nothing of the soak's is open any more. What was
    /// missed cannot be reported.
    pub(crate) fn finish(&mut self, missed: &[Missed]) {
        match self.ended {
            None => self.faults.push("there is no end record".to_owned()),
            Some((transitions, lost)) => {
                let reported = self.numbers.transitions + self.numbers.time_wait_ends;
                if (transitions, lost) != (reported, self.numbers.lost) {
                    self.faults.push(format!(
                        "the end record has {transitions} transitions and {lost} lost; the lines \
                         had {reported} and {}",
                        self.numbers.lost
                    ));
                }
            }
        }
        for (cookie, open) in std::mem::take(&mut self.open) {
            if open.ours {
                let since = [open.last_us, u64::MAX];
                self.gap(since, "its end was not reported", cookie, &open.last_line);
            }
        }
        for ((cookie, _), waiting) in std::mem::take(&mut self.waiting) {
            if waiting.ours {
                let since = [waiting.since_us, u64::MAX];
                self.gap(since, NOT_LEFT, cookie, "(nothing follows)");
            }
        }
        let before = self.gaps.len();
        self.gaps.retain(|gap| !gap.is_one_of(missed));
        let excused = self.excused.iter().filter(|gap| gap.is_one_of(missed));
        self.numbers.missed = (before - self.gaps.len() + excused.count()) as u64;
        let missing = self.numbers.missed
            + self.numbers.lost
            + self.numbers.lost_closes
            + self.numbers.lost_accepts
            + self.numbers.lost_time_waits;
        if self.numbers.gaps > missing {
            self.faults.push(format!(
                "{} records are evidently missing, and the tracer says that it lost {missing}",
                self.numbers.gaps
            ));
        }
        for gap in std::mem::take(&mut self.gaps) {
            self.numbers.faults += 1;
            if self.faults.len() < MOST_FAULTS {
                self.faults.push(format!(
                    "between {} and {} us, when nothing was lost: {}",
                    gap.from_us, gap.to_us, gap.what
                ));
            }
        }
        self.numbers.faults = self.numbers.faults.max(self.faults.len() as u64);
    }
}
