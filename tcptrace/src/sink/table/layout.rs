//! Which columns fit a terminal, and how wide they are.

/// Columns of one row, by what the terminal has room for.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a column that is there or not"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The time of the row
    pub(super) time: bool,
    /// Columns of the process name
    pub(super) comm_width: usize,
    /// The connection's id
    pub(super) conn: bool,
    /// The local address beside the local port
    pub(super) laddr: bool,
    /// Columns of an end with its address, at least
    pub(super) endpoint_width: usize,
    /// The state before a transition
    pub(super) old: bool,
    /// The time in the state before
    pub(super) span: bool,
    /// Blanks between two groups of columns
    pub(super) gap: usize,
    /// Columns of the terminal; none where nobody looks, and a row may be of any length
    pub(super) width: Option<usize>,
}

pub(super) const PID_WIDTH: usize = 7;
pub(super) const CONN_WIDTH: usize = 6;
pub(super) const ARROW_WIDTH: usize = 3;
/// `:59610`
pub(super) const PORT_WIDTH: usize = 6;
pub(super) const STATE_WIDTH: usize = 11;
pub(super) const SPAN_WIDTH: usize = 8;
/// `10.4.0.1:59610` and one more
const ENDPOINT_WIDTH: usize = 15;
/// `255.255.255.255:65535`
const ENDPOINT_WIDTH_MAX: usize = 21;
/// What words about a connection need beside the columns.
const WORDS_WIDTH: usize = 30;
/// The beginning of a line that grows.
const PATH_WIDTH: usize = 24;

/// What rows end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// A state change
    Change,
    /// A state change, and what it means in words
    Meaning,
    /// Words
    Words,
    /// Words, and the states passed
    Path,
}

/// All columns, in rows of any length.
pub(super) const WHOLE: Layout = Layout {
    time: true,
    comm_width: 15,
    conn: true,
    laddr: true,
    endpoint_width: ENDPOINT_WIDTH,
    old: true,
    span: true,
    gap: 2,
    width: None,
};

/// From what a wide terminal takes to what a narrow one takes: which columns give way first.
const LAYOUTS: [Layout; 8] = [
    Layout {
        endpoint_width: ENDPOINT_WIDTH_MAX,
        ..WHOLE
    },
    WHOLE,
    Layout {
        comm_width: 12,
        laddr: false,
        endpoint_width: ENDPOINT_WIDTH_MAX,
        ..WHOLE
    },
    Layout {
        comm_width: 12,
        conn: false,
        laddr: false,
        endpoint_width: ENDPOINT_WIDTH_MAX,
        ..WHOLE
    },
    Layout {
        comm_width: 10,
        conn: false,
        laddr: false,
        ..WHOLE
    },
    Layout {
        comm_width: 8,
        conn: false,
        laddr: false,
        old: false,
        gap: 1,
        ..WHOLE
    },
    Layout {
        time: false,
        comm_width: 8,
        conn: false,
        laddr: false,
        old: false,
        gap: 1,
        ..WHOLE
    },
    Layout {
        time: false,
        comm_width: 8,
        conn: false,
        laddr: false,
        old: false,
        span: false,
        gap: 1,
        ..WHOLE
    },
];

impl Layout {
    /// The columns for a terminal of this width, with a time column of `time_width`.
    pub(super) fn fit(width: Option<usize>, time_width: usize, last: Last) -> Self {
        let Some(columns) = width else { return WHOLE };
        let fits = |layout: &&Self| {
            // A line that grows needs its room for the states more than for these.
            let grows = last == Last::Path && (layout.conn || layout.laddr);
            !grows && layout.head_width(time_width) + layout.last_width(last) <= columns
        };
        let [.., narrowest] = LAYOUTS;
        Self {
            width,
            ..*LAYOUTS.iter().find(fits).unwrap_or(&narrowest)
        }
    }

    /// Columns of all that comes before what happened, with ends as narrow as can be.
    pub(super) const fn head_width(&self, time_width: usize) -> usize {
        let mut width = PID_WIDTH + 1 + self.comm_width + self.gap;
        if self.time && time_width > 0 {
            width += time_width + self.gap;
        }
        if self.conn {
            width += CONN_WIDTH + self.gap;
        }
        width += if self.laddr {
            self.endpoint_width
        } else {
            PORT_WIDTH
        };
        width + ARROW_WIDTH + self.endpoint_width + self.gap
    }

    /// How many columns longer ends may take.
    pub(super) fn spare(&self, time_width: usize, last: Last) -> usize {
        let Some(columns) = self.width else {
            return usize::MAX;
        };
        columns.saturating_sub(self.head_width(time_width) + self.last_width(last))
    }

    /// Columns of what a row ends with.
    const fn last_width(&self, last: Last) -> usize {
        match last {
            Last::Change => self.change_width(),
            Last::Meaning => self.change_width() + 1 + WORDS_WIDTH,
            Last::Words => WORDS_WIDTH,
            Last::Path => PATH_WIDTH,
        }
    }

    /// Columns of a state change, and one for the mark of what is inferred.
    pub(super) const fn change_width(&self) -> usize {
        let mut width = "→ ".len() - 2 + STATE_WIDTH;
        if self.old {
            width += STATE_WIDTH + 1;
        }
        if self.span {
            width += 1 + SPAN_WIDTH + 1;
        }
        width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `15:04:05.123`
    const TIME_WIDTH: usize = 12;

    #[test]
    fn every_terminal_from_60_columns_has_room() {
        for columns in 60..300 {
            let layout = Layout::fit(Some(columns), TIME_WIDTH, Last::Change);
            let width = layout.head_width(TIME_WIDTH) + layout.change_width();
            assert!(width <= columns, "{columns} {layout:?}");
        }
    }

    #[test]
    fn columns_go_by_priority() {
        let at = |columns| Layout::fit(Some(columns), TIME_WIDTH, Last::Change);
        assert!(at(200).laddr && at(120).conn && at(100).old);
        assert!(at(80).time && at(80).span && !at(80).old && !at(80).conn);
        assert!(!at(60).time);
    }

    #[test]
    fn a_file_has_all_columns() {
        assert_eq!(Layout::fit(None, TIME_WIDTH, Last::Change), WHOLE);
    }
}
