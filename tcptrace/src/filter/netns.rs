//! `-N`: by network namespace.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use clap::Args;
use tcptrace_common::config::WANTED_NETNS;

use super::{Filter, KernelFilters, Numbers, Subject};
use crate::error::Error;

/// Where network namespaces have names.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// `-N` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct NetnsArgs {
    /// Only connections in these network namespaces: an inode, a name of `ip netns`, or a path
    #[arg(
        short = 'N',
        long,
        value_name = "INODE|NAME|PATH",
        value_delimiter = ','
    )]
    pub netns: Vec<String>,
}

/// Network namespaces whose connections are wanted.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(Option<Numbers>);

impl Namespaces {
    /// Looks names up.
    pub fn parse(args: &NetnsArgs) -> Result<Self, Error> {
        Numbers::parse("-N", &args.netns, |text| {
            if let Ok(inode) = text.parse::<u32>() {
                return Ok(vec![inode.into()]);
            }
            let paths = if text.contains('/') {
                vec![PathBuf::from(text)]
            } else {
                NAMED.iter().map(|folder| PathBuf::from(folder).join(text)).collect()
            };
            let inode = paths
                .iter()
                .filter(|path| !text.is_empty() && !path.is_dir())
                .find_map(|path| fs::metadata(path).ok())
                .map(|metadata| metadata.ino())
                .ok_or_else(|| {
                    "no such network namespace; use an inode as `lsns -t net` shows it, a name of `ip \
                     netns`, or a path as in /proc/4242/ns/net"
                        .to_owned()
                })?;
            Ok(vec![inode])
        })
        .map(Self)
    }
}

impl Filter for Namespaces {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        if let Some(namespaces) = &self.0 {
            typed.insert("netns", namespaces.typed.clone());
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        if let Some(namespaces) = &self.0 {
            kernel.config.by_netns = namespaces.mode();
            namespaces.configure(WANTED_NETNS, kernel);
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.0
            .as_ref()
            .is_none_or(|namespaces| subject.netns.is_some_and(|inode| namespaces.takes(inode)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn by_inode_and_by_path() {
        assert!(passes(&["-N", "4026531840"], &SUBJECT));
        assert!(!passes(&["-N", "!4026531840"], &SUBJECT));
        assert!(parse(&["-N", "/proc/self/ns/net"]).is_ok());
        for bad in ["no-such-name", "/no/such/path", "", "/proc"] {
            let why = parse(&["-N", bad]).unwrap_err();
            assert!(why.contains("lsns") && why.contains(bad), "{why}");
        }
    }
}
