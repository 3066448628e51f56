//! Whose row it is: owner, connection and both ends, which every row has before what happened.

use std::net::IpAddr;

use anstyle::Style;

use super::layout::{ARROW_WIDTH, CONN_WIDTH, Layout, PID_WIDTH, PORT_WIDTH, WHOLE};
use crate::{
    event::{Connection, OwnerSource, Role},
    sink::{
        pen::{BOLD, CONNECTIONS, DIM, Pen, blanks},
        remembered::Remembered,
        text::{clip, escape, push_address, push_escaped, push_hex, push_number},
    },
};

const UID_WIDTH: usize = 6;
const SOURCE_WIDTH: usize = 8;
const NETNS_WIDTH: usize = 10;
/// So many rows, one after the other, that would have had room in narrow columns make them narrow again.
const NARROW_ROWS: u32 = 200;

/// The columns of owner, connection and both ends.
#[derive(Debug)]
pub(super) struct Subject {
    pen: Pen,
    wide: bool,
    layout: Layout,
    /// Columns that the terminal has left for longer ends
    spare: usize,
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
            layout: WHOLE,
            spare: usize::MAX,
            conn_width: CONN_WIDTH,
            local_width: WHOLE.endpoint_width,
            remote_width: WHOLE.endpoint_width,
            narrow_rows: 0,
            remembered: again.then(Remembered::default),
            local: Vec::new(),
            remote: Vec::new(),
        }
    }

    /// Lays the columns out anew. `spare`: how many columns longer ends may take.
    pub(super) fn lay_out(&mut self, layout: Layout, spare: usize) {
        self.layout = layout;
        self.spare = spare;
        self.make_ends_narrow();
    }

    fn make_ends_narrow(&mut self) {
        let width = self.layout.endpoint_width;
        self.local_width = if self.layout.laddr { width } else { PORT_WIDTH };
        self.remote_width = width;
        self.forget();
    }

    /// Columns of a row up to what happened.
    pub(super) fn width(&self) -> usize {
        let gap = self.layout.gap;
        let mut width = PID_WIDTH + 1 + self.layout.comm_width + gap;
        if self.wide {
            width += UID_WIDTH + 1 + SOURCE_WIDTH + 1 + NETNS_WIDTH + 2;
        }
        if self.layout.conn {
            width += self.conn_width + gap;
        }
        width + self.local_width + ARROW_WIDTH + self.remote_width + gap
    }

    /// Their titles.
    pub(super) fn header(&self, out: &mut Vec<u8>) {
        let pen = self.pen;
        pen.cell(out, "PID", PID_WIDTH, BOLD, true);
        out.push(b' ');
        pen.cell(out, "COMM", self.layout.comm_width, BOLD, false);
        blanks(out, self.layout.gap);
        if self.wide {
            pen.cell(out, "UID", UID_WIDTH, BOLD, true);
            out.push(b' ');
            pen.cell(out, "OWNER BY", SOURCE_WIDTH, BOLD, false);
            out.push(b' ');
            pen.cell(out, "NETNS", NETNS_WIDTH, BOLD, true);
            out.extend_from_slice(b"  ");
        }
        if self.layout.conn {
            pen.cell(out, "CONN", self.conn_width, BOLD, true);
            blanks(out, self.layout.gap);
        }
        pen.cell(out, "LOCAL", self.local_width + ARROW_WIDTH, BOLD, false);
        pen.cell(out, "REMOTE", self.remote_width, BOLD, false);
        blanks(out, self.layout.gap);
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
        if self.layout.conn {
            self.id(connection, out);
        }
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
        let width = self.layout.endpoint_width;
        if self.narrow_rows == NARROW_ROWS && self.local_width.max(self.remote_width) > width {
            self.make_ends_narrow();
        }
    }

    /// Both ends of a connection as text.
    fn make_ends(&mut self, connection: &Connection) {
        self.local.clear();
        if self.layout.laddr {
            push_endpoint(
                &mut self.local,
                Some(connection.laddr()),
                connection.lport(),
            );
        } else {
            push_port(&mut self.local, connection.lport());
        }
        self.remote.clear();
        if connection.raddr().is_none() && connection.role() == Role::Listener {
            self.remote.push(b'*');
        } else {
            push_endpoint(&mut self.remote, connection.raddr(), connection.rport());
        }
    }

    /// Widens the columns that are too narrow for this connection, as far as the terminal has room, and
    /// shortens what is still too long.
    fn make_room(&mut self, connection: &Connection) {
        let before = (self.conn_width, self.local_width, self.remote_width);
        self.conn_width = self.conn_width.max(digits(connection.id()));
        let grown = self.local_width + self.remote_width - self.narrow_ends();
        let mut spare = self.spare.saturating_sub(grown);
        for (width, end) in [
            (&mut self.local_width, &self.local),
            (&mut self.remote_width, &self.remote),
        ] {
            let more = end.len().saturating_sub(*width).min(spare);
            *width += more;
            spare -= more;
        }
        if before != (self.conn_width, self.local_width, self.remote_width) {
            self.forget();
        }
        shorten(&mut self.local, self.local_width);
        shorten(&mut self.remote, self.remote_width);
    }

    /// Columns of both ends as narrow as the layout has them.
    const fn narrow_ends(&self) -> usize {
        let width = self.layout.endpoint_width;
        width + if self.layout.laddr { width } else { PORT_WIDTH }
    }

    /// What was written in other columns is of no use any more.
    fn forget(&mut self) {
        if let Some(remembered) = &mut self.remembered {
            remembered.clear();
        }
    }

    fn owner(&self, connection: &Connection, out: &mut Vec<u8>) {
        let pen = self.pen;
        let provisional = connection.owner_source() == OwnerSource::Listener;
        let owner_style = if provisional { DIM } else { BOLD };
        pen.number(out, connection.pid(), PID_WIDTH, owner_style, true);
        out.push(if provisional { b'~' } else { b' ' });
        let comm = match connection.comm() {
            [] => b"-".as_slice(),
            comm => comm,
        };
        let comm_style = if provisional { DIM } else { Style::new() };
        pen.begin(out, comm_style);
        let width = self.layout.comm_width;
        let begin = out.len();
        let mut columns = push_escaped(out, comm);
        if self.layout.width.is_some() && columns > width {
            let shown = clip(&escape(comm), width);
            out.truncate(begin);
            out.extend_from_slice(shown.as_bytes());
            columns = unicode_width::UnicodeWidthStr::width(shown.as_str());
        }
        pen.end(out, comm_style);
        blanks(out, width.saturating_sub(columns));
        blanks(out, self.layout.gap);
        if self.wide {
            pen.number(out, connection.uid(), UID_WIDTH, Style::new(), true);
            out.push(b' ');
            pen.ascii(
                out,
                connection.owner_source().name(),
                SOURCE_WIDTH,
                DIM,
                false,
            );
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
        blanks(out, self.layout.gap);
    }

    fn ends(&self, connection: &Connection, out: &mut Vec<u8>) {
        let pen = self.pen;
        let plain = Style::new();
        let (local, remote) = (&self.local, &self.remote);
        pen.put(out, local, columns(local), self.local_width, plain, false);
        let arrow = match connection.role() {
            Role::Client => " → ",
            Role::Server => " ← ",
            _ => "   ",
        };
        pen.last(out, arrow, DIM);
        pen.put(
            out,
            remote,
            columns(remote),
            self.remote_width,
            plain,
            false,
        );
        blanks(out, self.layout.gap);
    }
}

const ELLIPSIS: &str = "…";

/// Leaves the middle of an end out that is wider than `width`, and keeps its port.
fn shorten(end: &mut Vec<u8>, width: usize) {
    if end.len() <= width {
        return;
    }
    let port = end.iter().rposition(|byte| *byte == b':').unwrap_or(0);
    let tail = (end.len() - port).min(width.saturating_sub(1));
    let head = width.saturating_sub(tail + 1);
    let cut = head..end.len() - tail;
    end.splice(cut, ELLIPSIS.bytes());
}

/// Columns of an end, which has at most one character that is not ASCII: the ellipsis.
fn columns(end: &[u8]) -> usize {
    let is_cut = end.iter().any(|byte| !byte.is_ascii());
    end.len() - if is_cut { ELLIPSIS.len() - 1 } else { 0 }
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
    push_port(text, port);
}

/// `:80`
fn push_port(text: &mut Vec<u8>, port: Option<u16>) {
    text.push(b':');
    match port {
        Some(port) => push_number(text, port.into()),
        None => text.push(b'?'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_end_keeps_its_port() {
        for (end, width, shown) in [
            ("10.4.0.1:80", 15, "10.4.0.1:80"),
            ("[2001:db8:1:2:3:4:5:6]:44300", 15, "[2001:db8…:44300"),
            ("255.255.255.255:65535", 15, "255.255.…:65535"),
        ] {
            let mut text = end.as_bytes().to_vec();
            shorten(&mut text, width);
            assert!(columns(&text) <= width);
            let text = String::from_utf8(text).unwrap();
            assert!(text.ends_with(&end[end.rfind(':').unwrap()..]), "{text}");
            assert_eq!(text.chars().count(), shown.chars().count().min(width));
        }
    }
}
