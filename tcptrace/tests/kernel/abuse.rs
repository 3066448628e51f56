//! More than a tracer has to expect: a million connections, others beside it, storms that it comes
//! into and leaves, processors that go away.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{
    actor::{Actor, Listener},
    check,
    confinement::{self, Folder},
    harness::{Impossible, Outcome, Test, alone},
    leftovers,
    netns::{Ip, Netns},
    oracle::{self, Oracle, Tally},
    peer::First,
    record::{self, Record, Records},
    stage::Exchange,
    tracer::{self, Tracer, now_us},
    wait,
};

pub(crate) const TESTS: &[Test] = &[
    alone!(a_million_connections),
    alone!(two_tracers),
    alone!(in_and_out_of_a_storm),
    alone!(a_processor_goes_away),
];

/// Clients of a storm, each with one connection at a time.
const CLIENTS: u64 = 2;

/// Clients and servers that go on until they are told.
struct Storm {
    pairs: Vec<(Actor, Actor, Listener)>,
}

impl Storm {
    fn begin(netns: &Netns) -> Self {
        // Where some find no room to wait, `check` cannot tell lives with the same ends apart.
        netns.set("tcp_max_tw_buckets", "100000");
        let mut pairs = Vec::new();
        for first in [First::Client, First::Server] {
            let mut client = Actor::spawn(netns, "client");
            let mut server = Actor::spawn(netns, "server");
            let listener = server.listen(netns.addr(Ip::V4, 0), "");
            server.tell_serve_until_told(&listener, first);
            client.tell(&format!(
                "dial-until-told {} {}",
                listener.local,
                first.word()
            ));
            pairs.push((client, server, listener));
        }
        Self { pairs }
    }

    /// How many connections there were.
    fn end(&mut self) -> usize {
        let mut count = 0;
        for (client, server, _) in &mut self.pairs {
            client.tell("enough");
            let made: usize = client.answer().parse().unwrap();
            assert_eq!(server.stop_serving().len(), made);
            count += made;
        }
        count
    }

    /// Whose socket this record is about is one of two processes, known by their ends.
    fn check_owner(&self, record: &Record) {
        let ends = [Some(record.local()), record.remote()];
        let (client, server, listener) = self
            .pairs
            .iter()
            .find(|(_, _, listener)| ends.contains(&Some(listener.local)))
            .unwrap_or_else(|| panic!("nobody made it: {}", record.line));
        let is_server = record.local() == listener.local;
        let who = if is_server { &server.who } else { &client.who };
        // First seen half-way.
        let unknown = record.int("pid").is_none() && record.role() == "unknown";
        assert!(
            unknown || record.int("pid") == Some(who.pid.into()),
            "it is {who}'s: {}",
            record.line
        );
    }
}

/// So many more lines, or the time is over.
fn await_lines(tracer: &Tracer, more: usize) {
    let seen = tracer.lines();
    let enough = wait::poll(Duration::from_mins(1), || {
        (tracer.lines() >= seen + more).then_some(())
    });
    assert!(enough.is_some(), "{} lines, then {}", seen, tracer.lines());
}

/// It comes into a storm, and is interrupted in it.
fn in_and_out_of_a_storm() {
    let netns = Netns::new();
    let mut storm = Storm::begin(&netns);
    let oracle = Oracle::with_buffer(64 << 10);
    // A file keeps nobody waiting.
    let folder = Folder::new("storm");
    let log = folder.0.join("log");
    let tracer = Tracer::spawn(&["--json", "--buffer", "64M", "-o", log.to_str().unwrap()]);
    // An emulated processor takes minutes for more.
    let enough_bytes = if confinement::in_guest() {
        500_000
    } else {
        3_000_000
    };
    let grown = wait::poll(Duration::from_mins(1), || {
        let len = fs::metadata(&log).map_or(0, |log| log.len());
        (len > enough_bytes).then_some(())
    });
    assert!(grown.is_some(), "{:?}", tracer.last_words());
    let interrupted_us = now_us();
    let interrupted = Instant::now();
    tracer.signal(Signal::INT);
    oracle.pause();
    let (_, status, stderr) = tracer.wait_text();
    let took = interrupted.elapsed();
    let made = storm.end();
    netns.settle(0);
    let steps = oracle.stop();
    // Whole lines, what the end says, no life twice and none with a hole.
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        status.success() && text.ends_with('\n'),
        "{status}: {stderr}"
    );
    let records = Records::parse(&text);
    records.keep_their_promises();
    assert!(
        took < Duration::from_secs(5),
        "{took:?} from SIGINT to the end"
    );

    let mut ours = records.within(netns.inode);
    for record in &ours {
        storm.check_owner(record);
    }
    if check::lacks(&records, CLIENTS) {
        return;
    }
    // The oracle ends with the interrupt, the trace a little later.
    ours.retain(|record| record.mono_us() <= interrupted_us);
    // Of one that had only begun, ftrace has no port.
    let mut steps_of: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &ours {
        *steps_of.entry(record.conn()).or_default() += 1;
    }
    ours.retain(|record| !record.is("transition", "SYN_SENT") || steps_of[record.conn()] > 1);
    let lives = oracle::lives_in(&steps, &netns, &[]);
    let pieces = check::pieces(&lives, &ours);
    let start_us = records.start().mono_us();
    let until_us = interrupted_us - check::CLOCK_TOLERANCE_US;
    let mut whole = 0;
    let (mut late, mut cut) = (0, 0);
    for (life, piece) in lives.iter().zip(&pieces) {
        let [first_us, last_us] =
            [life.steps.first(), life.steps.last()].map(|step| step.unwrap().at_ns / 1000);
        let inside = first_us > start_us && last_us < until_us;
        assert!(
            !inside || piece.is_whole(life),
            "{piece:?} of\n{}",
            life.lines()
        );
        whole += usize::from(piece.steps > 0 && piece.is_whole(life));
        late += usize::from(piece.from > 0);
        cut += usize::from(piece.steps > 0 && piece.from == 0 && !piece.is_whole(life));
        // From the first step seen on to the last.
        let to_its_end = piece.from + piece.steps + usize::from(life.time_waits());
        assert!(
            piece.from == 0 || last_us >= until_us || to_its_end >= life.steps.len(),
            "{piece:?} of\n{}",
            life.lines()
        );
    }
    // Those that were open at the interrupt have no close.
    let closes = ours.iter().filter(|record| record.event() == "close");
    assert!(closes.count() <= whole + late);
    crate::harness::figure!(
        "a storm of {made} connections: {whole} sockets told whole, {late} from where the trace \
         began, {cut} until it ended; it ended {took:.1?} after SIGINT"
    );
}

/// Both tell everything, and one does not miss the other.
fn two_tracers() {
    let netns = Netns::new();
    let oracle = Oracle::with_buffer(64 << 10);
    // An emulated processor takes minutes for what a storm brings in the time of so many lines.
    let lines = if confinement::in_guest() { 500 } else { 3_000 };
    let first = Tracer::start(&["--no-existing", "--buffer", "64M"]);
    let second = Tracer::start(&["--no-existing", "--buffer", "64M"]);
    let mut storm = Storm::begin(&netns);
    await_lines(&first, lines);
    let interrupted_us = now_us();
    first.signal(Signal::INT);
    await_lines(&second, lines);
    let made = storm.end();
    // Only now is what it told looked at: the storm would go on meanwhile, and fill all buffers.
    let first = first.wait().fine();
    for (_, server, listener) in &mut storm.pairs {
        server.unlisten(listener);
    }
    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    let second = second.finish().fine();
    for records in [&first, &second] {
        for record in records.within(netns.inode) {
            storm.check_owner(record);
        }
    }
    let first_lacks = check::lacks(&first, CLIENTS);
    let second_lacks = check::lacks(&second, 0);
    let ours = second.within(netns.inode);
    if second_lacks {
        check::lost_is_counted(&lives, &second, &ours);
    } else {
        check::same_transitions(&lives, &ours);
        record::each_end_has_its_close(&ours);
    }
    if first_lacks || second_lacks {
        return;
    }

    let ours = first.within(netns.inode);
    let pieces = check::pieces(&lives, &ours);
    let until_us = interrupted_us - check::CLOCK_TOLERANCE_US;
    let mut whole = 0;
    for (life, piece) in lives.iter().zip(&pieces) {
        assert_eq!(piece.from, 0);
        let happened = life
            .steps
            .iter()
            .filter(|step| step.at_ns / 1000 < until_us);
        let told = piece.steps + usize::from(life.time_waits());
        assert!(
            told >= happened.count(),
            "the first told {piece:?} of\n{}",
            life.lines()
        );
        whole += usize::from(piece.steps > 0 && piece.is_whole(life));
    }
    // Told the same: one record of the other's for each.
    let key = |record: &Record| {
        let names = [
            "event",
            "old",
            "new",
            "role",
            "pid",
            "pid_source",
            "reason",
            "laddr",
            "lport",
            "raddr",
            "rport",
        ];
        names.map(|name| record.get(name).map(ToString::to_string))
    };
    let mut others = BTreeMap::new();
    for record in second.within(netns.inode) {
        *others.entry(key(record)).or_insert(0_usize) += 1;
    }
    for record in &ours {
        let left = others.get_mut(&key(record)).filter(|left| **left > 0);
        *left.unwrap_or_else(|| {
            let of_it = |records: &[&Record]| {
                let all = records.iter().copied();
                let of_it: Vec<_> = all.filter(|other| other.conn() == record.conn()).collect();
                record::lines(&of_it)
            };
            panic!(
                "the other does not tell it: {}\nbut\n{}\nand the first\n{}",
                record.line,
                of_it(&second.within(netns.inode)),
                of_it(&ours)
            );
        }) -= 1;
    }
    crate::harness::figure!(
        "two tracers, {made} connections: the second told all {} sockets, the first {whole} whole \
         until it was interrupted",
        lives.len()
    );
}

/// A tracer whose lines are counted and not kept.
struct Counting {
    child: Child,
}

#[derive(Default)]
struct Lines {
    all: u64,
    /// State changes that the kernel reports
    transitions: u64,
    /// Of these, into `TIME_WAIT`
    entries: u64,
    /// Ends of `TIME_WAIT`
    exits: u64,
    closes: u64,
    /// `lost` records and the last one
    seldom: Vec<Record>,
}

impl Lines {
    /// As a search in text, since there are millions of them.
    fn read(output: impl Read, netns: u64) -> Self {
        let ours = format!("\"netns\":{netns},");
        let mut output = BufReader::with_capacity(1 << 20, output);
        let mut line = Vec::new();
        let mut lines = Self::default();
        while output.read_until(b'\n', &mut line).unwrap() > 0 {
            lines.all += 1;
            let text = std::str::from_utf8(&line).unwrap();
            assert!(text.ends_with('\n'), "the last line is cut: {text}");
            let event = text.strip_prefix("{\"v\":1,\"event\":\"").unwrap();
            if event.starts_with("transition") {
                if text.contains(&ours) {
                    let exit = text.contains("\"old\":\"TIME_WAIT\"");
                    lines.exits += u64::from(exit);
                    lines.transitions += u64::from(!exit);
                    lines.entries += u64::from(text.contains("\"new\":\"TIME_WAIT\""));
                }
            } else if event.starts_with("close") {
                lines.closes += u64::from(text.contains(&ours));
            } else if event.starts_with("lost") || event.starts_with("end") {
                lines.seldom.push(Record::parse(text.trim_end()));
            }
            line.clear();
        }
        lines
    }

    fn lost(&self, cause: Option<&str>, kind: &str) -> u64 {
        self.seldom
            .iter()
            .filter(|record| record.event() == "lost")
            .filter(|record| cause.is_none() || record.text("cause") == cause)
            .filter_map(|record| record.int(kind))
            .sum()
    }
}

impl Counting {
    fn memory(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim_start_matches(':').trim();
        kib.trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// With default options: what is not told is counted, and nothing grows.
fn a_million_connections() {
    const COUNT: usize = 1_000_000;
    const LISTENERS: usize = 20;
    const GROWTH_KIB: u64 = 8 << 10;

    // As many as can be made meanwhile, where that is fewer.
    let (time, each) = if confinement::in_guest() {
        (Duration::from_secs(6), 25)
    } else {
        (Duration::from_secs(20), 1000)
    };
    let mut netns = Netns::new();
    netns.set("tcp_max_tw_buckets", "2000000");
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    // One port of many addresses, that no client on the host is likely to be given.
    netns.set("ip_local_port_range", "1024 32000");
    let port = server.listen(netns.addr(Ip::V4, 0), "").local.port();
    netns.set("ip_local_port_range", "1024 65535");
    let mut addrs = vec![netns.addr(Ip::V4, port).to_string()];
    for last in 2..=u8::try_from(LISTENERS).unwrap() {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 1, 1, last));
        let listener = server.listen(SocketAddr::new(ip, port), "");
        addrs.push(listener.local.to_string());
    }
    server.ask("drain");

    let all = Tally::begin("family != 0");
    let on_port = format!("sport == {port} || dport == {port}");
    let ours = Tally::begin(&on_port);
    let hidden = Tally::begin(&format!("({on_port}) && ({})", over_init()));
    let mut command = tracer::command(&tracer::binary(), &["--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut tracer = Counting {
        child: command.stderr(Stdio::piped()).spawn().unwrap(),
    };
    let pid = tracer.child.id();
    let output = tracer.child.stdout.take().unwrap();
    let inode = netns.inode;
    let mut output = BufReader::new(output);
    let mut start = String::new();
    output.read_line(&mut start).unwrap();
    assert_eq!(Record::parse(&start).event(), "start");
    let reader = std::thread::spawn(move || Lines::read(output, inode));

    let at_start_kib = tracer.memory("RssAnon");
    let mut most_kib = at_start_kib;
    let begun = Instant::now();
    let mut made = 0;
    while made < COUNT && begun.elapsed() < time {
        client.ask(&format!("rush {each} {}", addrs.join(" ")));
        made += each * LISTENERS;
        most_kib = most_kib.max(tracer.memory("RssAnon"));
    }
    let took = begun.elapsed();
    let settled = wait::poll(Duration::from_mins(1), || {
        (netns.in_use() == LISTENERS as u64).then_some(())
    });
    assert!(settled.is_some(), "{} sockets are open", netns.in_use());
    let waiting = leftovers::entries_of(pid, "TIME_WAITS", inode);
    client.kill();
    server.kill();
    netns.destroy();
    let mut left = Vec::new();
    let maps = ["TIME_WAITS", "SOCKS"];
    let ended = Instant::now();
    let mut empty_within = |time| {
        wait::poll(time, || {
            left = maps
                .map(|map| leftovers::entries_of(pid, map, inode))
                .to_vec();
            left.iter().all(|left| *left == 0).then_some(())
        })
    };
    let mut empty = empty_within(Duration::from_secs(30));
    let mut seen_left = 0;
    if empty.is_none() {
        // What the kernel hides, as it may on a host that is so busy, is found by going through all pairs. By
        // now that is all that may be left.
        let pairs = crate::hidden::left_pairs(pid, inode);
        let stops = pairs
            .iter()
            .map(|(_, words)| words[crate::hidden::ENDED_NS]);
        seen_left = stops.filter(|stopped_ns| *stopped_ns != 0).count();
        empty = empty_within(Duration::from_secs(150));
    }
    let emptied_in = ended.elapsed();
    let mut some_left = crate::hidden::left_pairs(pid, inode);
    some_left.truncate(3);
    most_kib = most_kib.max(tracer.memory("RssAnon"));
    let peak_kib = tracer.memory("VmHWM");
    let child = Pid::from_child(&tracer.child);
    rustix::process::kill_process(child, Signal::INT).unwrap();
    let status = wait::poll(Duration::from_secs(20), || tracer.child.try_wait().unwrap());
    let told = reader.join().unwrap();
    let (happened, on_host, hidden) = (ours.stop(), all.stop(), hidden.stop());
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    let lost = told.lost(None, "count");
    let per_second = made as u128 * 1000 / took.as_millis();
    crate::harness::figure!(
        "{made} connections in {took:.1?} ({per_second}/s): {happened} transitions happened, {} \
         were told, {lost} lost (ring_full {}, map_full {}, recursion {}); {} closes; {} entered \
         TIME_WAIT, {} left it, {} of their ends lost; {} lines; {at_start_kib} KiB of own memory at start, \
         {most_kib} at most, peak RSS {peak_kib} KiB; {waiting} pairs waited at the end, and in \
         {maps:?} are left {left:?} after {emptied_in:.1?}",
        told.transitions,
        told.lost(Some("ring_full"), "count"),
        told.lost(Some("map_full"), "count"),
        told.lost(Some("recursion"), "count"),
        told.closes,
        told.entries,
        told.exits,
        told.lost(None, "time_waits"),
        told.all,
    );
    assert!(
        empty.is_some(),
        "entries left in {maps:?}: {left:?}, of pairs for example {some_left:x?}"
    );
    assert_eq!(seen_left, 0, "pairs whose stop was seen were left for 30 s");
    let end = told.seldom.last().unwrap();
    assert_eq!((end.event(), end.int("lost")), ("end", Some(lost)));
    // What is lost is not told per namespace: of others it can be no more than they did.
    let others = on_host - happened;
    let accounted = told.transitions + lost;
    assert!(
        (happened - hidden..=happened + others.min(lost)).contains(&accounted),
        "{happened} transitions happened, {hidden} of them over the first process, {others} others', \
         and {accounted} are accounted for"
    );
    let ends = told.exits + told.lost(None, "time_waits");
    assert!(
        ends >= told.entries,
        "{ends} ends of {} TIME_WAITs",
        told.entries
    );
    assert!(
        most_kib <= at_start_kib + GROWTH_KIB,
        "it grew from {at_start_kib} to {most_kib} KiB"
    );
}

/// What interrupts the threads of the first process, in the language of ftrace. There are kernels
/// that run no BPF program there, and count no miss: only ftrace sees those transitions.
fn over_init() -> String {
    let threads = fs::read_dir("/proc/1/task").unwrap();
    let threads: Vec<_> = threads
        .map(|thread| thread.unwrap().file_name())
        .map(|id| format!("common_pid == {}", id.to_string_lossy()))
        .collect();
    threads.join(" || ")
}

/// Back as it was, whatever happens in between.
struct Processor;

impl Processor {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";

    fn set(online: bool) -> std::io::Result<()> {
        fs::write(Self::ONLINE, if online { "1" } else { "0" })
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        Self::set(true).unwrap();
    }
}

/// And comes back, several times: what happened on it is told.
fn a_processor_goes_away() -> Outcome {
    const TIMES: usize = 3;

    if !confinement::in_guest() {
        return Err(Impossible(
            "the processors of this machine are not the tests' to stop; `cargo xtask vm --cpus 2` \
             does"
                .to_owned(),
        ));
    }
    if !fs::exists(Processor::ONLINE).unwrap() {
        return Err(Impossible(
            "there is one processor, or it cannot be stopped".to_owned(),
        ));
    }
    let netns = Netns::new();
    let processor = Processor;
    let oracle = Oracle::with_buffer(64 << 10);
    let tracer = Tracer::start(&["--no-existing", "--buffer", "64M"]);
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    // Their timers go on elsewhere.
    let orphans: Vec<_> = (0..16)
        .map(|_| {
            server.tell_accept(&listener, "");
            let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
            client.close(&near);
            server.act("eof", &far);
            (near, far)
        })
        .collect();
    let mut storm = Storm::begin(&netns);
    await_lines(&tracer, 1000);
    for _ in 0..TIMES {
        Processor::set(false)
            .map_err(|error| Impossible(format!("{}: {error}", Processor::ONLINE)))?;
        await_lines(&tracer, 1000);
        Processor::set(true).unwrap();
        await_lines(&tracer, 1000);
    }
    drop(processor);
    let made = storm.end();
    for (_, server, listener) in &mut storm.pairs {
        server.unlisten(listener);
    }
    for (_, far) in &orphans {
        server.close(far);
    }
    server.unlisten(&listener);
    netns.settle(0);
    for (near, _) in &orphans {
        tracer.wait_for("TIME_WAIT", Duration::from_secs(10), |record| {
            record.is("transition", "TIME_WAIT") && record.is_of(near)
        });
    }
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    let records: Records = tracer.finish().fine();
    assert_eq!(records.lost(), 0, "{}", records.end().line);
    let ours = records.within(netns.inode);
    let is_orphan = |record: &Record| {
        orphans
            .iter()
            .any(|(near, far)| record.is_of(near) || record.is_of(far))
    };
    for record in ours.iter().filter(|record| !is_orphan(record)) {
        // Their listener is not the storm's either.
        if record.int("lport") != Some(listener.local.port().into()) {
            storm.check_owner(record);
        }
    }
    check::same_transitions(&lives, &ours);
    record::each_end_has_its_close(&ours);
    crate::harness::figure!(
        "a processor went {TIMES} times and came back: all {made} connections are told"
    );
    Ok(())
}
