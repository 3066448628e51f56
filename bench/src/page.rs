//! The tables in docs/performance.md.

use std::fs;

use anyhow::{Context as _, Result};
use toolchain::workspace;

/// Where the tables go.
const PAGE: &str = "docs/performance.md";
const END: &str = "<!-- end -->\n";

/// A part of the page that is written anew.
#[derive(Clone, Copy, Debug)]
pub(super) enum Section {
    /// What is measured on this machine
    Here,
    /// What is measured in virtual machines
    Vm,
}

impl Section {
    /// The line before it.
    fn begin(self) -> &'static str {
        match self {
            Self::Here => "<!-- written by cargo xtask bench --write-docs -->\n",
            Self::Vm => "<!-- written by cargo xtask bench --vm --write-docs -->\n",
        }
    }
}

/// Puts the tables between the marks.
pub(super) fn write_docs(section: Section, tables: &str) -> Result<()> {
    let path = workspace::root().join(PAGE);
    let page = fs::read_to_string(&path)?;
    let begin = section.begin();
    let marks = page.split_once(begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = marks.with_context(|| format!("{PAGE} has no marks"))?;
    fs::write(&path, format!("{before}{begin}\n{tables}\n{END}{after}"))?;
    eprintln!("written: {}", path.display());
    Ok(())
}
