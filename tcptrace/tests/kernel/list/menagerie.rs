//! Sockets in each state that there is.

use std::net::{SocketAddr, SocketAddrV4};

use super::meet;
use crate::{
    actor::{Actor, Held, Listener},
    netns::{Ip, Netns},
    wire::{ACK, FIN, Puppet, Wire},
};

/// Connections of each menagerie that are like all others.
pub(super) const MANY: usize = 450;

/// Sockets in each state that there is, and what keeps them there.
pub(super) struct Menagerie {
    pub(super) netns: Netns,
    wire: Wire,
    /// They end with it
    actors: Vec<Actor>,
    pub(super) listeners: Vec<Listener>,
    pub(super) established: Vec<(Held, Held)>,
    pub(super) queued: Vec<Held>,
    pub(super) silent: Vec<Held>,
}

impl Menagerie {
    pub(super) fn gather() -> Self {
        let netns = Netns::new();
        let wire = Wire::stretch(&netns);
        let mut client = Actor::spawn(&netns, "client");
        let mut server = Actor::spawn(&netns, "server");
        client.become_user(1234);
        let mut established = Vec::new();
        let mut listeners = Vec::new();
        for ip in [Ip::V4, Ip::V6, Ip::Mapped] {
            let listener = server.listen(netns.addr(ip, 0), "backlog=7");
            let addr = netns.addr(ip, listener.local.port());
            for _ in 0..3 {
                established.push(meet(&mut client, &mut server, &listener, addr));
            }
            listeners.push(listener);
        }
        let everywhere = "[::]:0".parse().unwrap();
        listeners.push(server.listen(everywhere, "dual"));
        let first = server.listen(netns.addr(Ip::V4, 0), "reuseport");
        client.tell_hold(first.local, MANY);
        server.tell_take(&first, MANY);
        client.answer();
        server.answer();
        let mut second = Actor::spawn(&netns, "second");
        listeners.push(second.listen(first.local, "reuseport"));
        listeners.push(first);
        // Queues, timers and options.
        client.set(&established[0].0, "keepalive", 60);
        client.act_on("send", &established[1].0, 1000);
        // Whom nobody accepts.
        let queued: Vec<_> = (0..4)
            .map(|_| client.connect(netns.addr(Ip::V4, listeners[0].local.port()), ""))
            .collect();
        let mut actors = vec![server.fork(), client.fork()];
        actors.extend([server, client, second]);
        let mut menagerie = Self {
            netns,
            wire,
            actors,
            listeners,
            established,
            queued,
            silent: Vec::new(),
        };
        menagerie.close_some();
        menagerie.speak_with_silent_hosts();
        menagerie
    }

    /// `FIN_WAIT2`, `CLOSE_WAIT`, `TIME_WAIT`.
    fn close_some(&mut self) {
        let addr = self.netns.addr(Ip::V4, self.listeners[0].local.port());
        // The children have no copies of these.
        let mut half = Actor::spawn(&self.netns, "half");
        let mut other = Actor::spawn(&self.netns, "other");
        let listener = other.listen(self.netns.addr(Ip::V4, 0), "");
        assert_ne!(addr, listener.local);
        for both in [false, true] {
            let (near, far) = meet(&mut half, &mut other, &listener, listener.local);
            half.close(&near);
            other.act("eof", &far);
            if both {
                other.close(&far);
            }
        }
        let (near, _) = meet(&mut half, &mut other, &listener, listener.local);
        half.act("shutdown", &near);
        self.actors.extend([half, other]);
    }

    /// `SYN_SENT`, `SYN_RECV`, `FIN_WAIT1`, `CLOSING`, `LAST_ACK`: of hosts that do not answer.
    fn speak_with_silent_hosts(&mut self) {
        let host = |port| SocketAddrV4::new(Wire::host(9), port);
        let mut caller = Actor::spawn(&self.netns, "caller");
        self.silent.push(caller.begin(host(1).into()));
        let listener = SocketAddr::V4(SocketAddrV4::new(
            self.netns.v4,
            self.listeners[0].local.port(),
        ));
        // The queue of the first listener has room for them.
        for port in [2, 3] {
            Puppet::calling(&self.wire, host(port), listener).call();
        }
        for (port, their_fin_first, their_fin) in
            [(4, false, false), (5, true, false), (6, false, true)]
        {
            let held = caller.begin(host(port).into());
            let mut puppet = Puppet::called(&self.wire, host(port));
            puppet.accept();
            caller.finish(&held).unwrap();
            if their_fin_first {
                puppet.say(FIN | ACK);
                caller.act("eof", &held);
            }
            caller.close(&held);
            let fin = puppet.hear(FIN);
            puppet.unhear(&fin);
            if their_fin {
                puppet.say(FIN | ACK);
            }
        }
        self.actors.push(caller);
    }
}
