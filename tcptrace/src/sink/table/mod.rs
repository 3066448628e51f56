//! Aligned columns for people.
//!
//! Rows stream, so widths cannot be computed from all of them: a column of ids or addresses grows when
//! something wider comes. One of addresses starts at the width of IPv4, and shrinks to it again when
//! nothing else has come for long. On a terminal, columns go by priority until a row fits ([`layout`]), and
//! long words are folded ([`fold`]).

mod closed;
mod fold;
mod happened;
mod layout;
mod subject;

use std::collections::HashMap;

use anstyle::Style;

use self::{
    closed::{Detail, States},
    layout::{Last, Layout, SPAN_WIDTH, STATE_WIDTH},
    subject::Subject,
};
use super::{
    End, Lines, Lost, Sink, Start,
    pen::{BOLD, DIM, GREEN, Pen, RED, YELLOW, blanks, finish, state_style},
    reset_reason,
    text::{count, push_duration},
    time::{Clock, TimeColumn},
};
use crate::{
    event::{Close, Connection, Event, Transition},
    explain,
};

/// Most rows are shorter.
const ROW_BYTES: usize = 512;
const MEANING: &str = "WHAT IT MEANS";
/// Where the second line of a line that grows begins.
const PATH_INDENT: usize = 4;

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
    layout: Layout,
    reset_reasons: HashMap<u32, String>,
    span: Vec<u8>,
    words: Vec<u8>,
}

/// How a [`Table`] looks.
#[derive(Debug)]
pub struct Look {
    /// The time column
    pub time: TimeColumn,
    /// Which lines a close becomes
    pub lines: Lines,
    /// With colors
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
            layout: layout::WHOLE,
            reset_reasons: HashMap::new(),
            span: Vec::new(),
            words: Vec::new(),
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
        if !self.layout.time {
            return;
        }
        if let Some((time, columns)) = self.time.render(&self.clock, mono_ns) {
            self.time_width = self.time_width.max(columns);
            self.pen
                .put(out, time, columns, self.time_width, DIM, false);
            blanks(out, self.layout.gap);
        }
    }

    /// Columns of a row up to what happened.
    fn head_width(&self) -> usize {
        let time = if self.layout.time && self.time_width > 0 {
            self.time_width + self.layout.gap
        } else {
            0
        };
        time + self.subject.width()
    }

    /// Where the meaning of a state change begins: two blanks behind it, one of which is the mark of what
    /// is inferred.
    fn meaning_column(&self) -> usize {
        let blanks = if self.layout.span { 1 } else { 2 };
        self.head_width() + self.layout.change_width() + blanks
    }

    /// Ends a row with words, which on a terminal are folded. `column`: where they begin.
    fn words(&mut self, column: usize, words: &str, style: Style, out: &mut Vec<u8>) {
        let pen = self.pen;
        let Some(columns) = self.layout.width else {
            pen.last(out, words, style);
            finish(out);
            return;
        };
        let indent = if self.lines.path {
            PATH_INDENT
        } else {
            fold::indent(column, columns)
        };
        let (first, rest) = (columns.saturating_sub(column), columns - indent);
        for (nth, line) in fold::fold(words, first, rest).into_iter().enumerate() {
            if nth > 0 {
                blanks(out, indent);
            }
            pen.last(out, line, style);
            finish(out);
        }
    }

    /// Lays the columns out for a terminal of this width; true if that is new.
    fn lay_out(&mut self, width: Option<usize>) -> bool {
        if self.wide || self.layout.width == width {
            return false;
        }
        let last = match self.lines {
            Lines { path: true, .. } => Last::Path,
            Lines { explain: true, .. } => Last::Meaning,
            Lines {
                transition: true, ..
            } => Last::Change,
            _ => Last::Words,
        };
        self.layout = Layout::fit(width, self.time_width, last);
        let spare = self.layout.spare(self.time_width, last);
        self.subject.lay_out(self.layout, spare);
        true
    }

    fn transition(&mut self, transition: &Transition, out: &mut Vec<u8>) {
        self.head(transition.connection(), out);
        let (pen, layout) = (self.pen, self.layout);
        if layout.old {
            pen.ascii(out, transition.oldstate().name(), STATE_WIDTH, DIM, true);
            out.push(b' ');
        }
        pen.last(out, "→ ", DIM);
        let new = transition.newstate();
        let explained = self.lines.explain;
        let span_us = transition.in_old_us().filter(|_| layout.span);
        let has_span = span_us.is_some() || (explained && layout.span);
        let width = if has_span || explained {
            STATE_WIDTH
        } else {
            0
        };
        pen.ascii(out, new.name(), width, state_style(new), false);
        if has_span {
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
        if transition.is_inferred() {
            out.push(b'~');
        }
        if explained {
            blanks(out, 2 - usize::from(transition.is_inferred()));
            let column = self.meaning_column();
            self.words(column, explain::transition(transition), DIM, out);
        } else {
            finish(out);
        }
    }

    fn close(&mut self, close: &Close, out: &mut Vec<u8>) {
        let detail = Detail {
            handshake: self.wide,
            states: match (self.lines.transition, self.lines.path) {
                (_, true) => States::Path,
                // Where each transition has its line, the times are there.
                (true, false) if !self.wide => States::None,
                _ => States::Notable,
            },
        };
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        let style = closed::write(detail, close, &mut words);
        self.remark(
            close.connection(),
            &String::from_utf8_lossy(&words),
            style,
            out,
        );
        self.words = words;
    }

    /// A row that ends in words.
    fn remark(&mut self, connection: &Connection, remark: &str, style: Style, out: &mut Vec<u8>) {
        self.head(connection, out);
        self.words(self.head_width(), remark, style, out);
    }
}

impl Sink for Table {
    fn start(&mut self, start: &Start, out: &mut Vec<u8>) {
        self.time.begin(start.mono_ns);
        self.reset_reasons.clone_from(&start.reset_reasons);
        if let Some((_, columns)) = self.time.render(&self.clock, start.mono_ns) {
            self.time_width = columns.max(4);
        }
        let width = self.layout.width.take();
        self.lay_out(width);
        self.header(out);
    }

    fn header(&self, out: &mut Vec<u8>) {
        if !self.header {
            return;
        }
        let (pen, layout) = (self.pen, self.layout);
        if layout.time && self.time_width > 0 {
            pen.cell(out, "TIME", self.time_width, BOLD, false);
            blanks(out, layout.gap);
        }
        self.subject.header(out);
        if self.lines.transition {
            if layout.old {
                pen.cell(out, "OLD", STATE_WIDTH, BOLD, true);
                out.push(b' ');
            }
            out.extend_from_slice("→ ".as_bytes());
            pen.cell(out, "NEW", STATE_WIDTH, BOLD, false);
            if layout.span {
                out.push(b' ');
                pen.cell(out, "IN OLD", SPAN_WIDTH, BOLD, true);
            }
            let column = self.meaning_column();
            let fits = |columns| column + MEANING.len() <= columns;
            if self.lines.explain && layout.width.is_none_or(fits) {
                out.extend_from_slice(b"  ");
                pen.cell(out, MEANING, 0, BOLD, false);
            }
        } else {
            pen.cell(out, "WHAT HAPPENED", 0, BOLD, false);
        }
        finish(out);
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        let connection = event.connection();
        match event {
            Event::Socket(socket) => {
                self.head(connection, out);
                let pen = self.pen;
                pen.cell(out, "open", STATE_WIDTH, DIM, true);
                pen.last(out, " · ", DIM);
                let state = socket.state();
                pen.last(out, state.name(), state_style(state));
                finish(out);
            }
            Event::Transition(transition) => self.transition(transition, out),
            Event::Accept(accept) => {
                let mut words = std::mem::take(&mut self.words);
                words.clear();
                happened::accepted(accept, &mut words);
                self.remark(connection, &String::from_utf8_lossy(&words), GREEN, out);
                self.words = words;
            }
            Event::Retransmit(retransmit) => {
                let remark = happened::sent_again(retransmit);
                self.remark(connection, &remark, YELLOW, out);
            }
            Event::Reset(reset) => {
                let named = |reason| reset_reason(&self.reset_reasons, reason);
                let reason = reset.reason().and_then(named);
                let remark = happened::reset(reset, reason.as_deref());
                self.remark(connection, &remark, RED, out);
            }
            Event::Slow(slow) => {
                let remark = happened::slow(slow);
                self.remark(event.connection(), &remark, YELLOW, out);
            }
            Event::Owner(owner) => {
                self.remark(connection, &happened::handed_over(owner), GREEN, out);
            }
            Event::Listener(listener) => {
                self.remark(connection, &happened::trouble(listener), RED, out);
            }
            Event::Open(open) => self.remark(connection, &happened::still_open(open), DIM, out),
            Event::Close(close) => self.close(close, out),
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
        let remark = format!(
            "LOST {} ({})",
            count(rows),
            lost.cause.name().replace('_', " ")
        );
        pen.last(out, &remark, RED.bold());
        finish(out);
    }

    fn end(&mut self, _end: &End, _out: &mut Vec<u8>) {}

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }

    fn set_width(&mut self, columns: Option<usize>, out: &mut Vec<u8>) {
        if self.lay_out(columns) && self.time_width > 0 {
            self.header(out);
        }
    }
}
