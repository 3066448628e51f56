//! Lists of numbers that have names.

use tcptrace_common::config::{LISTED_ONLY, LISTED_REST};

use super::KernelFilters;
use crate::error::Error;

/// Entries of the kernel side's `WANTED` map.
const NUMBERS_MAX: usize = 4096;

/// Numbers that are wanted, and that are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// As typed
    pub typed: String,
    listed: Vec<(u64, bool)>,
}

impl Numbers {
    /// Resolves each item; `!` excludes. None if there are none.
    pub fn parse(
        option: &str,
        items: &[String],
        resolve: impl Fn(&str) -> Result<Vec<u64>, String>,
    ) -> Result<Option<Self>, Error> {
        if items.is_empty() {
            return Ok(None);
        }
        let mut listed = Vec::new();
        for item in items {
            let (text, wanted) = match item.strip_prefix('!') {
                Some(text) => (text, false),
                None => (item.as_str(), true),
            };
            let numbers =
                resolve(text).map_err(|why| Error::usage(format!("{option} {text:?}: {why}")))?;
            listed.extend(numbers.into_iter().map(|number| (number, wanted)));
        }
        // What is excluded stays excluded.
        listed.sort_by_key(|(_, wanted)| !wanted);
        if listed.len() > NUMBERS_MAX {
            let many = listed.len();
            return Err(Error::usage(format!(
                "{option}: {many} are too many, at most {NUMBERS_MAX}"
            )));
        }
        let typed = items.join(",");
        Ok(Some(Self { typed, listed }))
    }

    /// `LISTED_*`
    pub fn mode(&self) -> u8 {
        if self.rest() {
            LISTED_REST
        } else {
            LISTED_ONLY
        }
    }

    fn rest(&self) -> bool {
        self.listed.iter().all(|(_, wanted)| !wanted)
    }

    /// Fills the kernel side's list (`WANTED_*`).
    pub fn configure(&self, list: u64, kernel: &mut KernelFilters) {
        // The last one stands.
        let numbers = self
            .listed
            .iter()
            .map(|(number, wanted)| (list, *number, *wanted));
        kernel.wanted.extend(numbers);
    }

    /// Whether a number is wanted.
    pub fn takes(&self, number: u64) -> bool {
        let mut listed = self.listed.iter().rev();
        listed
            .find(|(listed, _)| *listed == number)
            .map_or(self.rest(), |(_, wanted)| *wanted)
    }
}
