//! `tcptrace -- CMD`: the command from its first SYN on, nothing of others, and its exit status.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

use crate::{
    actor::{Actor, Listener},
    confinement::{Folder, NOBODY},
    harness::{Test, beside},
    netns::{Ip, Netns},
    peer::First,
    record::{Record, Records},
    tracer,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(children_and_status).smoke(),
    beside!(a_daemon),
    beside!(asked_for_by_sudo),
    beside!(not_there),
    beside!(follow_a_running_one).smoke(),
];

/// `dial ADDRESS TIMES`: connects and closes as often. The tests' own client, for commands that run it.
pub(crate) fn dial(args: &[String]) -> ExitCode {
    let addr: SocketAddr = args[0].parse().unwrap();
    for _ in 0..args[1].parse::<u32>().unwrap() {
        // The server waits for a byte, and answers.
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(&[0]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    ExitCode::SUCCESS
}

/// A namespace with a server, and a command beside which somebody else connects as well.
struct Place {
    netns: Netns,
    server: Actor,
    listener: Listener,
    folder: Folder,
}

impl Place {
    fn new(name: &str) -> Self {
        let netns = Netns::new();
        let mut server = Actor::spawn(&netns, "server");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        server.tell_serve_until_told(&listener, First::Client);
        Self {
            netns,
            server,
            listener,
            folder: Folder::new(name),
        }
    }

    /// This program, as a command connects with it.
    fn dial(&self, times: u32) -> String {
        let program = std::env::current_exe().unwrap();
        format!("{} dial {} {times}", program.display(), self.listener.local)
    }

    fn file(&self) -> PathBuf {
        self.folder.0.join("trace")
    }

    /// A tracer of this command, in the namespace.
    fn tracer(&self, args: &[&str]) -> Command {
        let mut command = tracer::command(
            &tracer::binary(),
            &["--json", "-o", self.file().to_str().unwrap()],
        );
        command.args(args);
        self.netns.enter(&mut command);
        command
    }

    /// What a shell that runs `script` says and what is told of it.
    fn run(&self, script: &str) -> (Output, Records) {
        // Files are appended to.
        let _former = fs::remove_file(self.file());
        let mut other = Actor::spawn(&self.netns, "other");
        other.tell_dial(self.listener.local, 20, First::Client);
        let output = self.tracer(&["--", "sh", "-c", script]).output().unwrap();
        other.clients();
        (output, self.records())
    }

    fn records(&self) -> Records {
        let records = Records::parse(&fs::read_to_string(self.file()).unwrap());
        records.keep_their_promises();
        assert_eq!(records.lost(), 0);
        records
    }
}

/// How many connections were told from their first step to their end: all that were told of.
fn whole(records: &Records) -> usize {
    let firsts = records.of("transition");
    let begun = firsts
        .filter(|record| record.is("transition", "SYN_SENT"))
        .map(Record::conn);
    let begun: Vec<_> = begun.collect();
    let ended: Vec<_> = records.of("close").map(Record::conn).collect();
    assert_eq!(
        begun.len(),
        ended.len(),
        "connections without an end or a beginning"
    );
    for record in records.of("transition").chain(records.of("close")) {
        assert_eq!(record.role(), "client", "{}", record.line);
        assert!(begun.contains(&record.conn()), "{}", record.line);
    }
    begun.len()
}

fn children_and_status() {
    let place = Place::new("command");
    let dial = place.dial(3);
    let script = format!("echo said; {dial} & {dial} & ({dial}); wait; exit 7");
    let (output, records) = place.run(&script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert_eq!(output.stdout, b"said\n");
    assert_eq!(whole(&records), 9);
    let filters = records.start().get("filters").unwrap();
    assert_eq!(filters["follow"], "true");

    let (output, _) = place.run("kill -TERM $$");
    assert_eq!(output.status.code(), Some(128 + 15));
    assert_eq!(output.status.signal(), None);
}

/// Its grandchild goes on when it has ended, and is waited for.
fn a_daemon() {
    let place = Place::new("daemon");
    let dial = place.dial(2);
    let script = format!("(sleep 0.3; {dial}; sleep 0.3; {dial}) & exit 0");
    let (output, records) = place.run(&script);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(whole(&records), 4);
}

/// The command runs as the user who called `sudo`, and makes files that are that user's.
fn asked_for_by_sudo() {
    let place = Place::new("sudo");
    let made = place.folder.0.join("made");
    fs::create_dir(&made).unwrap();
    std::os::unix::fs::chown(&made, Some(NOBODY), Some(NOBODY)).unwrap();
    let script = format!(
        "id -u; id -g; echo \"$SUDO_UID\"; : > {}; {}",
        made.join("file").display(),
        place.dial(1)
    );
    let mut command = place.tracer(&["--", "sh", "-c", &script]);
    command
        .env("SUDO_UID", NOBODY.to_string())
        .env("SUDO_GID", NOBODY.to_string());
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{NOBODY}\n{NOBODY}\n\n"));
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(made.join("file")).unwrap());
    assert_eq!(owner, NOBODY);
    let records = place.records();
    assert_eq!(whole(&records), 1);
    assert!(
        records
            .of("close")
            .all(|close| close.int("uid") == Some(NOBODY.into()))
    );
}

fn not_there() {
    for (program, status) in [("no-such-program-here", 127), ("/", 126)] {
        let place = Place::new("not-there");
        let output = place.tracer(&["--", program]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert!(stderr.contains(program), "{stderr}");
        assert!(Path::new(&place.file()).exists());
    }
}

/// `-p PID -f`: those that it forks from now on.
fn follow_a_running_one() {
    let mut place = Place::new("follow");
    let mut parent = Actor::spawn(&place.netns, "parent");
    let mut before = parent.fork();
    let pid = parent.who.pid.to_string();
    let tracer = tracer::Tracer::start(&["--no-existing", "-p", &pid, "-f"]);
    let mut child = parent.fork_parent();
    let mut grandchild = child.fork();
    for (actor, times) in [
        (&mut parent, 1),
        (&mut child, 2),
        (&mut grandchild, 3),
        (&mut before, 4),
    ] {
        actor.tell_dial(place.listener.local, times, First::Client);
        actor.clients();
    }
    place.server.stop_serving();
    place.netns.settle(0);
    let pids = [&parent, &child, &grandchild].map(|actor| actor.who.pid);
    let records = tracer.finish().fine();
    assert_eq!(records.lost(), 0);
    assert_eq!(whole(&records), 6);
    for (pid, times) in pids.into_iter().zip(1..) {
        let closes = records.of("close");
        let theirs = closes.filter(|close| close.int("pid") == Some(pid.into()));
        assert_eq!(theirs.count(), times);
    }
}
