//! One field of a file of `/proc` that has a line for each, `Name:` and its value.

/// A hexadecimal number; none if it is not there.
pub fn hex(text: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(value(text, name)?, 16).ok()
}

/// A decimal number; none if it is not there.
pub fn decimal(text: &str, name: &str) -> Option<u64> {
    value(text, name)?.parse().ok()
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_value_behind_its_name() {
        let text = "Name:\tCapEff:\nSigIgn:\t0000000000001000\nCapEff:\t000001ffffffffff\nn: 12\n";
        assert_eq!(hex(text, "CapEff:"), Some(0x1ff_ffff_ffff));
        assert_eq!(hex(text, "SigIgn:"), Some(0x1000));
        assert_eq!(decimal(text, "n:"), Some(12));
        assert_eq!(hex(text, "Name:"), None);
        assert_eq!(decimal(text, "gone:"), None);
    }
}
