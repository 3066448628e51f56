//! What the kernel counts for each network namespace: `/proc/net/netstat`.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use super::netns::{self, Namespace};

/// Listeners of one namespace that ask within this time get one number together.
const SAME_LOOK: Duration = Duration::from_millis(500);

/// SYN cookies sent, by namespace, since the last look at it.
#[derive(Debug, Default)]
pub struct Cookies {
    seen: HashMap<u64, Seen>,
    ours: Option<u64>,
}

/// A namespace at its last look.
#[derive(Debug)]
struct Seen {
    namespace: Namespace,
    total: u64,
    since_before: u64,
    at: Option<Instant>,
}

impl Cookies {
    /// Notes where every namespace stands now. One made later begins at 0.
    pub fn begin() -> Self {
        let mut cookies = Self {
            seen: HashMap::new(),
            ours: netns::own(),
        };
        cookies.find(true);
        cookies
    }

    fn find(&mut self, at_start: bool) {
        for namespace in netns::all() {
            let inode = namespace.inode;
            if self.seen.contains_key(&inode) {
                continue;
            }
            let total = if at_start {
                read(&namespace, self.ours).unwrap_or(0)
            } else {
                0
            };
            let seen = Seen {
                namespace,
                total,
                since_before: 0,
                at: None,
            };
            self.seen.insert(inode, seen);
        }
    }

    /// How many were sent in a namespace since the last look; none if it cannot be read.
    pub fn since(&mut self, inode: u64) -> Option<u64> {
        if !self.seen.contains_key(&inode) {
            self.find(false);
        }
        let ours = self.ours;
        let seen = self.seen.get_mut(&inode)?;
        if seen.at.is_none_or(|at| at.elapsed() > SAME_LOOK) {
            let Some(total) = read(&seen.namespace, ours) else {
                // Who it was known by is no more; somebody else may be in it. What was sent until now stays
                // counted.
                let gone = self.seen.remove(&inode)?;
                self.find(false);
                let found = self.seen.get_mut(&inode)?;
                found.total = gone.total;
                return None;
            };
            // Another namespace may have the inode of one that is no more.
            seen.since_before = total.checked_sub(seen.total).unwrap_or(total);
            seen.total = total;
            seen.at = Some(Instant::now());
        }
        Some(seen.since_before)
    }
}

fn read(namespace: &Namespace, ours: Option<u64>) -> Option<u64> {
    let text = || fs::read_to_string("/proc/thread-self/net/netstat").map_err(Into::into);
    let text = if ours == Some(namespace.inode) {
        text()
    } else {
        netns::within(namespace, text)
    };
    cookies_sent(&text.ok()?)
}

/// `TcpExt.SyncookiesSent`
pub fn cookies_sent(netstat: &str) -> Option<u64> {
    counter(netstat, "SyncookiesSent")
}

/// A counter of `TcpExt`: each group has a line of names and a line of values.
pub fn counter(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        if !names.starts_with("TcpExt:") {
            continue;
        }
        return names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(other, _value)| *other == name)
            .and_then(|(_name, value)| value.parse().ok());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_value_under_its_name() {
        let text = "Ip: A\nIp: 1\nTcpExt: A SyncookiesSent B\nTcpExt: 1 22 3\n";
        assert_eq!(cookies_sent(text), Some(22));
        for cut in 0..text.len() {
            let _either = cookies_sent(&text[..cut]);
        }
        assert_eq!(cookies_sent("TcpExt: SyncookiesSent\nTcpExt: -1\n"), None);
    }
}
