//! `-u`: by the owner's user.

use std::collections::BTreeMap;

use clap::Args;
use nix::unistd::User;
use tcptrace_common::config::WANTED_UID;

use super::{Filter, KernelFilters, Numbers, Subject};
use crate::error::Error;

/// `-u` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct UserArgs {
    /// Only connections owned by processes of these users: www-data,1000; '!root' excludes
    #[arg(short = 'u', long, value_name = "USER", value_delimiter = ',')]
    pub uid: Vec<String>,
}

/// Users whose connections are wanted.
#[derive(Clone, Debug, Default)]
pub struct Users(Option<Numbers>);

impl Users {
    /// Looks names up.
    pub fn parse(args: &UserArgs) -> Result<Self, Error> {
        Numbers::parse("-u", &args.uid, |user| {
            if let Ok(uid) = user.parse::<u32>() {
                return Ok(vec![uid.into()]);
            }
            match User::from_name(user) {
                Ok(Some(user)) => Ok(vec![user.uid.as_raw().into()]),
                Ok(None) => Err("no such user here; use a name or a number".to_owned()),
                Err(why) => Err(format!("cannot be looked up ({why}); use the number")),
            }
        })
        .map(Self)
    }
}

impl Filter for Users {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        if let Some(users) = &self.0 {
            typed.insert("uid", users.typed.clone());
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        if let Some(users) = &self.0 {
            kernel.config.by_pid = 1;
            kernel.config.by_uid = users.mode();
            users.configure(WANTED_UID, kernel);
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.0.as_ref().is_none_or(|users| {
            let mut owners = subject.owners.iter();
            owners.any(|owner| owner.uid.is_some_and(|uid| users.takes(uid.into())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn by_name_and_by_number() {
        assert!(passes(&["-u", "1000"], &SUBJECT));
        assert!(!passes(&["-u", "root"], &SUBJECT));
        assert!(passes(&["-u", "!root"], &SUBJECT));
        for bad in ["no-such-user-here", "-1", "4294967296", ""] {
            let why = parse(&[&format!("-u={bad}")]).unwrap_err();
            assert!(why.contains(bad), "{why}");
        }
    }
}
