//! `--laddr`, `--raddr`, `--addr`: by address.

use std::{collections::BTreeMap, net::IpAddr};

use clap::Args;
use tcptrace_common::config::{
    LISTED_ONLY, LISTED_REST, NETWORKS_ANY, NETWORKS_LOCAL, NETWORKS_REMOTE,
};

use super::{Filter, KernelFilters, NetworkList, Subject};
use crate::error::Error;

/// Lists of networks as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct AddressArgs {
    /// Only these local addresses: 10.0.0.0/8,192.0.2.7; '!10.1.0.0/16' excludes
    #[arg(long, value_name = "CIDR")]
    pub laddr: Option<String>,
    /// Only these remote addresses
    #[arg(long, value_name = "CIDR")]
    pub raddr: Option<String>,
    /// Only these addresses, at either end
    #[arg(long, value_name = "CIDR")]
    pub addr: Option<String>,
}

/// Addresses that are wanted.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    local: Option<(String, NetworkList)>,
    remote: Option<(String, NetworkList)>,
    any: Option<(String, NetworkList)>,
}

impl Addresses {
    /// Parses the lists.
    pub fn parse(args: AddressArgs) -> Result<Self, Error> {
        let parse = |option: &str, list: Option<String>| {
            list.map(|list| match NetworkList::parse(&list) {
                Ok(networks) => Ok((list, networks)),
                Err(why) => Err(Error::usage(format!("{option} {list}: {why}"))),
            })
            .transpose()
        };
        Ok(Self {
            local: parse("--laddr", args.laddr)?,
            remote: parse("--raddr", args.raddr)?,
            any: parse("--addr", args.addr)?,
        })
    }
}

fn mode(list: &NetworkList) -> u8 {
    if list.rest { LISTED_REST } else { LISTED_ONLY }
}

impl Filter for Addresses {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        for (name, list) in [
            ("laddr", &self.local),
            ("raddr", &self.remote),
            ("addr", &self.any),
        ] {
            if let Some((text, _)) = list {
                typed.insert(name, text.clone());
            }
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        for (list, number) in [
            (&self.local, NETWORKS_LOCAL),
            (&self.remote, NETWORKS_REMOTE),
            (&self.any, NETWORKS_ANY),
        ] {
            let Some((_, list)) = list else { continue };
            match number {
                NETWORKS_LOCAL => kernel.config.by_laddr = mode(list),
                NETWORKS_REMOTE => kernel.config.by_raddr = mode(list),
                _ => kernel.config.by_addr = mode(list),
            }
            let networks = list.networks.iter().map(|network| (number, *network));
            kernel.networks.extend(networks);
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let listed = |list: &NetworkList, address: Option<IpAddr>| list.lookup(address?);
        let at = |list: &Option<(String, NetworkList)>, address: Option<IpAddr>| {
            list.as_ref().is_none_or(|(_, list)| {
                address.is_some() && listed(list, address).unwrap_or(list.rest)
            })
        };
        let any = self.any.as_ref().is_none_or(|(_, list)| {
            let ends = [subject.laddr, subject.raddr].map(|address| listed(list, address));
            !ends.contains(&Some(false)) && (list.rest || ends.contains(&Some(true)))
        });
        at(&self.local, subject.laddr) && at(&self.remote, subject.raddr) && any
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn the_longest_prefix_decides() {
        for (words, expected) in [
            (&["--raddr", "192.0.2.0/24"][..], true),
            (&["--raddr", "192.0.0.0/16,!192.0.2.0/24"], false),
            (&["--raddr", "!192.0.0.0/16,192.0.2.0/24"], true),
            (&["--laddr", "192.0.2.0/24"], false),
            (&["--addr", "192.0.2.0/24"], true),
            (&["--addr", "!192.0.2.0/24"], false),
            (&["--addr", "!127.0.0.0/8"], true),
            (&["--addr", "::/0"], false),
        ] {
            assert_eq!(passes(words, &SUBJECT), expected, "{words:?}");
        }
        assert!(
            parse(&["--addr", "here"])
                .unwrap_err()
                .contains("--addr here")
        );
    }
}
