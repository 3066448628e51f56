//! Aligned columns for people.
//!
//! Rows stream, so widths cannot be computed from all of them: each address column starts at the
//! width of an IPv4 address and grows, once, when a wider one comes.

use std::{collections::HashMap, fmt::Write as _};

use anstyle::{AnsiColor, Color, Style};

use super::{
    End, Lines, Lost, Sink, Start, explanation, reset_reason,
    text::{bytes, count, duration, escape},
    time::{Clock, TimeColumn},
};
use crate::event::{Connection, Event, Numbers, State, Totals};

const PID_WIDTH: usize = 7;
const COMM_WIDTH: usize = 15;
const CONN_WIDTH: usize = 6;
const STATE_WIDTH: usize = 11;
const ENDPOINT_WIDTH: usize = 15;

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
        }
    }

    /// Appends `text` in `width` columns, left or right aligned, in `style`.
    fn cell(&self, row: &mut String, text: &str, width: usize, style: Style, right: bool) {
        let padding = width.saturating_sub(columns(text));
        if right {
            row.extend(std::iter::repeat_n(' ', padding));
        }
        if self.colored && style != Style::new() {
            let _infallible = write!(row, "{}{text}{}", style.render(), style.render_reset());
        } else {
            row.push_str(text);
        }
        if !right {
            row.extend(std::iter::repeat_n(' ', padding));
        }
    }

    /// Time, owner, connection, both ends: what every row begins with.
    fn head(&mut self, connection: &Connection) -> String {
        let mut row = String::with_capacity(160);
        if let Some(time) = self.time.render(&self.clock, connection.mono_ns()) {
            self.time_width = self.time_width.max(columns(&time));
            self.cell(&mut row, &time, self.time_width, DIM, false);
            row.push_str("  ");
        }
        let provisional = connection.is_provisional();
        let owner_style = if provisional { DIM } else { BOLD };
        let pid = connection
            .pid()
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        self.cell(&mut row, &pid, PID_WIDTH, owner_style, true);
        row.push(if provisional { '~' } else { ' ' });
        let comm = if connection.comm().is_empty() {
            "-".to_owned()
        } else {
            escape(connection.comm())
        };
        self.cell(
            &mut row,
            &comm,
            COMM_WIDTH,
            if provisional { DIM } else { Style::new() },
            false,
        );
        row.push_str("  ");
        if self.wide {
            let uid = connection
                .uid()
                .map_or_else(|| "-".to_owned(), |uid| uid.to_string());
            self.cell(&mut row, &uid, 6, Style::new(), true);
            row.push(' ');
            self.cell(&mut row, connection.pid_source(), 8, DIM, false);
            row.push(' ');
            self.cell(&mut row, &connection.netns().to_string(), 10, DIM, true);
            row.push_str("  ");
        }
        let index = usize::try_from(connection.id()).unwrap_or(0) % CONNECTIONS.len();
        let id = format!("{:x}", connection.id());
        self.cell(&mut row, &id, CONN_WIDTH, CONNECTIONS[index], true);
        row.push_str("  ");

        let local = endpoint(Some(connection.laddr()), connection.lport());
        self.local_width = self.local_width.max(local.len());
        let remote = if connection.raddr().is_none() && connection.is_listener() {
            "*".to_owned()
        } else {
            endpoint(connection.raddr(), connection.rport())
        };
        self.remote_width = self.remote_width.max(remote.len());
        self.cell(&mut row, &local, self.local_width, Style::new(), false);
        let arrow = match connection.role() {
            "client" => " → ",
            "server" => " ← ",
            _ => "   ",
        };
        self.cell(&mut row, arrow, 3, DIM, false);
        self.cell(&mut row, &remote, self.remote_width, Style::new(), false);
        row.push_str("  ");
        row
    }

    fn transition(&mut self, connection: &Connection, totals: Option<&Totals>, out: &mut Vec<u8>) {
        let mut row = self.head(connection);
        self.cell(
            &mut row,
            connection.oldstate().name(),
            STATE_WIDTH,
            DIM,
            true,
        );
        self.cell(&mut row, " → ", 3, DIM, false);
        let new = connection.newstate();
        let spans = connection.span_us().map(duration);
        let explain = self.lines.explain;
        let width = if spans.is_some() || explain {
            STATE_WIDTH
        } else {
            0
        };
        self.cell(&mut row, new.name(), width, state_style(new), false);
        if spans.is_some() || explain {
            row.push(' ');
            self.cell(&mut row, &spans.unwrap_or_default(), 8, Style::new(), true);
        }
        if connection.is_inferred() {
            row.push('~');
        }
        if explain {
            row.push_str(if connection.is_inferred() { " " } else { "  " });
            self.cell(&mut row, explanation(connection, totals), 0, DIM, false);
        }
        finish(row, out);
    }

    fn remark(&mut self, connection: &Connection, remark: &str, style: Style, out: &mut Vec<u8>) {
        let mut row = self.head(connection);
        self.cell(&mut row, remark, 0, style, false);
        finish(row, out);
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
        let mut remark = match totals.duration_us() {
            Some(us) => format!("closed after {}", duration(us)),
            None => "closed".to_owned(),
        };
        let reason = totals.reason();
        if reason != "unknown" {
            let _infallible = write!(remark, " · {}", reason.replace('_', " "));
        }
        if let Some(side) = totals.closed_by().filter(|_| reason == "normal") {
            let _infallible = write!(remark, ", {side} first");
        }
        if let Some(us) = totals.connect_us() {
            let _infallible = write!(remark, " · connect {}", duration(us));
        }
        if let Some(us) = totals.handshake_us() {
            let _infallible = write!(remark, " · handshake {}", duration(us.into()));
        }
        if let Some(us) = totals.accept_wait_us() {
            let _infallible = write!(remark, " · queued {}", duration(us));
        }
        if let Some(counters) = totals.counters() {
            let _infallible = write!(
                remark,
                " · ↑{} ↓{}",
                bytes(counters.tx_bytes),
                bytes(totals.rx_bytes().unwrap_or(0))
            );
            if counters.retransmits > 0 {
                let count = count(counters.retransmits.into());
                let _infallible = write!(remark, " · {count} sent again");
            }
        }
        if let Some(us) = totals.srtt_us() {
            let _infallible = write!(remark, " · rtt {}", duration(us.into()));
        }
        if self.wide {
            Self::handshake(totals, &mut remark);
        }
        // Where each transition has its line, the times are there.
        if self.wide || !self.lines.transition {
            for (state, us) in totals.states() {
                if matches!(
                    state.name(),
                    "ESTABLISHED" | "CLOSE_WAIT" | "FIN_WAIT2" | "LISTEN"
                ) {
                    let _infallible = write!(remark, " · {} {}", state.name(), duration(us));
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
    }
}

/// What goes wrong at a listener.
fn trouble(connection: &Connection, numbers: &Numbers) -> String {
    let mut parts = Vec::new();
    let of = |limit: Option<u32>| limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    if let Some(dropped) = numbers.dropped().filter(|dropped| *dropped > 0) {
        parts.push(format!("{} dropped", count(dropped.into())));
    }
    if let Some(unanswered) = numbers.unanswered().filter(|unanswered| *unanswered > 0) {
        parts.push(format!("{} SYN-ACKs unanswered", count(unanswered.into())));
    }
    if let Some(cookies) = numbers.cookies_sent().filter(|cookies| *cookies > 0) {
        parts.push(format!("{} SYN cookies sent", count(cookies.into())));
    }
    if let Some(half_open) = numbers.half_open() {
        parts.push(format!(
            "{half_open}{} half-open",
            of(numbers.backlog_max())
        ));
    }
    if let Some(queued) = numbers.backlog() {
        parts.push(format!(
            "{queued}{} wait for accept()",
            of(numbers.backlog_max())
        ));
    }
    if let Some(us) = connection.span_us() {
        parts.push(format!("last accept() {} ago", duration(us)));
    }
    parts.join(" · ")
}

fn finish(mut row: String, out: &mut Vec<u8>) {
    row.truncate(row.trim_end().len());
    row.push('\n');
    out.extend_from_slice(row.as_bytes());
}

/// Terminal columns of text that has passed through `escape` or is ours.
fn columns(text: &str) -> usize {
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
        let mut row = String::new();
        if let Some(time) = self.time.render(&self.clock, start.mono_ns) {
            self.time_width = columns(&time).max(4);
            self.cell(&mut row, "TIME", self.time_width, BOLD, false);
            row.push_str("  ");
        }
        self.cell(&mut row, "PID", PID_WIDTH, BOLD, true);
        row.push(' ');
        self.cell(&mut row, "COMM", COMM_WIDTH, BOLD, false);
        row.push_str("  ");
        if self.wide {
            self.cell(&mut row, "UID", 6, BOLD, true);
            row.push(' ');
            self.cell(&mut row, "OWNER BY", 8, BOLD, false);
            row.push(' ');
            self.cell(&mut row, "NETNS", 10, BOLD, true);
            row.push_str("  ");
        }
        self.cell(&mut row, "CONN", CONN_WIDTH, BOLD, true);
        row.push_str("  ");
        self.cell(&mut row, "LOCAL", self.local_width + 3, BOLD, false);
        self.cell(&mut row, "REMOTE", self.remote_width, BOLD, false);
        row.push_str("  ");
        if self.lines.transition {
            self.cell(&mut row, "OLD", STATE_WIDTH, BOLD, true);
            row.push_str(" → ");
            self.cell(&mut row, "NEW", STATE_WIDTH, BOLD, false);
            row.push(' ');
            self.cell(&mut row, "IN OLD", 8, BOLD, true);
            if self.lines.explain {
                row.push_str("  ");
                self.cell(&mut row, "WHAT IT MEANS", 0, BOLD, false);
            }
        } else {
            self.cell(&mut row, "WHAT HAPPENED", 0, BOLD, false);
        }
        finish(row, out);
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> u64 {
        match event {
            Event::Socket(connection) => {
                let mut row = self.head(connection);
                self.cell(&mut row, "open", STATE_WIDTH, DIM, true);
                self.cell(&mut row, " · ", 3, DIM, false);
                let state = connection.oldstate();
                self.cell(&mut row, state.name(), 0, state_style(state), false);
                finish(row, out);
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
                    let reason = escape(reason.as_bytes()).replace('_', " ");
                    let _infallible = write!(remark, " · {reason}");
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
                if self.lines.transition && !totals.is_deduced() {
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
        let mut row = String::new();
        if let Some(time) = self.time.render(&self.clock, lost.mono_ns) {
            self.cell(&mut row, &time, self.time_width, DIM, false);
            row.push_str("  ");
        }
        let remark = format!(
            "LOST {} ({})",
            count(lost.count + lost.time_waits + lost.others),
            lost.cause.replace('_', " ")
        );
        self.cell(&mut row, &remark, 0, RED.bold(), false);
        finish(row, out);
    }

    fn end(&mut self, _end: &End, _out: &mut Vec<u8>) {}

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }
}
