//! The columns of the table: their names, what stands in them, and how rows are sorted by them.

use std::net::IpAddr;

use anstyle::Style;

use super::Row;
use crate::{
    inventory::socket::TimerKind,
    sink::{
        pen::{BOLD, DIM, YELLOW, state_style},
        text::{push_address, push_bytes, push_duration, push_escaped, push_hex, push_number},
    },
};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Column {
    /// State
    State,
    /// Our end
    Local,
    /// The peer's end
    Remote,
    /// Owner
    Pid,
    /// Its name, and how many others there are
    Comm,
    /// Bytes not read; connections not accepted
    RecvQ,
    /// Bytes not acknowledged; how many connections may wait
    SendQ,
    /// What runs, until when, how often it has
    Timer,
    /// Since the last transition
    InState,
    /// Since the first transition
    Age,
    /// Since data moved
    Idle,
    /// Network namespace
    Netns,
    /// User
    Uid,
    /// Round-trip time
    Rtt,
    /// Segments sent again
    Retrans,
    /// Bytes sent
    Tx,
    /// Bytes received
    Rx,
    /// Congestion window
    Cwnd,
    /// Largest segment
    Mss,
    /// Congestion control
    Congestion,
    /// Its id
    Conn,
    /// How the owner is known
    Source,
    /// Of its file
    Inode,
    /// cgroup
    Cgroup,
    /// Client, server, listener
    Role,
    /// All descriptors of all owners
    Fds,
}

/// The least that is worth showing, at any width.
pub const BASE: [Column; 5] = [
    Column::State,
    Column::Local,
    Column::Remote,
    Column::Pid,
    Column::Comm,
];

/// What is added as there is room, the most useful first.
pub const MORE: [Column; 14] = [
    Column::RecvQ,
    Column::SendQ,
    Column::InState,
    Column::Netns,
    Column::Timer,
    Column::Age,
    Column::Uid,
    Column::Idle,
    Column::Rtt,
    Column::Retrans,
    Column::Tx,
    Column::Rx,
    Column::Conn,
    Column::Source,
];

/// All, as `-w` shows them.
pub const ALL: [Column; 26] = [
    Column::State,
    Column::Local,
    Column::Remote,
    Column::Pid,
    Column::Comm,
    Column::Source,
    Column::Uid,
    Column::RecvQ,
    Column::SendQ,
    Column::Timer,
    Column::InState,
    Column::Age,
    Column::Idle,
    Column::Rtt,
    Column::Retrans,
    Column::Tx,
    Column::Rx,
    Column::Cwnd,
    Column::Mss,
    Column::Congestion,
    Column::Netns,
    Column::Role,
    Column::Conn,
    Column::Inode,
    Column::Cgroup,
    Column::Fds,
];

/// What rows are sorted by; what is not known comes last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A quantity
    Number(u64),
    /// A name
    Text(Vec<u8>),
    /// An end of a connection
    End(IpAddr, u16),
}

impl Column {
    /// Its title.
    pub const fn title(self) -> &'static str {
        match self {
            Self::State => "STATE",
            Self::Local => "LOCAL",
            Self::Remote => "REMOTE",
            Self::Pid => "PID",
            Self::Comm => "COMM",
            Self::RecvQ => "RECV-Q",
            Self::SendQ => "SEND-Q",
            Self::Timer => "TIMER",
            Self::InState => "IN STATE",
            Self::Age => "AGE",
            Self::Idle => "IDLE",
            Self::Netns => "NETNS",
            Self::Uid => "UID",
            Self::Rtt => "RTT",
            Self::Retrans => "RETRANS",
            Self::Tx => "TX",
            Self::Rx => "RX",
            Self::Cwnd => "CWND",
            Self::Mss => "MSS",
            Self::Congestion => "CC",
            Self::Conn => "CONN",
            Self::Source => "OWNER BY",
            Self::Inode => "INODE",
            Self::Cgroup => "CGROUP",
            Self::Role => "ROLE",
            Self::Fds => "FDS",
        }
    }

    /// Whether its text stands at the right.
    pub const fn is_right(self) -> bool {
        !matches!(
            self,
            Self::State
                | Self::Local
                | Self::Remote
                | Self::Comm
                | Self::Timer
                | Self::Congestion
                | Self::Source
                | Self::Role
                | Self::Fds
        )
    }

    /// Whether it needs what the kernel counts.
    pub const fn needs_counters(self) -> bool {
        matches!(
            self,
            Self::Idle
                | Self::Rtt
                | Self::Retrans
                | Self::Tx
                | Self::Rx
                | Self::Cwnd
                | Self::Mss
                | Self::Congestion
        )
    }

    /// Appends its text; what is not known is `-`. Returns how many columns of a terminal it takes.
    pub fn write(self, row: &Row<'_>, out: &mut Vec<u8>) -> usize {
        let begin = out.len();
        let socket = row.socket;
        match self {
            Self::State => out.extend_from_slice(row.state().name().as_bytes()),
            Self::Local => push_end(out, socket.local, socket.lport),
            Self::Remote => match row.remote() {
                Some(remote) => push_end(out, remote, socket.rport),
                None => out.push(b'*'),
            },
            Self::Comm => return push_comm(row, out),
            Self::Timer => return push_timer(row, out),
            Self::Source => {
                let source = row.owner().map_or("-", |owner| owner.source);
                out.extend_from_slice(source.as_bytes());
            }
            Self::Role => out.extend_from_slice(row.role().name().as_bytes()),
            Self::Congestion => {
                if let Some(counters) = row.counters().filter(|_| row.was_established()) {
                    return push_escaped(out, counters.congestion());
                }
            }
            Self::Conn => push_hex(out, socket.cookie),
            Self::Pid => {
                if let Some(Key::Number(pid)) = self.key(row) {
                    push_number(out, pid);
                    // Nobody has accepted it yet.
                    if row.owner().is_some_and(|owner| owner.source == "listener") {
                        out.push(b'~');
                    }
                }
            }
            Self::Fds => {
                for (nth, (process, held)) in row.holders().enumerate() {
                    for (fd, holding) in held.iter().enumerate() {
                        out.extend_from_slice(match (nth, fd) {
                            (0, 0) => b"",
                            (_, 0) => b" ",
                            _ => b",",
                        });
                        if fd == 0 {
                            push_number(out, process.pid.into());
                            out.push(b':');
                        }
                        push_number(out, holding.fd.into());
                    }
                }
            }
            Self::InState | Self::Age | Self::Idle | Self::Rtt => {
                if let Some(Key::Number(us)) = self.key(row) {
                    push_duration(out, us);
                    // `µ` is two bytes in one column.
                    let text = out.get(begin..).unwrap_or_default();
                    return text.len() - usize::from(text.contains(&0xc2));
                }
            }
            Self::Tx | Self::Rx => {
                if let Some(Key::Number(bytes)) = self.key(row) {
                    push_bytes(out, bytes);
                }
            }
            _ => {
                if let Some(Key::Number(number)) = self.key(row) {
                    push_number(out, number);
                }
            }
        }
        if out.len() == begin {
            out.push(b'-');
        }
        out.len() - begin
    }

    /// What to sort a row by.
    pub fn key(self, row: &Row<'_>) -> Option<Key> {
        let socket = row.socket;
        let counters = row.counters();
        let established = counters.filter(|_| row.was_established());
        let queues = !socket.is_time_wait() && !socket.is_half_open();
        let number = match self {
            Self::State => return Some(Key::Text(row.state().name().into())),
            Self::Local => return Some(Key::End(socket.local, socket.lport)),
            Self::Remote => return Some(Key::End(row.remote()?, socket.rport)),
            Self::Comm => return Some(Key::Text(row.owner()?.process.comm().into())),
            Self::Source => return Some(Key::Text(row.owner()?.source.into())),
            Self::Role => return Some(Key::Text(row.role().name().into())),
            Self::Congestion => return Some(Key::Text(established?.congestion().into())),
            Self::Pid => row.owner()?.process.pid.into(),
            Self::Uid => row.owner()?.process.uid?.into(),
            Self::RecvQ => queues.then(|| socket.recv_queue.into())?,
            Self::SendQ => queues.then(|| socket.send_queue.into())?,
            Self::Timer => (socket.timer != TimerKind::None).then(|| socket.timer_ms.into())?,
            Self::InState => row.past()?.in_state_us?,
            Self::Age => row.past()?.age_us?,
            Self::Idle => row.idle_us()?,
            Self::Netns => row.netns(),
            Self::Rtt => Some(established?.srtt_us).filter(|us| *us != 0)?.into(),
            Self::Retrans => counters?.retransmits.into(),
            Self::Tx => counters?.tx_bytes,
            Self::Rx => row.rx_bytes(counters?),
            Self::Cwnd => established?.cwnd.into(),
            Self::Mss => established?.mss.into(),
            Self::Conn => socket.cookie,
            Self::Inode => Some(socket.inode).filter(|inode| *inode != 0)?.into(),
            Self::Cgroup => Some(socket.cgroup).filter(|cgroup| *cgroup != 0)?,
            Self::Fds => u64::try_from(row.holdings().len()).ok()?,
        };
        Some(Key::Number(number))
    }

    /// How its text looks.
    pub fn style(self, row: &Row<'_>) -> Style {
        match self {
            Self::State => state_style(row.state()),
            Self::Pid | Self::Comm if row.holdings().is_empty() => DIM,
            Self::Pid => BOLD,
            Self::RecvQ if row.is_full() => YELLOW,
            Self::Netns | Self::Conn | Self::Source | Self::Inode | Self::Cgroup => DIM,
            _ => Style::new(),
        }
    }
}

pub(in crate::sink) fn push_end(out: &mut Vec<u8>, address: IpAddr, port: u16) {
    if address.is_ipv6() {
        out.push(b'[');
        push_address(out, address);
        out.push(b']');
    } else {
        push_address(out, address);
    }
    out.push(b':');
    push_number(out, port.into());
}

fn push_comm(row: &Row<'_>, out: &mut Vec<u8>) -> usize {
    let Some(owner) = row.owner() else {
        out.push(b'-');
        return 1;
    };
    let columns = push_escaped(out, owner.process.comm());
    let others = row.holders().count().saturating_sub(1);
    let begin = out.len();
    if others > 0 {
        out.extend_from_slice(b" +");
        push_number(out, u64::try_from(others).unwrap_or(u64::MAX));
    }
    columns + out.len() - begin
}

/// As `ss` writes it: what runs, until when, how often it has.
fn push_timer(row: &Row<'_>, out: &mut Vec<u8>) -> usize {
    let socket = row.socket;
    let Some(name) = socket.timer.name() else {
        out.push(b'-');
        return 1;
    };
    let begin = out.len();
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    push_duration(out, u64::from(socket.timer_ms) * 1000);
    if socket.timer_retries > 0 {
        out.extend_from_slice(b" #");
        push_number(out, socket.timer_retries.into());
    }
    let text = out.get(begin..).unwrap_or_default();
    text.len() - usize::from(text.contains(&0xc2))
}
