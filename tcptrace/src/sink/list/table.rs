//! Rows of a table, as wide as they have to be and no wider than the terminal.

use anstyle::Style;

use super::{
    Row,
    column::{BASE, Column, MORE},
};
use crate::sink::pen::{BOLD, Pen, blanks, finish};

/// A column is no narrower for the sake of others.
const COMM_LEAST: usize = 8;
const END_LEAST: usize = 14;
const BETWEEN: usize = 2;
/// So many more columns than the base go into a pipe.
const PIPED: usize = 5;

/// Which columns, and how wide each is.
#[derive(Debug)]
pub struct Table {
    pen: Pen,
    columns: Vec<(Column, usize)>,
    /// Room for what is said of a row before its columns
    lead: usize,
    width: Option<usize>,
    cell: Vec<u8>,
}

/// What a table is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The columns asked for; none: those that fit
    pub columns: Option<Vec<Column>>,
    /// Columns of the terminal; none: nothing is cut
    pub width: Option<usize>,
    /// With colors
    pub colored: bool,
    /// What would say the same in each row, or nothing
    pub idle: Vec<Column>,
    /// Room for what is said of a row before its columns; 0: nothing is
    pub lead: usize,
}

impl Table {
    /// A table for these rows.
    pub fn new<'a>(plan: &Plan, rows: impl Iterator<Item = Row<'a>>) -> Self {
        let wanted = plan.columns.clone().unwrap_or_else(|| {
            let mut wanted = BASE.to_vec();
            let more = MORE.iter().filter(|column| !plan.idle.contains(column));
            // Into a pipe go always the same.
            let many = if plan.width.is_some() {
                usize::MAX
            } else {
                PIPED
            };
            wanted.extend(more.take(many));
            wanted
        });
        let titles = wanted.iter().map(|column| (*column, column.title().len()));
        let lead = if plan.lead == 0 {
            0
        } else {
            plan.lead + BETWEEN
        };
        let mut table = Self {
            pen: Pen {
                colored: plan.colored,
            },
            columns: titles.collect(),
            lead: plan.lead,
            // What was asked for by name is shown whole.
            width: plan.width.filter(|_| plan.columns.is_none()),
            cell: Vec::new(),
        };
        table.width = table.width.map(|width| width.saturating_sub(lead));
        table.widen(rows);
        table
    }

    /// Makes room for more rows.
    pub fn widen<'a>(&mut self, rows: impl Iterator<Item = Row<'a>>) {
        for row in rows {
            for (column, width) in &mut self.columns {
                self.cell.clear();
                *width = column.write(&row, &mut self.cell).max(*width);
            }
        }
        let Some(width) = self.width else {
            return;
        };
        while self.columns.len() > BASE.len() && total(&self.columns) > width {
            let _too_wide = self.columns.pop();
        }
        self.squeeze(width);
    }

    /// Cuts names first, then ends, until a row fits.
    fn squeeze(&mut self, width: usize) {
        for (which, least) in [
            (&[Column::Comm][..], COMM_LEAST),
            (&[Column::Remote, Column::Local], END_LEAST),
        ] {
            while total(&self.columns) > width {
                let widest = self
                    .columns
                    .iter_mut()
                    .filter(|(column, width)| which.contains(column) && *width > least)
                    .max_by_key(|(_, width)| *width);
                let Some((_, width)) = widest else {
                    break;
                };
                *width -= 1;
            }
        }
    }

    /// Appends the titles.
    pub fn header(&self, out: &mut Vec<u8>) {
        if self.lead > 0 {
            blanks(out, self.lead + BETWEEN);
        }
        for (nth, (column, width)) in self.columns.iter().enumerate() {
            if nth > 0 {
                blanks(out, BETWEEN);
            }
            self.pen
                .cell(out, column.title(), *width, BOLD, column.is_right());
        }
        finish(out);
    }

    /// Appends a row, and before it what is said of it.
    pub fn row(&mut self, lead: &str, style: Style, row: &Row<'_>, out: &mut Vec<u8>) {
        if self.lead > 0 {
            self.pen.cell(out, lead, self.lead, style, false);
            blanks(out, BETWEEN);
        }
        for (nth, (column, width)) in self.columns.iter().enumerate() {
            if nth > 0 {
                blanks(out, BETWEEN);
            }
            self.cell.clear();
            let mut columns = column.write(row, &mut self.cell);
            if columns > *width {
                columns = cut(&mut self.cell, *width, *column != Column::Comm);
            }
            let style = column.style(row);
            self.pen
                .put(out, &self.cell, columns, *width, style, column.is_right());
        }
        finish(out);
    }
}

fn total(columns: &[(Column, usize)]) -> usize {
    let widths: usize = columns.iter().map(|(_, width)| width).sum();
    widths + BETWEEN * columns.len().saturating_sub(1)
}

/// Cuts a text to so many columns, with `…` in the place of what is gone: at the beginning (of an address, whose end
/// tells more) or at the end. Returns how many columns it takes.
fn cut(text: &mut Vec<u8>, columns: usize, at_beginning: bool) -> usize {
    let whole = String::from_utf8_lossy(text).into_owned();
    let room = columns.saturating_sub(1);
    let width = |c: char| unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
    let mut taken = 0;
    let mut fits = |c: &char| {
        taken += width(*c);
        taken <= room
    };
    let kept: String = if at_beginning {
        let kept: Vec<char> = whole.chars().rev().take_while(|c| fits(c)).collect();
        std::iter::once('…').chain(kept.into_iter().rev()).collect()
    } else {
        let kept: Vec<char> = whole.chars().take_while(|c| fits(c)).collect();
        kept.into_iter().chain(std::iter::once('…')).collect()
    };
    text.clear();
    text.extend_from_slice(kept.as_bytes());
    kept.chars().map(width).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_has_the_width_asked_for() {
        for (text, columns, at_beginning, cut_text) in [
            ("[2001:db8::1]:443", 8, true, "…:1]:443"),
            ("postgres", 5, false, "post…"),
            ("日本語", 5, false, "日本…"),
            ("日本語", 4, true, "…語"),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            let width = cut(&mut bytes, columns, at_beginning);
            assert_eq!(String::from_utf8(bytes).unwrap(), cut_text);
            assert!(width <= columns);
        }
    }
}
