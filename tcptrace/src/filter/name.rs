//! `-c`, `--exe`: by what the owner is called, and by what it executes.

use std::collections::BTreeMap;

use clap::Args;
use tcptrace_common::config::{AUTOMATON_COMM, AUTOMATON_EXE};

use super::{Automaton, Filter, KernelFilters, Subject};
use crate::error::Error;

/// The longest name of a process, without its end.
const COMM_MAX: usize = 15;

/// `-c` and `--exe` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct NameArgs {
    /// Only connections owned by processes of this name: nginx, 'php*'; '!sshd' excludes
    #[arg(short, long, value_name = "NAME", value_delimiter = ',')]
    pub comm: Vec<String>,
    /// Only connections owned by processes that execute this file: /usr/sbin/nginx, '*/python3*'
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub exe: Vec<String>,
}

/// What owners are called, and what they execute.
#[derive(Clone, Debug, Default)]
pub struct Names {
    comm: Option<(String, Automaton)>,
    exe: Option<(String, Automaton)>,
}

impl Names {
    /// Compiles the patterns.
    pub fn parse(args: &NameArgs) -> Result<Self, Error> {
        for name in &args.comm {
            let is_plain = !name.contains(['*', '?', '[', '\\', '!']);
            if is_plain && name.len() > COMM_MAX {
                return Err(Error::usage(format!(
                    "-c {name}: names of processes have at most {COMM_MAX} bytes, so none is this long; use \
                     '{}*', or --exe",
                    name.get(..COMM_MAX).unwrap_or(name)
                )));
            }
        }
        for path in &args.exe {
            let glob = path.strip_prefix('!').unwrap_or(path);
            if !glob.starts_with(['/', '*', '?', '[']) {
                return Err(Error::usage(format!(
                    "--exe {path}: not a path from the root; use one as in /usr/sbin/nginx or '*/{glob}'"
                )));
            }
        }
        Ok(Self {
            comm: compile("-c", &args.comm)?,
            exe: compile("--exe", &args.exe)?,
        })
    }

    /// Whether nobody asked for any.
    pub fn is_empty(&self) -> bool {
        self.comm.is_none() && self.exe.is_none()
    }
}

fn compile(option: &str, list: &[String]) -> Result<Option<(String, Automaton)>, Error> {
    if list.is_empty() {
        return Ok(None);
    }
    let typed = list.join(",");
    let automaton = Automaton::of_globs(list.iter().map(String::as_str))
        .map_err(|why| Error::usage(format!("{option} {typed}: {why}")))?;
    Ok(Some((typed, automaton)))
}

impl Filter for Names {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        for (name, filter) in [("comm", &self.comm), ("exe", &self.exe)] {
            if let Some((text, _)) = filter {
                typed.insert(name, text.clone());
            }
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        if let Some((_, automaton)) = &self.comm {
            kernel.config.by_pid = 1;
            kernel.config.by_comm = 1;
            kernel.config.comm_start = automaton.start;
            kernel.config.comm_accepts = automaton.accepts_from;
            kernel.automata.push((AUTOMATON_COMM, automaton.clone()));
        }
        if let Some((_, automaton)) = &self.exe {
            kernel.config.by_pid = 1;
            kernel.config.by_exe = 1;
            kernel.config.exe_start = automaton.start;
            kernel.config.exe_accepts = automaton.accepts_from;
            kernel.automata.push((AUTOMATON_EXE, automaton.clone()));
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        if self.is_empty() {
            return true;
        }
        let takes = |filter: &Option<(String, Automaton)>, name: Option<&[u8]>| {
            filter
                .as_ref()
                .is_none_or(|(_, automaton)| name.is_some_and(|name| automaton.matches(name)))
        };
        subject.owners.iter().any(|owner| {
            takes(&self.comm, Some(owner.comm)) && takes(&self.exe, owner.exe.map(str::as_bytes))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn by_name_and_by_path() {
        for (words, expected) in [
            (&["-c", "curl"][..], true),
            (&["-c", "wget,cu*"], true),
            (&["-c", "!curl"], true),
            (&["-c", "!curl,!nc"], false),
            (&["--exe", "/usr/bin/*"], true),
            (&["--exe", "*/nc", "-c", "curl"], false),
        ] {
            assert_eq!(passes(words, &SUBJECT), expected, "{words:?}");
        }
    }

    #[test]
    fn what_can_match_nothing_is_an_error() {
        for (words, part) in [
            (["-c", "a-name-that-is-too-long"], "a-name-that-is-*"),
            (["--exe", "nginx"], "*/nginx"),
            (["-c", "a["], "a["),
            (["-c", ""], "\"\""),
        ] {
            let why = parse(&words).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
