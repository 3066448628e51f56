//! The kinds of accept hooks against each other: each tells the same of the same connections, but
//! for what `docs/limitations.md` says it cannot know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use serde_json::{Map, Value};

use crate::{
    actor::{Actor, Held, Listener},
    check::{self, Pair},
    harness::{Impossible, Outcome, Test, beside},
    netns::{Ip, Netns},
    oracle::{self, Oracle},
    owners,
    peer::First,
    record::{self, Record, Records},
    stage::{Exchange, part},
    tracer::Tracer,
};

pub(crate) const TESTS: &[Test] = &[beside!(same_records).smoke()];

/// As `--hooks` takes them, the best first.
const KINDS: [&str; 4] = ["fentry", "kprobe", "kretprobe", "tracepoint"];

/// The fields that say whose a connection is.
const OWNER: [&str; 7] = ["pid", "comm", "uid", "pid_source", "cgroup", "exe", "ppid"];

/// The local and the remote end.
type Ends = (SocketAddr, Option<SocketAddr>);

/// A connection whose acceptor is not seen by every kind of hook.
struct Special {
    pair: Pair,
    /// By a tracer with this start record
    is_seen: fn(&Record) -> bool,
}

impl Special {
    fn is_side(&self, (local, remote): Ends) -> bool {
        remote == Some(self.pair.client) && local == self.pair.server
    }
}

/// What a tracer told, and how it began.
struct Told {
    start: Record,
    records: Records,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(check::accept_hook(&self.start))
    }
}

fn same_records() -> Outcome {
    let netns = Netns::new();
    let cast = Cast::assemble(&netns);
    let oracle = Oracle::record();
    // One after the other: an emulated verifier takes seconds for each.
    let tracers = KINDS.map(|kind| {
        let tracer = Tracer::spawn_with(kind, &["--json"]);
        (tracer.await_start(), tracer)
    });
    let (tracers, without): (Vec<_>, Vec<_>) = tracers
        .into_iter()
        .partition(|(start, _)| check::accept_hook(start) != "none");
    for (_, tracer) in without {
        tracer.finish().fine();
    }
    if tracers.len() < 2 {
        let hooks: Vec<_> = tracers
            .iter()
            .map(|(start, _)| check::accept_hook(start))
            .collect();
        let why = format!(
            "nothing to compare: of all accept hooks, [{}] attach here",
            hooks.join(", ")
        );
        return Err(Impossible(why));
    }

    let specials = cast.play(&netns);
    netns.settle(0);
    // Those who were forked end by themselves, and listeners with them.
    netns.await_no_listeners();
    let steps = oracle.stop();
    let told: Vec<_> = tracers
        .into_iter()
        .map(|(start, tracer)| Told {
            start,
            records: tracer.finish().fine(),
        })
        .collect();

    let lives = oracle::lives_in(&steps, &netns, &[]);
    for told in &told {
        assert_eq!(told.records.lost(), 0, "{told}");
        let ours = told.records.within(netns.inode);
        check::same_transitions(&lives, &ours);
        record::each_end_has_its_close(&ours);
        for special in &specials {
            let pair = special.pair.clone();
            let of_it: Vec<_> = ours
                .iter()
                .copied()
                .filter(|record| pair.is_of(record))
                .collect();
            if (special.is_seen)(&told.start) {
                check::owners(&[pair], &of_it);
            } else {
                check::found_later(&pair, &of_it);
            }
        }
    }
    let (first, others) = told.split_first().unwrap();
    for other in others {
        let knowledge = [first, other].map(|told| knowledge(&told.start));
        assert_eq!(knowledge[0], knowledge[1], "by {first}, and by {other}");
    }
    for other in others {
        compare(first, other, &specials, netns.inode);
    }
    Ok(())
}

/// By which hooks it knows what it tells, besides those that the kind of accept hook brings with it.
fn knowledge(start: &Record) -> Map<String, Value> {
    let mut hooks = start.fields()["hooks"].as_object().unwrap().clone();
    hooks.retain(|fact, _| fact != "accept" && fact != "time_wait");
    hooks
}

fn compare(one: &Told, other: &Told, specials: &[Special], netns: u64) {
    let stories = [one, other].map(|told| by_ends(&told.records.within(netns)));
    let ends: Vec<_> = stories
        .each_ref()
        .map(|story| story.keys().collect::<Vec<_>>())
        .into();
    assert_eq!(ends[0], ends[1], "the connections by {one}, and by {other}");
    for (&ends, records) in &stories[0] {
        let others = &stories[1][&ends];
        // What either of them cannot know is compared with the oracle alone.
        let unseen = specials.iter().any(|special| {
            let seen = [one, other].map(|told| (special.is_seen)(&told.start));
            special.is_side(ends) && seen.contains(&false)
        });
        let comparable = |records: &[&Record]| -> Vec<Map<String, Value>> {
            records
                .iter()
                .filter(|record| !(unseen && record.event() == "accept"))
                .map(|record| comparable(record, unseen))
                .collect()
        };
        let (ours, theirs) = (comparable(records), comparable(others));
        assert!(
            ours == theirs,
            "they differ in {}\nby {one}:\n{}\nby {other}:\n{}",
            difference(&ours, &theirs),
            record::lines(records),
            record::lines(others)
        );
    }
}

/// The first record that is not the same, and which of its fields are not.
fn difference(ones: &[Map<String, Value>], others: &[Map<String, Value>]) -> String {
    let pairs = ones.iter().zip(others).enumerate();
    for (nth, (one, other)) in pairs {
        let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
        let unlike: Vec<_> = names
            .into_iter()
            .filter(|name| one.get(*name) != other.get(*name))
            .map(|name| format!("{name}: {:?}, {:?}", one.get(name), other.get(name)))
            .collect();
        if !unlike.is_empty() {
            return format!("record {nth}: {}", unlike.join("; "));
        }
    }
    format!("number: {}, {}", ones.len(), others.len())
}

/// In the order they came.
fn by_ends<'records>(records: &[&'records Record]) -> BTreeMap<Ends, Vec<&'records Record>> {
    let mut stories = BTreeMap::<_, Vec<_>>::new();
    for &record in records {
        let ends = (record.local(), record.remote());
        stories.entry(ends).or_default().push(record);
    }
    stories
}

/// What two tracers must agree on: everything but times, which each one's programs take for
/// themselves, whether a step was inferred, which is up to the kind, and `conn` where the kernel
/// gives no cookies.
fn comparable(record: &Record, unseen: bool) -> Map<String, Value> {
    let mut fields = record.fields().clone();
    let own_ids = check::own_ids();
    fields.retain(|name, _| {
        let is_time = name == "ts" || name.ends_with("_us");
        let is_own = own_ids && name == "conn";
        let is_up_to_kind = name == "inferred";
        let is_owner = unseen && OWNER.contains(&name.as_str());
        !(is_time || is_own || is_up_to_kind || is_owner)
    });
    if let Some(Value::Object(states)) = fields.get_mut("states") {
        states.values_mut().for_each(|time| *time = Value::Null);
    }
    fields
}

/// The processes of the scenario, and what they did before anybody looked.
struct Cast {
    client: Actor,
    server: Actor,
    sleeper: Actor,
    /// Of the sleeper, which sleeps in `accept()`
    bed: Listener,
    open: (Held, Held),
    /// Has `queued` in its queue
    queue: Listener,
    queued: Held,
}

impl Cast {
    fn assemble(netns: &Netns) -> Self {
        let mut client = Actor::spawn(netns, "client");
        let mut server = Actor::spawn(netns, "server");
        client.become_user(1234);
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        server.tell_accept(&listener, "");
        let open = Exchange::default().meet(&mut client, &mut server, listener.local);
        server.unlisten(&listener);
        let queue = server.listen(netns.addr(Ip::V6, 0), "");
        let queued = client.connect(queue.local, "");

        let mut sleeper = Actor::spawn(netns, "sleeper");
        let bed = sleeper.listen(netns.addr(Ip::V4, 0), "");
        sleeper.tell_accept(&bed, "");
        sleeper.await_blocked_in_accept();
        Self {
            client,
            server,
            sleeper,
            bed,
            open,
            queue,
            queued,
        }
    }

    /// One connection after the other, so that no order is left to chance.
    fn play(mut self, netns: &Netns) -> Vec<Special> {
        let awakened = self.wake();
        self.end_what_was_open();
        for ip in [Ip::V4, Ip::V6, Ip::Mapped] {
            self.meet_and_part(netns, ip);
        }
        self.fail(netns);
        self.hand_over(netns);
        let mut specials = vec![awakened];
        if owners::need_io_uring().is_ok() {
            specials.push(self.accept_through_io_uring(netns));
        }
        specials
    }

    /// A thread that was asleep in `accept()` when the tracers came.
    fn wake(&mut self) -> Special {
        let Self {
            client,
            sleeper,
            bed,
            ..
        } = self;
        let (near, far) = Exchange::default().meet(client, sleeper, bed.local);
        part(client, &near, sleeper, &far, First::Client);
        Special {
            pair: Pair::new(&near, &client.who, &far, &sleeper.who),
            is_seen: check::sees_blocked_accept,
        }
    }

    fn end_what_was_open(&mut self) {
        let Self { client, server, .. } = self;
        let (near, far) = &self.open;
        part(client, near, server, far, First::Server);
        let far = server.accept(&self.queue);
        part(client, &self.queued, server, &far, First::Client);
    }

    fn meet_and_part(&mut self, netns: &Netns, ip: Ip) {
        let Self { client, server, .. } = self;
        let listener = server.listen(netns.addr(ip, 0), "");
        let addr = netns.addr(ip, listener.local.port());
        for first in [First::Client, First::Server] {
            for (connect, accept) in [
                ("", ""),
                ("thread dialler", "thread taker"),
                ("nonblocking", ""),
            ] {
                let exchange = Exchange {
                    connect,
                    accept,
                    first,
                };
                exchange.run(client, server, &listener, addr);
            }
        }
        server.unlisten(&listener);
    }

    /// Refused, reset, and never accepted.
    fn fail(&mut self, netns: &Netns) {
        let Self { client, server, .. } = self;
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(client, server, listener.local);
        client.act("linger", &near);
        client.close(&near);
        server.act("error", &far);
        server.close(&far);

        let near = client.connect(listener.local, "");
        server.unlisten(&listener);
        client.close(&near);

        client.tell(&format!("connect {}", listener.local));
        assert_eq!(client.result(), Err("ECONNREFUSED".to_owned()));
    }

    /// One process listens and another accepts; one accepts and another closes.
    fn hand_over(&mut self, netns: &Netns) {
        let Self { client, server, .. } = self;
        let listener = server.listen(netns.addr(Ip::V6, 0), "");
        let mut worker = server.fork();
        worker.rename(b"worker");
        Exchange::default().run(client, &mut worker, &listener, listener.local);

        server.tell_accept(&listener, "");
        let (near, far) = Exchange::default().meet(client, server, listener.local);
        let mut child = server.fork();
        server.close(&far);
        child.close(&far);
        client.act("eof", &near);
        client.close(&near);
        server.unlisten(&listener);
    }

    fn accept_through_io_uring(&mut self, netns: &Netns) -> Special {
        let Self { client, server, .. } = self;
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        let exchange = Exchange {
            accept: "uring",
            ..Exchange::default()
        };
        let pair = exchange.run(client, server, &listener, listener.local);
        server.unlisten(&listener);
        Special {
            pair,
            is_seen: check::sees_io_uring_accept,
        }
    }
}
