//! `-4`, `-6`: by address family.

use std::collections::BTreeMap;

use clap::Args;
use tcptrace_common::config::{FAMILY_V4, FAMILY_V6};

use super::{Filter, KernelFilters, Subject};

/// `-4` and `-6` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct FamilyArgs {
    /// Only IPv4
    #[arg(short = '4')]
    pub v4: bool,
    /// Only IPv6
    #[arg(short = '6')]
    pub v6: bool,
}

/// Address families wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// Both
    Any,
    /// IPv4 addresses, IPv4-mapped ones included
    V4,
    /// IPv6 addresses
    V6,
}

impl Families {
    /// Both switches together mean both families, as none does.
    pub const fn parse(args: &FamilyArgs) -> Self {
        match (args.v4, args.v6) {
            (true, false) => Self::V4,
            (false, true) => Self::V6,
            _ => Self::Any,
        }
    }
}

impl Filter for Families {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        let name = match self {
            Self::Any => return,
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        };
        typed.insert("family", name.to_owned());
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        kernel.config.families = match self {
            Self::Any => FAMILY_V4 | FAMILY_V6,
            Self::V4 => FAMILY_V4,
            Self::V6 => FAMILY_V6,
        };
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => subject.is_v4,
            Self::V6 => !subject.is_v4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Subject,
        tests::{SUBJECT, passes},
    };

    #[test]
    fn both_switches_are_both_families() {
        let v6 = Subject {
            is_v4: false,
            ..SUBJECT
        };
        for (words, v4_passes, v6_passes) in [
            (&["-4"][..], true, false),
            (&["-6"], false, true),
            (&["-4", "-6"], true, true),
            (&[], true, true),
        ] {
            assert_eq!(passes(words, &SUBJECT), v4_passes, "{words:?}");
            assert_eq!(passes(words, &v6), v6_passes, "{words:?}");
        }
    }
}
