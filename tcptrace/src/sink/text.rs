//! Text from outside, made harmless, and quantities as people read them.

use std::fmt::Write as _;

use super::time::push_padded;

/// A process name: valid UTF-8, with nothing in it that drives a terminal or breaks a line.
///
/// Control characters (C0, DEL, C1) and the characters that reorder text become `\xNN` or
/// `\u{NN}`; bytes that are not UTF-8 become U+FFFD.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            '\\' => text.push_str("\\\\"),
            c if c.is_ascii_control() => {
                let _infallible = write!(text, "\\x{:02x}", u32::from(c));
            }
            c if is_unsafe(c) => {
                let _infallible = write!(text, "\\u{{{:x}}}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text
}

/// Whether a character can drive a terminal, break a line or reorder text: control characters,
/// bidirectional controls (Unicode UAX #9), line and paragraph separators (UAX #14).
pub const fn is_unsafe(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}' | '\u{61c}')
}

/// A duration in three to four significant places: `45µs`, `12.3ms`, `1.204s`, `2m05s`, `3h07m`.
pub fn duration(us: u64) -> String {
    let mut text = String::new();
    push_duration(&mut text, us);
    text
}

/// Appends a [`duration`].
pub fn push_duration(text: &mut String, us: u64) {
    // A whole number, then what is left of the next one in so many digits.
    let mut push = |whole: u64, between: &str, rest: u64, digits: u32, unit: &str| {
        text.push_str(itoa::Buffer::new().format(whole));
        if digits > 0 {
            text.push_str(between);
            push_padded(text, u32::try_from(rest).unwrap_or(0), digits);
        }
        text.push_str(unit);
    };
    match us {
        0..1_000 => push(us, "", 0, 0, "µs"),
        1_000..10_000 => push(us / 1_000, ".", us % 1_000 / 10, 2, "ms"),
        10_000..100_000 => push(us / 1_000, ".", us % 1_000 / 100, 1, "ms"),
        100_000..1_000_000 => push(us / 1_000, "", 0, 0, "ms"),
        1_000_000..100_000_000 => push(us / 1_000_000, ".", us % 1_000_000 / 10_000, 2, "s"),
        100_000_000..3_600_000_000 => push(us / 60_000_000, "m", us / 1_000_000 % 60, 2, "s"),
        3_600_000_000..86_400_000_000 => {
            push(us / 3_600_000_000, "h", us / 60_000_000 % 60, 2, "m");
        }
        _ => push(us / 86_400_000_000, "d", us / 3_600_000_000 % 24, 2, "h"),
    }
}

/// A number of bytes in three or four significant places, by powers of 1024: `999B`, `1.5K`, `12M`.
pub fn push_bytes(text: &mut String, number: u64) {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    let mut push = |number: u64| text.push_str(itoa::Buffer::new().format(number));
    if number < 1024 {
        push(number);
        text.push('B');
        return;
    }
    let mut tenths = u128::from(number) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
    push(tenths / 10);
    if tenths < 100 {
        text.push('.');
        text.push_str(itoa::Buffer::new().format(tenths % 10));
    }
    text.push(UNITS[unit]);
}

/// A count with thousands set apart: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_a_terminal() {
        assert_eq!(escape(b"\x1b[31mred\x07\n"), "\\x1b[31mred\\x07\\n");
        assert_eq!(escape("\u{9b}31m".as_bytes()), "\\u{9b}31m");
        assert_eq!(escape("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(escape(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok");
        assert_eq!(escape(b"back\\slash"), "back\\\\slash");
        for byte in 0..=255_u8 {
            assert!(!escape(&[byte]).chars().any(char::is_control), "{byte:#x}");
        }
    }

    #[test]
    fn durations() {
        for (us, text) in [
            (0, "0µs"),
            (999, "999µs"),
            (1_000, "1.00ms"),
            (12_345, "12.3ms"),
            (123_456, "123ms"),
            (1_204_000, "1.20s"),
            (60_812_000, "60.81s"),
            (125_000_000, "2m05s"),
            (11_220_000_000, "3h07m"),
            (90_000_000_000, "1d01h"),
        ] {
            assert_eq!(duration(us), text);
        }
    }

    #[test]
    fn numbers_of_bytes() {
        for (number, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (10_240, "10K"),
            (1 << 20, "1.0M"),
            (u64::MAX, "15E"),
        ] {
            let mut pushed = String::new();
            push_bytes(&mut pushed, number);
            assert_eq!(pushed, text);
        }
    }

    #[test]
    fn counts() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
    }
}
