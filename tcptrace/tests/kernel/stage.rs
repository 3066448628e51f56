//! What most scenarios have in common: a namespace, the oracle, and a tracer over both.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::{
    actor::{Actor, Held, Listener, Who},
    check::{self, Pair},
    netns::Netns,
    oracle::{self, Life, Oracle, Step},
    peer::First,
    record::{self, Record, Records},
    tracer::Tracer,
};

pub(crate) struct Stage {
    pub(crate) netns: Netns,
    /// Until nothing more is asked of it
    oracle: Option<Oracle>,
    steps: Vec<Step>,
    pub(crate) tracer: Tracer,
}

impl Stage {
    /// The tracer is attached when this returns.
    pub(crate) fn open(args: &[&str]) -> Self {
        Self::over(Netns::new(), args)
    }

    /// Over a namespace in which something may be going on already.
    pub(crate) fn over(netns: Netns, args: &[&str]) -> Self {
        Self::with(netns, || Tracer::start(args))
    }

    /// With room for so much more of the oracle's records, KiB for each processor.
    pub(crate) fn open_for(kib_per_cpu: usize, args: &[&str]) -> Self {
        Self::of(Netns::new(), Oracle::with_buffer(kib_per_cpu), || {
            Tracer::start(args)
        })
    }

    /// With a tracer that is attached when `start` returns.
    pub(crate) fn with(netns: Netns, start: impl FnOnce() -> Tracer) -> Self {
        Self::of(netns, Oracle::record(), start)
    }

    fn of(netns: Netns, oracle: Oracle, start: impl FnOnce() -> Tracer) -> Self {
        let tracer = start();
        Self {
            netns,
            oracle: Some(oracle),
            steps: Vec::new(),
            tracer,
        }
    }

    /// Ends the oracle's recording before the trace: it is of the whole host, and others may
    /// fill it up.
    pub(crate) fn know_enough(&mut self) {
        if let Some(oracle) = self.oracle.take() {
            self.steps = oracle.stop();
        }
    }

    /// Waits until all connections but `open` sockets have ended, then interrupts the tracer.
    ///
    /// `wildcards`: ports of listeners on all addresses.
    pub(crate) fn end(self, open: usize, wildcards: &[u16]) -> Told {
        self.end_with(Signal::INT, open, wildcards)
    }

    pub(crate) fn end_with(self, signal: Signal, open: usize, wildcards: &[u16]) -> Told {
        self.netns.settle(open);
        self.end_at_once(signal, wildcards)
    }

    /// When the test knows that everything has happened.
    pub(crate) fn end_now(self, wildcards: &[u16]) -> Told {
        self.end_at_once(Signal::INT, wildcards)
    }

    fn end_at_once(mut self, signal: Signal, wildcards: &[u16]) -> Told {
        // At once: much of what happened may still be on its way through the tracer.
        self.tracer.signal(signal);
        self.know_enough();
        let records = self.tracer.wait().fine();
        let lives = oracle::lives_in(&self.steps, &self.netns, wildcards);
        assert!(!lives.is_empty(), "the test did nothing");
        Told {
            records,
            lives,
            netns: self.netns,
        }
    }
}

/// Both stories of a scenario.
pub(crate) struct Told {
    pub(crate) records: Records,
    pub(crate) lives: Vec<Life>,
    netns: Netns,
}

impl Told {
    /// The records of the scenario's namespace.
    pub(crate) fn ours(&self) -> Vec<&Record> {
        self.records.within(self.netns.inode)
    }

    /// Nothing is missing, nothing is too much, everything has its owner.
    pub(crate) fn check(&self, pairs: &[Pair], listeners: &[(SocketAddr, &Who)]) {
        assert_eq!(self.records.lost(), 0, "{}", self.records.end().line);
        let ours = self.ours();
        check::same_transitions(&self.lives, &ours);
        record::each_end_has_its_close(&ours);
        check::owners(pairs, &ours);
        for (local, who) in listeners {
            let of_it: Vec<_> = ours
                .iter()
                .copied()
                .filter(|record| record.role() == "listener" && record.local() == *local)
                .collect();
            assert!(!of_it.is_empty(), "no record of the listener on {local}");
            for record in &of_it {
                check::names(record, "listen", who, &of_it);
            }
        }
    }
}

/// One connection: how it is opened on each side, and who closes it first.
pub(crate) struct Exchange<'how> {
    pub(crate) connect: &'how str,
    pub(crate) accept: &'how str,
    pub(crate) first: First,
}

impl Default for Exchange<'_> {
    fn default() -> Self {
        Self {
            connect: "",
            accept: "",
            first: First::Client,
        }
    }
}

impl Exchange<'_> {
    /// From the first SYN to the last FIN.
    pub(crate) fn run(
        &self,
        client: &mut Actor,
        server: &mut Actor,
        listener: &Listener,
        addr: SocketAddr,
    ) -> Pair {
        server.tell_accept(listener, self.accept);
        let (near, far) = self.meet(client, server, addr);
        part(client, &near, server, &far, self.first);
        Pair::new(&near, &client.who, &far, &server.who)
    }

    /// Connects to a server that has been told to accept.
    pub(crate) fn meet(
        &self,
        client: &mut Actor,
        server: &mut Actor,
        addr: SocketAddr,
    ) -> (Held, Held) {
        let near = client.connect(addr, self.connect);
        let far = server.held();
        assert_eq!((near.local, near.remote), (far.remote, far.local));
        (near, far)
    }
}

/// A byte each way, then both close.
pub(crate) fn part(client: &mut Actor, near: &Held, server: &mut Actor, far: &Held, first: First) {
    client.act("send", near);
    server.act("receive", far);
    server.act("send", far);
    client.act("receive", near);
    match first {
        First::Client => {
            client.close(near);
            server.act("eof", far);
            server.close(far);
        }
        First::Server => {
            server.close(far);
            client.act("eof", near);
            client.close(near);
        }
    }
}
