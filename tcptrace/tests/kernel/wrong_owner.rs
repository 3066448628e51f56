//! Connections of which the obvious process is not the owner.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{CWD, FileType, Mode},
    net::{AddressFamily, SocketType, ipproto},
};

use crate::{
    actor::{Actor, Who},
    harness::{Impossible, Outcome, Test, alone, beside},
    netns::{Ip, Netns},
    record::{self, Record, Records},
    stage::Stage,
    steering,
    tracer::Tracer,
};

pub(crate) const TESTS: &[Test] = &[
    alone!(lost_descriptor).smoke(),
    alone!(lost_descriptor_of_one_asked_for).smoke(),
    beside!(steered_by_sk_lookup).smoke(),
    alone!(fifo_among_namespaces).smoke(),
    beside!(accept_by_interrupt).smoke(),
    beside!(endpoint_deleted).smoke(),
    beside!(listener_of_the_dead).smoke(),
];

const LOST: usize = 200;

/// The server's records of these clients.
fn of_clients<'ours>(
    ours: &[&'ours Record],
    server: SocketAddr,
    clients: &[SocketAddr],
) -> Vec<&'ours Record> {
    let clients: BTreeSet<_> = clients.iter().collect();
    let records = ours.iter().copied().filter(|record| {
        record.role() != "listener"
            && record.local() == server
            && record
                .remote()
                .is_some_and(|remote| clients.contains(&remote))
    });
    records.collect()
}

/// Another thread of the worker takes the descriptor away before `accept()` has returned it. The
/// worker has accepted all the same.
fn lose(
    worker: &mut Actor,
    client: &mut Actor,
    how: &str,
    parent: &Who,
    listener: &crate::actor::Listener,
) -> Vec<SocketAddr> {
    assert_ne!(worker.who.pid, parent.pid);
    worker.tell_lose(listener, LOST, how);
    client.ask(&format!("rush {LOST} {}", listener.local));
    worker.clients()
}

/// What `lost` records say of accepts.
fn lost_accepts(records: &Records) -> usize {
    let lost = records
        .of("lost")
        .filter_map(|record| record.int("accepts"));
    usize::try_from(lost.sum::<u64>()).unwrap()
}

fn lost_descriptor() {
    for how in ["move", "close"] {
        let stage = Stage::open(&["--no-existing"]);
        let mut client = Actor::spawn(&stage.netns, "client");
        let mut parent = Actor::spawn(&stage.netns, "parent");
        let listener = parent.listen(stage.netns.addr(Ip::V4, 0), "");
        let mut worker = parent.fork();
        let clients = lose(&mut worker, &mut client, how, &parent.who, &listener);
        assert_eq!(clients.len(), LOST);
        let told = stage.end(0, &[]);
        let ours = told.ours();
        let theirs = of_clients(&ours, listener.local, &clients);
        // On a busy host some kernels hide some.
        if told.records.lost() == 0 {
            crate::check::same_transitions(&told.lives, &ours);
        }
        record::each_end_has_its_close(&ours);
        let closes: Vec<_> = theirs.iter().filter(|it| it.event() == "close").collect();
        assert_eq!(closes.len(), LOST, "{how}");
        let wrong: Vec<_> = closes
            .iter()
            .filter(|close| {
                close
                    .int("pid")
                    .is_some_and(|pid| pid != u64::from(worker.who.pid))
            })
            .collect();
        assert!(
            wrong.is_empty(),
            "{how}: {} of {LOST} have another owner than worker {}, as\n{}",
            wrong.len(),
            worker.who,
            wrong[0].line
        );
        let accepts = theirs.iter().filter(|it| it.event() == "accept").count();
        let lost = lost_accepts(&told.records);
        assert!(
            accepts + lost >= LOST,
            "{how}: {LOST} accepts, {accepts} told, {lost} lost"
        );
        let named = closes.iter().filter(|it| it.int("pid").is_some()).count();
        crate::harness::figure!(
            "{how}: of {LOST} accepts {accepts} told, {lost} lost; {named} named"
        );
    }
}

/// `-p` shows all of its connections, or counts them.
fn lost_descriptor_of_one_asked_for() {
    for how in ["move", "close"] {
        let netns = Netns::new();
        let mut client = Actor::spawn(&netns, "client");
        let mut parent = Actor::spawn(&netns, "parent");
        let listener = parent.listen(netns.addr(Ip::V4, 0), "");
        let mut worker = parent.fork();
        let tracer = Tracer::start(&["--no-existing", "-p", &worker.who.pid.to_string()]);
        let clients = lose(&mut worker, &mut client, how, &parent.who, &listener);
        netns.settle(0);
        let records = tracer.finish().fine();
        let ours = records.within(netns.inode);
        let theirs = of_clients(&ours, listener.local, &clients);
        let shown = theirs.iter().filter(|it| it.event() == "close").count();
        let lost = lost_accepts(&records);
        assert!(
            shown + lost >= LOST,
            "{how}: {LOST} accepted, {shown} shown, {lost} lost"
        );
        let wrong = theirs
            .iter()
            .find(|it| it.event() == "close" && it.int("pid") != Some(worker.who.pid.into()));
        assert!(wrong.is_none(), "{}", wrong.unwrap().line);
    }
}

/// BPF chooses a listener by what it likes: neither port nor address say whose it is.
fn steered_by_sk_lookup() -> Outcome {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut taker = Actor::spawn(&netns, "taker");
    let mut other = Actor::spawn(&netns, "other");
    let listener = taker.listen(netns.addr(Ip::V4, 0), "");
    let steered = other.listen(netns.addr(Ip::V4, 0), "");
    let fd: i32 = taker
        .ask(&format!("descriptor {}", listener.id()))
        .parse()
        .unwrap();
    let _link = steering::steer(&netns, taker.who.pid, fd, steered.local.port())
        .map_err(|why| Impossible(format!("no sk_lookup program here: {why}")))?;

    // One waits in the queue when the trace begins, one comes afterwards.
    let early = client.connect(steered.local, "");
    let stage = Stage::over(netns, &[]);
    let late = client.connect(steered.local, "");
    let first = stage.netns.addr(Ip::V4, steered.local.port());
    assert_eq!(first, steered.local);
    for near in [&early, &late] {
        let far = taker.accept(&listener);
        assert_eq!((far.local, far.remote), (near.remote, near.local));
        client.close(near);
        taker.act("eof", &far);
        taker.close(&far);
    }
    taker.unlisten(&listener);
    other.unlisten(&steered);
    let told = stage.end(0, &[]);
    let ours = told.ours();
    for (near, when) in [(&early, "early"), (&late, "late")] {
        let of_it = of_clients(&ours, steered.local, &[near.local]);
        let wrong = of_it.iter().find(|it| {
            it.int("pid")
                .is_some_and(|pid| pid != u64::from(taker.who.pid))
        });
        assert!(
            wrong.is_none(),
            "{when}: the owner is {}, not as in\n{}",
            taker.who,
            record::lines(&of_it)
        );
        // What the kernel proves is told.
        let known = of_it.iter().all(|it| it.int("pid").is_some());
        assert!(known, "{when}:\n{}", record::lines(&of_it));
    }
    Ok(())
}

/// Removes what a test has put where all of the host can see it.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// Whoever may write there can make a file of which the opening waits.
fn fifo_among_namespaces() {
    const FOLDER: &str = "/run/netns";
    let made = fs::create_dir(FOLDER).is_ok();
    let path = PathBuf::from(format!("{FOLDER}/tcptrace-test-{}", std::process::id()));
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let removed = Removed(path);
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    // What nobody holds yet is looked for in each namespace.
    let waiting = client.connect(listener.local, "");
    let tracer = Tracer::start(&["--events", "all"]);
    tracer.wait_for("the queue", Duration::from_secs(5), |record| {
        record.event() == "socket" && record.local() == waiting.remote
    });
    drop(tracer);
    drop(removed);
    if made {
        let _used = fs::remove_dir(FOLDER);
    }
}

/// A 64-bit program may use the system calls of 32-bit ones.
fn accept_by_interrupt() -> Outcome {
    let stage = Stage::open(&["--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut parent = Actor::spawn(&stage.netns, "parent");
    let listener = parent.listen(stage.netns.addr(Ip::V4, 0), "");
    let mut worker = parent.fork();
    let near = client.connect(listener.local, "");
    worker.tell(&format!("accept {} int80", listener.id()));
    if let Err(why) = worker.result() {
        return Err(Impossible(format!("accept4 by int 0x80: {why}")));
    }
    client.act("eof", &near);
    client.close(&near);
    let told = stage.end(0, &[]);
    let ours = told.ours();
    let of_it = of_clients(&ours, listener.local, &[near.local]);
    let close = of_it.iter().find(|it| it.event() == "close").unwrap();
    let pid = close.int("pid");
    assert!(
        pid.is_none() || pid == Some(worker.who.pid.into()),
        "worker {} accepted it:\n{}",
        worker.who,
        record::lines(&of_it)
    );
    Ok(())
}

/// Who takes an address away from MPTCP connections ends subflows of others in a system call of its
/// own.
fn endpoint_deleted() -> Outcome {
    let netns = Netns::new();
    let mptcp = |args: &[&str]| {
        let mut ip = Command::new("ip");
        let ip = netns.enter(ip.arg("mptcp").args(args).stderr(Stdio::null()));
        ip.status().is_ok_and(|status| status.success())
    };
    let added = "127.0.0.5";
    if !mptcp(&["limits", "set", "subflow", "2", "add_addr_accepted", "2"])
        || !mptcp(&["endpoint", "add", added, "dev", "lo", "id", "5", "subflow"])
    {
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
        let mut byte = [0];
        for [from, to] in [[&near, &far], [&far, &near]] {
            rustix::io::write(from, b"x").unwrap();
            rustix::io::read(to, &mut byte).unwrap();
        }
        [listener, near, far]
    });
    let added: std::net::IpAddr = added.parse().unwrap();
    let time = Duration::from_secs(10);
    stage.tracer.wait_for("the subflow", time, |record| {
        record.is("transition", "ESTABLISHED") && record.local().ip() == added
    });
    let mut ip = Command::new("ip");
    ip.args(["mptcp", "endpoint", "delete", "id", "5"]);
    assert!(stage.netns.enter(&mut ip).status().unwrap().success());
    let found = stage.tracer.wait_for("its end", time, |record| {
        record.event() == "close" && record.local().ip() == added
    });
    let close = found.unwrap().0;
    drop(connected);
    stage.end(0, &[]);
    assert_eq!(close.int("closer_pid"), None, "{}", close.line);
    Ok(())
}

/// Who has made a listener, passed it on and ended owns nothing any more: its pid may be another's.
fn listener_of_the_dead() {
    let stage = Stage::open(&["--no-existing"]);
    let mut client = Actor::spawn(&stage.netns, "client");
    let mut maker = Actor::spawn(&stage.netns, "maker");
    let listener = maker.listen(stage.netns.addr(Ip::V4, 0), "");
    let mut heir = Actor::spawn(&stage.netns, "heir");
    let listener = heir.inherit(&mut maker, &listener);
    let dead = maker.who.clone();
    maker.kill();
    let near = client.connect(listener.local, "");
    let far = heir.accept(&listener);
    client.close(&near);
    heir.act("eof", &far);
    heir.close(&far);
    let told = stage.end(0, &[]);
    let ours = told.ours();
    let of_it = of_clients(&ours, listener.local, &[near.local]);
    assert!(of_it.len() > 4, "{}", record::lines(&of_it));
    for record in &of_it {
        let pids = [record.int("pid"), record.int("listener_pid")];
        assert!(
            !pids.contains(&Some(dead.pid.into())),
            "{dead} has ended:\n{}",
            record::lines(&of_it)
        );
    }
    let close = of_it.iter().find(|it| it.event() == "close").unwrap();
    assert_eq!(
        close.int("pid"),
        Some(heir.who.pid.into()),
        "{}",
        close.line
    );
}
