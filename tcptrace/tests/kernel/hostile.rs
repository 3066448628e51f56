//! Process names are chosen by whoever runs the process, and may aim at the reader's terminal.

use std::{
    fs::File,
    io::Read as _,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal},
    pty::OpenptFlags,
    termios::OptionalActions,
};

use crate::{
    actor::Actor,
    harness::{Test, alone, beside},
    netns::{Ip, Netns},
    stage::{Exchange, Stage},
    tracer::{self, Tracer},
    wait,
};

pub(crate) const TESTS: &[Test] = &[
    beside!(names_in_json),
    alone!(names_in_a_piped_table),
    alone!(names_in_a_terminal),
];

/// Each as long as the kernel lets a name be.
const NAMES: [&[u8; 15]; 6] = [
    b"\x1b[5;7m\x1b[2J\x1bc\x08\x07!",
    b"a\nb\nc\rd\te\x0bf\x0cgh!",
    b"\"\\\"\\\"\\',{}\"\\n\"!",
    b"\xff\xfe\xc3\x28\xe2\x82\xf0\x9f\x92\x80\x81\x9b\x9d\xc2\x9b",
    b"\xc2\x9b5m\xc2\x9d0;x\xc2\x9c\x7f\x7f\x01!",
    b"%s%n{}{:?}\x1b\x1b\x1b\x1b\x1b",
];

/// No tracer would choose blinking and inverted: only the first name can have brought it.
const NOT_OURS: &str = "\x1b[5;7m";

/// One connection of a process of each name; the port they went to.
fn connect_as_each(netns: &Netns) -> u16 {
    let mut server = Actor::spawn(netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    for name in NAMES {
        let mut client = Actor::spawn(netns, "client");
        client.rename(name);
        Exchange::default().run(&mut client, &mut server, &listener, listener.local);
    }
    listener.local.port()
}

fn names_in_json() {
    let stage = Stage::open(&[]);
    connect_as_each(&stage.netns);
    // Every line is parsed on the way.
    let told = stage.end(0, &[]);
    let mut named = 0;
    for record in told.ours() {
        assert!(
            !record.line.chars().any(char::is_control),
            "a control character as such: {:?}",
            record.line
        );
        named += usize::from(record.text("comm").is_some());
    }
    assert!(named > 0);
}

/// What may go to a terminal: text, line ends, and colors.
fn tame(text: &str) {
    assert!(
        !text.contains(NOT_OURS),
        "a name's own escape sequence got through:\n{text:?}"
    );
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain += before;
        let len = after
            .find(|char: char| !char.is_ascii_digit() && char != ';')
            .unwrap_or(after.len());
        rest = after[len..]
            .strip_prefix('m')
            .unwrap_or_else(|| panic!("an escape sequence that is not a color: {after:.40?}"));
    }
    plain += rest;
    for line in plain.split('\n') {
        assert!(
            !line.chars().any(char::is_control),
            "a control character: {line:?}"
        );
    }
}

/// A table has no start line: connections are made until one is in it.
fn make_until_shown(netns: &Netns, mut text: impl FnMut() -> String) {
    let shown = wait::poll(Duration::from_secs(20), || {
        let port = connect_as_each(netns).to_string();
        let mut shown = || text().matches(&port).count() >= 2 * NAMES.len();
        wait::poll(Duration::from_millis(300), || shown().then_some(()))
    });
    assert!(
        shown.is_some(),
        "the connections are not in the table:\n{}",
        text()
    );
}

fn names_in_a_piped_table() {
    for args in [
        &["--wide"][..],
        &["--color", "always"],
        &["-s"],
        &["-T", "date", "--utc"],
    ] {
        let netns = Netns::new();
        let tracer = Tracer::spawn(args);
        make_until_shown(&netns, || {
            let text = tracer.text();
            if text.is_empty()
                && let Some(stderr) = tracer.last_words()
            {
                panic!("{args:?}: the tracer ended: {stderr}");
            }
            text
        });
        tracer.signal(Signal::INT);
        let (text, status, stderr) = tracer.wait_text();
        assert!(status.success(), "{args:?}: {status}\n{stderr}");
        tame(&text);
        tame(&stderr);
        if !args.contains(&"always") {
            assert!(!text.contains('\x1b'), "colors in a pipe: {text:?}");
        }
    }
}

fn names_in_a_terminal() {
    let netns = Netns::new();
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&ours).unwrap();
    rustix::pty::unlockpt(&ours).unwrap();
    let theirs =
        rustix::pty::ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    // Without the line discipline's own carriage returns.
    let mut modes = rustix::termios::tcgetattr(&theirs).unwrap();
    modes.make_raw();
    rustix::termios::tcsetattr(&theirs, OptionalActions::Now, &modes).unwrap();
    rustix::termios::tcsetwinsize(
        &theirs,
        rustix::termios::Winsize {
            ws_row: 24,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .unwrap();

    let mut child = Command::new(tracer::binary())
        .args(["--color", "always"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::null())
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs)
        .spawn()
        .unwrap();
    let screen = Screen::watch(ours);
    make_until_shown(&netns, || screen.text());
    let pid = Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let status = wait::poll(Duration::from_secs(20), || child.try_wait().unwrap());
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    let text = screen.end();
    assert!(text.contains("\x1b["), "no color on a terminal");
    tame(&text);
}

/// The terminal's side of a pseudo-terminal.
struct Screen {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Screen {
    fn watch(terminal: OwnedFd) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let reader = {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let mut terminal = File::from(terminal);
                let mut some = [0; 4096];
                // EIO when the last writer has gone.
                while let Ok(len @ 1..) = terminal.read(&mut some) {
                    bytes.lock().unwrap().extend_from_slice(&some[..len]);
                }
            })
        };
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn end(self) -> String {
        self.reader.join().unwrap();
        let bytes = self.bytes.lock().unwrap().clone();
        String::from_utf8(bytes).expect("the table is UTF-8")
    }
}
