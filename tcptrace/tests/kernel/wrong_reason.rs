//! Endings that look like others: what the kernel's error says, or a segment that ended nothing, is
//! not always why a connection ended.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, Shutdown, SocketType},
};

use crate::{
    actor::{Held, Who},
    fate::Fate,
    harness::{Impossible, Outcome, Test, beside},
    netns::{Ip, Netns},
    reasons::{Cast, await_queue, meet_puppet},
    sock_diag,
    timewait::await_state,
    wire::{ACK, FIN, Puppet, RST, SYN, Wire},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(aborted_after_shutdown).smoke(),
    beside!(pending_error_and_peace).smoke(),
    beside!(pending_error_and_abort).smoke(),
    beside!(outlived_reset_of_crossing_syns).smoke(),
    beside!(outlived_reset_of_fast_open).smoke(),
    beside!(error_of_a_former_life).smoke(),
    beside!(every_icmp_error).smoke(),
    beside!(destroyed_after_close).smoke(),
    beside!(shut_down_before_connect).smoke(),
    beside!(fast_open_child_of_a_closed_listener).smoke(),
    beside!(destroyed_listener).smoke(),
];

/// This process, which makes some sockets by itself.
fn myself() -> Who {
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    Who {
        pid: std::process::id(),
        comm: comm.trim_end().to_owned(),
        uid: 0,
    }
}

/// Makes the puppet say a segment with a wrong acknowledgment number, and hears the RST that it is
/// answered with.
fn say_wrong_ack(wire: &Wire, puppet: &mut Puppet<'_>, held_port: u16, here: SocketAddrV4) {
    let wrong = puppet.wanted().wrapping_add(77);
    let right = puppet.want(wrong);
    puppet.say(ACK);
    puppet.want(right);
    wire.hear("RST", |segment| {
        segment.to == here
            && segment.from.port() == held_port
            && segment.flags & RST != 0
            && segment.seq == wrong
    });
}

/// After `shutdown()` the kernel aborts by the same ways as before it.
fn aborted_after_shutdown() {
    let mut cast = Cast::new();
    // The peer acknowledges our FIN or does not; by then the socket is in one state or the other.
    for (acknowledged, port) in [(true, 80), (false, 90)] {
        for (how, port) in [
            ("unread", port),
            ("linger", port + 1),
            ("disconnect", port + 2),
        ] {
            let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, port);
            if how == "unread" {
                puppet.say_with(ACK, &[], b"x");
                cast.client.act("readable", &near);
                puppet.hear(ACK);
            }
            cast.client.act("shutdown", &near);
            puppet.hear(FIN);
            if acknowledged {
                puppet.say(ACK);
                await_state(&cast.stage.netns, &near, Some("FIN_WAIT2"));
            }
            match how {
                "unread" => cast.client.close(&near),
                "linger" => {
                    cast.client.act("linger", &near);
                    cast.client.close(&near);
                }
                _ => {
                    cast.client.act("disconnect", &near);
                    cast.client.close(&near);
                }
            }
            puppet.hear(RST);
            let who = &cast.client.who;
            let fate = Fate::of(how, &near, who, "reset_sent").because("shutdown");
            let fate = fate.cause(if how == "unread" { "unread_data" } else { how });
            cast.fates.push(fate.by("local").closer(who));
        }
    }
    cast.end();
}

const HOST_UNREACHABLE: (u8, u8) = (3, 1);
const PORT_UNREACHABLE: (u8, u8) = (3, 3);

/// An ICMP error that nobody reads stays with the socket, which goes on.
fn pending_error_and_peace() {
    let mut cast = Cast::new();
    for (error, port) in [(HOST_UNREACHABLE, 80), (PORT_UNREACHABLE, 90)] {
        for first in ["client", "puppet"] {
            let port = port + u16::from(first == "puppet");
            let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, port);
            cast.client.act("recverr", &near);
            cast.client.act("send", &near);
            let data = puppet.hear_data();
            cast.wire.complain(error.0, error.1, &data);
            cast.client.act("failed", &near);
            puppet.say(ACK);
            let who = &cast.client.who.clone();
            if first == "client" {
                cast.client.close(&near);
                puppet.hear(FIN);
                puppet.say(FIN | ACK);
                puppet.hear(ACK);
                let fate = Fate::of("first ours", &near, who, "normal").by("local");
                cast.fates.push(fate.closer(who));
            } else {
                puppet.say(FIN | ACK);
                await_state(&cast.stage.netns, &near, Some("CLOSE_WAIT"));
                cast.client.close(&near);
                puppet.hear(FIN);
                puppet.say(ACK);
                let fate = Fate::of("first theirs", &near, who, "normal").by("remote");
                cast.fates.push(fate.closer(who));
            }
        }
    }
    cast.end();
}

/// The same, and then our side breaks it off.
fn pending_error_and_abort() {
    let mut cast = Cast::new();
    for (how, port) in [("linger", 80), ("disconnect", 81)] {
        let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, port);
        cast.client.act("recverr", &near);
        cast.client.act("send", &near);
        let data = puppet.hear_data();
        cast.wire
            .complain(HOST_UNREACHABLE.0, HOST_UNREACHABLE.1, &data);
        cast.client.act("failed", &near);
        cast.client.act(how, &near);
        cast.client.close(&near);
        puppet.hear(RST);
        let who = &cast.client.who;
        let fate = Fate::of(how, &near, who, "reset_sent").by("local");
        cast.fates.push(fate.closer(who));
    }
    cast.end();
}

/// In `SYN_RECV` a wrong acknowledgment is answered with an RST, and the connection goes on.
fn outlived_reset_of_crossing_syns() {
    let mut cast = Cast::new();
    let here = SocketAddrV4::new(Wire::host(1), 80);
    let held = cast.client.begin(here.into());
    let mut puppet = Puppet::called(&cast.wire, here);
    puppet.say(SYN);
    puppet.hear_again(SYN | ACK);
    say_wrong_ack(&cast.wire, &mut puppet, held.local.port(), here);
    puppet.say(ACK);
    cast.client.finish(&held).unwrap();
    cast.client.close(&held);
    puppet.hear(FIN);
    puppet.say(FIN | ACK);
    puppet.hear(ACK);
    let who = &cast.client.who;
    let fate = Fate::of("crossing SYNs", &held, who, "normal").by("local");
    cast.fates.push(fate.closer(who));
    cast.end();
}

fn outlived_reset_of_fast_open() {
    let mut cast = Cast::new();
    cast.stage.netns.set("tcp_fastopen", "1543");
    let listener = cast.server.listen(cast.stage.netns.addr(Ip::V4, 0), "");
    let here = SocketAddrV4::new(Wire::host(1), 1000);
    let mut caller = Puppet::calling(&cast.wire, here, listener.local);
    caller.call_with(b"x");
    let far = cast.server.accept(&listener);
    say_wrong_ack(&cast.wire, &mut caller, far.local.port(), here);
    caller.say(ACK);
    await_state(&cast.stage.netns, &far, Some("ESTABLISHED"));
    cast.server.act("receive", &far);
    cast.server.close(&far);
    caller.hear(FIN);
    caller.say(FIN | ACK);
    caller.hear(ACK);
    let who = &cast.server.who;
    let fate = Fate::of("Fast Open", &far, who, "normal").by("local");
    cast.fates.push(fate.closer(who));
    cast.end();
}

/// The kernel clears a socket's error only when it sends the next SYN.
fn error_of_a_former_life() {
    let cast = Cast::new();
    let addr = cast.stage.netns.addr(Ip::V4, 0);
    let (near, remote) = cast.stage.netns.inside(|| {
        let socket = || rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let listener = socket();
        rustix::net::bind(&listener, &addr).unwrap();
        rustix::net::listen(&listener, 2).unwrap();
        let local = |socket: &OwnedFd| {
            SocketAddr::try_from(rustix::net::getsockname(socket).unwrap()).unwrap()
        };
        let addr = local(&listener);
        let other = socket();
        rustix::net::connect(&other, &addr).unwrap();
        let again = socket();
        rustix::net::connect(&again, &addr).unwrap();
        rustix::net::connect_unspec(&again).unwrap();
        let port = local(&other).port();
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        let before = fs::read_to_string(range).unwrap();
        fs::write(range, format!("{port} {port}")).unwrap();
        let without = rustix::net::connect(&again, &addr);
        assert_eq!(without.unwrap_err(), Errno::ADDRNOTAVAIL);
        fs::write(range, before).unwrap();
        drop((other, listener, again));
        (SocketAddr::new(addr.ip(), 0), addr)
    });
    let told = cast.stage.end(0, &[]);
    let ours = told.ours();
    let closes: Vec<_> = ours
        .iter()
        .filter(|it| it.event() == "close" && it.remote() == Some(remote))
        .filter(|it| it.int("lport").is_none())
        .collect();
    let [close] = closes[..] else {
        panic!("{near} -> {remote}: {closes:#?}");
    };
    assert_eq!(
        close.int("pid"),
        Some(myself().pid.into()),
        "{}",
        close.line
    );
    let said = ["reason", "closed_by", "errno"].map(|key| close.text(key));
    assert_eq!(said, [Some("unknown"), None, None], "{}", close.line);
}

/// The kernel turns each kind of ICMP error into an errno (`icmp_err_convert`).
fn every_icmp_error() {
    const ERRORS: &[(u8, u8, &str, &str)] = &[
        (3, 0, "ENETUNREACH", "unreachable"),
        (3, 1, "EHOSTUNREACH", "unreachable"),
        (3, 2, "ENOPROTOOPT", "unreachable"),
        (3, 3, "ECONNREFUSED", "refused"),
        (3, 5, "EOPNOTSUPP", "unreachable"),
        (3, 6, "ENETUNREACH", "unreachable"),
        (3, 7, "EHOSTDOWN", "unreachable"),
        (3, 8, "ENONET", "unreachable"),
        (3, 9, "ENETUNREACH", "unreachable"),
        (3, 10, "EHOSTUNREACH", "unreachable"),
        (3, 13, "EHOSTUNREACH", "unreachable"),
        (11, 0, "EHOSTUNREACH", "unreachable"),
        (12, 0, "EPROTO", "unreachable"),
    ];
    let mut cast = Cast::new();
    for (port, (kind, code, errno, reason)) in (80..).zip(ERRORS) {
        let here = SocketAddrV4::new(Wire::host(1), port);
        let held = cast.client.begin(here.into());
        let syn = cast.wire.hear("SYN", |segment| segment.to == here);
        cast.wire.complain(*kind, *code, &syn);
        assert!(cast.client.finish(&held).is_err());
        let fate = Fate::of("ICMP error", &held, &cast.client.who, reason).errno(errno);
        cast.fates.push(match *reason {
            "refused" => fate.by("remote"),
            _ => fate,
        });
    }
    cast.end();
}

fn need_destroy(netns: &Netns, near: &Held) -> Outcome {
    if !netns.inside(sock_diag::is_there).unwrap() {
        return Err(Impossible("the kernel has no tcp_diag".to_owned()));
    }
    match netns.inside(|| sock_diag::destroy(near.local, near.remote)) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(Impossible(
            "the kernel cannot destroy sockets: CONFIG_INET_DIAG_DESTROY is off".to_owned(),
        )),
        Err(error) => panic!("SOCK_DESTROY: {error}"),
    }
}

/// `ss -K` of what waits for the peer's FIN: no segment comes or goes.
fn destroyed_after_close() -> Outcome {
    let mut cast = Cast::new();
    let (near, mut puppet) = meet_puppet(&cast.wire, &mut cast.client, 80);
    cast.client.close(&near);
    puppet.hear(FIN);
    puppet.say(ACK);
    await_state(&cast.stage.netns, &near, Some("FIN_WAIT2"));
    need_destroy(&cast.stage.netns, &near)?;
    let who = &cast.client.who;
    let fate = Fate::of("destroyed", &near, who, "unknown").by("local");
    cast.fates.push(fate.closer(who));
    cast.end();
    Ok(())
}

/// `shutdown()` of a socket that is not connected yet says that it is not, and is remembered.
fn shut_down_before_connect() {
    let mut cast = Cast::new();
    let addr = cast.stage.netns.addr(Ip::V4, 0);
    let (near, remote) = cast.stage.netns.inside(|| {
        let socket = || rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let unlistened = socket();
        rustix::net::bind(&unlistened, &addr).unwrap();
        let addr = SocketAddr::try_from(rustix::net::getsockname(&unlistened).unwrap()).unwrap();
        let refused = socket();
        let bound = SocketAddr::new(addr.ip(), 0);
        rustix::net::bind(&refused, &bound).unwrap();
        let near = SocketAddr::try_from(rustix::net::getsockname(&refused).unwrap()).unwrap();
        let early = rustix::net::shutdown(&refused, Shutdown::Both);
        assert_eq!(early.unwrap_err(), Errno::NOTCONN);
        let error = rustix::net::connect(&refused, &addr);
        assert_eq!(error.unwrap_err(), Errno::CONNREFUSED);
        (near, addr)
    });
    let fate = Fate::between("refused", near, remote, &myself(), "refused");
    cast.fates.push(fate.by("remote").errno("ECONNREFUSED"));
    cast.end();
}

/// With Fast Open a connection waits in the queue before its handshake is complete.
fn fast_open_child_of_a_closed_listener() {
    let mut cast = Cast::new();
    cast.stage.netns.set("tcp_fastopen", "1543");
    let listener = cast.server.listen(cast.stage.netns.addr(Ip::V4, 0), "");
    let here = SocketAddrV4::new(Wire::host(1), 1000);
    let mut caller = Puppet::calling(&cast.wire, here, listener.local);
    caller.call_with(b"x");
    await_queue(&cast.stage.netns, &listener, 1);
    cast.server.unlisten(&listener);
    let pid = cast.server.who.pid;
    let server = cast.server.who.clone();
    let fate = Fate::between(
        "in the queue",
        listener.local,
        here.into(),
        &server,
        "listener_closed",
    );
    cast.fates.push(fate.by("local").closer_if_named(pid));
    cast.end();
}

/// `ss -K` of a listener makes the kernel report `CLOSE` to `CLOSE` besides, which is no change.
fn destroyed_listener() -> Outcome {
    let mut cast = Cast::new();
    let (near, far) = cast.meet();
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let listening = Held::at(cast.listener.local, nobody);
    need_destroy(&cast.stage.netns, &listening)?;
    cast.client.close(&near);
    cast.server.act("eof", &far);
    cast.server.close(&far);
    let ends = [(&near, &cast.client.who), (&far, &cast.server.who)];
    cast.fates.extend(Fate::peace("after it", ends));
    cast.end();
    Ok(())
}
