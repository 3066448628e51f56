//! What is wrong at a listener, in a sentence: what happens, who could help it, and which knob governs it.

use super::{LimitedBy, Listening};
use crate::sink::text::{count, duration, escape};

impl Listening<'_> {
    /// What is wrong; nothing if nothing is.
    pub fn trouble(&self) -> Option<String> {
        if !self.is_troubled() {
            return None;
        }
        let mut parts = vec![self.queues()];
        parts.extend(self.dropped());
        parts.extend(self.owner());
        parts.extend(self.knob());
        parts.retain(|part| !part.is_empty());
        Some(parts.join("; "))
    }

    fn queues(&self) -> String {
        let mut parts = Vec::new();
        let backlog = self.backlog();
        let oldest = self.queue.oldest_us.map_or_else(String::new, |us| {
            format!(", the oldest for {}", duration(us))
        });
        if self.is_full() {
            parts.push(format!(
                "the accept queue is full: {} wait, the limit is {}{oldest}",
                count(backlog),
                count(self.backlog_max())
            ));
        } else if backlog > 0 {
            let verb = if backlog == 1 { "waits" } else { "wait" };
            parts.push(format!("{} {verb} for accept(){oldest}", count(backlog)));
        }
        if self.is_flooded() {
            parts.push(format!(
                "{} requests are half-open, the limit is {}",
                count(self.queue.half_open.into()),
                count(self.backlog_max())
            ));
        }
        parts.join(", ")
    }

    fn dropped(&self) -> Option<String> {
        let Some(since) = &self.since else {
            let drops = self.drops().filter(|drops| *drops > 0)?;
            return Some(format!("{} dropped since it listens", count(drops)));
        };
        (since.dropped > 0).then(|| {
            let overflowed = since.overflowed.map_or_else(String::new, |many| {
                format!(", {} of them for a full queue", count(many))
            });
            format!(
                "{} dropped in {}{overflowed}",
                count(since.dropped),
                duration(since.us)
            )
        })
    }

    fn owner(&self) -> Option<String> {
        let owner = *self.holders().first()?;
        let name = format!("{} ({})", escape(owner.comm()), owner.pid);
        let since = self.since.as_ref();
        let accepts = since.and_then(|since| since.accepts);
        let idle = since
            .and_then(|since| since.not_accepted_us)
            .filter(|_| accepts == Some(0));
        match (idle, self.doing.words()) {
            (Some(us), Some(doing)) => Some(format!(
                "{name} has not accepted for {}, it {doing}",
                duration(us)
            )),
            (Some(us), None) => Some(format!("{name} has not accepted for {}", duration(us))),
            (None, Some(doing)) => Some(format!("{name} {doing}")),
            (None, None) => None,
        }
    }

    fn knob(&self) -> Option<String> {
        if self.is_flooded() && !self.is_full() {
            return Some(match self.knobs.syncookies {
                Some(0) => "net.ipv4.tcp_syncookies is 0: further requests are dropped".to_owned(),
                _ => "SYN cookies answer further requests (net.ipv4.tcp_syncookies)".to_owned(),
            });
        }
        let somaxconn = self.knobs.somaxconn?;
        let limit = match self.limited_by()? {
            LimitedBy::Listen => format!(
                "the argument of listen() sets the limit, up to net.core.somaxconn ({})",
                count(somaxconn.into())
            ),
            LimitedBy::Somaxconn => format!(
                "net.core.somaxconn ({}) limits the argument of listen()",
                count(somaxconn.into())
            ),
        };
        let refused = match self.knobs.abort_on_overflow {
            Some(true) if self.is_full() => ", clients are reset (net.ipv4.tcp_abort_on_overflow)",
            _ => "",
        };
        Some(format!("{limit}{refused}"))
    }
}
