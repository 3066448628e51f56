//! `--role`: by who opened the connection.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum, builder::PossibleValue};
use tcptrace_common::config::ROLES_ALL;

use super::{Filter, KernelFilters, Subject};
use crate::event::Role;

/// `--role` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct RoleArgs {
    /// Only connections in these roles: client, server, listener, unknown
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub role: Vec<Role>,
}

impl ValueEnum for Role {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Client => "Opened by `connect()`",
            Self::Server => "It came in at a listener",
            Self::Listener => "Listening",
            Self::Unknown => "Its beginning was not seen",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Roles wanted; none: all.
#[derive(Clone, Debug, Default)]
pub struct Roles(Vec<Role>);

impl Roles {
    /// Any list of roles will do.
    pub fn parse(args: &RoleArgs) -> Self {
        Self(args.role.clone())
    }

    /// Whether this role is wanted.
    pub fn contains(&self, role: Role) -> bool {
        self.0.is_empty() || self.0.contains(&role)
    }

    /// A bit for each role: `1 << ROLE_*`.
    fn bits(&self) -> u8 {
        if self.0.is_empty() {
            return ROLES_ALL;
        }
        self.0
            .iter()
            .fold(0, |bits, role| bits | 1 << role.number())
    }
}

impl Filter for Roles {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        if !self.0.is_empty() {
            let names: Vec<_> = self.0.iter().map(|role| role.name()).collect();
            typed.insert("role", names.join(","));
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        kernel.config.roles = self.bits();
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.contains(subject.role)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn roles_by_name() {
        assert!(passes(&["--role", "client"], &SUBJECT));
        assert!(!passes(&["--role", "server,listener"], &SUBJECT));
        assert!(parse(&["--role", "peer"]).is_err());
        assert_eq!(parse(&["--role", "client,server"]).unwrap().roles.bits(), 6);
    }
}
