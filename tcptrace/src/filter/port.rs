//! `-L`, `-D`, `--port`: by port.

use std::collections::BTreeMap;

use clap::Args;
use tcptrace_common::config::{PORT_WORDS, PORTS_ANY, PORTS_LOCAL, PORTS_NONE, PORTS_REMOTE};

use super::{Filter, KernelFilters, Subject};
use crate::error::Error;

/// Lists of ports as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct PortArgs {
    /// Only these local ports: 80,443,8000-8100; '!22' excludes
    #[arg(short = 'L', long, value_name = "LIST")]
    pub lport: Option<String>,
    /// Only these remote ports
    #[arg(short = 'D', long, value_name = "LIST")]
    pub rport: Option<String>,
    /// Only these ports, at either end
    #[arg(long, value_name = "LIST")]
    pub port: Option<String>,
}

/// Ports wanted.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    local: Option<Typed>,
    remote: Option<Typed>,
    either: Option<Typed>,
}

/// A list and its text.
#[derive(Clone, Debug)]
struct Typed {
    text: String,
    list: PortList,
}

impl Ports {
    /// Parses the three lists.
    pub fn parse(args: PortArgs) -> Result<Self, Error> {
        let parse = |option: &str, text: Option<String>| {
            text.map(|text| match PortList::parse(&text) {
                Ok(list) => Ok(Typed { text, list }),
                Err(why) => Err(Error::usage(format!("{option} {text}: {why}"))),
            })
            .transpose()
        };
        Ok(Self {
            local: parse("-L", args.lport)?,
            remote: parse("-D", args.rport)?,
            either: parse("--port", args.port)?,
        })
    }

    /// Every list that was asked for.
    pub fn lists(&self) -> impl Iterator<Item = &PortList> {
        let lists = [&self.local, &self.remote, &self.either];
        lists.into_iter().flatten().map(|typed| &typed.list)
    }
}

impl Filter for Ports {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        for (name, list) in [
            ("lport", &self.local),
            ("rport", &self.remote),
            ("port", &self.either),
        ] {
            if let Some(list) = list {
                typed.insert(name, list.text.clone());
            }
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        kernel.config.by_lport = u8::from(self.local.is_some());
        kernel.config.by_rport = u8::from(self.remote.is_some());
        kernel.config.by_port = u8::from(self.either.is_some());
        let mut row = |row, words: &[u64]| kernel.ports.push((row, words.to_vec()));
        if let Some(Typed { list, .. }) = &self.local {
            row(PORTS_LOCAL, &list.wanted);
        }
        if let Some(Typed { list, .. }) = &self.remote {
            row(PORTS_REMOTE, &list.wanted);
        }
        if let Some(Typed { list, .. }) = &self.either {
            row(PORTS_ANY, &list.wanted);
            row(PORTS_NONE, &list.unwanted);
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let lport = subject.lport.unwrap_or(0);
        let is_in =
            |words: &[u64], port: Option<u16>| port.is_some_and(|port| has_bit(words, port));
        let wanted = |list: &Option<Typed>, port| {
            list.as_ref()
                .is_none_or(|typed| is_in(&typed.list.wanted, port))
        };
        wanted(&self.local, Some(lport))
            && wanted(&self.remote, subject.rport)
            && self.either.as_ref().is_none_or(|Typed { list, .. }| {
                let at_either_end = |words| has_bit(words, lport) || is_in(words, subject.rport);
                at_either_end(&list.wanted) && !at_either_end(&list.unwanted)
            })
    }
}

fn has_bit(words: &[u64], port: u16) -> bool {
    words
        .get(usize::from(port / 64))
        .is_some_and(|word| word >> (port % 64) & 1 != 0)
}

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
    use super::{
        super::{
            Subject,
            tests::{SUBJECT, passes},
        },
        *,
    };

    #[test]
    fn ranges_and_exclusions() {
        let list = PortList::parse("80,8000-8100,!8080").unwrap();
        for port in [80, 8000, 8079, 8081, 8100] {
            assert!(has_bit(list.wanted(), port), "{port}");
        }
        for port in [0, 79, 81, 8080, 8101, 65535] {
            assert!(!has_bit(list.wanted(), port), "{port}");
        }
        assert!(has_bit(list.unwanted(), 8080) && !has_bit(list.unwanted(), 8081));
    }

    #[test]
    fn exclusions_alone_leave_the_rest() {
        let list = PortList::parse("!22").unwrap();
        assert!(!has_bit(list.wanted(), 22) && has_bit(list.wanted(), 21));
        assert!(has_bit(list.wanted(), 65535));
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
    /// As `port_in_set` of the kernel side.
    #[test]
    fn either_end_and_neither() {
        for (words, expected) in [
            (&["-L", "40000"][..], true),
            (&["-L", "443"], false),
            (&["-D", "443"], true),
            (&["--port", "443"], true),
            (&["--port", "80,40000-40001"], true),
            (&["--port", "80"], false),
            (&["--port", "!443"], false),
            (&["--port", "!22"], true),
        ] {
            assert_eq!(passes(words, &SUBJECT), expected, "{words:?}");
        }
        let listener = Subject {
            rport: None,
            ..SUBJECT
        };
        assert!(!passes(&["-D", "443"], &listener));
        assert!(!passes(&["-D", "!22"], &listener));
    }
}
