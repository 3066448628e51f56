//! Lists of ports.

use tcptrace_common::config::PORT_WORDS;

/// A set of ports: one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet {
    words: Vec<u64>,
}

impl PortSet {
    /// Parses `80,443,8000-8100`; `!22` excludes. With exclusions alone, everything else is in.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut included = vec![0; PORT_WORDS as usize];
        let mut excluded = included.clone();
        let mut any_included = false;
        for item in list.split(',') {
            let (range, words) = if let Some(range) = item.strip_prefix('!') {
                (range, &mut excluded)
            } else {
                any_included = true;
                (item, &mut included)
            };
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (parse_port(first)?, parse_port(last)?);
            if first > last {
                return Err(format!("{range} runs backwards"));
            }
            for port in first..=last {
                words[usize::from(port / 64)] |= 1 << (port % 64);
            }
        }
        if !any_included {
            included.fill(u64::MAX);
        }
        for (word, mask) in included.iter_mut().zip(excluded) {
            *word &= !mask;
        }
        Ok(Self { words: included })
    }

    /// The set as `PORT_WORDS` words, port 0 in the lowest bit of the first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.words[usize::from(port / 64)] >> (port % 64) & 1 != 0
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u32>() {
        Ok(port @ 1..=65535) => Ok(u16::try_from(port).unwrap_or(u16::MAX)),
        Ok(port) => Err(format!("port {port} is out of range, 1 to 65535")),
        Err(_not_a_number) => Err(format!(
            "{text:?} is not a port; use a list as in 80,443,8000-8100,!8080"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_exclusions() {
        let set = PortSet::parse("80,8000-8100,!8080").unwrap();
        for port in [80, 8000, 8079, 8081, 8100] {
            assert!(set.contains(port), "{port}");
        }
        for port in [0, 79, 81, 8080, 8101, 65535] {
            assert!(!set.contains(port), "{port}");
        }
    }

    #[test]
    fn exclusions_alone_leave_the_rest() {
        let set = PortSet::parse("!22").unwrap();
        assert!(!set.contains(22) && set.contains(21) && set.contains(65535));
    }

    #[test]
    fn errors_repeat_the_bad_part() {
        for (list, part) in [
            ("80,http", "\"http\""),
            ("70000", "70000"),
            ("0", "port 0"),
            ("9-8", "9-8"),
            ("", "\"\""),
            ("80,", "\"\""),
            ("1-2-3", "\"2-3\""),
        ] {
            assert!(PortSet::parse(list).unwrap_err().contains(part), "{list}");
        }
    }
}
