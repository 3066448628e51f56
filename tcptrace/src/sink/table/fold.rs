//! Long words about a connection, in lines that fit a terminal.

use unicode_width::UnicodeWidthStr as _;

/// At least so many columns for each line: fewer would be a column of single words.
const ROOM: usize = 36;

/// Where a line may end; what stands there begins the next one.
const SEPARATORS: [&str; 2] = [" · ", " → "];

/// How many blanks the lines after the first begin with, where the first begins at this column: as many,
/// or fewer where that leaves too little room.
pub(super) fn indent(column: usize, columns: usize) -> usize {
    column.min(columns.saturating_sub(ROOM)).min(columns / 2)
}

/// Lines of `text`: the first fits into `first` columns, those that follow into `rest`. The first is empty
/// where nothing fits into it and the others have more room. A single part that is longer than a line is
/// broken between its words.
pub(super) fn fold(text: &str, first: usize, rest: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut left = text;
    let mut room = first;
    while left.width() > room {
        let Some(at) = last_break(left, room) else {
            if room < rest {
                lines.push("");
                room = rest;
                continue;
            }
            break;
        };
        if left[..at].width() > room && room < rest {
            lines.push("");
            room = rest;
            continue;
        }
        let (line, next) = left.split_at(at);
        lines.push(line);
        left = next.trim_start_matches(' ');
        room = rest;
    }
    lines.push(left);
    lines
}

/// Where the longest line ends that fits: before a separator, or else between two words. The first part
/// is taken whole if not even that fits.
fn last_break(text: &str, room: usize) -> Option<usize> {
    let separators = || {
        SEPARATORS
            .iter()
            .flat_map(|separator| text.match_indices(separator))
            .map(|(at, _)| at)
            .filter(|at| *at > 0)
    };
    let blanks = || {
        text.match_indices(' ')
            .map(|(at, _)| at)
            .filter(|at| *at > 0)
    };
    let fits = |at: &usize| text[..*at].width() <= room;
    separators()
        .filter(fits)
        .max()
        .or_else(|| blanks().filter(fits).max())
        .or_else(|| blanks().min())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: &str = "closed after 643µs · normal, local first · connect 101µs · ↑77B ↓153B";

    #[test]
    fn what_fits_stays_one_line() {
        assert_eq!(fold(CLOSED, 80, 80), [CLOSED]);
    }

    #[test]
    fn lines_end_before_a_separator() {
        assert_eq!(
            fold(CLOSED, 42, 30),
            [
                "closed after 643µs · normal, local first",
                "· connect 101µs · ↑77B ↓153B"
            ]
        );
    }

    #[test]
    fn a_long_part_is_broken_between_words() {
        assert_eq!(fold("one two three", 7, 5), ["one two", "three"]);
        assert_eq!(fold("unbreakable", 3, 3), ["unbreakable"]);
        assert_eq!(fold("unbreakable x", 3, 3), ["unbreakable", "x"]);
    }

    #[test]
    fn where_nothing_fits_the_next_line_has_it() {
        assert_eq!(fold("unbreakable", 3, 20), ["", "unbreakable"]);
        assert_eq!(fold("closed after 3s", 0, 20), ["", "closed after 3s"]);
    }

    #[test]
    fn no_line_is_wider_than_its_room() {
        for room in 24..120 {
            for line in fold(CLOSED, room, room) {
                assert!(line.width() <= room, "{room}: {line}");
            }
        }
    }

    #[test]
    fn no_text_is_lost() {
        for room in 1..90 {
            let words = |text: &str| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(&fold(CLOSED, room, room).join(" ")), words(CLOSED));
        }
    }
}
