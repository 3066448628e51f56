//! Aligned columns for people.
//!
//! Rows stream, so widths cannot be computed from all of them: each address column starts at the
//! width of an IPv4 address, grows when a wider one comes, and shrinks when none has come for long.

use std::{collections::HashMap, io::Write as _, net::IpAddr};

use anstyle::{AnsiColor, Color, Style};

use tcptrace_common::tcp;

use super::{
    End, Lines, Lost, Sink, Start, explanation,
    remembered::Remembered,
    reset_reason,
    text::{
        count, duration, escape, push_address, push_bytes, push_duration, push_escaped, push_hex,
        push_number,
    },
    time::{Clock, TimeColumn},
};
use crate::event::{Connection, Event, Numbers, State, Totals};

/// Most rows are shorter.
const ROW_BYTES: usize = 512;
const PID_WIDTH: usize = 7;
const COMM_WIDTH: usize = 15;
const CONN_WIDTH: usize = 6;
const STATE_WIDTH: usize = 11;
const ENDPOINT_WIDTH: usize = 15;
const SPAN_WIDTH: usize = 8;
/// So many rows, one after the other, that would have had room in narrow columns make them narrow again.
const NARROW_ROWS: u32 = 200;
/// So long in a state that lasts until the peer acknowledges is worth telling, µs.
const STUCK_US: u64 = 1_000;

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();
const RED: Style = color(AnsiColor::Red);
const GREEN: Style = color(AnsiColor::Green);
const YELLOW: Style = color(AnsiColor::Yellow);
const CYAN: Style = color(AnsiColor::Cyan);
const BLUE: Style = color(AnsiColor::Blue);

const fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(color)))
}

/// Colours that tell neighbouring connections apart.
const CONNECTIONS: [Style; 6] = [
    color(AnsiColor::BrightBlue),
    color(AnsiColor::BrightMagenta),
    color(AnsiColor::BrightCyan),
    color(AnsiColor::BrightGreen),
    color(AnsiColor::BrightYellow),
    color(AnsiColor::BrightRed),
];

/// Writes records as a table.
#[derive(Debug)]
pub struct Table {
    clock: Clock,
    time: TimeColumn,
    lines: Lines,
    colored: bool,
    wide: bool,
    header: bool,
    time_width: usize,
    local_width: usize,
    remote_width: usize,
    /// Rows since the last with IPv6
    narrow_rows: u32,
    reset_reasons: HashMap<u32, String>,
    remembered: Remembered,
    local: Vec<u8>,
    remote: Vec<u8>,
    remark: Vec<u8>,
}

/// How a [`Table`] looks.
#[derive(Debug)]
pub struct Look {
    /// The time column
    pub time: TimeColumn,
    /// Which lines a close becomes
    pub lines: Lines,
    /// With colours
    pub colored: bool,
    /// With user id, network namespace and how the owner is known
    pub wide: bool,
    /// With a header
    pub header: bool,
}

impl Table {
    /// An empty table.
    pub fn new(look: Look) -> Self {
        let Look {
            time,
            lines,
            colored,
            wide,
            header,
        } = look;
        Self {
            clock: Clock::default(),
            time,
            lines,
            colored,
            wide,
            header,
            time_width: 0,
            local_width: ENDPOINT_WIDTH,
            remote_width: ENDPOINT_WIDTH,
            narrow_rows: 0,
            reset_reasons: HashMap::new(),
            remembered: Remembered::default(),
            local: Vec::new(),
            remote: Vec::new(),
            remark: Vec::new(),
        }
    }

    /// Time, owner, connection, both ends: what every row begins with.
    fn head(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        // Once, for most rows, and not with each of their cells.
        out.reserve(ROW_BYTES);
        let pen = self.pen();
        if let Some((time, columns)) = self.time.render(&self.clock, connection.mono_ns()) {
            self.time_width = self.time_width.max(columns);
            pen.put(out, time, columns, self.time_width, DIM, false);
            out.extend_from_slice(b"  ");
        }
        self.make_narrow(connection);
        // Where a connection has but one row, nothing is worth remembering.
        if self.lines.transition && self.remembered.recall(connection, out) {
            return;
        }
        self.write_ends(connection);
        let ends = Ends {
            local: &self.local,
            local_width: self.local_width,
            remote: &self.remote,
            remote_width: self.remote_width,
        };
        let begin = out.len();
        pen.about(out, connection, self.wide, &ends);
        if self.lines.transition {
            self.remembered.keep(connection, &out[begin..]);
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
            self.remembered.clear();
        }
    }

    /// Writes both ends of a connection, and makes room for them.
    fn write_ends(&mut self, connection: &Connection) {
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
        let (local, remote) = (self.local.len(), self.remote.len());
        if local > self.local_width || remote > self.remote_width {
            self.local_width = self.local_width.max(local);
            self.remote_width = self.remote_width.max(remote);
            self.remembered.clear();
        }
    }

    const fn pen(&self) -> Pen {
        Pen {
            colored: self.colored,
        }
    }

    fn transition(&mut self, connection: &Connection, totals: Option<&Totals>, out: &mut Vec<u8>) {
        self.head(connection, out);
        let pen = self.pen();
        pen.ascii(out, connection.oldstate().name(), STATE_WIDTH, DIM, true);
        pen.last(out, " → ", DIM);
        let new = connection.newstate();
        let span_us = connection.span_us();
        let explain = self.lines.explain;
        let width = if span_us.is_some() || explain {
            STATE_WIDTH
        } else {
            0
        };
        pen.ascii(out, new.name(), width, state_style(new), false);
        if span_us.is_some() || explain {
            let span = &mut self.remark;
            span.clear();
            if let Some(us) = span_us {
                push_duration(span, us);
            }
            // `µ` is two bytes in one column.
            let columns = span.len() - usize::from(span.contains(&0xc2));
            out.push(b' ');
            pen.put(out, span, columns, SPAN_WIDTH, Style::new(), true);
        }
        if connection.is_inferred() {
            out.push(b'~');
        }
        if explain {
            out.extend_from_slice(if connection.is_inferred() {
                b" ".as_slice()
            } else {
                b"  "
            });
            pen.last(out, explanation(connection, totals), DIM);
        }
        finish(out);
    }

    /// A row that ends in words.
    fn remark(&mut self, connection: &Connection, remark: &str, style: Style, out: &mut Vec<u8>) {
        self.head(connection, out);
        self.pen().last(out, remark, style);
        finish(out);
    }

    /// What both ends agreed on, for `-w`.
    fn handshake(totals: &Totals, out: &mut Vec<u8>) {
        if let Some((ours, theirs)) = totals.isns() {
            let _infallible = write!(out, " · isn {ours}/{theirs}");
        }
        if let Some(counters) = totals.counters() {
            let _infallible = write!(out, " · mss {} cwnd {}", counters.mss_bytes, counters.cwnd);
        }
        if let Some((send, receive)) = totals.wscales() {
            let _infallible = write!(out, " · wscale {send}/{receive}");
        }
        for (nth, name) in totals
            .options()
            .filter(|name| *name != "wscale")
            .enumerate()
        {
            push(out, if nth == 0 { " · " } else { " " });
            push(out, name);
        }
        if let Some(name) = totals.congestion() {
            push(out, " · ");
            push_escaped(out, name);
        }
    }

    fn close(&mut self, connection: &Connection, totals: &Totals, out: &mut Vec<u8>) {
        self.head(connection, out);
        let reason = totals.reason();
        let established = totals.was_established();
        let style = if matches!(reason, "normal" | "unknown") {
            DIM
        } else {
            RED
        };
        self.pen().begin(out, style);
        if established || reason == "unknown" || connection.is_listener() {
            push(out, "closed");
        } else {
            push_reason(out, reason);
        }
        if let Some(us) = totals.duration_us() {
            push(out, " after ");
            push_duration(out, us);
            if connection.is_inferred() {
                out.push(b'~');
            }
        }
        if reason != "unknown" && established && !connection.is_listener() {
            push(out, " · ");
            push_reason(out, reason);
            if totals.is_reason_inferred(reason) {
                out.push(b'~');
            }
            match totals.closed_by(reason).filter(|_| reason == "normal") {
                Some("both") => push(out, ", both at once"),
                Some(side) => {
                    push(out, ", ");
                    push(out, side);
                    push(out, " first");
                }
                None => {}
            }
        }
        let mut took = |label: &str, us: Option<u64>| {
            if let Some(us) = us {
                push(out, label);
                push_duration(out, us);
            }
        };
        if established {
            took(" · connect ", totals.connect_us());
        }
        took(" · handshake ", totals.handshake_us().map(u64::from));
        took(" · queued ", totals.accept_wait_us());
        Self::traffic(totals, established, connection.is_server(), out);
        if let Some(us) = totals.srtt_us().filter(|_| established) {
            push(out, " · rtt ");
            push_duration(out, us.into());
        }
        if self.wide && established {
            Self::handshake(totals, out);
        }
        // Where each transition has its line, the times are there.
        if self.wide || !self.lines.transition {
            for (state, us) in totals.states() {
                let shown = match state.0 {
                    tcp::ESTABLISHED | tcp::CLOSE_WAIT | tcp::FIN_WAIT2 | tcp::LISTEN => true,
                    // Only as long as an answer takes, unless something is stuck.
                    tcp::FIN_WAIT1 | tcp::LAST_ACK | tcp::CLOSING => us >= STUCK_US,
                    // The handshake has its own words.
                    _ => false,
                };
                if shown {
                    push(out, " · ");
                    push(out, state.name());
                    out.push(b' ');
                    push_duration(out, us);
                }
            }
        }
        if let Some(closer) = totals
            .closer_pid()
            .filter(|pid| connection.pid() != Some(*pid))
        {
            push(out, " · closed by ");
            push_number(out, closer.into());
        }
        self.pen().end(out, style);
        finish(out);
    }

    /// What went over it.
    fn traffic(totals: &Totals, established: bool, is_server: bool, out: &mut Vec<u8>) {
        let Some(counters) = totals.counters() else {
            return;
        };
        if established {
            push(out, " · ↑");
            let sent = counters.tx_bytes.saturating_sub(counters.retrans_bytes);
            push_bytes(out, sent);
            push(out, " ↓");
            push_bytes(out, totals.rx_bytes().unwrap_or(0));
        }
        let again = u64::from(counters.retransmits);
        let of_handshake = if established {
            totals.syn_retransmits().unwrap_or(0).into()
        } else {
            again
        };
        let what = if is_server { "SYN-ACK" } else { "SYN" };
        match of_handshake {
            0 => {}
            1 => {
                let _infallible = write!(out, " · {what} sent again once");
            }
            _ => {
                let times = count(of_handshake);
                let _infallible = write!(out, " · {what} sent again {times} times");
            }
        }
        match again.saturating_sub(of_handshake) {
            0 => {}
            1 => push(out, " · 1 segment sent again"),
            others => {
                let _infallible = write!(out, " · {} segments sent again", count(others));
            }
        }
    }
}

/// Both ends of a connection as text, and how wide their columns are.
struct Ends<'a> {
    local: &'a [u8],
    local_width: usize,
    remote: &'a [u8],
    remote_width: usize,
}

/// Puts text into columns.
#[derive(Clone, Copy, Debug)]
struct Pen {
    colored: bool,
}

impl Pen {
    /// Appends `text` in `width` columns, left or right aligned, in `style`.
    fn cell(self, row: &mut Vec<u8>, text: &str, width: usize, style: Style, right: bool) {
        self.put(row, text.as_bytes(), columns(text), width, style, right);
    }

    /// The same for text of ours, a column to a byte.
    fn ascii(self, row: &mut Vec<u8>, text: &str, width: usize, style: Style, right: bool) {
        self.put(row, text.as_bytes(), text.len(), width, style, right);
    }

    /// The same for text that takes so many columns.
    fn put(
        self,
        row: &mut Vec<u8>,
        text: &[u8],
        columns: usize,
        width: usize,
        style: Style,
        right: bool,
    ) {
        let padding = width.saturating_sub(columns);
        if right {
            blanks(row, padding);
        }
        self.begin(row, style);
        row.extend_from_slice(text);
        self.end(row, style);
        if !right {
            blanks(row, padding);
        }
    }

    /// The same for text that nothing has to be aligned with.
    fn last(self, row: &mut Vec<u8>, text: &str, style: Style) {
        self.begin(row, style);
        push(row, text);
        self.end(row, style);
    }

    fn begin(self, row: &mut Vec<u8>, style: Style) {
        if self.colored && style != Style::new() {
            // Writing to memory does not fail.
            let _infallible = write!(row, "{}", style.render());
        }
    }

    fn end(self, row: &mut Vec<u8>, style: Style) {
        if self.colored && style != Style::new() {
            let _infallible = write!(row, "{}", style.render_reset());
        }
    }

    /// A number; `-` if it is not known.
    fn number(
        self,
        row: &mut Vec<u8>,
        number: Option<u32>,
        width: usize,
        style: Style,
        right: bool,
    ) {
        let mut digits = itoa::Buffer::new();
        let text = number.map_or("-", |number| digits.format(number));
        self.ascii(row, text, width, style, right);
    }

    /// Owner, connection, both ends.
    fn about(self, row: &mut Vec<u8>, connection: &Connection, wide: bool, ends: &Ends<'_>) {
        let provisional = connection.is_provisional();
        let owner_style = if provisional { DIM } else { BOLD };
        self.number(row, connection.pid(), PID_WIDTH, owner_style, true);
        row.push(if provisional { b'~' } else { b' ' });
        let comm = match connection.comm() {
            [] => b"-".as_slice(),
            comm => comm,
        };
        let comm_style = if provisional { DIM } else { Style::new() };
        self.begin(row, comm_style);
        let columns = push_escaped(row, comm);
        self.end(row, comm_style);
        blanks(row, COMM_WIDTH.saturating_sub(columns));
        row.extend_from_slice(b"  ");
        if wide {
            self.number(row, connection.uid(), 6, Style::new(), true);
            row.push(b' ');
            self.ascii(row, connection.pid_source(), 8, DIM, false);
            row.push(b' ');
            self.number(row, Some(connection.netns()), 10, DIM, true);
            row.extend_from_slice(b"  ");
        }
        let index = usize::try_from(connection.id()).unwrap_or(0) % CONNECTIONS.len();
        let nibbles = (64 - connection.id().leading_zeros()).div_ceil(4).max(1) as usize;
        blanks(row, CONN_WIDTH.saturating_sub(nibbles));
        self.begin(row, CONNECTIONS[index]);
        push_hex(row, connection.id());
        self.end(row, CONNECTIONS[index]);
        row.extend_from_slice(b"  ");

        let plain = Style::new();
        self.put(
            row,
            ends.local,
            ends.local.len(),
            ends.local_width,
            plain,
            false,
        );
        let arrow = match connection.role() {
            "client" => " → ",
            "server" => " ← ",
            _ => "   ",
        };
        self.last(row, arrow, DIM);
        self.put(
            row,
            ends.remote,
            ends.remote.len(),
            ends.remote_width,
            plain,
            false,
        );
        row.extend_from_slice(b"  ");
    }
}

fn push(row: &mut Vec<u8>, text: &str) {
    row.extend_from_slice(text.as_bytes());
}

fn blanks(row: &mut Vec<u8>, number: usize) {
    row.resize(row.len() + number, b' ');
}

fn push_reason(row: &mut Vec<u8>, reason: &str) {
    let begin = row.len();
    push(row, reason);
    for byte in &mut row[begin..] {
        if *byte == b'_' {
            *byte = b' ';
        }
    }
}

/// What goes wrong at a listener.
fn trouble(connection: &Connection, numbers: &Numbers) -> String {
    let mut parts = Vec::new();
    let many = |number: u32, one: &str, more: &str| {
        format!(
            "{} {}",
            count(number.into()),
            if number == 1 { one } else { more }
        )
    };
    let some = |number: Option<u32>| number.filter(|number| *number > 0);
    let limit = numbers.backlog_max();
    if let Some(queued) = some(numbers.backlog()) {
        let limit = limit.unwrap_or(u32::MAX);
        // `sk_acceptq_is_full` lets one more in than the limit.
        parts.push(if queued > limit {
            format!("accept queue full ({queued}, limit {limit})")
        } else {
            format!("{queued} of {limit} wait for accept()")
        });
    }
    if let Some(half_open) = some(numbers.half_open()) {
        let of = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        parts.push(format!("{half_open}{of} half-open"));
    }
    if let Some(dropped) = some(numbers.dropped()) {
        parts.push(format!("{} dropped", count(dropped.into())));
    }
    if let Some(unanswered) = some(numbers.unanswered()) {
        parts.push(many(
            unanswered,
            "SYN-ACK unanswered",
            "SYN-ACKs unanswered",
        ));
    }
    if let Some(cookies) = some(numbers.cookies_sent()) {
        parts.push(many(cookies, "SYN cookie sent", "SYN cookies sent"));
    }
    if let Some(us) = connection.span_us() {
        parts.push(format!("no accept() for {}", duration(us)));
    }
    parts.join(" · ")
}

/// Ends a row, without the blanks at its end.
fn finish(out: &mut Vec<u8>) {
    let len = out.trim_ascii_end().len();
    out.truncate(len);
    out.push(b'\n');
}

/// Terminal columns of text that has passed through `escape` or is ours.
fn columns(text: &str) -> usize {
    if text.is_ascii() {
        return text.len();
    }
    unicode_width::UnicodeWidthStr::width(text)
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

fn state_style(state: State) -> Style {
    match state.name() {
        "ESTABLISHED" => GREEN,
        "SYN_SENT" | "SYN_RECV" => CYAN,
        "LISTEN" => BLUE,
        "CLOSE" => DIM,
        _ => YELLOW,
    }
}

impl Sink for Table {
    fn start(&mut self, start: &Start, out: &mut Vec<u8>) {
        self.time.begin(start.mono_ns);
        self.reset_reasons.clone_from(&start.reset_reasons);
        if let Some((_, columns)) = self.time.render(&self.clock, start.mono_ns) {
            self.time_width = columns.max(4);
        }
        self.header(out);
    }

    fn header(&self, out: &mut Vec<u8>) {
        if !self.header {
            return;
        }
        let pen = self.pen();
        if self.time_width > 0 {
            pen.cell(out, "TIME", self.time_width, BOLD, false);
            out.extend_from_slice(b"  ");
        }
        pen.cell(out, "PID", PID_WIDTH, BOLD, true);
        out.push(b' ');
        pen.cell(out, "COMM", COMM_WIDTH, BOLD, false);
        out.extend_from_slice(b"  ");
        if self.wide {
            pen.cell(out, "UID", 6, BOLD, true);
            out.push(b' ');
            pen.cell(out, "OWNER BY", 8, BOLD, false);
            out.push(b' ');
            pen.cell(out, "NETNS", 10, BOLD, true);
            out.extend_from_slice(b"  ");
        }
        pen.cell(out, "CONN", CONN_WIDTH, BOLD, true);
        out.extend_from_slice(b"  ");
        pen.cell(out, "LOCAL", self.local_width + 3, BOLD, false);
        pen.cell(out, "REMOTE", self.remote_width, BOLD, false);
        out.extend_from_slice(b"  ");
        if self.lines.transition {
            pen.cell(out, "OLD", STATE_WIDTH, BOLD, true);
            out.extend_from_slice(" → ".as_bytes());
            pen.cell(out, "NEW", STATE_WIDTH, BOLD, false);
            out.push(b' ');
            pen.cell(out, "IN OLD", 8, BOLD, true);
            if self.lines.explain {
                out.extend_from_slice(b"  ");
                pen.cell(out, "WHAT IT MEANS", 0, BOLD, false);
            }
        } else {
            pen.cell(out, "WHAT HAPPENED", 0, BOLD, false);
        }
        finish(out);
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> u64 {
        match event {
            Event::Socket(connection) => {
                self.head(connection, out);
                let pen = self.pen();
                pen.cell(out, "open", STATE_WIDTH, DIM, true);
                pen.last(out, " · ", DIM);
                let state = connection.oldstate();
                pen.last(out, state.name(), state_style(state));
                finish(out);
                1
            }
            Event::Accept(connection, numbers) => {
                self.head(connection, out);
                let pen = self.pen();
                pen.begin(out, GREEN);
                push(out, "accepted");
                if let Some(us) = connection.span_us() {
                    push(out, " after ");
                    push_duration(out, us);
                    push(out, " in the queue");
                }
                if let Some(listener) = connection
                    .peer_pid()
                    .filter(|pid| connection.pid() != Some(*pid))
                {
                    push(out, " of ");
                    push_number(out, listener.into());
                }
                if let (Some(queued), Some(limit)) = (numbers.backlog(), numbers.backlog_max())
                    && queued > 0
                {
                    let _infallible = write!(out, " · {queued} more wait, of at most {limit}");
                }
                pen.end(out, GREEN);
                finish(out);
                1
            }
            Event::Retransmit(connection, numbers) => {
                let what = match connection.retransmitted() {
                    "syn" => "SYN",
                    "synack" => "SYN-ACK",
                    _ => "a segment",
                };
                let mut remark = format!("{what} sent again in {}", connection.oldstate().name());
                if let Some(times) = numbers.count() {
                    remark.push_str(" · ");
                    remark.push_str(&count(times.into()));
                    remark.push_str(" so far");
                }
                self.remark(connection, &remark, YELLOW, out);
                1
            }
            Event::Reset(connection, numbers) => {
                let state = connection.oldstate().name();
                let inferred = if connection.is_inferred() { "~" } else { "" };
                let mut remark = format!("RST {}{inferred} in {state}", connection.direction());
                let named = |reason| reset_reason(&self.reset_reasons, reason);
                if let Some(reason) = numbers.reset_reason().and_then(named) {
                    remark.push_str(" (");
                    remark.push_str(&escape(reason.as_bytes()));
                    remark.push(')');
                }
                self.remark(connection, &remark, RED, out);
                1
            }
            Event::Listener(connection, numbers) => {
                let remark = trouble(connection, numbers);
                self.remark(connection, &remark, RED, out);
                1
            }
            Event::Transition(connection) => {
                self.transition(connection, None, out);
                1
            }
            Event::Close(connection, totals) => {
                let mut lines = 0;
                if self.lines.transition && totals.shows_transition() {
                    self.transition(connection, Some(totals), out);
                    lines += 1;
                }
                if self.lines.close {
                    self.close(connection, totals, out);
                    lines += 1;
                }
                lines
            }
        }
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        let pen = self.pen();
        if let Some((time, columns)) = self.time.render(&self.clock, lost.mono_ns) {
            pen.put(out, time, columns, self.time_width, DIM, false);
            out.extend_from_slice(b"  ");
        }
        let rows = lost.count + lost.time_waits + lost.others;
        // No row of a transition: what was lost stood beside them.
        let rows = if rows == 0 {
            lost.accepts + lost.closes
        } else {
            rows
        };
        let remark = format!("LOST {} ({})", count(rows), lost.cause.replace('_', " "));
        pen.last(out, &remark, RED.bold());
        finish(out);
    }

    fn end(&mut self, _end: &End, _out: &mut Vec<u8>) {}

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }
}
