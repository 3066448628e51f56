//! With little: room in the maps, files, memory.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit};

use crate::{
    actor::Actor,
    check::{self, Pair},
    harness::{Impossible, Outcome, Test, alone},
    loss::{self, until_undisturbed},
    netns::{Ip, Netns},
    oracle::{self, Oracle},
    peer::First,
    record::{self, Record, Records},
    tracer::{self, Tracer},
    wait,
};

pub(crate) const TESTS: &[Test] = &[
    alone!(more_sockets_than_records),
    alone!(few_files),
    alone!(small_cgroup),
];

/// Those that have a record keep it to the end, and the others are counted.
fn more_sockets_than_records() {
    const ROOM: usize = 1000;
    const COUNT: usize = 3000;

    until_undisturbed(|| {
        let netns = Netns::new();
        let mut client = Actor::spawn(&netns, "client");
        let mut server = Actor::spawn(&netns, "server");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        let oracle = Oracle::with_buffer(16 << 10);
        let room = ROOM.to_string();
        let tracer = Tracer::start(&["--no-existing", "--max-sockets", &room]);
        server.tell_take(&listener, COUNT);
        client.tell_hold(listener.local, COUNT);
        let clients = client.clients();
        server.clients();
        client.release();
        server.release();
        netns.settle(0);
        let records = tracer.finish().fine();
        let steps = oracle.stop();

        let lives = oracle::lives_in(&steps, &netns, &[]);
        let ours = records.within(netns.inode);
        let pieces = check::pieces(&lives, &ours);
        let mut early = BTreeSet::new();
        let mut cut = 0;
        for (life, piece) in lives.iter().zip(&pieces) {
            cut += usize::from(piece.from > 0);
            if piece.steps == 0 || piece.from > 0 {
                continue;
            }
            assert!(
                piece.is_whole(life) && piece.steps == life.steps.len(),
                "its record was lost on the way: {piece:?} of\n{}",
                life.lines()
            );
            early.insert(life.ends());
        }
        let (first, later): (Vec<&Record>, Vec<_>) = ours.iter().partition(|record| {
            record
                .remote()
                .is_some_and(|remote| early.contains(&(record.local(), remote)))
        });
        record::each_end_has_its_close(&ours);
        let pairs: Vec<_> = clients
            .iter()
            .map(|end| Pair::dialed(*end, listener.local, &client.who, &server.who))
            .filter(|pair| {
                let ends = [(pair.client, pair.server), (pair.server, pair.client)];
                ends.iter().all(|ends| early.contains(ends))
            })
            .collect();
        let both: Vec<_> = first
            .into_iter()
            .filter(|record| pairs.iter().any(|pair| pair.is_of(record)))
            .collect();
        check::owners(&pairs, &both);
        for record in later {
            // Whose beginning nobody saw.
            assert!([None, Some(&serde_json::Value::Bool(true))].contains(&record.get("partial")));
            let who = if record.local() == listener.local {
                &server.who
            } else {
                &client.who
            };
            let pid = record.int("pid");
            assert!(
                pid.is_none() || pid == Some(who.pid.into()),
                "{}",
                record.line
            );
        }
        let full = |record: &&Record| record.text("cause") == Some("map_full");
        let lost: u64 = records
            .of("lost")
            .filter(full)
            .filter_map(|lost| lost.int("count"))
            .sum();
        crate::harness::figure!(
            "{COUNT} connections open at once with room for {ROOM} sockets: {} sockets told whole, \
             {cut} in part; {} transitions happened, {} of them over the first process, {} were told, {lost} \
             counted as map_full",
            early.len(),
            steps.len(),
            steps.iter().filter(|step| step.over_first).count(),
            records
                .of("transition")
                .filter(|record| record.text("old") != Some("TIME_WAIT"))
                .count(),
        );
        assert!(lost > 0);
        // Not counting what others on the host have open.
        assert!(
            (ROOM / 2..=ROOM).contains(&early.len()),
            "{} sockets",
            early.len()
        );
        // A softirq's transitions between the two programs of one make the second take it for unseen.
        loss::count_or_more(&records, &steps, &netns, steps.len() / 1000)
    });
}

/// Starts the command with so many open files allowed.
fn with_files(command: &mut Command, current: u64, maximum: u64) -> &mut Command {
    let limit = Rlimit {
        current: Some(current),
        maximum: Some(maximum),
    };
    let confine = move || Ok(rustix::process::setrlimit(Resource::Nofile, limit)?);
    // SAFETY: between fork and exec only setrlimit is called, which is a system call.
    unsafe { command.pre_exec(confine) }
}

/// One clear line, and the status of somebody who cannot trace.
fn refused(output: &Output, cures: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{}: {stderr}", output.status);
    assert!(output.stdout.is_empty());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("tcptrace: "), "{stderr}");
    for cure in cures {
        assert!(stderr.contains(cure), "no {cure:?}: {stderr}");
    }
}

/// All of it, or a line that says what to do.
fn few_files() {
    let args = ["--json", "--events", "all", "-v", "-d", "0.2"];
    let run = |current, maximum| {
        let mut command = tracer::command(&tracer::binary(), &args);
        with_files(&mut command, current, maximum).output().unwrap()
    };
    let works = |output: &Output| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        let records = Records::parse(&String::from_utf8_lossy(&output.stdout));
        records.keep_their_promises();
        records.start().get("hooks").cloned()
    };
    let most = getrlimit(Resource::Nofile)
        .maximum
        .unwrap_or(4096)
        .min(4096);
    let whole = works(&run(most, most));
    let mut lowest = most;
    for limit in [256, 128, 96, 64, 32, 16, 5] {
        let output = run(limit, limit);
        if output.status.code() == Some(3) {
            refused(&output, &["open files", "ulimit -n"]);
            continue;
        }
        assert_eq!(works(&output), whole, "less with {limit} open files");
        assert!(
            limit < lowest,
            "{lowest} open files are enough, {limit} are not"
        );
        lowest = limit;
    }
    assert!(lowest <= 128, "{lowest} open files are needed");
    // What it may raise by itself is no limit.
    assert_eq!(works(&run(5, most)), whole);
    crate::harness::figure!("traces with {lowest} open files, of 256, 128, 96, 64, 32, 16, 5");
}

/// A memory cgroup, gone when the test is.
struct Cgroup {
    folder: PathBuf,
    /// The second version of cgroups
    unified: bool,
}

impl Cgroup {
    fn new(name: &str, limit: u64) -> Result<Self, Impossible> {
        let name = format!("tcptrace-test-{}-{name}", std::process::id());
        let (parent, unified) = Self::parent()?;
        let folder = parent.join(name);
        fs::create_dir(&folder)
            .map_err(|error| Impossible(format!("{}: {error}", folder.display())))?;
        let group = Self { folder, unified };
        let file = if unified {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        fs::write(group.folder.join(file), limit.to_string()).unwrap();
        Ok(group)
    }

    /// Where groups can be made.
    fn parent() -> Result<(PathBuf, bool), Impossible> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let first = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers
                .split(',')
                .any(|name| name == "memory")
                .then_some(path)
        });
        if let Some(path) = first {
            let folder = Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/'));
            return Ok((folder, false));
        }
        let root = Path::new("/sys/fs/cgroup");
        let control = root.join("cgroup.subtree_control");
        fs::write(&control, "+memory").map_err(|error| {
            Impossible(format!(
                "no memory controller: {}: {error}",
                control.display()
            ))
        })?;
        Ok((root.to_owned(), true))
    }

    fn enter<'command>(&self, command: &'command mut Command) -> &'command mut Command {
        let members = fs::File::options()
            .write(true)
            .open(self.folder.join("cgroup.procs"))
            .unwrap();
        let enter = move || {
            rustix::io::write(&members, b"0")?;
            Ok(())
        };
        // SAFETY: between fork and exec only write is called, which is a system call.
        unsafe { command.pre_exec(enter) }
    }

    fn text(&self, unified: &str, first: &str) -> String {
        let file = if self.unified { unified } else { first };
        fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }

    fn most_mib(&self) -> String {
        let bytes = self.text("memory.peak", "memory.max_usage_in_bytes");
        let bytes: Option<u64> = bytes.trim().parse().ok();
        bytes.map_or("?".to_owned(), |bytes| (bytes >> 20).to_string())
    }

    /// How many the kernel has killed in it.
    fn killed(&self) -> u64 {
        let events = self.text("memory.events", "memory.oom_control");
        let mut lines = events.lines();
        let count = lines.find_map(|line| line.strip_prefix("oom_kill "));
        count.map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets go of maps some time after their last user.
        let gone = wait::poll(Duration::from_secs(10), || {
            fs::remove_dir(&self.folder).ok()
        });
        if gone.is_none() {
            eprintln!("{} is left", self.folder.display());
        }
    }
}

/// It takes what it may have, or says what is missing; it is never killed for it.
fn small_cgroup() -> Outcome {
    const COUNT: usize = 200;
    const MIB: u64 = 1 << 20;

    let group = Cgroup::new("64", 64 * MIB)?;
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let oracle = Oracle::record();
    let mut command = tracer::command(&tracer::binary(), &["--json"]);
    group.enter(&mut command);
    let tracer = Tracer::run(command);
    tracer.await_start();
    server.tell_serve(&listener, COUNT, First::Client);
    client.tell_dial(listener.local, COUNT, First::Client);
    client.clients();
    server.clients();
    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    let records = tracer.finish().fine();
    assert_eq!(records.lost(), 0, "{}", records.end().line);
    check::same_transitions(&lives, &records.within(netns.inode));
    assert_eq!(group.killed(), 0);
    crate::harness::figure!(
        "in a cgroup of 64 MiB: all told, {} MiB used at most",
        group.most_mib()
    );

    let mut works = Vec::new();
    for mib in [56, 52, 48, 44, 40, 36, 32, 24, 16, 8] {
        let group = Cgroup::new(&mib.to_string(), mib * MIB)?;
        let mut command = tracer::command(&tracer::binary(), &["--json", "-d", "0.2"]);
        let output = group.enter(&mut command).output().unwrap();
        assert_eq!(
            group.killed(),
            0,
            "killed with {mib} MiB: {}",
            output.status
        );
        if output.status.success() {
            works.push(format!("{mib} (used {})", group.most_mib()));
        } else {
            refused(&output, &["memory", "MiB", "MemoryMax="]);
        }
    }
    crate::harness::figure!(
        "it starts with {} MiB and is refused with less",
        works.join(", ")
    );
    // More than there is room for.
    let group = Cgroup::new("asked", 64 * MIB)?;
    let mut command = tracer::command(&tracer::binary(), &["--max-sockets", "262144"]);
    let output = group.enter(&mut command).output().unwrap();
    refused(&output, &["memory", "--max-sockets"]);
    Ok(())
}
