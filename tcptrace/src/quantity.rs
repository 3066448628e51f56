//! Durations and sizes as people type them.

use std::time::Duration;

use crate::error::Error;

/// Parses `10`, `1.5s`, `300ms`, `5m` or `1h`; a bare number is seconds. `option` stands in the error.
pub fn parse_duration(option: &str, text: &str) -> Result<Duration, Error> {
    let error = || {
        Error::usage(format!(
            "{option} {text}: not a duration; use a number with ms, s, m or h, as in 300ms or 1.5s"
        ))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(error()),
    };
    let number: f64 = digits.parse().map_err(|_not_a_number| error())?;
    let duration = Duration::try_from_secs_f64(number * unit_s).map_err(|_range| error())?;
    if duration.is_zero() {
        return Err(error());
    }
    Ok(duration)
}

/// Parses `4096`, `512K`, `8M` or `1G`, in bytes: from 1 to `max`. `option` stands in the error.
pub fn parse_size(option: &str, text: &str, max: u64) -> Result<u64, Error> {
    let error = |why: &str| {
        Error::usage(format!(
            "{option} {text}: {why}; use a size as in 512K or 8M, up to 1G"
        ))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(error("unknown unit")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_not_a_number| error("not a size"))?;
    number
        .checked_mul(unit)
        .filter(|bytes| (1..=max).contains(bytes))
        .ok_or_else(|| error("out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("10", 10_000),
            ("1.5s", 1_500),
            ("300ms", 300),
            ("5m", 300_000),
        ] {
            assert_eq!(
                parse_duration("-d", text).unwrap(),
                Duration::from_millis(ms),
                "{text}"
            );
        }
        for text in ["", "s", "-1", "0", "1y", "1e400", "nan", "1 s"] {
            assert!(parse_duration("-d", text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1", 1), ("4K", 4096), ("5k", 5120), ("8M", 8 << 20)] {
            assert_eq!(
                parse_size("--buffer", text, 1 << 30).unwrap(),
                bytes,
                "{text}"
            );
        }
        for text in ["", "M", "0", "-4K", "2G", "99999999999999999999", "4X"] {
            assert!(parse_size("--buffer", text, 1 << 30).is_err(), "{text}");
        }
    }
}
