//! What the kernel counts for a whole network namespace: `/proc/net/netstat`.

use std::{collections::HashMap, fs};

use super::netns;

/// SYN cookies sent, by namespace, since the last look at it.
#[derive(Debug, Default)]
pub struct Cookies {
    sent: HashMap<u64, u64>,
    ours: Option<u64>,
}

impl Cookies {
    /// Notes where every namespace stands now. One made later begins at 0.
    pub fn begin() -> Self {
        let mut cookies = Self {
            sent: HashMap::new(),
            ours: netns::own(),
        };
        for namespace in netns::all() {
            if let Some(sent) = read(&namespace, cookies.ours) {
                cookies.sent.insert(namespace.inode, sent);
            }
        }
        cookies
    }

    /// How many were sent in a namespace since the last call; none if it cannot be read.
    pub fn since(&mut self, inode: u64) -> Option<u64> {
        let namespace = netns::all()
            .into_iter()
            .find(|namespace| namespace.inode == inode)?;
        let now = read(&namespace, self.ours)?;
        let before = self.sent.insert(inode, now).unwrap_or(0);
        Some(now.saturating_sub(before))
    }
}

fn read(namespace: &netns::Namespace, ours: Option<u64>) -> Option<u64> {
    let text = || fs::read_to_string("/proc/thread-self/net/netstat").map_err(Into::into);
    let text = if ours == Some(namespace.inode) {
        text()
    } else {
        netns::within(namespace, text)
    };
    cookies_sent(&text.ok()?)
}

/// `TcpExt.SyncookiesSent`: each group has a line of names and a line of values.
fn cookies_sent(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        if !names.starts_with("TcpExt:") {
            continue;
        }
        return names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(name, _value)| *name == "SyncookiesSent")
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
