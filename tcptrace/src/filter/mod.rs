//! Filters: which connections are wanted.
//!
//! A filter is one unit in one file: its flags and their help, the parser, how it
//! configures the kernel side, how it decides here, and its tests. To add one, write its file, and
//! name it in the three lists of this one: [`FilterArgs`], [`Filters`], and [`Filters::parse`].
//!
//! The kernel side decides for the trace, as early as it can. `list` asks [`Filters::matches`].

mod address;
mod automaton;
mod cgroup;
mod family;
mod name;
mod netns;
mod network;
mod number;
mod outcome;
mod pid;
mod port;
mod role;
mod state;
mod user;

use std::{collections::BTreeMap, net::IpAddr};

use clap::Args;
use tcptrace_common::config::Config;

pub use self::{
    address::{AddressArgs, Addresses},
    automaton::Automaton,
    cgroup::{CgroupArgs, Cgroups},
    family::{Families, FamilyArgs},
    name::{NameArgs, Names},
    netns::{Namespaces, NetnsArgs},
    network::{Network, NetworkList},
    number::Numbers,
    outcome::{Outcome, OutcomeArgs},
    pid::{PidArgs, Pids},
    port::{PortArgs, PortList, Ports},
    role::{RoleArgs, Roles},
    state::{StateArgs, States},
    user::{UserArgs, Users},
};
use crate::{
    error::Error,
    event::{Role, State},
};

/// One filter. A filter that nobody asked for lets everything pass.
pub trait Filter {
    /// Appends its name and what was typed, if it was asked for: `filters` of the `start` record.
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>);

    /// Configures the kernel side, before it is loaded. Nothing to do where the agent decides.
    fn configure(&self, _kernel: &mut KernelFilters) {}

    /// Whether this connection is wanted, as far as this filter is concerned.
    fn matches(&self, subject: &Subject<'_>) -> bool;
}

/// What configures the kernel side's filters before it is loaded.
#[derive(Debug)]
pub struct KernelFilters {
    /// The programs' read-only configuration
    pub config: Config,
    /// Keys of the `PIDS` map, and why (`PID_*`)
    pub pids: Vec<(u32, u8)>,
    /// Keys of the `WANTED` map (`WANTED_*` and number), and whether they are wanted
    pub wanted: Vec<(u64, u64, bool)>,
    /// Entries of the `NETWORKS` map, by list (`NETWORKS_*`)
    pub networks: Vec<(u32, Network)>,
    /// Entries of the `AUTOMATA` map (`AUTOMATON_*`)
    pub automata: Vec<(u32, Automaton)>,
    /// Rows of the `PORTS` map (`PORTS_*`) with their `PORT_WORDS` words
    pub ports: Vec<(u32, Vec<u64>)>,
}

/// A connection as filters see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Every process that owns it: thread groups in the initial PID namespace
    pub pids: &'a [u32],
    /// What is known of them
    pub owners: &'a [Owner<'a>],
    /// Inode of its network namespace
    pub netns: Option<u64>,
    /// Local address
    pub laddr: Option<IpAddr>,
    /// Remote address; none of a listener
    pub raddr: Option<IpAddr>,
    /// Whether its addresses are IPv4 (mapped ones included)
    pub is_v4: bool,
    /// Local port; none if it has none
    pub lport: Option<u16>,
    /// Remote port; none of a listener
    pub rport: Option<u16>,
    /// Its role
    pub role: Role,
    /// The state it is in
    pub state: State,
}

/// An owner as filters see it.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Name of the thread-group leader, without its end
    pub comm: &'a [u8],
    /// Path of its executable
    pub exe: Option<&'a str>,
    /// Real user id
    pub uid: Option<u32>,
    /// Ids of its cgroup and of those above
    pub cgroups: &'a [u64],
    /// Path of its cgroup
    pub cgroup_path: Option<&'a str>,
}

/// Filters that every command with connections takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filter")]
#[expect(missing_docs, reason = "each is documented where it is defined")]
pub struct FilterArgs {
    #[command(flatten)]
    pub pid: PidArgs,
    #[command(flatten)]
    pub name: NameArgs,
    #[command(flatten)]
    pub user: UserArgs,
    #[command(flatten)]
    pub cgroup: CgroupArgs,
    #[command(flatten)]
    pub netns: NetnsArgs,
    #[command(flatten)]
    pub family: FamilyArgs,
    #[command(flatten)]
    pub port: PortArgs,
    #[command(flatten)]
    pub address: AddressArgs,
    #[command(flatten)]
    pub role: RoleArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

/// The filters in force.
#[derive(Clone, Debug)]
pub struct Filters {
    /// By owner
    pub pids: Pids,
    /// By the owner's name and executable
    pub names: Names,
    /// By the owner's user
    pub users: Users,
    /// By the owner's cgroup
    pub cgroups: Cgroups,
    /// By network namespace
    pub namespaces: Namespaces,
    /// By address
    pub addresses: Addresses,
    /// By address family
    pub families: Families,
    /// By port
    pub ports: Ports,
    /// By role
    pub roles: Roles,
    /// By state
    pub states: States,
}

impl Filters {
    /// Checks what was typed.
    pub fn parse(args: FilterArgs) -> Result<Self, Error> {
        let names = Names::parse(&args.name)?;
        if args.pid.follow && args.pid.pid.is_empty() && names.is_empty() {
            return Err(Error::usage(
                "-f follows the children of processes that were asked for; add -p, -c or --exe",
            ));
        }
        Ok(Self {
            pids: Pids::parse(args.pid)?,
            names,
            users: Users::parse(&args.user)?,
            cgroups: Cgroups::parse(&args.cgroup)?,
            namespaces: Namespaces::parse(&args.netns)?,
            addresses: Addresses::parse(args.address)?,
            families: Families::parse(&args.family),
            ports: Ports::parse(args.port)?,
            roles: Roles::parse(&args.role),
            states: States::parse(&args.state)?,
        })
    }

    fn each(&self) -> [&dyn Filter; 10] {
        let Self {
            pids,
            names,
            users,
            cgroups,
            namespaces,
            addresses,
            families,
            ports,
            roles,
            states,
        } = self;
        [
            pids, names, users, cgroups, namespaces, addresses, families, ports, roles, states,
        ]
    }

    /// Whether any filter asks who owns a connection.
    pub fn ask_for_owners(&self) -> bool {
        let mut typed = BTreeMap::new();
        self.typed(&mut typed);
        ["pid", "comm", "exe", "uid", "cgroup", "container"]
            .iter()
            .any(|name| typed.contains_key(name))
    }

    /// Whether every filter lets this connection pass.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.each()
            .into_iter()
            .all(|filter| filter.matches(subject))
    }
}

impl Filter for Filters {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        self.each()
            .into_iter()
            .for_each(|filter| filter.typed(typed));
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        self.each()
            .into_iter()
            .for_each(|filter| filter.configure(kernel));
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        Self::matches(self, subject)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        filters: FilterArgs,
    }

    /// The filters that these words ask for.
    pub(crate) fn parse(words: &[&str]) -> Result<Filters, String> {
        let line = Line::try_parse_from(words).map_err(|why| why.to_string())?;
        Filters::parse(line.filters).map_err(|why| why.to_string())
    }

    /// A client's connection to port 443, owned by 10 and 11.
    pub(crate) const SUBJECT: Subject<'static> = Subject {
        pids: &[10, 11],
        owners: &[
            Owner {
                comm: b"curl",
                exe: Some("/usr/bin/curl"),
                uid: Some(1000),
                cgroups: &[77, 1],
                cgroup_path: Some(
                    "/docker/9c4b1cbf5d2a8e0f7e3f65d2d8c9a54e1b6a3f0c7d2e9b8a4f5c6d7e8f901234",
                ),
            },
            Owner {
                comm: b"nc",
                exe: None,
                uid: None,
                cgroups: &[],
                cgroup_path: None,
            },
        ],
        netns: Some(4_026_531_840),
        laddr: Some(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1))),
        raddr: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7))),
        is_v4: true,
        lport: Some(40_000),
        rport: Some(443),
        role: Role::Client,
        state: State(tcptrace_common::tcp::ESTABLISHED),
    };

    /// Whether the filters that these words ask for let a connection pass.
    pub(crate) fn passes(words: &[&str], subject: &Subject<'_>) -> bool {
        parse(words).unwrap().matches(subject)
    }

    #[test]
    fn filters_combine_with_and_between_and_or_within() {
        for (words, expected) in [
            (&[][..], true),
            (&["-p", "11", "-4", "-D", "443"], true),
            (&["-p", "11", "-6"], false),
            (&["--role", "server,client"], true),
            (&["--role", "server", "-p", "10"], false),
        ] {
            assert_eq!(passes(words, &SUBJECT), expected, "{words:?}");
        }
    }

    #[test]
    fn what_was_typed_is_kept_for_the_start_record() {
        let words = ["-p", "10,11", "-6", "-L", "!22", "--role", "client"];
        let mut typed = BTreeMap::new();
        parse(&words).unwrap().typed(&mut typed);
        let expected = [
            ("family", "ipv6"),
            ("lport", "!22"),
            ("pid", "10,11"),
            ("role", "client"),
        ];
        let expected = expected.map(|(name, text)| (name, text.to_owned()));
        assert_eq!(typed, BTreeMap::from(expected));
    }
}
