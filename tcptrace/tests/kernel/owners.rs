//! Every way to open a connection, and whose it is then.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, ipproto},
};

use crate::{
    actor::{Actor, Listener, Who},
    check::{self, Pair},
    harness::{Impossible, Outcome, Test, beside},
    netns::{Ip, Netns},
    peer::First,
    record::{self, Record},
    stage::{Exchange, Stage, Told, part},
};

pub(crate) const TESTS: &[Test] = &[
    beside!(server_blocked_in_accept_before_start).smoke(),
    beside!(prefork_workers).smoke(),
    beside!(reuseport),
    beside!(threads),
    beside!(nonblocking_connect).smoke(),
    beside!(refused_connect).smoke(),
    beside!(socket_used_again).smoke(),
    beside!(fast_open).smoke(),
    beside!(io_uring_connect).smoke(),
    beside!(no_port_left).smoke(),
    beside!(mptcp_subflow_by_another).smoke(),
    beside!(io_uring_accept).smoke(),
    beside!(never_accepted).smoke(),
];

/// A client and a server that listens.
fn company(netns: &Netns) -> (Actor, Actor, Listener, SocketAddr) {
    let client = Actor::spawn(netns, "client");
    let mut server = Actor::spawn(netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let addr = listener.local;
    (client, server, listener, addr)
}

fn server_blocked_in_accept_before_start() {
    let netns = Netns::new();
    let (mut client, mut server, listener, addr) = company(&netns);
    server.tell_accept(&listener, "");
    server.await_blocked_in_accept();

    let stage = Stage::over(netns, &["--no-existing"]);
    let exchange = Exchange::default();
    let (near, far) = exchange.meet(&mut client, &mut server, addr);
    part(&mut client, &near, &mut server, &far, First::Client);
    let mut pair = Pair::new(&near, &client.who, &far, &server.who);
    let told = stage.end(0, &[]);
    if !check::sees_blocked_accept(told.records.start()) {
        pair.acceptor = None;
    }
    told.check(&[pair], &[]);
}

fn prefork_workers() {
    let stage = Stage::open(&[]);
    let (mut client, mut parent, listener, addr) = company(&stage.netns);
    let mut workers = [parent.fork(), parent.fork()];
    for (worker, comm) in workers.iter_mut().zip(["worker one", "worker two"]) {
        worker.rename(comm.as_bytes());
        worker.who.comm = comm.to_owned();
    }

    let mut pairs = Vec::new();
    // Both wait in accept(); which one gets the connection is the kernel's choice.
    for worker in &mut workers {
        worker.tell_serve_until_dismissed(&listener, First::Server);
    }
    client.tell_dial(addr, 40, First::Server);
    let mut dialed = client.clients();
    for _ in &workers {
        dialed.extend(client.dismiss(addr, First::Server));
    }
    for worker in &mut workers {
        for end in worker.clients() {
            let pair = Pair::dialed(end, addr, &client.who, &worker.who);
            pairs.push(pair.listened_by(&parent.who));
        }
    }
    assert_eq!(pairs.len(), dialed.len());
    // And in turns, so that it is known whose connection each one is.
    for turn in 0..20 {
        let worker = &mut workers[turn % 2];
        let exchange = Exchange::default();
        pairs.push(
            exchange
                .run(&mut client, worker, &listener, addr)
                .listened_by(&parent.who),
        );
    }

    stage.end(0, &[]).check(&pairs, &[(addr, &parent.who)]);
}

fn reuseport() {
    let stage = Stage::open(&[]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut servers = ["one", "two"].map(|comm| Actor::spawn(&stage.netns, comm));
    let one = servers[0].listen(stage.netns.addr(Ip::V6, 0), "reuseport");
    let two = servers[1].listen(one.local, "reuseport");
    let addr = one.local;
    let listeners = [one, two];
    for (server, listener) in servers.iter_mut().zip(&listeners) {
        server.tell_serve_until_told(listener, First::Client);
    }
    client.tell_dial(addr, 60, First::Client);
    let dialed = client.clients();
    let mut pairs = Vec::new();
    let mut shares = Vec::new();
    for server in &mut servers {
        let clients = server.stop_serving();
        shares.push(clients.len());
        pairs.extend(
            clients
                .into_iter()
                .map(|end| Pair::dialed(end, addr, &client.who, &server.who)),
        );
    }
    assert_eq!(pairs.len(), dialed.len());
    assert!(
        shares.iter().all(|share| *share > 0),
        "the kernel chose one server only: {shares:?}"
    );

    let told = stage.end(0, &[]);
    told.check(&pairs, &[]);
}

/// The connection is the process's: its name is the main thread's, not that of the thread that
/// made the call.
fn threads() {
    let stage = Stage::open(&[]);
    let (mut client, mut server, listener, addr) = company(&stage.netns);
    let exchange = Exchange {
        connect: "thread dialler",
        accept: "thread taker",
        ..Exchange::default()
    };
    let pairs: Vec<_> = (0..10)
        .map(|_| exchange.run(&mut client, &mut server, &listener, addr))
        .collect();
    stage.end(0, &[]).check(&pairs, &[(addr, &server.who)]);
}

fn nonblocking_connect() {
    let stage = Stage::open(&[]);
    let (mut client, mut server, listener, addr) = company(&stage.netns);
    let exchange = Exchange {
        connect: "nonblocking",
        first: First::Server,
        ..Exchange::default()
    };
    let pairs: Vec<_> = (0..10)
        .map(|_| exchange.run(&mut client, &mut server, &listener, addr))
        .collect();
    stage.end(0, &[]).check(&pairs, &[(addr, &server.who)]);
}

/// The kernel keeps the port of a socket's former life until the next one has its own.
fn socket_used_again() {
    let stage = Stage::open(&[]);
    let (mut client, mut server, listener, addr) = company(&stage.netns);
    let free = client.listen(stage.netns.addr(Ip::V4, 0), "");
    client.unlisten(&free);
    server.tell_accept(&listener, "");
    let near = client.connect(addr, &format!("after {}", free.local));
    let far = server.held();
    part(&mut client, &near, &mut server, &far, First::Client);

    let told = stage.end(0, &[]);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let life = |remote| -> Vec<&Record> {
        ours.iter()
            .copied()
            .filter(|record| record.role() == "client" && record.remote() == Some(remote))
            .collect()
    };
    let (first, second) = (life(free.local), life(near.remote));
    for lives in [&first, &second] {
        assert!(
            lives[0].is("transition", "SYN_SENT"),
            "{}",
            record::lines(lives)
        );
        for record in lives {
            check::names(record, "connect", &client.who, lives);
        }
    }
    assert!(
        second.iter().all(|record| record.is_of(&near)),
        "{}",
        record::lines(&second)
    );
    assert_ne!(first[0].local(), near.local, "{}", record::lines(&first));
}

fn refused_connect() {
    let stage = Stage::open(&[]);
    let mut client = Actor::spawn(&stage.netns, "refused");
    let addrs = [Ip::V4, Ip::V6, Ip::Mapped].map(|ip| {
        // A port that was free a moment ago, in a namespace nobody else is in.
        let listener = client.listen(stage.netns.addr(ip, 0), "");
        client.unlisten(&listener);
        stage.netns.addr(ip, listener.local.port())
    });
    for addr in addrs {
        for how in ["", "nonblocking", "thread other"] {
            client.tell(&format!("connect {addr} {how}"));
            assert_eq!(client.result(), Err("ECONNREFUSED".to_owned()));
        }
    }

    let told = stage.end(0, &[]);
    assert_eq!(told.records.lost(), 0);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let attempts: Vec<_> = ours
        .iter()
        .copied()
        .filter(|record| record.role() != "listener")
        .collect();
    for record in &attempts {
        assert_eq!(record.role(), "client", "{}", record.line);
        check::names(record, "connect", &client.who, &attempts);
    }
    let closes: Vec<_> = attempts
        .iter()
        .filter(|record| record.event() == "close")
        .collect();
    assert_eq!(
        closes.len(),
        9,
        "close records:\n{}",
        record::lines(&attempts)
    );
    for close in closes {
        assert_eq!(close.text("reason"), Some("refused"), "{}", close.line);
        assert_eq!(close.text("errno"), Some("ECONNREFUSED"), "{}", close.line);
    }
}

fn fast_open() {
    let stage = Stage::open(&[]);
    let (mut client, mut server, listener, addr) = company(&stage.netns);
    // Both sides, without a cookie, and for every listener (Documentation/networking/ip-sysctl).
    client.ask("write-file /proc/sys/net/ipv4/tcp_fastopen 1543");
    let mut pairs = Vec::new();
    for _ in 0..10 {
        server.tell_accept(&listener, "");
        let exchange = Exchange {
            connect: "fastopen",
            ..Exchange::default()
        };
        let (near, far) = exchange.meet(&mut client, &mut server, addr);
        // The byte that came with the SYN.
        server.act("receive", &far);
        part(&mut client, &near, &mut server, &far, First::Client);
        pairs.push(Pair::new(&near, &client.who, &far, &server.who));
    }
    stage.end(0, &[]).check(&pairs, &[(addr, &server.who)]);
}

/// A socket keeps the port of its former life in its memory: if there is none left for the next one, that is
/// not its port.
fn no_port_left() {
    let stage = Stage::open(&["--no-existing"]);
    let netns = &stage.netns;
    let addr = netns.addr(Ip::V4, 0);
    let [listener, refusing, local] = netns.inside(|| {
        let socket = || rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let bound = || {
            let socket = socket();
            rustix::net::bind(&socket, &addr).unwrap();
            let local = rustix::net::getsockname(&socket).unwrap();
            (socket, SocketAddr::try_from(local).unwrap())
        };
        let (listener, listening) = bound();
        rustix::net::listen(&listener, 2).unwrap();
        let (unlistened, refusing) = bound();
        let again = socket();
        let refused = rustix::net::connect(&again, &refusing);
        assert_eq!(refused.unwrap_err(), Errno::CONNREFUSED);
        let other = socket();
        rustix::net::connect(&other, &listening).unwrap();
        let local = SocketAddr::try_from(rustix::net::getsockname(&other).unwrap()).unwrap();
        let range = format!("{0} {0}", local.port());
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
        let without = rustix::net::connect(&again, &listening);
        assert_eq!(without.unwrap_err(), Errno::ADDRNOTAVAIL);
        drop((listener, unlistened, again, other));
        [listening, refusing, local]
    });
    let told = stage.end(0, &[]);
    let ours = told.ours();
    let of = |remote| -> Vec<&Record> {
        let clients = ours.iter().filter(|record| record.role() == "client");
        let theirs = clients.filter(|record| record.remote() == Some(remote));
        let local = Some(u64::from(local.port()));
        theirs
            .filter(|record| record.int("lport") != local)
            .copied()
            .collect()
    };
    let (refused, without) = (of(refusing), of(listener));
    assert_eq!(refused.len(), 3, "{}", record::lines(&refused));
    assert!(refused.iter().all(|record| record.int("lport").is_some()));
    assert_eq!(without.len(), 3, "{}", record::lines(&without));
    for record in without {
        assert_eq!(record.int("lport"), None, "{}", record.line);
        // Nobody gave up.
        assert_eq!(record.int("closer_pid"), None, "{}", record.line);
        assert!(
            [None, Some("unknown")].contains(&record.text("reason")),
            "{}",
            record.line
        );
    }
}

/// What somebody else adds to an MPTCP connection, and makes connect in the course of a system call of their
/// own, is not theirs. Its first subflow is its process's.
fn mptcp_subflow_by_another() -> Outcome {
    let ours = std::process::id();
    let added = Ipv4Addr::new(127, 0, 0, 5);
    let netns = Netns::new();
    let mptcp = |args: &[&str]| {
        let mut ip = Command::new("ip");
        let ip = netns.enter(ip.arg("mptcp").args(args).stderr(Stdio::null()));
        ip.status().is_ok_and(|status| status.success())
    };
    if !mptcp(&["limits", "set", "subflow", "2", "add_addr_accepted", "2"]) {
        return Err(Impossible(
            "`ip mptcp` does not work here: no CONFIG_MPTCP, or an old iproute2".to_owned(),
        ));
    }
    let stage = Stage::over(netns, &["--no-existing"]);
    let addr = stage.netns.addr(Ip::V4, 0);
    let connected = stage.netns.inside(|| {
        let socket = || {
            let protocol = Some(ipproto::MPTCP);
            rustix::net::socket(AddressFamily::INET, SocketType::STREAM, protocol).unwrap()
        };
        let listener = socket();
        rustix::net::bind(&listener, &addr).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let addr = rustix::net::getsockname(&listener).unwrap();
        let near = socket();
        rustix::net::connect(&near, &addr).unwrap();
        let far = rustix::net::accept(&listener).unwrap();
        // Until data has come both ways, nothing can be added.
        let mut byte = [0];
        for [from, to] in [[&near, &far], [&far, &near]] {
            rustix::io::write(from, b"x").unwrap();
            rustix::io::read(to, &mut byte).unwrap();
        }
        [listener, near, far]
    });
    let netns = &stage.netns;
    let address = added.to_string();
    let mut ip = Command::new("ip");
    ip.args(["mptcp", "endpoint", "add", &address, "dev", "lo", "subflow"]);
    assert!(netns.enter(&mut ip).status().unwrap().success());
    let told = stage
        .tracer
        .wait_for("the subflow", Duration::from_secs(10), |record| {
            record.is("transition", "ESTABLISHED") && record.local().ip() == added
        });
    let subflow = told.unwrap().0;
    drop(connected);
    let told = stage.end(0, &[]);
    let records = told.ours();
    // Nobody accepts what the peer adds, either.
    let of_it = |record: &&Record| {
        let remote = record.remote().map(|remote| remote.ip());
        record.local().ip() == added || remote == Some(IpAddr::V4(added))
    };
    let (added, others): (Vec<&Record>, Vec<_>) = records.into_iter().partition(of_it);
    let of_clients = others
        .into_iter()
        .filter(|record| record.role() == "client");
    let first: Vec<_> = of_clients.collect();
    assert!(added.len() > 1, "{}", subflow.line);
    for record in added {
        assert_eq!(
            (record.int("pid"), record.source()),
            (None, "unknown"),
            "{}",
            record.line
        );
    }
    assert!(first.len() > 1, "{}", record::lines(&first));
    for record in first {
        let pid = Some(u64::from(ours));
        assert_eq!(
            (record.int("pid"), record.source()),
            (pid, "connect"),
            "{}",
            record.line
        );
    }
    Ok(())
}

/// No hook has seen the accepts: each shows when the acceptor closes.
fn found_at_close(told: &Told, addr: SocketAddr, acceptor: &Who) {
    assert_eq!(told.records.lost(), 0, "{}", told.records.end().line);
    let ours = told.ours();
    check::same_transitions(&told.lives, &ours);
    record::each_end_has_its_close(&ours);
    let of_server = |event: &str| -> Vec<_> {
        let of_event = ours.iter().filter(|it| it.event() == event);
        of_event
            .filter(|it| it.role() == "server" && it.local() == addr)
            .collect()
    };
    let (accepts, closes) = (of_server("accept"), of_server("close"));
    assert!(!closes.is_empty());
    assert_eq!(accepts.len(), closes.len());
    for record in accepts.iter().chain(&closes) {
        assert_eq!(
            record.int("pid"),
            Some(acceptor.pid.into()),
            "{}",
            record.line
        );
    }
    for accept in accepts {
        assert!(accept.get("inferred").is_some(), "{}", accept.line);
        assert_eq!(accept.int("wait_us"), None, "{}", accept.line);
    }
}

/// `io_uring` is there since 5.1; where it is not, somebody has switched it off.
pub(crate) fn need_io_uring() -> Outcome {
    match io_uring::IoUring::new(2) {
        Ok(_) => Ok(()),
        Err(error) => Err(Impossible(format!("io_uring is not allowed here: {error}"))),
    }
}

fn io_uring_connect() -> Outcome {
    need_io_uring()?;
    let stage = Stage::open(&[]);
    let (mut client, mut server, listener, addr) = company(&stage.netns);
    let exchange = Exchange {
        connect: "uring",
        ..Exchange::default()
    };
    let pairs: Vec<_> = (0..5)
        .map(|_| exchange.run(&mut client, &mut server, &listener, addr))
        .collect();
    stage.end(0, &[]).check(&pairs, &[(addr, &server.who)]);
    Ok(())
}

/// Where no hook sees who accepts through `io_uring`, the listening process stays the owner.
fn io_uring_accept() -> Outcome {
    need_io_uring()?;
    let stage = Stage::open(&[]);
    let (mut client, mut parent, listener, addr) = company(&stage.netns);
    let mut worker = parent.fork();
    worker.rename(b"uring worker");
    "uring worker".clone_into(&mut worker.who.comm);
    let exchange = Exchange {
        accept: "uring",
        ..Exchange::default()
    };
    let pairs: Vec<_> = (0..5)
        .map(|_| {
            exchange
                .run(&mut client, &mut worker, &listener, addr)
                .listened_by(&parent.who)
        })
        .collect();
    let told = stage.end(0, &[]);
    if !check::sees_io_uring_accept(told.records.start()) {
        found_at_close(&told, addr, &worker.who);
        return Ok(());
    }
    told.check(&pairs, &[(addr, &parent.who)]);
    Ok(())
}

/// The listener goes while a connection waits for it.
fn never_accepted() {
    let stage = Stage::open(&[]);
    let (mut client, mut server, listener, addr) = company(&stage.netns);
    let near = client.connect(addr, "");
    server.unlisten(&listener);
    client.close(&near);
    let pair = Pair {
        acceptor: None,
        cookies: [Some(near.cookie.clone()), None],
        ..Pair::dialed(near.local, addr, &client.who, &server.who)
    };
    stage.end(0, &[]).check(&[pair], &[(addr, &server.who)]);
}
