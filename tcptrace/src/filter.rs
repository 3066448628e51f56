//! Lists of ports.

use tcptrace_common::config::PORT_WORDS;

/// A list of ports: those wanted, and those not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortList {
    wanted: Vec<u64>,
    unwanted: Vec<u64>,
}

impl PortList {
    /// Parses `80,443,8000-8100`; `!22` excludes. With exclusions alone, everything else is in.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut wanted = vec![0; PORT_WORDS as usize];
        let mut unwanted = wanted.clone();
        let mut any_wanted = false;
        for item in list.split(',') {
            let (range, words) = if let Some(range) = item.strip_prefix('!') {
                (range, &mut unwanted)
            } else {
                any_wanted = true;
                (item, &mut wanted)
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
        if !any_wanted {
            wanted.fill(u64::MAX);
        }
        for (word, mask) in wanted.iter_mut().zip(&unwanted) {
            *word &= !mask;
        }
        Ok(Self { wanted, unwanted })
    }

    /// The ports wanted, as `PORT_WORDS` words, port 0 in the lowest bit of the first.
    pub fn wanted(&self) -> &[u64] {
        &self.wanted
    }

    /// The ports excluded, likewise.
    pub fn unwanted(&self) -> &[u64] {
        &self.unwanted
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u32>() {
        Ok(port @ 1..=65535) => Ok(u16::try_from(port).unwrap_or(u16::MAX)),
        Ok(port) => Err(format!("port {port} is out of range, 1 to 65535")),
        Err(_not_a_number) => Err(format!(
            "{text:?} is not a port; use a list as in 80,443,8000-8100 or '!8080'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in(words: &[u64], port: u16) -> bool {
        words[usize::from(port / 64)] >> (port % 64) & 1 != 0
    }

    #[test]
    fn ranges_and_exclusions() {
        let list = PortList::parse("80,8000-8100,!8080").unwrap();
        for port in [80, 8000, 8079, 8081, 8100] {
            assert!(is_in(list.wanted(), port), "{port}");
        }
        for port in [0, 79, 81, 8080, 8101, 65535] {
            assert!(!is_in(list.wanted(), port), "{port}");
        }
        assert!(is_in(list.unwanted(), 8080) && !is_in(list.unwanted(), 8081));
    }

    #[test]
    fn exclusions_alone_leave_the_rest() {
        let list = PortList::parse("!22").unwrap();
        assert!(!is_in(list.wanted(), 22) && is_in(list.wanted(), 21));
        assert!(is_in(list.wanted(), 65535));
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
            assert!(PortList::parse(list).unwrap_err().contains(part), "{list}");
        }
    }
}
