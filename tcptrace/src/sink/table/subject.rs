//! Whose row it is: owner, connection and both ends, which every row has before what happened.

use std::net::IpAddr;

use anstyle::Style;

use super::pen::{BOLD, CONNECTIONS, DIM, Pen, blanks};
use crate::{
    event::Connection,
    sink::{
        remembered::Remembered,
        text::{push_address, push_escaped, push_hex, push_number},
    },
};

const PID_WIDTH: usize = 7;
const COMM_WIDTH: usize = 15;
const UID_WIDTH: usize = 6;
const SOURCE_WIDTH: usize = 8;
const NETNS_WIDTH: usize = 10;
const CONN_WIDTH: usize = 6;
const ENDPOINT_WIDTH: usize = 15;
const ARROW_WIDTH: usize = 3;
/// So many rows, one after the other, that would have had room in narrow columns make them narrow again.
const NARROW_ROWS: u32 = 200;

/// The columns of owner, connection and both ends.
#[derive(Debug)]
pub(super) struct Subject {
    pen: Pen,
    wide: bool,
    conn_width: usize,
    local_width: usize,
    remote_width: usize,
    /// Rows since the last with IPv6
    narrow_rows: u32,
    /// None where a connection has but one row, and nothing is worth remembering
    remembered: Option<Remembered>,
    local: Vec<u8>,
    remote: Vec<u8>,
}

impl Subject {
    /// `wide`: with user id, network namespace and how the owner is known. `again`: whether a
    /// connection has more rows than one.
    pub(super) fn new(pen: Pen, wide: bool, again: bool) -> Self {
        Self {
            pen,
            wide,
            conn_width: CONN_WIDTH,
            local_width: ENDPOINT_WIDTH,
            remote_width: ENDPOINT_WIDTH,
            narrow_rows: 0,
            remembered: again.then(Remembered::default),
            local: Vec::new(),
            remote: Vec::new(),
        }
    }

    /// Their titles.
    pub(super) fn header(&self, out: &mut Vec<u8>) {
        let pen = self.pen;
        pen.cell(out, "PID", PID_WIDTH, BOLD, true);
        out.push(b' ');
        pen.cell(out, "COMM", COMM_WIDTH, BOLD, false);
        out.extend_from_slice(b"  ");
        if self.wide {
            pen.cell(out, "UID", UID_WIDTH, BOLD, true);
            out.push(b' ');
            pen.cell(out, "OWNER BY", SOURCE_WIDTH, BOLD, false);
            out.push(b' ');
            pen.cell(out, "NETNS", NETNS_WIDTH, BOLD, true);
            out.extend_from_slice(b"  ");
        }
        pen.cell(out, "CONN", self.conn_width, BOLD, true);
        out.extend_from_slice(b"  ");
        pen.cell(out, "LOCAL", self.local_width + ARROW_WIDTH, BOLD, false);
        pen.cell(out, "REMOTE", self.remote_width, BOLD, false);
        out.extend_from_slice(b"  ");
    }

    /// Appends them for one connection.
    pub(super) fn write(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        self.make_narrow(connection);
        if let Some(remembered) = &self.remembered
            && remembered.recall(connection, out)
        {
            return;
        }
        self.make_ends(connection);
        self.make_room(connection);
        let begin = out.len();
        self.owner(connection, out);
        self.id(connection, out);
        self.ends(connection, out);
        if let Some(remembered) = &mut self.remembered {
            remembered.keep(connection, &out[begin..]);
        }
    }

    /// Takes back the room of addresses that nobody has had for long: one such row would else push all
    /// later ones over the edge of the terminal.
    fn make_narrow(&mut self, connection: &Connection) {
        if connection.laddr().is_ipv6() {
            self.narrow_rows = 0;
            return;
        }
        self.narrow_rows = self.narrow_rows.saturating_add(1);
        if self.narrow_rows == NARROW_ROWS
            && self.local_width.max(self.remote_width) > ENDPOINT_WIDTH
        {
            self.local_width = ENDPOINT_WIDTH;
            self.remote_width = ENDPOINT_WIDTH;
            self.forget();
        }
    }

    /// Both ends of a connection as text.
    fn make_ends(&mut self, connection: &Connection) {
        self.local.clear();
        push_endpoint(
            &mut self.local,
            Some(connection.laddr()),
            connection.lport(),
        );
        self.remote.clear();
        if connection.raddr().is_none() && connection.is_listener() {
            self.remote.push(b'*');
        } else {
            push_endpoint(&mut self.remote, connection.raddr(), connection.rport());
        }
    }

    /// Widens the columns that are too narrow for this connection.
    fn make_room(&mut self, connection: &Connection) {
        let needed = [digits(connection.id()), self.local.len(), self.remote.len()];
        let widths = [
            &mut self.conn_width,
            &mut self.local_width,
            &mut self.remote_width,
        ];
        let mut wider = false;
        for (width, needed) in widths.into_iter().zip(needed) {
            wider |= needed > *width;
            *width = needed.max(*width);
        }
        if wider {
            self.forget();
        }
    }

    /// What was written in other columns is of no use any more.
    fn forget(&mut self) {
        if let Some(remembered) = &mut self.remembered {
            remembered.clear();
        }
    }

    fn owner(&self, connection: &Connection, out: &mut Vec<u8>) {
        let pen = self.pen;
        let provisional = connection.is_provisional();
        let owner_style = if provisional { DIM } else { BOLD };
        pen.number(out, connection.pid(), PID_WIDTH, owner_style, true);
        out.push(if provisional { b'~' } else { b' ' });
        let comm = match connection.comm() {
            [] => b"-".as_slice(),
            comm => comm,
        };
        let comm_style = if provisional { DIM } else { Style::new() };
        pen.begin(out, comm_style);
        let columns = push_escaped(out, comm);
        pen.end(out, comm_style);
        blanks(out, COMM_WIDTH.saturating_sub(columns));
        out.extend_from_slice(b"  ");
        if self.wide {
            pen.number(out, connection.uid(), UID_WIDTH, Style::new(), true);
            out.push(b' ');
            pen.ascii(out, connection.pid_source(), SOURCE_WIDTH, DIM, false);
            out.push(b' ');
            pen.number(out, Some(connection.netns()), NETNS_WIDTH, DIM, true);
            out.extend_from_slice(b"  ");
        }
    }

    fn id(&self, connection: &Connection, out: &mut Vec<u8>) {
        let pen = self.pen;
        let index = usize::try_from(connection.id()).unwrap_or(0) % CONNECTIONS.len();
        blanks(out, self.conn_width.saturating_sub(digits(connection.id())));
        pen.begin(out, CONNECTIONS[index]);
        push_hex(out, connection.id());
        pen.end(out, CONNECTIONS[index]);
        out.extend_from_slice(b"  ");
    }

    fn ends(&self, connection: &Connection, out: &mut Vec<u8>) {
        let pen = self.pen;
        let plain = Style::new();
        let (local, remote) = (&self.local, &self.remote);
        pen.put(out, local, local.len(), self.local_width, plain, false);
        let arrow = match connection.role() {
            "client" => " → ",
            "server" => " ← ",
            _ => "   ",
        };
        pen.last(out, arrow, DIM);
        pen.put(out, remote, remote.len(), self.remote_width, plain, false);
        out.extend_from_slice(b"  ");
    }
}

/// How many hexadecimal digits it has.
const fn digits(id: u64) -> usize {
    let bits = u64::BITS - (id | 1).leading_zeros();
    bits.div_ceil(4) as usize
}

/// `1.2.3.4:80`, `[::1]:80`, and `?` for a port that the socket never had.
fn push_endpoint(text: &mut Vec<u8>, addr: Option<IpAddr>, port: Option<u16>) {
    let Some(addr) = addr else {
        text.push(b'?');
        return;
    };
    if addr.is_ipv6() {
        text.push(b'[');
        push_address(text, addr);
        text.push(b']');
    } else {
        push_address(text, addr);
    }
    text.push(b':');
    match port {
        Some(port) => push_number(text, port.into()),
        None => text.push(b'?'),
    }
}
