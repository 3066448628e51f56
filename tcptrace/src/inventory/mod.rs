//! What is there now: every TCP socket of every network namespace, once, and who has it open.
//!
//! * [`wire`]: netlink's bytes; [`dump`]: the sockets of a namespace; [`socket`]: one of them;
//! * [`holding`]: who holds which, by `bpf::Holders`, or else by [`procfs`];
//! * [`queue`]: at which listener a connection waits.
//!
//! Sockets are looked at first and descriptors afterwards. So a process that is named does have the socket open, and
//! one that has closed it meanwhile is not named.

pub mod doing;
pub mod dump;
pub mod holding;
pub mod procfs;
pub mod queue;
pub mod socket;
pub mod wire;

use std::collections::HashMap;

use self::{
    dump::{Found, Wanted},
    holding::{Holdings, Process},
    queue::{Queue, Waiting},
    socket::{Counters, Socket},
};
use crate::{
    bpf::{Holders, Known},
    error::Error,
    event::{OwnerSource, Role},
    kernel::netns::{self, Namespace},
};

/// How it is known who holds what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// From the kernel's own tables
    Kernel,
    /// From `/proc`; of so many processes it may not be seen
    Proc {
        /// Processes whose descriptors may not be seen
        hidden: u64,
    },
}

/// Namespaces that could not be entered, by inode, and why.
pub type Unseen = Vec<(u64, String)>;

/// What was there.
#[derive(Debug)]
pub struct Inventory {
    /// When the sockets were looked at, `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// Network namespaces looked at; `Socket::netns` is a place here
    pub namespaces: Vec<Namespace>,
    /// Namespaces that could not be entered, and why
    pub unseen: Unseen,
    /// The sockets
    pub found: Found,
    /// Who holds them
    pub holdings: Holdings,
    /// How that is known
    pub by: By,
    /// Sockets that had a file when they were looked at, and that no process held any more afterwards
    pub vanished: u64,
    /// Who waits at which listener
    waiting: Waiting,
    /// What a tracer knows, by place
    pasts: HashMap<u32, Past>,
}

/// Looks at the sockets of all namespaces that can be entered, and at who holds them.
pub fn take(wanted: Wanted, holders: Option<&mut Holders>) -> Result<Inventory, Error> {
    let mono_ns = crate::kernel::mono_ns();
    let mut found = Found::default();
    let (namespaces, unseen) = look_everywhere(wanted, &mut found)
        .map_err(|why| Error::CannotTrace(format!("{why:#}")))?;
    let waiting = Waiting::tie(&mut found);
    let mut holdings = Holdings::default();
    let by = match holders {
        Some(holders) => {
            by_kernel(holders, &mut found, &mut holdings)?;
            By::Kernel
        }
        None => by_proc(&found, &mut holdings),
    };
    holdings.sort(&found);
    let vanished = (0..)
        .zip(&found.sockets)
        .filter(|(place, socket)| socket.has_file() && holdings.of(*place).is_empty())
        .count();
    Ok(Inventory {
        mono_ns,
        namespaces,
        unseen,
        found,
        holdings,
        by,
        vanished: u64::try_from(vanished).unwrap_or(u64::MAX),
        waiting,
        pasts: HashMap::new(),
    })
}

/// Our own namespace first, then all others on a thread that enters them.
fn look_everywhere(wanted: Wanted, found: &mut Found) -> anyhow::Result<(Vec<Namespace>, Unseen)> {
    let own = netns::own();
    let (mut namespaces, others): (Vec<_>, Vec<_>) = netns::all()
        .into_iter()
        .partition(|namespace| Some(namespace.inode) == own);
    let mut sources = vec![dump::open()?];
    let mut unseen = Vec::new();
    let opened = netns::within_each(&others, |_| dump::open());
    for (namespace, opened) in others.into_iter().zip(opened) {
        match opened {
            Ok(source) => {
                namespaces.push(namespace);
                sources.push(source);
            }
            Err(why) => unseen.push((namespace.inode, format!("{why:#}"))),
        }
    }
    for (netns, source) in (0..).zip(&sources) {
        dump::look(source, netns, wanted, found)?;
    }
    Ok((namespaces, unseen))
}

fn by_kernel(
    holders: &mut Holders,
    found: &mut Found,
    holdings: &mut Holdings,
) -> anyhow::Result<()> {
    holders.each(|holder| {
        let Some(place) = found.place(holder.cookie) else {
            return;
        };
        holdings.add(place, holder.tgid, holder.fd, || Process {
            pid: holder.tgid,
            uid: Some(holder.uid),
            start: holder.start_ns,
            comm: holder.comm,
        });
        found.keeps_alive(
            place,
            holder.flags & tcptrace_common::holder::HOLDER_KEEPALIVE != 0,
        );
    })
}

fn by_proc(found: &Found, holdings: &mut Holdings) -> By {
    let places: HashMap<u32, u32> = (0..)
        .zip(&found.sockets)
        .filter(|(_, socket)| socket.has_file())
        .map(|(place, socket)| (socket.inode, place))
        .collect();
    let hidden = procfs::holders(&places, holdings);
    By::Proc { hidden }
}

/// What a running tracer knows of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past {
    /// Since its first transition
    pub age_us: Option<u64>,
    /// Since its last one
    pub in_state_us: Option<u64>,
    /// As `role` in records
    pub role: Option<Role>,
    /// Whose it is, or was when nobody holds it any more
    pub owner: Option<PastOwner>,
}

/// Whose a tracer says that a socket is.
#[derive(Clone, Copy, Debug)]
pub struct PastOwner {
    /// The process as it was then
    pub process: Process,
    /// As `pid_source` in records
    pub source: &'static str,
}

impl Inventory {
    /// Whether a tracer that runs knows of any of them.
    pub fn knows_pasts(&self) -> bool {
        !self.pasts.is_empty()
    }

    /// Adds what a tracer knows of a connection, if it is here.
    pub fn know(&mut self, known: &Known) {
        let Some(place) = self.found.place(known.conn) else {
            return;
        };
        let Some(socket) = self.socket(place) else {
            return;
        };
        let since = |then_ns: u64| self.mono_ns.saturating_sub(then_ns) / 1000;
        // It may have gone on since we looked, or before the tracer has written it down.
        let in_state = known.state.filter(|(state, _)| *state == socket.state);
        let owner = (known.owner.tgid != 0).then_some(known.owner);
        let past = Past {
            age_us: known.began_ns.map(since),
            in_state_us: in_state.map(|(_, then_ns)| since(then_ns)),
            role: Some(Role::from_number(known.role)).filter(|role| *role != Role::Unknown),
            owner: owner.map(|owner| PastOwner {
                process: Process {
                    pid: owner.tgid,
                    uid: Some(owner.uid),
                    start: u64::MAX,
                    comm: owner.comm,
                },
                source: OwnerSource::from_number(known.source).name(),
            }),
        };
        if let Some(owner) = owner {
            self.holdings.put_first(place, owner.tgid);
        }
        // Of two tracers, the one that saw more.
        let known = self.pasts.entry(place).or_default();
        if known.age_us.is_none() || past.age_us.is_some() {
            *known = past;
        }
    }

    /// The socket at a place.
    pub fn socket(&self, place: u32) -> Option<&Socket> {
        self.found.sockets.get(usize::try_from(place).ok()?)
    }

    /// What the kernel counts of a socket, if that was asked for.
    pub fn counters(&self, socket: &Socket) -> Option<&Counters> {
        self.found
            .counters
            .get(usize::try_from(socket.counters).ok()?)
    }

    /// Inode of a socket's network namespace.
    pub fn netns(&self, socket: &Socket) -> u64 {
        let namespace = self.namespaces.get(usize::from(socket.netns));
        namespace.map_or(0, |namespace| namespace.inode)
    }

    /// Runs `read` inside each of the namespaces, in their order; one that is gone has the default.
    pub fn in_each_namespace<T: Default + Send>(&self, read: fn() -> T) -> Vec<T> {
        let own = netns::own();
        let inside = |namespace: &Namespace| {
            if Some(namespace.inode) == own {
                return read();
            }
            netns::within(namespace, || Ok(read())).unwrap_or_default()
        };
        self.namespaces.iter().map(inside).collect()
    }

    /// What a tracer that runs knows of the socket at a place.
    pub fn past(&self, place: u32) -> Option<&Past> {
        self.pasts.get(&place)
    }

    /// What waits at the listeners of one address, at these places.
    pub fn queue(&self, places: impl Iterator<Item = u32>) -> Queue {
        self.waiting.of(places)
    }

    /// Half-open requests of a listener; none if they may be another's.
    pub fn half_open(&self, place: u32) -> Option<u32> {
        self.waiting.half_open(place)
    }
}
