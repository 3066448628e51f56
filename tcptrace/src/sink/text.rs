//! Text from outside, made harmless, and quantities as people read them.

use std::{fmt::Write as _, io::Write as _, net::IpAddr};

use super::time::push_padded;
use crate::event::Network;

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

/// Appends an [`escape`]d name. Returns how many columns of a terminal it takes.
pub fn push_escaped(text: &mut Vec<u8>, bytes: &[u8]) -> usize {
    if bytes
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\')
    {
        text.extend_from_slice(bytes);
        return bytes.len();
    }
    let escaped = escape(bytes);
    text.extend_from_slice(escaped.as_bytes());
    unicode_width::UnicodeWidthStr::width(escaped.as_str())
}

/// The beginning of an escaped text in at most `width` columns of a terminal; its last one says that there
/// is more.
pub fn clip(text: &str, width: usize) -> String {
    use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

    if text.width() <= width {
        return text.to_owned();
    }
    let mut clipped = String::new();
    let mut room = width.saturating_sub(1);
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if columns > room {
            break;
        }
        room -= columns;
        clipped.push(c);
    }
    clipped.push('…');
    clipped
}

/// Whether a character can drive a terminal, break a line or reorder text: control characters,
/// bidirectional controls (Unicode UAX #9), line and paragraph separators (UAX #14).
pub const fn is_unsafe(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}' | '\u{61c}')
}

/// A duration in three to four significant places: `45µs`, `12.3ms`, `1.204s`, `2m05s`, `3h07m`.
pub fn duration(us: u64) -> String {
    let mut text = Vec::new();
    push_duration(&mut text, us);
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends a [`duration`].
pub fn push_duration(text: &mut Vec<u8>, us: u64) {
    // A whole number, then what is left of the next one in so many digits.
    let mut push = |whole: u64, between: &str, rest: u64, digits: u32, unit: &str| {
        push_number(text, whole);
        if digits > 0 {
            text.extend_from_slice(between.as_bytes());
            push_padded(text, u32::try_from(rest).unwrap_or(0), digits);
        }
        text.extend_from_slice(unit.as_bytes());
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

/// Appends a number of bytes in three or four significant places, by powers of 1024: `999B`, `1.5K`,
/// `12M`.
pub fn push_bytes(text: &mut Vec<u8>, number: u64) {
    const UNITS: [u8; 6] = *b"KMGTPE";
    if number < 1024 {
        push_number(text, number);
        text.push(b'B');
        return;
    }
    let mut tenths = u128::from(number) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
    push_number(text, tenths / 10);
    if tenths < 100 {
        text.push(b'.');
        push_number(text, tenths % 10);
    }
    text.push(UNITS[unit]);
}

/// Appends a number.
pub fn push_number(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a number in hexadecimal, as short as can be.
pub fn push_hex(text: &mut Vec<u8>, number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for nibble in (0..nibbles).rev() {
        text.push(DIGITS[(number >> (nibble * 4) & 15) as usize]);
    }
}

/// Appends an address.
pub fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            push_octet(text, first);
            for octet in rest {
                text.push(b'.');
                push_octet(text, octet);
            }
        }
        IpAddr::V6(address) => {
            // Writing to memory does not fail.
            let _infallible = write!(text, "{address}");
        }
    }
}

/// Appends a network: `192.0.2.0/24`.
pub fn push_network(text: &mut Vec<u8>, network: Network) {
    push_address(text, network.address);
    text.push(b'/');
    push_number(text, network.bits.into());
}

fn push_octet(text: &mut Vec<u8>, octet: u8) {
    if octet >= 100 {
        text.push(b'0' + octet / 100);
    }
    if octet >= 10 {
        text.push(b'0' + octet / 10 % 10);
    }
    text.push(b'0' + octet % 10);
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
            let mut pushed = Vec::new();
            push_bytes(&mut pushed, number);
            assert_eq!(String::from_utf8(pushed).unwrap(), text);
        }
    }

    #[test]
    fn hex_is_as_short_as_ss_prints_it() {
        for number in [0, 1, 15, 16, 0x1001, u64::MAX] {
            let mut out = Vec::new();
            push_hex(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{number:x}"));
        }
    }

    #[test]
    fn addresses() {
        for address in [
            "0.0.0.0",
            "1.20.255.100",
            "127.0.0.1",
            "::",
            "2001:db8::1:0",
        ] {
            let mut out = Vec::new();
            push_address(&mut out, address.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), address);
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
