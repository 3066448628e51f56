//! Why a connection ended, who ended it, and how long everything took.

use std::{
    net::{SocketAddr, SocketAddrV4},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    actor::{Actor, Held, Listener},
    check::CLOCK_TOLERANCE_US,
    fate::{self, Fate},
    harness::{Impossible, Outcome, Test, beside},
    netns::{Ip, Netns},
    sock_diag,
    stage::{Exchange, Stage},
    wait,
    wire::{ACK, FIN, Puppet, RST, SYN, Wire},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(closed_in_peace),
    beside!(resets).smoke(),
    beside!(killed).smoke(),
    beside!(exited).smoke(),
    beside!(never_established).smoke(),
    beside!(gave_up).smoke(),
    beside!(no_route).smoke(),
    beside!(listener_closed).smoke(),
    beside!(full_accept_queue).smoke(),
    beside!(vanished_peer).smoke(),
    beside!(fast_open).smoke(),
    beside!(simultaneous_open).smoke(),
    beside!(slow_handshake),
    beside!(destroyed).smoke(),
];

/// A client, a server that listens, and the wire.
pub(crate) struct Cast {
    pub(crate) stage: Stage,
    pub(crate) wire: Wire,
    pub(crate) client: Actor,
    pub(crate) server: Actor,
    pub(crate) listener: Listener,
    pub(crate) fates: Vec<Fate>,
}

impl Cast {
    pub(crate) fn new() -> Self {
        let netns = Netns::new();
        let wire = Wire::stretch(&netns);
        let stage = Stage::over(netns, &["--no-existing"]);
        let client = Actor::spawn(&stage.netns, "client");
        let mut server = Actor::spawn(&stage.netns, "server");
        let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
        Self {
            stage,
            wire,
            client,
            server,
            listener,
            fates: Vec::new(),
        }
    }

    pub(crate) fn meet(&mut self) -> (Held, Held) {
        self.server.tell_accept(&self.listener, "");
        let (client, server) = (&mut self.client, &mut self.server);
        Exchange::default().meet(client, server, self.listener.local)
    }

    pub(crate) fn end(self) {
        fate::check(&self.stage.end(0, &[]), &self.fates);
    }
}

/// A client of the wire, connected.
pub(crate) fn meet_puppet<'wire>(
    wire: &'wire Wire,
    client: &mut Actor,
    port: u16,
) -> (Held, Puppet<'wire>) {
    let here = SocketAddrV4::new(Wire::host(1), port);
    let held = client.begin(here.into());
    let mut puppet = Puppet::called(wire, here);
    puppet.accept();
    client.finish(&held).unwrap();
    (held, puppet)
}

fn closed_in_peace() {
    let mut cast = Cast::new();
    let (near, far) = cast.meet();
    cast.client.close(&near);
    cast.server.act("eof", &far);
    cast.server.close(&far);
    let ends = [(&near, &cast.client.who), (&far, &cast.server.who)];
    let [near, far] = Fate::peace("by the client", ends);
    cast.fates
        .extend([near.because("close"), far.because("close")]);

    let (near, far) = cast.meet();
    cast.server.close(&far);
    cast.client.act("eof", &near);
    cast.client.close(&near);
    let ends = [(&far, &cast.server.who), (&near, &cast.client.who)];
    cast.fates.extend(Fate::peace("by the server", ends));

    let (near, far) = cast.meet();
    cast.client.act("shutdown", &near);
    cast.server.act("eof", &far);
    for _ in 0..3 {
        cast.server.act("send", &far);
        cast.client.act("receive", &near);
    }
    cast.server.close(&far);
    cast.client.act("eof", &near);
    cast.client.close(&near);
    let ends = [(&near, &cast.client.who), (&far, &cast.server.who)];
    let [near, far] = Fate::peace("half-closed", ends);
    cast.fates
        .extend([near.because("shutdown"), far.because("close")]);

    let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, 80);
    cast.client.close(&near);
    let fin = puppet.hear(FIN);
    puppet.unhear(&fin);
    puppet.say(FIN | ACK);
    puppet.hear(FIN);
    puppet.say(ACK);
    let who = &cast.client.who;
    let fate = Fate::of("by both at once", &near, who, "normal").by("both");
    cast.fates.push(fate.closer(who));
    cast.end();
}

/// More than the kernel's ticks need at 100 Hz.
const TEN_TICKS: Duration = Duration::from_millis(150);

fn resets() {
    let mut cast = Cast::new();
    let (near, far) = cast.meet();
    cast.client.act("linger", &near);
    cast.client.close(&near);
    assert_eq!(cast.server.act("error", &far), "ECONNRESET");
    cast.server.close(&far);
    let ends = [(&near, &cast.client.who), (&far, &cast.server.who)];
    let [near, far] = Fate::abort("linger for no time", ends);
    cast.fates
        .extend([near.cause("linger"), far.without_cause()]);

    let (near, far) = cast.meet();
    cast.client.act("send", &near);
    cast.server.act("readable", &far);
    cast.server.close(&far);
    assert_eq!(cast.client.act("error", &near), "ECONNRESET");
    cast.client.close(&near);
    let ends = [(&far, &cast.server.who), (&near, &cast.client.who)];
    let [near, far] = Fate::abort("unread data", ends);
    cast.fates
        .extend([near.cause("unread_data"), far.without_cause()]);

    let (near, far) = cast.meet();
    cast.client.act("disconnect", &near);
    assert_eq!(cast.server.act("error", &far), "ECONNRESET");
    cast.server.close(&far);
    cast.client.close(&near);
    let ends = [(&near, &cast.client.who), (&far, &cast.server.who)];
    let [near, far] = Fate::abort("disconnected", ends);
    cast.fates
        .extend([near.cause("disconnect"), far.without_cause()]);

    let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, 80);
    puppet.say(RST | ACK);
    assert_eq!(cast.client.act("error", &near), "ECONNRESET");
    cast.client.close(&near);
    let fate = Fate::of("by the peer", &near, &cast.client.who, "reset_received");
    cast.fates.push(fate.by("remote").errno("ECONNRESET"));

    // The peer's FIN says it will send no more; its reset, that it will not listen either.
    let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, 81);
    puppet.say(FIN | ACK);
    cast.client.act("eof", &near);
    puppet.say(RST | ACK);
    cast.stage.netns.settle(0);
    cast.client.close(&near);
    let fate = Fate::of("after its FIN", &near, &cast.client.who, "reset_received");
    cast.fates.push(fate.by("remote").errno("EPIPE"));

    // What comes after our close() may have been data, which we answer with a reset.
    let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, 82);
    cast.client.close(&near);
    puppet.say_with(ACK, &[], b"too late");
    puppet.hear(RST);
    let fate = Fate::of(
        "data after close()",
        &near,
        &cast.client.who,
        "reset_received",
    );
    let fate = fate.by("local").errno("ECONNRESET").inferred(true);
    cast.fates.push(fate.closer(&cast.client.who));

    // It was none if no ACK was taken for ten ticks.
    let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, 83);
    cast.client.close(&near);
    thread::sleep(TEN_TICKS);
    puppet.say(RST | ACK);
    cast.stage.netns.settle(0);
    let fate = Fate::of(
        "a reset after close()",
        &near,
        &cast.client.who,
        "reset_received",
    );
    let fate = fate.by("remote").errno("ECONNRESET").inferred(false);
    cast.fates.push(fate.closer(&cast.client.who));
    cast.end();
}

/// The kernel closes for a process that is no more; the connection and its closing are still the
/// process's.
fn killed() {
    let mut cast = Cast::new();
    for unread in [false, true] {
        let mut victim = Actor::spawn(&cast.stage.netns, "client victim");
        cast.server.tell_accept(&cast.listener, "");
        let exchange = Exchange::default();
        let (near, far) = exchange.meet(&mut victim, &mut cast.server, cast.listener.local);
        if unread {
            cast.server.act("send", &far);
            victim.act("readable", &near);
        }
        let who = victim.who.clone();
        victim.kill();
        end_met(&mut cast.server, &far, unread);
        let ends = [(&near, &who), (&far, &cast.server.who)];
        let [near, far] = if unread {
            Fate::abort("client, data unread", ends)
        } else {
            Fate::peace("client", ends)
        };
        cast.fates.extend([near.killed_by("SIGKILL"), far]);
    }
    for unread in [false, true] {
        let mut victim = Actor::spawn(&cast.stage.netns, "server victim");
        let listener = victim.listen(cast.stage.netns.addr(Ip::V4, 0), "");
        victim.tell_accept(&listener, "");
        let exchange = Exchange::default();
        let (near, far) = exchange.meet(&mut cast.client, &mut victim, listener.local);
        if unread {
            cast.client.act("send", &near);
            victim.act("readable", &far);
        }
        let who = victim.who.clone();
        victim.kill();
        end_met(&mut cast.client, &near, unread);
        let ends = [(&far, &who), (&near, &cast.client.who)];
        let [near, far] = if unread {
            Fate::abort("server, data unread", ends)
        } else {
            Fate::peace("server", ends)
        };
        cast.fates.extend([near.killed_by("SIGKILL"), far]);
    }
    cast.end();
}

/// A process that exits closes what it holds, and so does one that a signal ends.
fn exited() {
    let mut cast = Cast::new();
    for unread in [false, true] {
        let mut leaver = Actor::spawn(&cast.stage.netns, "leaver");
        cast.server.tell_accept(&cast.listener, "");
        let exchange = Exchange::default();
        let (near, far) = exchange.meet(&mut leaver, &mut cast.server, cast.listener.local);
        if unread {
            cast.server.act("send", &far);
            leaver.act("readable", &near);
        }
        let who = leaver.who.clone();
        leaver.exit();
        end_met(&mut cast.server, &far, unread);
        let ends = [(&near, &who), (&far, &cast.server.who)];
        let [near, far] = if unread {
            let [near, far] = Fate::abort("exited, data unread", ends);
            [near.cause("unread_data"), far]
        } else {
            Fate::peace("exited", ends)
        };
        cast.fates.extend([near.because("exit"), far]);
    }
    let mut victim = Actor::spawn(&cast.stage.netns, "victim");
    cast.server.tell_accept(&cast.listener, "");
    let exchange = Exchange::default();
    let (near, far) = exchange.meet(&mut victim, &mut cast.server, cast.listener.local);
    let who = victim.who.clone();
    victim.signal(Signal::ABORT);
    end_met(&mut cast.server, &far, false);
    let ends = [(&near, &who), (&far, &cast.server.who)];
    let [near, far] = Fate::peace("crashed", ends);
    cast.fates.extend([near.killed_by("SIGABRT"), far]);
    cast.end();
}

/// Meets the end that the peer has made, and closes.
fn end_met(actor: &mut Actor, held: &Held, reset: bool) {
    if reset {
        assert_eq!(actor.act("error", held), "ECONNRESET");
    } else {
        actor.act("eof", held);
    }
    actor.close(held);
}

fn never_established() {
    const HOST_UNREACHABLE: (u8, u8) = (3, 1);
    const PORT_UNREACHABLE: (u8, u8) = (3, 3);

    let mut cast = Cast::new();
    cast.stage.netns.set("tcp_syn_retries", "1");
    let here = |port| SocketAddrV4::new(Wire::host(1), port);
    let unanswered = cast.client.begin(here(80).into());
    let begun = Instant::now();

    let held = cast.client.begin(here(81).into());
    let mut puppet = Puppet::called(&cast.wire, here(81));
    puppet.say(RST | ACK);
    assert_eq!(cast.client.finish(&held), Err("ECONNREFUSED".to_owned()));
    let fate = Fate::of("refused", &held, &cast.client.who, "refused");
    cast.fates.push(fate.by("remote").errno("ECONNREFUSED"));

    let errors = [
        (82, HOST_UNREACHABLE, "unreachable", "EHOSTUNREACH", None),
        (
            83,
            PORT_UNREACHABLE,
            "refused",
            "ECONNREFUSED",
            Some("remote"),
        ),
    ];
    for (port, (kind, code), reason, errno, by) in errors {
        let held = cast.client.begin(here(port).into());
        let syn = cast.wire.hear("SYN", |segment| segment.to == here(port));
        cast.wire.complain(kind, code, &syn);
        assert_eq!(cast.client.finish(&held), Err(errno.to_owned()));
        let fate = Fate::of("ICMP error", &held, &cast.client.who, reason).errno(errno);
        cast.fates.push(match by {
            Some(by) => fate.by(by),
            None => fate,
        });
    }

    let held = cast.client.begin(here(84).into());
    cast.client.close(&held);
    let who = &cast.client.who;
    let fate = Fate::of("closed before", &held, who, "canceled");
    cast.fates.push(fate.by("local").closer(who));

    let held = cast.client.begin(here(85).into());
    cast.client.act("disconnect", &held);
    cast.client.close(&held);
    let who = &cast.client.who;
    let fate = Fate::of("disconnected before", &held, who, "canceled");
    cast.fates.push(fate.by("local").closer(who));

    let mut victim = Actor::spawn(&cast.stage.netns, "victim");
    let held = victim.begin(here(86).into());
    let who = victim.who.clone();
    victim.kill();
    let fate = Fate::of("killed before", &held, &who, "canceled");
    cast.fates.push(fate.by("local").closer(&who));

    let result = cast.client.finish(&unanswered);
    assert_eq!(result, Err("ETIMEDOUT".to_owned()));
    assert!(begun.elapsed() > Duration::from_secs(1));
    let fate = Fate::of("unanswered", &unanswered, &cast.client.who, "timeout");
    cast.fates.push(fate.errno("ETIMEDOUT"));

    let to = here(80);
    let syns = cast.wire.count(|segment| segment.to == to) as u64;
    assert!(syns > 1);
    let told = cast.stage.end(0, &[]);
    fate::check(&told, &cast.fates);
    let ours = told.ours();
    for close in ours.iter().filter(|record| record.event() == "close") {
        // How often the kernel tries again is not quite what it was asked for.
        let expected = if close.is_of(&unanswered) {
            syns - 1
        } else {
            0
        };
        assert_eq!(
            close.int("syn_retransmits"),
            Some(expected),
            "{}",
            close.line
        );
    }
}

/// The kernel refuses before the socket has left `CLOSE`: there is no connection.
/// Nobody answers, and the process has waited until its SYN was sent again.
fn gave_up() {
    let mut cast = Cast::new();
    let here = |port| SocketAddrV4::new(Wire::host(1), port);
    for (how, port) in [("close", 80), ("disconnect", 81)] {
        let held = cast.client.begin(here(port).into());
        wait::poll(Duration::from_secs(5), || {
            let syns = cast.wire.count(|segment| segment.to == here(port));
            (syns > 1).then_some(())
        });
        if how == "disconnect" {
            cast.client.act("disconnect", &held);
        }
        cast.client.close(&held);
        let who = &cast.client.who;
        let fate = Fate::of(how, &held, who, "gave_up").by("local");
        cast.fates.push(fate.closer(who));
    }
    cast.end();
}

fn no_route() {
    let mut cast = Cast::new();
    let nowhere: SocketAddr = "198.51.100.1:80".parse().unwrap();
    cast.client.tell(&format!("connect {nowhere}"));
    assert_eq!(cast.client.result(), Err("ENETUNREACH".to_owned()));
    let (near, far) = cast.meet();
    cast.client.close(&near);
    cast.server.act("eof", &far);
    cast.server.close(&far);
    cast.end();
}

fn listener_closed() {
    let mut cast = Cast::new();
    let clients: Vec<_> = (0..2)
        .map(|_| cast.client.connect(cast.listener.local, ""))
        .collect();
    await_queue(&cast.stage.netns, &cast.listener, 2);
    cast.server.unlisten(&cast.listener);
    for client in &clients {
        assert_eq!(cast.client.act("error", client), "ECONNRESET");
        cast.client.close(client);
        let fate = Fate::waiting("in the queue", client, "listener_closed");
        let pid = cast.server.who.pid;
        cast.fates.push(fate.by("local").closer_if_named(pid));
        let fate = Fate::of("its client", client, &cast.client.who, "reset_received");
        cast.fates.push(fate.by("remote").errno("ECONNRESET"));
    }
    cast.end();
}

/// Until so many connections wait in the accept queue.
pub(crate) fn await_queue(netns: &Netns, listener: &Listener, count: u64) {
    let mut last = Vec::new();
    let reached = wait::poll(Duration::from_secs(10), || {
        last = netns.table();
        let listening = last
            .iter()
            .find(|entry| entry.state == "LISTEN" && entry.local == listener.local)?;
        (listening.unread == count).then_some(())
    });
    assert!(
        reached.is_some(),
        "{count} connections should wait: {last:#?}"
    );
}

/// The kernel lets one more in than the backlog says, and drops the SYNs of the others.
fn full_accept_queue() {
    let mut cast = Cast::new();
    let addr = cast.stage.netns.addr(Ip::V4, 0);
    let listener = cast.server.listen(addr, "backlog=1");
    let clients: Vec<_> = (0..10).map(|_| cast.client.begin(listener.local)).collect();
    await_queue(&cast.stage.netns, &listener, 2);
    let established = |netns: &Netns, local: SocketAddr| {
        netns
            .table()
            .iter()
            .any(|entry| entry.state == "ESTABLISHED" && entry.local == local)
    };
    let (inside, outside): (Vec<_>, Vec<_>) = clients
        .into_iter()
        .partition(|client| established(&cast.stage.netns, client.local));
    assert_eq!((inside.len(), outside.len()), (2, 8));
    for client in &outside {
        cast.client.close(client);
        let fate = Fate::of("outside", client, &cast.client.who, "canceled");
        let fate = fate.or("gave_up").by("local").closer(&cast.client.who);
        cast.fates.push(fate);
    }
    for client in &inside {
        let far = cast.server.accept(&listener);
        assert_eq!(far.remote, client.local);
        cast.client.close(client);
        cast.server.act("eof", &far);
        cast.server.close(&far);
        let ends = [(client, &cast.client.who), (&far, &cast.server.who)];
        cast.fates.extend(Fate::peace("inside", ends));
    }
    let told = cast.stage.end(0, &[]);
    fate::check(&told, &cast.fates);
    let depths: Vec<_> = told
        .ours()
        .into_iter()
        .filter(|record| record.event() == "accept")
        .map(|accept| (accept.int("backlog"), accept.int("backlog_max")))
        .collect();
    assert_eq!(depths, [(Some(1), Some(1)), (Some(0), Some(1))]);
}

/// Nothing comes any more, not even a reset.
fn vanished_peer() {
    let mut cast = Cast::new();
    let (user, mut user_puppet) = meet_puppet(&cast.wire, &mut cast.client, 80);
    let (keep, _puppet) = meet_puppet(&cast.wire, &mut cast.client, 81);
    cast.client.set(&user, "user-timeout-ms", 500);
    cast.client.set(&keep, "keepalive", 1);
    cast.client.act("send", &user);
    user_puppet.hear_data();
    for (scene, held) in [("user timeout", &user), ("keepalive", &keep)] {
        assert_eq!(cast.client.act("error", held), "ETIMEDOUT");
        cast.client.close(held);
        let fate = Fate::of(scene, held, &cast.client.who, "timeout");
        cast.fates.push(fate.errno("ETIMEDOUT"));
    }
    cast.end();
}

fn fast_open() {
    let mut cast = Cast::new();
    // Both sides, without a cookie, and for every listener to come
    // (Documentation/networking/ip-sysctl).
    cast.stage.netns.set("tcp_fastopen", "1543");
    let addr = cast.stage.netns.addr(Ip::V4, 0);
    cast.listener = cast.server.listen(addr, "");
    cast.server.tell_accept(&cast.listener, "");
    let near = cast.client.connect(cast.listener.local, "fastopen");
    let far = cast.server.held();
    cast.server.act("receive", &far);
    cast.client.close(&near);
    cast.server.act("eof", &far);
    cast.server.close(&far);
    let ends = [(&near, &cast.client.who), (&far, &cast.server.who)];
    cast.fates.extend(Fate::peace("Fast Open", ends));
    let told = cast.stage.end(0, &[]);
    fate::check(&told, &cast.fates);
    for held in [&near, &far] {
        let ours = told.ours();
        let close = ours
            .iter()
            .find(|record| record.event() == "close" && record.is_of(held))
            .unwrap();
        let options = close.get("options").and_then(serde_json::Value::as_array);
        assert!(
            options.is_some_and(|options| options.iter().any(|option| option == "fastopen")),
            "options: {}",
            close.line
        );
    }
}

fn simultaneous_open() {
    let mut cast = Cast::new();
    // A socket that connects to itself.
    let free = cast.client.listen(cast.stage.netns.addr(Ip::V4, 0), "");
    cast.client.unlisten(&free);
    let own = cast
        .client
        .connect(free.local, &format!("from {}", free.local));
    assert_eq!(own.local, own.remote);
    cast.client.act("shutdown", &own);
    cast.client.act("eof", &own);
    cast.client.close(&own);
    let who = &cast.client.who;
    let fate = Fate::of("to itself", &own, who, "normal").by("both");
    cast.fates.push(fate.closer(who));

    let here = SocketAddrV4::new(Wire::host(1), 80);
    let held = cast.client.begin(here.into());
    let mut puppet = Puppet::called(&cast.wire, here);
    puppet.say(SYN);
    puppet.hear_again(SYN | ACK);
    // Without its SYN once more, which kernels before 6.12 throw away.
    puppet.say(ACK);
    cast.client.finish(&held).unwrap();
    puppet.say(FIN | ACK);
    cast.client.act("eof", &held);
    cast.client.close(&held);
    puppet.hear(FIN);
    puppet.say(ACK);
    let who = &cast.client.who;
    let fate = Fate::of("crossing SYNs", &held, who, "normal").by("remote");
    cast.fates.push(fate.closer(who));
    cast.end();
}

/// The time that a request is half-open is the client's to take.
fn slow_handshake() {
    const DELAY: Duration = Duration::from_millis(120);

    let mut cast = Cast::new();
    let here = |port| SocketAddrV4::new(Wire::host(1), port);
    // This one hears the SYN-ACK twice before it answers.
    let called = Instant::now();
    let mut patient = Puppet::calling(&cast.wire, here(1000), cast.listener.local);
    patient.call();
    let asked = Instant::now();
    let mut puppet = Puppet::calling(&cast.wire, here(1001), cast.listener.local);
    puppet.call();
    wait::poll(DELAY * 2, || (asked.elapsed() >= DELAY).then_some(()));
    puppet.say(ACK);
    let delays = asked.elapsed();
    let far = cast.server.accept(&cast.listener);
    patient.hear_again(SYN | ACK);
    patient.say(ACK);
    let patience = called.elapsed();
    let late = cast.server.accept(&cast.listener);
    for (far, mut puppet) in [(&far, puppet), (&late, patient)] {
        cast.server.close(far);
        puppet.hear(FIN);
        puppet.say(FIN | ACK);
        puppet.hear(ACK);
        let who = &cast.server.who;
        let fate = Fate::of("slow client", far, who, "normal").by("local");
        cast.fates.push(fate.closer(who));
    }
    // Half-open requests that came to nothing are no connections.
    let mut gone = Puppet::calling(&cast.wire, here(1002), cast.listener.local);
    gone.call();
    gone.say(RST);

    let told = cast.stage.end(0, &[]);
    fate::check(&told, &cast.fates);
    for (held, half_open, retransmits) in [(&far, delays, 0), (&late, patience, 1)] {
        let ours = told.ours();
        let close = ours
            .iter()
            .find(|record| record.event() == "close" && record.is_of(held))
            .unwrap();
        let half_open_us = u64::try_from(half_open.as_micros()).unwrap();
        let told_us = close.int("handshake_us").unwrap_or(0);
        assert!(
            told_us.abs_diff(half_open_us) <= CLOCK_TOLERANCE_US,
            "half-open for {half_open_us} us: {}",
            close.line
        );
        assert_eq!(
            close.int("syn_retransmits").unwrap_or(0),
            retransmits,
            "{}",
            close.line
        );
    }
}

/// What `ss -K` does.
fn destroyed() -> Outcome {
    let mut cast = Cast::new();
    let (near, far) = cast.meet();
    if !cast.stage.netns.inside(sock_diag::is_there).unwrap() {
        return Err(Impossible("the kernel has no tcp_diag".to_owned()));
    }
    match cast
        .stage
        .netns
        .inside(|| sock_diag::destroy(near.local, near.remote))
    {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Err(Impossible(
                "the kernel cannot destroy sockets: CONFIG_INET_DIAG_DESTROY is off".to_owned(),
            ));
        }
        Err(error) => panic!("SOCK_DESTROY: {error}"),
    }
    assert_eq!(cast.client.act("error", &near), "ECONNABORTED");
    assert_eq!(cast.server.act("error", &far), "ECONNRESET");
    cast.client.close(&near);
    cast.server.close(&far);
    let fate = Fate::of("destroyed", &near, &cast.client.who, "reset_sent");
    let fate = fate.by("local").errno("ECONNABORTED").cause("destroyed");
    cast.fates.push(fate.closer_if_named(std::process::id()));
    let fate = Fate::of("its peer", &far, &cast.server.who, "reset_received");
    cast.fates.push(fate.by("remote").errno("ECONNRESET"));
    cast.end();
    Ok(())
}
