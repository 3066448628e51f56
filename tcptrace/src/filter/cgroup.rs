//! `--cgroup`, `--container`: by the cgroup that the owner is in.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use clap::Args;
use tcptrace_common::config::{AUTOMATON_CONTAINER, WANTED_CGROUP};

use super::{Automaton, Filter, KernelFilters, Numbers, Subject};
use crate::{error::Error, identity::cgroup};

/// Where cgroups are mounted.
const MOUNTED_AT: &str = "/sys/fs/cgroup";

/// `--cgroup` and `--container` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct CgroupArgs {
    /// Only connections owned by processes in these cgroups, or below: a path, or an id
    #[arg(long, value_name = "PATH|ID", value_delimiter = ',')]
    pub cgroup: Vec<String>,
    /// Only connections owned by processes in containers whose ids begin so
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub container: Vec<String>,
}

/// Cgroups and containers whose connections are wanted.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    cgroups: Option<Numbers>,
    containers: Option<(String, Automaton)>,
}

impl Cgroups {
    /// Looks paths up.
    pub fn parse(args: &CgroupArgs) -> Result<Self, Error> {
        let cgroups = Numbers::parse("--cgroup", &args.cgroup, |text| {
            if let Ok(id) = text.parse() {
                return Ok(vec![id]);
            }
            id_of(text)
        })?;
        let containers = if args.container.is_empty() {
            None
        } else {
            let prefixes: Vec<_> = args.container.iter().map(|id| id.to_lowercase()).collect();
            let typed = prefixes.join(",");
            let automaton = Automaton::of_containers(prefixes.iter().map(String::as_str))
                .map_err(|why| Error::usage(format!("--container {typed}: {why}")))?;
            Some((typed, automaton))
        };
        Ok(Self {
            cgroups,
            containers,
        })
    }
}

/// The id of the cgroup at a path, which may begin at the mount point or below it.
fn id_of(text: &str) -> Result<Vec<u64>, String> {
    let below = Path::new(MOUNTED_AT).join(text.trim_start_matches('/'));
    let paths = if Path::new(text).starts_with(MOUNTED_AT) {
        vec![text.into()]
    } else {
        // Where only version 1 is mounted, each controller has a folder of its own.
        let controllers = ["unified", "pids", "systemd"].into_iter();
        let below_controllers = controllers.map(|name| {
            Path::new(MOUNTED_AT)
                .join(name)
                .join(text.trim_start_matches('/'))
        });
        std::iter::once(below).chain(below_controllers).collect()
    };
    let ids: Vec<u64> = paths
        .iter()
        .filter(|path| path.join("cgroup.procs").exists())
        .filter_map(|path| fs::metadata(path).ok())
        .map(|metadata| metadata.ino())
        .collect();
    if ids.is_empty() {
        return Err(format!(
            "no such cgroup; use a path as in /system.slice/nginx.service, below {MOUNTED_AT}, or an id as \
             in the records"
        ));
    }
    Ok(ids)
}

impl Filter for Cgroups {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        if let Some(cgroups) = &self.cgroups {
            typed.insert("cgroup", cgroups.typed.clone());
        }
        if let Some((text, _)) = &self.containers {
            typed.insert("container", text.clone());
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        if let Some(cgroups) = &self.cgroups {
            kernel.config.by_pid = 1;
            kernel.config.by_cgroup = cgroups.mode();
            cgroups.configure(WANTED_CGROUP, kernel);
        }
        if let Some((_, automaton)) = &self.containers {
            kernel.config.by_pid = 1;
            kernel.config.by_container = 1;
            kernel.config.container_start = automaton.start;
            kernel.config.container_accepts = automaton.accepts_from;
            kernel
                .automata
                .push((AUTOMATON_CONTAINER, automaton.clone()));
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let Self {
            cgroups,
            containers,
        } = self;
        if cgroups.is_none() && containers.is_none() {
            return true;
        }
        subject.owners.iter().any(|owner| {
            let in_cgroup = cgroups
                .as_ref()
                .is_none_or(|cgroups| owner.cgroups.iter().any(|id| cgroups.takes(*id)));
            let in_container = containers.as_ref().is_none_or(|(_, automaton)| {
                let path = owner.cgroup_path.unwrap_or_default();
                let container = cgroup::Names::of_path(path).container;
                container.is_some_and(|id| automaton.matches(id.as_bytes()))
            });
            in_cgroup && in_container
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn by_id_by_container() {
        assert!(passes(&["--cgroup", "77"], &SUBJECT));
        assert!(!passes(&["--cgroup", "78"], &SUBJECT));
        assert!(passes(&["--container", "9C4B"], &SUBJECT));
        assert!(!passes(&["--container", "9c4b2"], &SUBJECT));
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for (words, part) in [
            (
                ["--cgroup", "/no/such/group"],
                "/system.slice/nginx.service",
            ),
            (["--container", "web"], "hexadecimal"),
        ] {
            let why = parse(&words).unwrap_err();
            assert!(why.contains(part) && why.contains(words[1]), "{why}");
        }
    }
}
