//! The tracer as a citizen: signals, pipes, files, permissions, exit status.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::{
    actor::Actor,
    check,
    confinement::{self, Folder, NOBODY},
    harness::{Test, alone, beside},
    netns::{Ip, Netns},
    oracle::{self, Oracle},
    peer::First,
    record::{Record, Records},
    stage::{Exchange, Stage},
    tracer::{self, Tracer},
    wait,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(signals),
    beside!(closed_pipe),
    beside!(processes_asked_for_end).smoke(),
    beside!(no_room_in_the_file),
    beside!(fifo_without_reader),
    beside!(pipe_that_does_not_block),
    alone!(rotation),
    beside!(without_root),
    beside!(usage),
];

/// Everything that happened before the signal is printed, at the end of a busy moment too.
fn signals() {
    for signal in [Signal::INT, Signal::TERM] {
        let stage = Stage::open(&["--no-existing"]);
        let mut client = Actor::spawn(&stage.netns, "client");
        let mut server = Actor::spawn(&stage.netns, "server");
        let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
        server.tell_serve(&listener, 500, First::Client);
        client.tell_dial(listener.local, 500, First::Client);
        client.clients();
        server.clients();
        let told = stage.end_with(signal, 0, &[]);
        assert_eq!(told.records.lost(), 0);
        check::same_transitions(&told.lives, &told.ours());
    }
}

fn closed_pipe() {
    for args in [
        &["--json"][..],
        &[],
        // As the shell's `>(...)` does it.
        &["--json", "-o", "/proc/self/fd/1"],
    ] {
        let netns = Netns::new();
        let mut server = Actor::spawn(&netns, "server");
        let mut client = Actor::spawn(&netns, "client");
        let listener = server.listen(netns.addr(Ip::V4, 0), "");
        let mut child = Command::new(tracer::binary())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut first)
            .unwrap();
        // The pipe is closed now. It takes something to write before the tracer knows.
        let status = wait::poll(Duration::from_secs(20), || {
            Exchange::default().run(&mut client, &mut server, &listener, listener.local);
            child.try_wait().unwrap()
        });
        if status.is_none() {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            status.and_then(|status| status.code()),
            Some(0),
            "{args:?}: {stderr}"
        );
        assert_eq!(stderr, "", "{args:?}: not silent");
    }
}

/// What does not fit into a file any more is counted; the file ends with a whole line.
fn no_room_in_the_file() {
    // By the tracer, and by the shell.
    for opened in ["-o \"$log\"", "> \"$log\"", ">> \"$log\""] {
        no_room_in(opened);
    }
}

fn no_room_in(opened: &str) {
    const CONNECTIONS: usize = 500;

    let folder = Folder::new("no-room");
    let log = folder.0.join("log");
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let mut command = Command::new("sh");
    // Blocks of 512 bytes.
    let limited = format!("ulimit -f 200; exec \"$0\" \"$@\" {opened}");
    command.args(["-c", &limited]).arg(tracer::binary());
    command.args(["--json", "--no-existing"]).env("log", &log);
    let tracer = Tracer::run(command);
    let has_begun = || fs::metadata(&log).is_ok_and(|file| file.len() > 0);
    let started = wait::poll(Duration::from_secs(20), || has_begun().then_some(()));
    assert!(started.is_some(), "nothing in {}", log.display());
    server.tell_serve(&listener, CONNECTIONS, First::Client);
    client.tell_dial(listener.local, CONNECTIONS, First::Client);
    client.clients();
    server.clients();
    let (_, status, stderr) = tracer.wait_text();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let unwritten = stderr.lines().find_map(|line| {
        let number = line.strip_prefix("tcptrace: ")?;
        let number = number.strip_suffix(" records were not written")?;
        number.replace(',', "").parse::<u64>().ok()
    });
    assert!(unwritten.is_some_and(|number| number > 0), "{stderr}");
    assert!(stderr.contains("failed to write to"), "{stderr}");
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.ends_with('\n'),
        "{opened}: a cut line: {:?}",
        text.lines().last()
    );
    let lines = text.lines().map(Record::parse).count();
    assert!(lines > 0, "{text}");
}

/// A FIFO that nobody reads makes nobody wait who has had enough.
fn fifo_without_reader() {
    let folder = Folder::new("fifo");
    let fifo = folder.0.join("fifo");
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    );
    made.unwrap();
    let tracer = Tracer::spawn(&["--json", "-o", fifo.to_str().unwrap()]);
    // `wchan` does not name the place on every kernel.
    let openat = format!("{} ", libc::SYS_openat);
    let opening = wait::poll(Duration::from_secs(20), || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", tracer.pid()));
        call.is_ok_and(|call| call.starts_with(&openat))
            .then_some(())
    });
    assert!(opening.is_some(), "it does not wait for a reader");
    // A shell has what it starts in the background ignore SIGINT, and no handler has been set yet.
    tracer.signal(Signal::TERM);
    let (stdout, status, _) = tracer.wait_text();
    assert_eq!(stdout, "");
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
}

/// A pipe that somebody who shares it has set not to block.
fn pipe_that_does_not_block() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let oracle = Oracle::record();
    let tracer = Tracer::start(&["--no-existing", "--buffer", "32M"]);
    let pidfd = rustix::process::pidfd_open(
        Pid::from_raw(i32::try_from(tracer.pid()).unwrap()).unwrap(),
        PidfdFlags::empty(),
    );
    let stdout =
        rustix::process::pidfd_getfd(pidfd.unwrap(), 1, rustix::process::PidfdGetfdFlags::empty());
    rustix::fs::fcntl_setfl(stdout.unwrap(), rustix::fs::OFlags::NONBLOCK).unwrap();
    tracer.pause_reading(true);
    server.tell_serve(&listener, 1000, First::Client);
    client.tell_dial(listener.local, 1000, First::Client);
    client.clients();
    server.clients();
    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    tracer.pause_reading(false);
    let records = tracer.finish().fine();
    assert_eq!(records.lost(), 0);
    check::same_transitions(&lives, &records.within(netns.inode));
}

/// `-o` with a log rotation in the middle: no line is lost or cut.
fn rotation() {
    let folder = Folder::new("rotation");
    let log = folder.0.join("log");
    let rotated = folder.0.join("log.1");
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let oracle = Oracle::with_buffer(64 << 10);
    let tracer = Tracer::spawn(&["--json", "--no-existing", "-o", log.to_str().unwrap()]);
    let has_text = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() > 0);
    let started = wait::poll(Duration::from_secs(20), || has_text(&log).then_some(()));
    assert!(started.is_some(), "nothing in {}", log.display());

    server.tell_serve_until_told(&listener, First::Client);
    let for_ms = if confinement::in_guest() { 600 } else { 800 };
    client.tell(&format!("dial-for {} {for_ms} client", listener.local));
    let grown = |path: &Path, len: u64| fs::metadata(path).is_ok_and(|file| file.len() > len);
    wait::poll(Duration::from_secs(5), || grown(&log, 20_000).then_some(()));
    fs::rename(&log, &rotated).unwrap();
    tracer.signal(Signal::HUP);
    let reopened = wait::poll(Duration::from_secs(5), || has_text(&log).then_some(()));
    client.answer();
    server.stop_serving();
    netns.settle(0);
    let lives = oracle::lives_in(&oracle.stop(), &netns, &[]);
    tracer.signal(Signal::INT);
    let (stdout, status, stderr) = tracer.wait_text();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(
        reopened.is_some(),
        "no new {} after SIGHUP; {stderr}",
        log.display()
    );
    assert_eq!(stdout, "", "standard output, though -o was given");
    let old = fs::read_to_string(&rotated).unwrap();
    let new = fs::read_to_string(&log).unwrap();
    for text in [&old, &new] {
        assert!(
            text.ends_with('\n'),
            "a cut line: {:?}",
            text.lines().last()
        );
    }
    let records = Records::parse(&(old + &new));
    records.keep_their_promises();
    assert_eq!(records.lost(), 0);
    check::same_transitions(&lives, &records.within(netns.inode));
}

fn without_root() {
    let folder = Folder::new("without-root");
    let output = Command::new(folder.program())
        .args(["--json", "-d", "1"])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(
        stderr.contains("CAP_BPF"),
        "no capability is named: {stderr}"
    );
    assert!(stderr.starts_with("tcptrace: "), "{stderr}");
    let messages = stderr
        .lines()
        .filter(|line| line.starts_with("tcptrace: "))
        .count();
    assert_eq!(messages, 1, "more than one message: {stderr}");
}

fn usage() {
    let cases: [&[&str]; 16] = [
        &["--nonsense"],
        &["-p", "abc"],
        &["-p", "0"],
        &["-p", "-1"],
        &["--port", "65536"],
        &["--port", "0"],
        &["--port", "9-5"],
        &["--port", ""],
        &["--events", "transition,bogus"],
        &["--duration", "soon"],
        &["-n", "-3"],
        &["-n", "many"],
        &["--buffer", "much"],
        &["--format", "xml"],
        &["-w", "127.0.0.1"],
        &["--json", "-w"],
    ];
    let mut faults = Vec::new();
    for args in cases {
        // A mistake taken for an order would trace on.
        let mut args = args.to_vec();
        if args[0] != "--duration" {
            args.extend(["--duration", "1"]);
        }
        let tracer = Tracer::spawn(&args);
        let (stdout, status, stderr) = tracer.wait_text();
        if status.code() != Some(2) || !stdout.is_empty() || stderr.is_empty() {
            faults.push(format!(
                "{args:?}: {status}, output {stdout:.200?}, errors {stderr:?}"
            ));
        }
    }
    assert!(
        faults.is_empty(),
        "expected status 2 and a message:\n{}",
        faults.join("\n")
    );
}

/// The trace of two processes ends with the second, and says of each that it has.
fn processes_asked_for_end() {
    let netns = Netns::new();
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let pids = format!("{},{}", client.who.pid, server.who.pid);
    let tracer = Tracer::start(&["--no-existing", "-p", &pids]);
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    let ended = [&client.who, &server.who]
        .map(|who| format!("process {} ({}) has ended", who.pid, who.comm));
    client.exit();
    server.act("eof", &far);
    server.exit();
    let (text, status, words) = tracer.wait_text();
    assert!(status.success(), "{words}");
    for ended in &ended {
        assert_eq!(words.matches(ended).count(), 1, "{words}");
    }
    let records = Records::parse(&text);
    for held in [&near, &far] {
        let about = records
            .all
            .iter()
            .filter(|record| record.is_about_a_connection());
        let mut of_it = about.filter(|record| record.is_of(held));
        assert!(of_it.any(|record| record.event() == "close"), "{text}");
    }
}
