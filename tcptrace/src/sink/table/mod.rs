//! Aligned columns for people.
//!
//! Rows stream, so widths cannot be computed from all of them: a column of ids or addresses grows when
//! something wider comes. One of addresses starts at the width of IPv4, and shrinks to it again when
//! nothing else has come for long.

mod closed;
mod happened;
mod pen;
mod subject;

use std::collections::HashMap;

use anstyle::Style;

use self::{
    closed::Detail,
    pen::{BLUE, BOLD, CYAN, DIM, GREEN, Pen, RED, YELLOW, finish},
    subject::Subject,
};
use super::{
    End, Lines, Lost, Sink, Start, explanation, reset_reason,
    text::{count, push_duration},
    time::{Clock, TimeColumn},
};
use crate::event::{Connection, Event, State, Totals};

/// Most rows are shorter.
const ROW_BYTES: usize = 512;
const STATE_WIDTH: usize = 11;
const SPAN_WIDTH: usize = 8;

/// Writes records as a table.
#[derive(Debug)]
pub struct Table {
    clock: Clock,
    time: TimeColumn,
    time_width: usize,
    lines: Lines,
    pen: Pen,
    wide: bool,
    header: bool,
    subject: Subject,
    reset_reasons: HashMap<u32, String>,
    span: Vec<u8>,
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
        let pen = Pen { colored };
        Self {
            clock: Clock::default(),
            time,
            time_width: 0,
            lines,
            pen,
            wide,
            header,
            subject: Subject::new(pen, wide, lines.transition),
            reset_reasons: HashMap::new(),
            span: Vec::new(),
        }
    }

    /// Time, owner, connection, both ends: what every row begins with.
    fn head(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        // Once, for most rows, and not with each of their cells.
        out.reserve(ROW_BYTES);
        self.time(connection.mono_ns(), out);
        self.subject.write(connection, out);
    }

    fn time(&mut self, mono_ns: u64, out: &mut Vec<u8>) {
        if let Some((time, columns)) = self.time.render(&self.clock, mono_ns) {
            self.time_width = self.time_width.max(columns);
            self.pen
                .put(out, time, columns, self.time_width, DIM, false);
            out.extend_from_slice(b"  ");
        }
    }

    fn transition(&mut self, connection: &Connection, totals: Option<&Totals>, out: &mut Vec<u8>) {
        self.head(connection, out);
        let pen = self.pen;
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
            let span = &mut self.span;
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

    fn close(&mut self, connection: &Connection, totals: &Totals, out: &mut Vec<u8>) {
        self.head(connection, out);
        let detail = Detail {
            handshake: self.wide,
            // Where each transition has its line, the times are there.
            states: self.wide || !self.lines.transition,
        };
        closed::write(self.pen, detail, connection, totals, out);
        finish(out);
    }

    /// A row that ends in words.
    fn remark(&mut self, connection: &Connection, remark: &str, style: Style, out: &mut Vec<u8>) {
        self.head(connection, out);
        self.pen.last(out, remark, style);
        finish(out);
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
        let pen = self.pen;
        if self.time_width > 0 {
            pen.cell(out, "TIME", self.time_width, BOLD, false);
            out.extend_from_slice(b"  ");
        }
        self.subject.header(out);
        if self.lines.transition {
            pen.cell(out, "OLD", STATE_WIDTH, BOLD, true);
            out.extend_from_slice(" → ".as_bytes());
            pen.cell(out, "NEW", STATE_WIDTH, BOLD, false);
            out.push(b' ');
            pen.cell(out, "IN OLD", SPAN_WIDTH, BOLD, true);
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
                let pen = self.pen;
                pen.cell(out, "open", STATE_WIDTH, DIM, true);
                pen.last(out, " · ", DIM);
                let state = connection.oldstate();
                pen.last(out, state.name(), state_style(state));
                finish(out);
                1
            }
            Event::Accept(connection, numbers) => {
                self.head(connection, out);
                let pen = self.pen;
                pen.begin(out, GREEN);
                happened::accepted(connection, numbers, out);
                pen.end(out, GREEN);
                finish(out);
                1
            }
            Event::Retransmit(connection, numbers) => {
                let remark = happened::sent_again(connection, numbers);
                self.remark(connection, &remark, YELLOW, out);
                1
            }
            Event::Reset(connection, numbers) => {
                let reason = numbers
                    .reset_reason()
                    .and_then(|reason| reset_reason(&self.reset_reasons, reason));
                let remark = happened::reset(connection, reason.as_deref());
                self.remark(connection, &remark, RED, out);
                1
            }
            Event::Listener(connection, numbers) => {
                let remark = happened::trouble(connection, numbers);
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
        let pen = self.pen;
        self.time(lost.mono_ns, out);
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
