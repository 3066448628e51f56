//! `--state`: by TCP state. In a trace it selects transitions that enter or leave a listed state,
//! which the agent decides; of a connection that is just there, it asks in which state it is.

use std::collections::BTreeMap;

use clap::Args;
use tcptrace_common::tcp;

use super::{Filter, Subject};
use crate::{
    error::Error,
    event::{Event, State},
};

/// `--state` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct StateArgs {
    /// By state, as typed
    #[arg(
        long,
        help = "Only transitions that enter or leave these states: SYN_SENT,CLOSE_WAIT; '!TIME_WAIT' leaves out",
        value_name = "LIST",
        value_delimiter = ','
    )]
    pub state: Vec<String>,
}

/// States wanted.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// A bit each by the kernel's number; 0: all
    listed: u16,
    /// The same of those to leave out
    excluded: u16,
    typed: String,
}

impl States {
    /// Finds the states by their names, in any case, with `-` or `_` or neither, and as `ss` calls them.
    pub fn parse(args: &StateArgs) -> Result<Self, Error> {
        let (mut listed, mut excluded) = (0, 0);
        for name in &args.state {
            match name.trim().strip_prefix('!') {
                Some(name) => excluded |= 1 << number(name)?,
                None => listed |= 1 << number(name)?,
            }
        }
        Ok(Self {
            listed,
            excluded,
            typed: args.state.join(",").to_ascii_uppercase().replace('-', "_"),
        })
    }

    /// Whether any of these states is asked for, and none left out.
    fn takes(&self, states: &[State]) -> bool {
        let bits = states
            .iter()
            .fold(0_u16, |bits, state| bits | 1 << (state.0 & 15));
        (self.listed == 0 || self.listed & bits != 0) && self.excluded & bits == 0
    }

    /// Whether an event is wanted. The end of a connection is, if it was ever in a state that is.
    pub fn selects(&self, event: &Event) -> bool {
        self.takes(&event.states())
            || matches!(event, Event::Close(close) if close.passed().any(|state| self.takes(&[state])))
    }

    /// Whether no state was asked for, and none is left out.
    pub const fn is_any(&self) -> bool {
        self.listed == 0 && self.excluded == 0
    }
}

/// The kernel's number of a state.
fn number(name: &str) -> Result<u8, Error> {
    let numbers = 1..u8::try_from(tcp::STATES).unwrap_or(u8::MAX);
    let plain = |name: &str| name.replace(['-', '_'], "");
    let upper = plain(&name.trim().to_ascii_uppercase());
    let upper = match upper.as_str() {
        "ESTAB" => "ESTABLISHED",
        "LISTENING" => "LISTEN",
        "CLOSED" => "CLOSE",
        other => other,
    };
    numbers
        .clone()
        .find(|number| plain(State(*number).name()) == upper)
        .ok_or_else(|| {
            let known: Vec<_> = numbers.map(|number| State(number).name()).collect();
            Error::usage(format!(
                "--state {name}: no TCP state; the states are {}",
                known.join(", ")
            ))
        })
}

impl Filter for States {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        if !self.is_any() {
            typed.insert("state", self.typed.clone());
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.takes(&[subject.state])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn states_by_any_of_their_names() {
        for name in ["ESTABLISHED", "established", "estab", "Estab"] {
            assert!(passes(&["--state", name], &SUBJECT), "{name}");
        }
        for name in ["close-wait", "CLOSEWAIT,syn_sent", "listening"] {
            assert!(!passes(&["--state", name], &SUBJECT), "{name}");
        }
        for (name, passed) in [
            ("!time-wait", true),
            ("!estab", false),
            ("estab,!close", true),
        ] {
            assert_eq!(passes(&["--state", name], &SUBJECT), passed, "{name}");
        }
        let why = parse(&["--state", "open"]).unwrap_err();
        assert!(
            why.contains("--state open") && why.contains("TIME_WAIT"),
            "{why}"
        );
    }
}
