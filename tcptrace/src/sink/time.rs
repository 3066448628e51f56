//! Timestamps as text.

use std::io::Write as _;

use jiff::{Timestamp, tz::TimeZone};

/// The wall clock, from the kernel's monotonic one.
#[derive(Debug)]
pub struct Clock {
    wall_minus_mono_ns: i64,
    /// The second last rendered
    second: Option<i64>,
    /// Its text, `2026-11-22T11:45:21`, with room for what follows
    text: [u8; RFC3339_BYTES],
}

/// Of `2026-11-22T11:45:21.123456789Z`
const RFC3339_BYTES: usize = 30;
/// Of these, up to the fraction
const SECOND_BYTES: usize = 19;

impl Default for Clock {
    fn default() -> Self {
        Self {
            wall_minus_mono_ns: 0,
            second: None,
            text: [0; RFC3339_BYTES],
        }
    }
}

impl Clock {
    /// Tells the difference between the two clocks, ns.
    pub const fn set(&mut self, wall_minus_mono_ns: i64) {
        self.wall_minus_mono_ns = wall_minus_mono_ns;
    }

    /// Wall-clock time since the epoch: whole seconds and nanoseconds.
    pub fn wall(&self, mono_ns: u64) -> (i64, u32) {
        let wall_ns = i64::try_from(mono_ns)
            .unwrap_or(i64::MAX)
            .saturating_add(self.wall_minus_mono_ns);
        let nanos = u32::try_from(wall_ns.rem_euclid(1_000_000_000)).unwrap_or(0);
        (wall_ns.div_euclid(1_000_000_000), nanos)
    }

    /// Appends RFC 3339 UTC with nine fraction digits and `Z`.
    pub fn push_rfc3339(&mut self, mono_ns: u64, out: &mut Vec<u8>) {
        let (second, nanos) = self.wall(mono_ns);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = *b"1970-01-01T00:00:00.000000000Z";
            let timestamp = Timestamp::from_second(second).unwrap_or_default();
            let text = timestamp.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            // Years have four digits until 9999, and jiff goes no further.
            if let Some(text) = text.as_bytes().first_chunk::<SECOND_BYTES>() {
                self.text[..SECOND_BYTES].copy_from_slice(text);
            }
        }
        let text = &mut self.text;
        for (pair, place) in [(20, 10_000_000), (22, 100_000), (24, 1_000), (26, 10)] {
            text[pair..pair + 2].copy_from_slice(&two_digits(nanos / place));
        }
        text[28] = two_digits(nanos)[1];
        out.extend_from_slice(text);
    }
}

/// The last two digits of a number.
const fn two_digits(number: u32) -> [u8; 2] {
    let number = (number % 100) as u8;
    [b'0' + number / 10, b'0' + number % 10]
}

/// Appends the last `width` digits of a number, at most ten.
pub fn push_padded(text: &mut Vec<u8>, mut number: u32, width: u32) {
    let mut digits = [b'0'; 10];
    let width = digits.len().min(width as usize);
    for digit in digits[..width].iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    text.extend_from_slice(&digits[..width]);
}

/// What the time column shows.
#[derive(Clone, Debug)]
pub enum TimeFormat {
    /// Text by a strftime pattern; `fraction` digits of the second follow
    Pattern {
        /// strftime pattern
        pattern: String,
        /// Digits after the second, 0 for none
        fraction: u32,
        /// Whether the pattern itself has parts of a second
        fine: bool,
        /// Where
        zone: TimeZone,
    },
    /// Seconds since the epoch with six digits
    Unix,
    /// Seconds since the trace began with six digits
    Elapsed,
    /// No time column
    None,
}

impl TimeFormat {
    /// `clock`, `date`, `unix`, `elapsed`, `none`, or a strftime pattern.
    pub fn parse(text: &str, utc: bool) -> Result<Self, String> {
        let zone = if utc {
            TimeZone::UTC
        } else {
            TimeZone::system()
        };
        let pattern = |pattern: &str, fraction| Self::Pattern {
            pattern: pattern.to_owned(),
            fraction,
            fine: false,
            zone: zone.clone(),
        };
        Ok(match text {
            "clock" => pattern("%H:%M:%S", 3),
            "date" => pattern("%Y-%m-%d %H:%M:%S", 3),
            "unix" => Self::Unix,
            "elapsed" => Self::Elapsed,
            "none" => Self::None,
            custom if custom.contains('%') => {
                let shown = |nanos| {
                    let at = Timestamp::new(0, nanos).unwrap_or_default();
                    jiff::fmt::strtime::format(custom, &at.to_zoned(zone.clone()))
                        .map_err(|why| format!("{why}"))
                };
                let fine = shown(0)? != shown(987_654_321)?;
                Self::Pattern {
                    pattern: custom.to_owned(),
                    fraction: 0,
                    fine,
                    zone,
                }
            }
            _ => {
                return Err(
                    "unknown; use clock, date, unix, elapsed, none, or a pattern as in %H:%M:%S"
                        .to_owned(),
                );
            }
        })
    }
}

/// Renders the time column, remembering the second it rendered last.
#[derive(Debug)]
pub struct TimeColumn {
    format: TimeFormat,
    begin_ns: u64,
    second: i64,
    text: Vec<u8>,
    /// Bytes of `text` before the fraction of the second
    whole: usize,
    /// Columns of a terminal that they take
    columns: usize,
}

impl TimeColumn {
    /// A column that counts elapsed time from `begin_ns`, `CLOCK_MONOTONIC`.
    pub const fn new(format: TimeFormat, begin_ns: u64) -> Self {
        Self {
            format,
            begin_ns,
            second: i64::MIN,
            text: Vec::new(),
            whole: 0,
            columns: 0,
        }
    }

    /// Sets where elapsed time counts from.
    pub const fn begin(&mut self, begin_ns: u64) {
        self.begin_ns = begin_ns;
    }

    /// The time of a record, and how many columns of a terminal it takes; none without a time column.
    pub fn render(&mut self, clock: &Clock, mono_ns: u64) -> Option<(&[u8], usize)> {
        let (second, nanos) = clock.wall(mono_ns);
        let text = &mut self.text;
        match &self.format {
            TimeFormat::None => return None,
            TimeFormat::Unix => {
                text.clear();
                text.extend_from_slice(itoa::Buffer::new().format(second).as_bytes());
                text.push(b'.');
                push_padded(text, nanos / 1000, 6);
            }
            TimeFormat::Elapsed => {
                let elapsed_us = mono_ns.saturating_sub(self.begin_ns) / 1000;
                text.clear();
                // Writing to memory does not fail.
                let _infallible = write!(
                    text,
                    "{:>5}.{:06}",
                    elapsed_us / 1_000_000,
                    elapsed_us % 1_000_000
                );
            }
            TimeFormat::Pattern {
                pattern,
                fraction,
                fine,
                zone,
            } => {
                if second != self.second || *fine {
                    let part = if *fine {
                        i32::try_from(nanos).unwrap_or(0)
                    } else {
                        0
                    };
                    let zoned = Timestamp::new(second, part)
                        .unwrap_or_default()
                        .to_zoned(zone.clone());
                    let whole = jiff::fmt::strtime::format(pattern, &zoned).unwrap_or_default();
                    self.columns = unicode_width::UnicodeWidthStr::width(whole.as_str());
                    *text = whole.into_bytes();
                    self.whole = text.len();
                    self.second = second;
                }
                text.truncate(self.whole);
                if *fraction > 0 {
                    text.push(b'.');
                    push_padded(text, nanos / 10_u32.pow(9 - fraction), *fraction);
                }
                let columns = self.columns + text.len() - self.whole;
                return Some((text, columns));
            }
        }
        let columns = text.len();
        Some((text, columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_has_nine_digits_on_either_side_of_the_epoch() {
        let mut clock = Clock::default();
        let mut rfc3339 = |wall_minus_mono_ns, mono_ns| {
            let mut out = Vec::new();
            clock.set(wall_minus_mono_ns);
            clock.push_rfc3339(mono_ns, &mut out);
            String::from_utf8(out).unwrap()
        };
        let begin = 1_795_347_921_000_000_000;
        assert_eq!(rfc3339(begin, 7), "2026-11-22T11:45:21.000000007Z");
        assert_eq!(
            rfc3339(begin, 999_999_999),
            "2026-11-22T11:45:21.999999999Z"
        );
        assert_eq!(
            rfc3339(begin, 1_000_000_000),
            "2026-11-22T11:45:22.000000000Z"
        );
        assert_eq!(rfc3339(-1, 0), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn time_formats() {
        let mut clock = Clock::default();
        clock.set(1_795_347_921_123_456_789);
        for (format, text) in [
            ("clock", "11:45:21.123"),
            ("date", "2026-11-22 11:45:21.123"),
            ("unix", "1795347921.123456"),
            ("elapsed", "    0.000000"),
            ("%H h", "11 h"),
            ("%S%.6f", "21.123456"),
            ("%S %N", "21 123456789"),
        ] {
            let format = TimeFormat::parse(format, true).unwrap();
            let mut column = TimeColumn::new(format, 0);
            assert_eq!(
                column.render(&clock, 0),
                Some((text.as_bytes(), text.len()))
            );
        }
        assert!(TimeFormat::parse("nope", true).is_err());
        assert!(TimeFormat::parse("%!", true).is_err());
    }
}
