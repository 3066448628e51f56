//! Text in columns, with colors or without.

use std::io::Write as _;

use anstyle::{AnsiColor, Color, Style};

use crate::event::State;

pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const RED: Style = color(AnsiColor::Red);
pub(crate) const GREEN: Style = color(AnsiColor::Green);
pub(crate) const YELLOW: Style = color(AnsiColor::Yellow);
pub(crate) const CYAN: Style = color(AnsiColor::Cyan);
pub(crate) const BLUE: Style = color(AnsiColor::Blue);

const fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(color)))
}

/// The color of a state.
pub(in crate::sink) fn state_style(state: State) -> Style {
    match state.name() {
        "ESTABLISHED" => GREEN,
        "SYN_SENT" | "SYN_RECV" => CYAN,
        "LISTEN" => BLUE,
        "CLOSE" => DIM,
        _ => YELLOW,
    }
}

/// Colors that tell neighboring connections apart.
pub(crate) const CONNECTIONS: [Style; 6] = [
    color(AnsiColor::BrightBlue),
    color(AnsiColor::BrightMagenta),
    color(AnsiColor::BrightCyan),
    color(AnsiColor::BrightGreen),
    color(AnsiColor::BrightYellow),
    color(AnsiColor::BrightRed),
];

/// Puts text into columns.
#[derive(Clone, Copy, Debug)]
pub(in crate::sink) struct Pen {
    pub(in crate::sink) colored: bool,
}

impl Pen {
    /// Appends `text` in `width` columns, left or right aligned, in `style`.
    pub(in crate::sink) fn cell(
        self,
        row: &mut Vec<u8>,
        text: &str,
        width: usize,
        style: Style,
        right: bool,
    ) {
        self.put(row, text.as_bytes(), columns(text), width, style, right);
    }

    /// The same for text of ours, a column to a byte.
    pub(in crate::sink) fn ascii(
        self,
        row: &mut Vec<u8>,
        text: &str,
        width: usize,
        style: Style,
        right: bool,
    ) {
        self.put(row, text.as_bytes(), text.len(), width, style, right);
    }

    /// The same for text that takes so many columns.
    pub(in crate::sink) fn put(
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
    pub(in crate::sink) fn last(self, row: &mut Vec<u8>, text: &str, style: Style) {
        self.begin(row, style);
        push(row, text);
        self.end(row, style);
    }

    pub(in crate::sink) fn begin(self, row: &mut Vec<u8>, style: Style) {
        if self.colored && style != Style::new() {
            // Writing to memory does not fail.
            let _infallible = write!(row, "{}", style.render());
        }
    }

    pub(in crate::sink) fn end(self, row: &mut Vec<u8>, style: Style) {
        if self.colored && style != Style::new() {
            let _infallible = write!(row, "{}", style.render_reset());
        }
    }

    /// A number; `-` if it is not known.
    pub(in crate::sink) fn number(
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
}

pub(in crate::sink) fn push(row: &mut Vec<u8>, text: &str) {
    row.extend_from_slice(text.as_bytes());
}

pub(in crate::sink) fn blanks(row: &mut Vec<u8>, number: usize) {
    row.resize(row.len() + number, b' ');
}

/// Ends a row, without the blanks at its end.
pub(in crate::sink) fn finish(out: &mut Vec<u8>) {
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
