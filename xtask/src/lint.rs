//! `cargo xtask lint`: everything that is checked by reading it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use toolchain::bpf_toolchain::{BpfCompiler, CoreSource};
use toolchain::setup::{self, Found};
use toolchain::workspace::{self, Outcome};

/// Runs all checks, also after some have failed.
pub(crate) fn run() -> Result<()> {
    setup::setup(Found::Hidden)?;
    workspace::summarize(vec![
        ("format", format()),
        ("marks of merges", marks_of_merges()),
        ("clippy", clippy()),
        ("clippy of the eBPF side", clippy_of_ebpf()),
        ("unsafe code", unsafe_code()),
        ("dependencies", dependencies()),
        ("advisories", advisories()),
    ])
}

fn format() -> Result<Outcome> {
    eprintln!("== format");
    workspace::run(workspace::cargo("fmt").args(["--all", "--check"]))
}

/// A conflict that was committed as git left it.
fn marks_of_merges() -> Result<Outcome> {
    eprintln!("== marks of merges");
    let found = Command::new("git")
        .args(["grep", "--line-number", "-E", "^(<<<<<<<|>>>>>>>) "])
        .current_dir(workspace::root())
        .status()?;
    if found.success() {
        bail!("files have marks of a merge in them");
    }
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    eprintln!("== clippy");
    // `cargo test` does not run the kernel tests, so "all targets" leaves them out.
    for targets in ["--all-targets", "--test=kernel"] {
        workspace::run(
            workspace::cargo("clippy")
                .args([
                    "--workspace",
                    "--exclude",
                    "tcptrace-ebpf",
                    "--all-features",
                ])
                .args([targets, "--", "-D", "warnings"]),
        )?;
    }
    Ok(Outcome::Passed)
}

fn clippy_of_ebpf() -> Result<Outcome> {
    eprintln!("== clippy of the eBPF side");
    let compiler = BpfCompiler::find()?;
    if compiler.core == CoreSource::Prebuilt {
        return Ok(Outcome::Skipped(
            "clippy needs its own toolchain's core library (rust-src)".to_owned(),
        ));
    }
    let mut clippy = compiler.cargo("clippy", env::consts::ARCH, &["-Dwarnings".to_owned()]);
    workspace::run(clippy.arg("--bins").current_dir(workspace::root()))
}

fn dependencies() -> Result<Outcome> {
    eprintln!("== licenses and sources of dependencies");
    workspace::run(deny()?.args(["check", "bans", "licenses", "sources"]))
}

/// Apart from the rest, because the list of advisories is fetched from GitHub.
fn advisories() -> Result<Outcome> {
    eprintln!("== advisories about dependencies");
    let fetched = deny()?
        .args(["fetch", "db"])
        .output()
        .is_ok_and(|output| output.status.success());
    // Elsewhere a machine may be without a network.
    if !fetched && env::var_os("CI").is_none() {
        return Ok(Outcome::Skipped(
            "the list of advisories cannot be fetched".to_owned(),
        ));
    }
    workspace::run(deny()?.args(["check", "advisories"]))
}

fn deny() -> Result<Command> {
    let mut deny = Command::new(setup::ensure_deny()?);
    deny.current_dir(workspace::root());
    Ok(deny)
}

/// What SECURITY.md says of `unsafe` code: for each file, how often the word stands in its code.
fn unsafe_code() -> Result<Outcome> {
    eprintln!("== the table of unsafe code");
    let counted = unsafe_counts()?;
    let text = fs::read_to_string(workspace::root().join("SECURITY.md"))?;
    let told: BTreeMap<String, usize> = text.lines().filter_map(unsafe_row).collect();
    let files: BTreeSet<_> = counted.keys().chain(told.keys()).collect();
    let wrong: Vec<_> = files
        .into_iter()
        .map(|file| (file, told.get(file), counted.get(file)))
        .filter(|(_, told, counted)| told != counted)
        .map(|(file, told, counted)| {
            let number = |number: Option<&usize>| number.copied().unwrap_or(0);
            format!("{file}: {} told, {} found", number(told), number(counted))
        })
        .collect();
    if !wrong.is_empty() {
        bail!("SECURITY.md is behind the code: {}", wrong.join("; "));
    }
    Ok(Outcome::Passed)
}

/// A row of the table: `| file | count | why |`.
fn unsafe_row(line: &str) -> Option<(String, usize)> {
    let mut cells = line.strip_prefix("| `")?.split(" | ");
    let file = cells.next()?.strip_suffix(".rs`")?;
    Some((format!("{file}.rs"), cells.next()?.trim().parse().ok()?))
}

/// Of each file of the crates that are installed, how often it says `unsafe`, if it does.
fn unsafe_counts() -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    let mut folders: Vec<_> = ["tcptrace", "tcptrace-common", "tcptrace-ebpf"]
        .into_iter()
        .map(|name| workspace::root().join(name).join("src"))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let count = count_unsafe(&fs::read_to_string(&path)?);
                if count > 0 {
                    let name = path.strip_prefix(workspace::root())?;
                    counts.insert(name.display().to_string(), count);
                }
            }
        }
    }
    Ok(counts)
}

/// As `grep -ow unsafe` counts it, outside of comments.
fn count_unsafe(text: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _comment)| code))
        .flat_map(|code| code.split(|c| !is_word(c)))
        .filter(|word| *word == "unsafe")
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_counted_in_code_alone() {
        let text =
            "#![forbid(unsafe_code)]\n// unsafe\n#[unsafe(no_mangle)]\nlet a = unsafe { b() };\n";
        assert_eq!(count_unsafe(text), 2);
    }

    #[test]
    fn the_table_of_unsafe_code_is_true() {
        unsafe_code().unwrap();
    }

    #[test]
    fn rows_of_other_tables_are_no_counts() {
        assert_eq!(
            unsafe_row("| `a/b.rs` | 3 | maps |"),
            Some(("a/b.rs".to_owned(), 3))
        );
        assert_eq!(unsafe_row("| `/proc` | the kernel | read |"), None);
    }
}
