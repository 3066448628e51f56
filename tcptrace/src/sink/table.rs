//! Aligned columns for people.
//!
//! Rows stream, so widths cannot be computed from all of them: each address column starts at the
//! width of an IPv4 address and grows, once, when a wider one comes.

use std::{collections::HashMap, fmt::Write as _, io::Write as _};

use anstyle::{AnsiColor, Color, Style};

use tcptrace_common::tcp;

use super::{
    End, Lines, Lost, Sink, Start, explanation,
    remembered::Remembered,
    reset_reason,
    text::{count, duration, escape, push_bytes, push_duration},
    time::{Clock, TimeColumn},
};
use crate::event::{Connection, Event, Numbers, State, Totals};

const PID_WIDTH: usize = 7;
const COMM_WIDTH: usize = 15;
const CONN_WIDTH: usize = 6;
const STATE_WIDTH: usize = 11;
const ENDPOINT_WIDTH: usize = 15;
const SPAN_WIDTH: usize = 8;

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
    reset_reasons: HashMap<u32, String>,
    remembered: Remembered,
    scratch: String,
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
            reset_reasons: HashMap::new(),
            remembered: Remembered::default(),
            scratch: String::new(),
        }
    }

    /// Time, owner, connection, both ends: what every row begins with.
    fn head(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        let pen = self.pen();
        if let Some(time) = self.time.render(&self.clock, connection.mono_ns()) {
            self.time_width = self.time_width.max(columns(time));
            pen.cell(out, time, self.time_width, DIM, false);
            out.extend_from_slice(b"  ");
        }
        if !self.remembered.knows(connection) {
            self.widen(connection);
        }
        let (wide, widths) = (self.wide, (self.local_width, self.remote_width));
        self.remembered.push(connection, out, |row| {
            pen.about(row, connection, wide, widths);
        });
    }

    /// Makes room for the ends of a connection.
    fn widen(&mut self, connection: &Connection) {
        let local = endpoint(Some(connection.laddr()), connection.lport()).len();
        let remote = remote(connection).len();
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
        pen.cell(out, connection.oldstate().name(), STATE_WIDTH, DIM, true);
        pen.cell(out, " → ", 3, DIM, false);
        let new = connection.newstate();
        let span_us = connection.span_us();
        let explain = self.lines.explain;
        let width = if span_us.is_some() || explain {
            STATE_WIDTH
        } else {
            0
        };
        pen.cell(out, new.name(), width, state_style(new), false);
        if span_us.is_some() || explain {
            self.scratch.clear();
            if let Some(us) = span_us {
                push_duration(&mut self.scratch, us);
            }
            out.push(b' ');
            pen.cell(out, &self.scratch, SPAN_WIDTH, Style::new(), true);
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
            pen.cell(out, explanation(connection, totals), 0, DIM, false);
        }
        finish(out);
    }

    fn remark(&mut self, connection: &Connection, remark: &str, style: Style, out: &mut Vec<u8>) {
        self.head(connection, out);
        self.pen().cell(out, remark, 0, style, false);
        finish(out);
    }

    /// What both ends agreed on, for `-w`.
    fn handshake(totals: &Totals, remark: &mut String) {
        if let Some((ours, theirs)) = totals.isns() {
            let _infallible = write!(remark, " · isn {ours}/{theirs}");
        }
        if let Some(counters) = totals.counters() {
            let _infallible = write!(
                remark,
                " · mss {} cwnd {}",
                counters.mss_bytes, counters.cwnd
            );
        }
        if let Some((send, receive)) = totals.wscales() {
            let _infallible = write!(remark, " · wscale {send}/{receive}");
        }
        let options: Vec<_> = totals.options().filter(|name| *name != "wscale").collect();
        if !options.is_empty() {
            let _infallible = write!(remark, " · {}", options.join(" "));
        }
        if let Some(name) = totals.congestion() {
            let _infallible = write!(remark, " · {}", escape(name.as_bytes()));
        }
    }

    fn close(&mut self, connection: &Connection, totals: &Totals, out: &mut Vec<u8>) {
        let mut remark = std::mem::take(&mut self.scratch);
        remark.clear();
        let reason = totals.reason();
        let established = totals.was_established();
        if established || reason == "unknown" || connection.is_listener() {
            remark.push_str("closed");
        } else {
            push_reason(&mut remark, reason);
        }
        if let Some(us) = totals.duration_us() {
            remark.push_str(" after ");
            push_duration(&mut remark, us);
        }
        if reason != "unknown" && established && !connection.is_listener() {
            remark.push_str(" · ");
            push_reason(&mut remark, reason);
            match totals.closed_by().filter(|_| reason == "normal") {
                Some("both") => remark.push_str(", both at once"),
                Some(side) => {
                    remark.push_str(", ");
                    remark.push_str(side);
                    remark.push_str(" first");
                }
                None => {}
            }
        }
        let mut took = |label: &str, us: Option<u64>| {
            if let Some(us) = us {
                remark.push_str(label);
                push_duration(&mut remark, us);
            }
        };
        if established {
            took(" · connect ", totals.connect_us());
        }
        took(" · handshake ", totals.handshake_us().map(u64::from));
        took(" · queued ", totals.accept_wait_us());
        if let Some(counters) = totals.counters() {
            if established {
                remark.push_str(" · ↑");
                let sent = counters.tx_bytes.saturating_sub(counters.retrans_bytes);
                push_bytes(&mut remark, sent);
                remark.push_str(" ↓");
                push_bytes(&mut remark, totals.rx_bytes().unwrap_or(0));
            }
            let again = counters.retransmits;
            if again > 0 {
                let what = if established { "segment" } else { "SYN" };
                let plural = if again > 1 && established { "s" } else { "" };
                let times = match again {
                    _ if established => String::new(),
                    1 => " once".to_owned(),
                    times => format!(" {} times", count(times.into())),
                };
                let number = if established {
                    format!("{} ", count(again.into()))
                } else {
                    String::new()
                };
                let _infallible = write!(remark, " · {number}{what}{plural} sent again{times}");
            }
        }
        if let Some(us) = totals.srtt_us().filter(|_| established) {
            remark.push_str(" · rtt ");
            push_duration(&mut remark, us.into());
        }
        if self.wide && established {
            Self::handshake(totals, &mut remark);
        }
        // Where each transition has its line, the times are there.
        if self.wide || !self.lines.transition {
            for (state, us) in totals.states() {
                if matches!(
                    state.0,
                    tcp::ESTABLISHED | tcp::CLOSE_WAIT | tcp::FIN_WAIT2 | tcp::LISTEN
                ) {
                    remark.push_str(" · ");
                    remark.push_str(state.name());
                    remark.push(' ');
                    push_duration(&mut remark, us);
                }
            }
        }
        if let Some(closer) = totals
            .closer_pid()
            .filter(|pid| connection.pid() != Some(*pid))
        {
            let _infallible = write!(remark, " · closed by {closer}");
        }
        let style = if matches!(reason, "normal" | "unknown") {
            DIM
        } else {
            RED
        };
        self.remark(connection, &remark, style, out);
        self.scratch = remark;
    }
}

/// Puts text into columns.
#[derive(Clone, Copy, Debug)]
struct Pen {
    colored: bool,
}

impl Pen {
    /// Appends `text` in `width` columns, left or right aligned, in `style`.
    fn cell(self, row: &mut Vec<u8>, text: &str, width: usize, style: Style, right: bool) {
        let padding = width.saturating_sub(columns(text));
        if right {
            row.extend(std::iter::repeat_n(b' ', padding));
        }
        if self.colored && style != Style::new() {
            // Writing to memory does not fail.
            let _infallible = write!(row, "{}{text}{}", style.render(), style.render_reset());
        } else {
            row.extend_from_slice(text.as_bytes());
        }
        if !right {
            row.extend(std::iter::repeat_n(b' ', padding));
        }
    }

    /// Owner, connection, both ends.
    fn about(
        self,
        row: &mut Vec<u8>,
        connection: &Connection,
        wide: bool,
        (local_width, remote_width): (usize, usize),
    ) {
        let provisional = connection.is_provisional();
        let owner_style = if provisional { DIM } else { BOLD };
        let number = |number: Option<u32>| {
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        self.cell(row, &number(connection.pid()), PID_WIDTH, owner_style, true);
        row.push(if provisional { b'~' } else { b' ' });
        let comm = if connection.comm().is_empty() {
            "-".to_owned()
        } else {
            escape(connection.comm())
        };
        let comm_style = if provisional { DIM } else { Style::new() };
        self.cell(row, &comm, COMM_WIDTH, comm_style, false);
        row.extend_from_slice(b"  ");
        if wide {
            self.cell(row, &number(connection.uid()), 6, Style::new(), true);
            row.push(b' ');
            self.cell(row, connection.pid_source(), 8, DIM, false);
            row.push(b' ');
            self.cell(row, &connection.netns().to_string(), 10, DIM, true);
            row.extend_from_slice(b"  ");
        }
        let index = usize::try_from(connection.id()).unwrap_or(0) % CONNECTIONS.len();
        let id = format!("{:x}", connection.id());
        self.cell(row, &id, CONN_WIDTH, CONNECTIONS[index], true);
        row.extend_from_slice(b"  ");

        let local = endpoint(Some(connection.laddr()), connection.lport());
        self.cell(row, &local, local_width, Style::new(), false);
        let arrow = match connection.role() {
            "client" => " → ",
            "server" => " ← ",
            _ => "   ",
        };
        self.cell(row, arrow, 3, DIM, false);
        self.cell(row, &remote(connection), remote_width, Style::new(), false);
        row.extend_from_slice(b"  ");
    }
}

/// The remote end; `*` of a listener.
fn remote(connection: &Connection) -> String {
    if connection.raddr().is_none() && connection.is_listener() {
        "*".to_owned()
    } else {
        endpoint(connection.raddr(), connection.rport())
    }
}

fn push_reason(text: &mut String, reason: &str) {
    text.extend(reason.chars().map(|c| if c == '_' { ' ' } else { c }));
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
fn endpoint(addr: Option<std::net::IpAddr>, port: Option<u16>) -> String {
    use std::net::{IpAddr, SocketAddr};
    match (addr, port) {
        (Some(addr), Some(port)) => SocketAddr::new(addr, port).to_string(),
        (Some(IpAddr::V6(addr)), None) => format!("[{addr}]:?"),
        (Some(addr), None) => format!("{addr}:?"),
        (None, _) => "?".to_owned(),
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
        if !self.header {
            return;
        }
        let pen = self.pen();
        if let Some(time) = self.time.render(&self.clock, start.mono_ns) {
            self.time_width = columns(time).max(4);
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
                pen.cell(out, " · ", 3, DIM, false);
                let state = connection.oldstate();
                pen.cell(out, state.name(), 0, state_style(state), false);
                finish(out);
                1
            }
            Event::Accept(connection, numbers) => {
                let mut remark = "accepted".to_owned();
                if let Some(us) = connection.span_us() {
                    let _infallible = write!(remark, " after {} in the queue", duration(us));
                }
                if let Some(listener) = connection
                    .peer_pid()
                    .filter(|pid| connection.pid() != Some(*pid))
                {
                    let _infallible = write!(remark, " of {listener}");
                }
                if let (Some(queued), Some(limit)) = (numbers.backlog(), numbers.backlog_max())
                    && queued > 0
                {
                    let _infallible = write!(remark, " · {queued} more wait, of at most {limit}");
                }
                self.remark(connection, &remark, GREEN, out);
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
                    let _infallible = write!(remark, " · {} so far", count(times.into()));
                }
                self.remark(connection, &remark, YELLOW, out);
                1
            }
            Event::Reset(connection, numbers) => {
                let state = connection.oldstate().name();
                let mut remark = format!("RST {} in {state}", connection.direction());
                let named = |reason| reset_reason(&self.reset_reasons, reason);
                if let Some(reason) = numbers.reset_reason().and_then(named) {
                    let _infallible = write!(remark, " ({})", escape(reason.as_bytes()));
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
        if let Some(time) = self.time.render(&self.clock, lost.mono_ns) {
            pen.cell(out, time, self.time_width, DIM, false);
            out.extend_from_slice(b"  ");
        }
        let remark = format!(
            "LOST {} ({})",
            count(lost.count + lost.time_waits + lost.others),
            lost.cause.replace('_', " ")
        );
        pen.cell(out, &remark, 0, RED.bold(), false);
        finish(out);
    }

    fn end(&mut self, _end: &End, _out: &mut Vec<u8>) {}

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }
}
