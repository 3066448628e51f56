//! Rows of a table: the queue of each address, and below it what is wrong there.

use super::Listening;
use crate::sink::{
    list::column::push_end,
    pen::{BOLD, DIM, Pen, RED, YELLOW, blanks, finish},
    text::{escape, push_duration, push_number},
};
use anstyle::Style;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Address,
    Queue,
    HalfOpen,
    Oldest,
    Drops,
    Accepts,
    Deepest,
    Wait50,
    Wait99,
    Pid,
    Comm,
    Netns,
}

const BETWEEN: usize = 2;
/// Below a row.
const INDENT: &str = "  ! ";
/// What goes first where there is no room.
const SPARE: [Column; 6] = [
    Column::Netns,
    Column::Wait50,
    Column::Drops,
    Column::Wait99,
    Column::Oldest,
    Column::HalfOpen,
];
const COMM_LEAST: usize = 8;

/// How a table of listeners looks.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of its own, and any combination is one"
)]
pub struct Look {
    /// Columns of the terminal; none: nothing is left out
    pub width: Option<usize>,
    /// With colors
    pub colored: bool,
    /// With titles
    pub header: bool,
    /// With what has happened since the last look
    pub live: bool,
    /// With the network namespace
    pub netns: bool,
}

/// Appends the whole table.
pub fn write(look: Look, all: &[(Listening<'_>, Option<String>)], out: &mut Vec<u8>) {
    let pen = Pen {
        colored: look.colored,
    };
    let mut columns = vec![
        Column::Address,
        Column::Queue,
        Column::HalfOpen,
        Column::Oldest,
    ];
    if look.live {
        columns.extend([
            Column::Accepts,
            Column::Deepest,
            Column::Wait50,
            Column::Wait99,
        ]);
    }
    columns.extend([Column::Drops, Column::Pid, Column::Comm]);
    if look.netns {
        columns.push(Column::Netns);
    }
    let mut widths: Vec<(Column, usize)> = columns
        .into_iter()
        .map(|column| {
            let cells = all.iter().map(|(one, _)| width(&cell(column, one)));
            (
                column,
                cells.chain([title(column).len()]).max().unwrap_or(0),
            )
        })
        .collect();
    if let Some(room) = look.width {
        for spare in SPARE {
            if total(&widths) > room {
                widths.retain(|(column, _)| *column != spare);
            }
        }
        let over = total(&widths).saturating_sub(room);
        if let Some((_, comm)) = widths
            .iter_mut()
            .find(|(column, _)| *column == Column::Comm)
        {
            *comm = comm.saturating_sub(over).max(COMM_LEAST.min(*comm));
        }
    }
    if look.header {
        row(pen, &widths, out, |column| (title(column).to_owned(), BOLD));
    }
    for (listening, trouble) in all {
        row(pen, &widths, out, |column| {
            (cell(column, listening), style(column, listening))
        });
        if let Some(trouble) = trouble {
            for line in fold(
                trouble,
                look.width.map(|width| width.saturating_sub(INDENT.len())),
            ) {
                pen.last(out, INDENT, RED);
                pen.last(out, line, YELLOW);
                finish(out);
            }
        }
    }
}

fn row(
    pen: Pen,
    widths: &[(Column, usize)],
    out: &mut Vec<u8>,
    text: impl Fn(Column) -> (String, Style),
) {
    for (nth, (column, room)) in widths.iter().enumerate() {
        if nth > 0 {
            blanks(out, BETWEEN);
        }
        let (mut text, style) = text(*column);
        while width(&text) > *room && *column == Column::Comm {
            let _last = text.pop();
        }
        let right = !matches!(column, Column::Address | Column::Comm);
        pen.put(out, text.as_bytes(), width(&text), *room, style, right);
    }
    finish(out);
}

fn total(widths: &[(Column, usize)]) -> usize {
    let sum: usize = widths.iter().map(|(_, width)| width).sum();
    sum + BETWEEN * widths.len().saturating_sub(1)
}

fn width(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

const fn title(column: Column) -> &'static str {
    match column {
        Column::Address => "ADDRESS",
        Column::Queue => "QUEUE",
        Column::HalfOpen => "HALF-OPEN",
        Column::Oldest => "OLDEST",
        Column::Drops => "DROPS",
        Column::Accepts => "ACCEPTS/s",
        Column::Deepest => "DEEPEST",
        Column::Wait50 => "WAIT p50",
        Column::Wait99 => "p99",
        Column::Pid => "PID",
        Column::Comm => "COMM",
        Column::Netns => "NETNS",
    }
}

fn cell(column: Column, listening: &Listening<'_>) -> String {
    let mut text = Vec::new();
    let since = listening.since.as_ref();
    match column {
        Column::Address => {
            if let Some(first) = listening.rows.first() {
                push_end(&mut text, first.socket.local, first.socket.lport);
            }
        }
        Column::Queue => {
            push_number(&mut text, listening.backlog());
            text.push(b'/');
            push_number(&mut text, listening.backlog_max());
        }
        Column::HalfOpen => push_number(&mut text, listening.queue.half_open.into()),
        Column::Oldest => {
            if let Some(us) = listening.queue.oldest_us {
                push_duration(&mut text, us);
            }
        }
        Column::Drops => {
            if let Some(drops) = listening.drops() {
                push_number(&mut text, drops);
            }
        }
        Column::Accepts => {
            if let Some((accepts, us)) = since.and_then(|since| Some((since.accepts?, since.us))) {
                push_number(
                    &mut text,
                    accepts.saturating_mul(1_000_000).div_ceil(us.max(1)),
                );
            }
        }
        Column::Deepest => {
            if let Some(deepest) = since.and_then(|since| since.deepest) {
                push_number(&mut text, deepest.into());
            }
        }
        Column::Wait50 | Column::Wait99 => {
            if let Some((half, most)) = since.and_then(|since| since.wait_us) {
                push_duration(
                    &mut text,
                    if column == Column::Wait50 { half } else { most },
                );
            }
        }
        Column::Pid => {
            if let Some(owner) = listening.holders().first() {
                push_number(&mut text, owner.pid.into());
            }
        }
        Column::Comm => {
            let holders = listening.holders();
            if let Some(owner) = holders.first() {
                text.extend_from_slice(escape(owner.comm()).as_bytes());
            }
            if holders.len() > 1 {
                text.extend_from_slice(format!(" +{}", holders.len() - 1).as_bytes());
            }
        }
        Column::Netns => {
            if let Some(first) = listening.rows.first() {
                push_number(&mut text, first.netns());
            }
        }
    }
    if text.is_empty() {
        text.push(b'-');
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn style(column: Column, listening: &Listening<'_>) -> Style {
    match column {
        Column::Queue if listening.is_full() => RED,
        Column::Queue if listening.backlog() > 0 => YELLOW,
        Column::HalfOpen if listening.is_flooded() => RED,
        Column::Pid => BOLD,
        Column::Netns => DIM,
        _ => Style::new(),
    }
}

/// Cuts a text into lines of so many columns, between words.
fn fold(text: &str, columns: Option<usize>) -> Vec<&str> {
    let Some(columns) = columns else {
        return vec![text];
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while width(rest) > columns {
        let fits = rest
            .match_indices(' ')
            .take_while(|(at, _)| width(&rest[..*at]) <= columns)
            .last();
        let Some((at, _)) = fits else {
            break;
        };
        lines.push(&rest[..at]);
        rest = &rest[at + 1..];
    }
    lines.push(rest);
    lines
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn folded_between_words() {
        assert_eq!(fold("one two three", Some(8)), ["one two", "three"]);
        assert_eq!(fold("one two three", Some(3)), ["one", "two", "three"]);
        assert_eq!(fold("one two", None), ["one two"]);
    }
}
