//! State changes, and the lives of sockets that they make up.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::netns::Netns;

/// One state change.
#[derive(Clone, Debug)]
pub struct Step {
    /// `CLOCK_MONOTONIC`
    pub at_ns: u64,
    /// Address of the socket: its identity, until it is freed
    pub sk: u64,
    pub old: &'static str,
    pub new: &'static str,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// It closes a socket of which a time-wait socket remains
    pub time_wait: bool,
    /// In a softirq over the first process. There are kernels that run no BPF program there, and count no miss:
    /// only ftrace sees those. Never set in guests, whose kernels are not such.
    pub over_first: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06} {:x} {} -> {} {} -> {}{}",
            self.at_ns / 1_000_000_000,
            self.at_ns / 1000 % 1_000_000,
            self.sk,
            self.local,
            self.remote,
            self.old,
            self.new,
            if self.time_wait { " (time-wait)" } else { "" }
        )
    }
}

/// The state changes of one socket from its birth, or from the start of the recording, to its
/// end.
#[derive(Clone, Debug)]
pub struct Life {
    pub steps: Vec<Step>,
}

impl Life {
    /// Its local and remote end. No single record is sure to have both whole: a client has no
    /// port yet at its first step.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        let end = |of: fn(&Step) -> SocketAddr| {
            let addrs = || self.steps.iter().rev().map(of);
            let any = addrs().next().unwrap();
            let ip = addrs().find(|addr| !addr.ip().is_unspecified());
            let port = addrs().find(|addr| addr.port() != 0);
            SocketAddr::new(ip.unwrap_or(any).ip(), port.unwrap_or(any).port())
        };
        (end(|step| step.local), end(|step| step.remote))
    }

    pub fn lines(&self) -> String {
        let lines: Vec<_> = self.steps.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    /// Whether a time-wait socket took its place.
    pub fn time_waits(&self) -> bool {
        self.steps.iter().any(|step| step.time_wait)
    }

    pub fn is_listener(&self) -> bool {
        let first = &self.steps[0];
        first.new == "LISTEN" || (first.old == "LISTEN" && first.new == "CLOSE")
    }
}

/// Tells whole lives, in the order of their beginnings.
pub fn lives(steps: &[Step]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut living = HashMap::new();
    for step in steps {
        // What the kernel reports after the end of a listener by `ss -K`, and of some subflows of MPTCP.
        if step.old == "CLOSE" && step.new == "CLOSE" {
            continue;
        }
        let born = step.old == "CLOSE" || (step.old == "LISTEN" && step.new == "SYN_RECV");
        let at = match living.get(&step.sk) {
            Some(at) if !born => *at,
            _ => {
                lives.push(Life { steps: Vec::new() });
                living.insert(step.sk, lives.len() - 1);
                lives.len() - 1
            }
        };
        lives[at].steps.push(step.clone());
        if step.new == "CLOSE" {
            living.remove(&step.sk);
        }
    }
    lives
}

/// The lives in a namespace, told by the addresses that are its own. Listeners on all addresses
/// are told by their ports.
pub fn lives_in(steps: &[Step], netns: &Netns, wildcards: &[u16]) -> Vec<Life> {
    let mut lives = lives(steps);
    lives.retain(|life| {
        let (local, remote) = life.ends();
        let ours = |ip: IpAddr| ip == netns.v4 || ip == netns.v6;
        ours(local.ip())
            || ours(remote.ip())
            || (life.is_listener()
                && local.ip().is_unspecified()
                && wildcards.contains(&local.port()))
    });
    lives
}

/// The name of a state of `net/tcp_states.h`.
pub fn state(number: u32) -> &'static str {
    const STATES: [&str; 12] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    STATES[number as usize - 1]
}
