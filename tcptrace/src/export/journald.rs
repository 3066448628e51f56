//! Records as entries of systemd's journal, by its native protocol.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::IpAddr,
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::Context as _;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, connect, send, sendmsg, socket_with,
    },
};

use crate::{
    error::Error,
    event::{Event, Network, State},
    sink::{
        End, Lost, Start,
        fields::{self, Field, Fields, Kind, Names},
        text::{push_address, push_escaped, push_hex, push_network, push_number},
        time::Clock,
    },
    trace::{Consumer, Flow},
};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// `LOG_WARNING`, `LOG_NOTICE`, `LOG_INFO` and `LOG_DEBUG` of syslog(3)
const WARNING: u8 = b'4';
const NOTICE: u8 = b'5';
const INFO: u8 = b'6';
const DEBUG: u8 = b'7';

/// Writes entries, one per record.
pub struct Journald {
    socket: rustix::fd::OwnedFd,
    clock: Clock,
    names: Names,
    entry: Vec<u8>,
    dropped: u64,
    is_failing: bool,
}

impl Journald {
    /// Connects to the journal of this host. `explain`: whether to say what transitions mean.
    pub fn connect(explain: bool) -> Result<Self, Error> {
        Self::connect_to(Path::new(SOCKET), explain)
    }

    /// The same, to a socket elsewhere.
    pub fn connect_to(path: &Path, explain: bool) -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
            .and_then(|socket| {
                connect(&socket, &SocketAddrUnix::new(path)?)?;
                Ok(socket)
            })
            .with_context(|| format!("--journald: no journal listens at {}", path.display()))?;
        Ok(Self {
            socket,
            clock: Clock::default(),
            names: Names {
                explain,
                ..Names::default()
            },
            entry: Vec::new(),
            dropped: 0,
            is_failing: false,
        })
    }

    fn begin(&mut self, kind: Kind, mono_ns: u64, priority: u8) {
        self.entry.clear();
        self.entry
            .extend_from_slice(b"SYSLOG_IDENTIFIER=tcptrace\nPRIORITY=");
        self.entry.push(priority);
        self.entry.extend_from_slice(b"\nMESSAGE_ID=");
        self.entry.extend_from_slice(message_id(kind).as_bytes());
        self.entry.extend_from_slice(b"\nTCPTRACE_EVENT=");
        self.entry.extend_from_slice(kind.name().as_bytes());
        self.entry.extend_from_slice(b"\nTCPTRACE_TS=");
        self.clock.push_rfc3339(mono_ns, &mut self.entry);
        self.entry.extend_from_slice(b"\nTCPTRACE_MONO_US=");
        push_number(&mut self.entry, mono_ns / 1000);
        self.entry.push(b'\n');
    }

    fn send(&mut self) {
        match send_entry(&self.socket, &self.entry) {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    log::warn!("--journald: the journal takes entries again");
                }
            }
            Err(why) => {
                self.dropped += 1;
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::warn!("--journald: {why}; entries are counted as lost until it works");
                }
                // It may have been restarted.
                if let Ok(new) = Self::connect(self.names.explain) {
                    self.socket = new.socket;
                }
            }
        }
    }
}

/// One datagram; one that is too large goes as a sealed file in memory.
fn send_entry(socket: &rustix::fd::OwnedFd, entry: &[u8]) -> io::Result<()> {
    loop {
        match send(socket, entry, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::MSGSIZE | Errno::NOBUFS) => return send_large(socket, entry),
            Err(why) => return Err(why.into()),
        }
    }
}

fn send_large(socket: &rustix::fd::OwnedFd, entry: &[u8]) -> io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create("tcptrace-entry", flags)?);
    file.write_all(entry)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals)?;
    let fds = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What the entries of a kind have in common; `journalctl MESSAGE_ID=…` finds them.
const fn message_id(kind: Kind) -> &'static str {
    match kind {
        Kind::Start => "ac3ef0f88faa44d4b1503aaf39cac8e0",
        Kind::Socket => "196d410f09ed4f79bc52aa6e89c66d74",
        Kind::Transition => "522ba33293b84a4998765daf44688d6e",
        Kind::Accept => "d1aaf6e901a24c0596bc03afbd2358e8",
        Kind::Retransmit => "fc9f9262d4bd42fa8345b61208a7d1dd",
        Kind::Reset => "c0c8eb61b002497a9eb04f90fcf44d11",
        Kind::Owner => "5a0c2b7f3d6e4c1f9b8e7d2a4f6c1e90",
        Kind::Listener => "fa8cf841fd45479eba3647a4a5cffae5",
        Kind::Close => "e682f435a3e6472e960e84ad11cfb2c5",
        Kind::Slow => "31cc4ffa1b1948c1becab942e8f9e826",
        Kind::Open => "3f6b1d0e9a7c4e52b8d4c1f07e2a9b65",
        Kind::Lost => "ccc71d5b912344aeb7d0455de555f0db",
        Kind::End => "2bc4e530b91944f7acef6830d5e9f2e0",
    }
}

/// Fields of an entry: `TCPTRACE_` and the name in capitals, `OBJECT_PID` for the process.
struct Entry<'a>(&'a mut Vec<u8>);

impl Entry<'_> {
    fn field(&mut self, field: Field, push: impl FnOnce(&mut Vec<u8>)) {
        if field.name == "pid" {
            // The journal adds what it knows of that process.
            self.0.extend_from_slice(b"OBJECT_PID=");
        } else {
            self.0.extend_from_slice(b"TCPTRACE_");
            self.0
                .extend(field.name.bytes().map(|byte| byte.to_ascii_uppercase()));
            self.0.push(b'=');
        }
        push(self.0);
        self.0.push(b'\n');
    }
}

impl Fields for Entry<'_> {
    fn number(&mut self, field: Field, number: u64) {
        self.field(field, |out| push_number(out, number));
    }

    fn large(&mut self, field: Field, number: u64) {
        self.number(field, number);
    }

    fn hex(&mut self, field: Field, number: u64) {
        self.field(field, |out| push_hex(out, number));
    }

    fn text(&mut self, field: Field, text: &str) {
        self.field(field, |out| out.extend_from_slice(text.as_bytes()));
    }

    /// Escaped as in the table: a line break would end the field.
    fn outside(&mut self, field: Field, bytes: &[u8]) {
        self.field(field, |out| {
            push_escaped(out, bytes);
        });
    }

    fn address(&mut self, field: Field, address: IpAddr) {
        self.field(field, |out| push_address(out, address));
    }

    fn yes(&mut self, field: Field) {
        self.text(field, "true");
    }

    fn networks(&mut self, field: Field, networks: impl Iterator<Item = (Network, u32)>) {
        self.field(field, |text| {
            for (nth, (network, number)) in networks.enumerate() {
                push_separator(nth, text);
                push_network(text, network);
                text.push(b'=');
                push_number(text, number.into());
            }
        });
    }

    fn states(&mut self, field: Field, states: impl Iterator<Item = (State, u64)>) {
        self.field(field, |out| {
            for (nth, (state, us)) in states.enumerate() {
                push_separator(nth, out);
                out.extend_from_slice(state.name().as_bytes());
                out.push(b'=');
                push_number(out, us);
            }
        });
    }

    fn words(&mut self, field: Field, words: impl Iterator<Item = &'static str>) {
        self.field(field, |out| {
            for (nth, word) in words.enumerate() {
                push_separator(nth, out);
                out.extend_from_slice(word.as_bytes());
            }
        });
    }

    fn table(&mut self, field: Field, table: &BTreeMap<&'static str, String>) {
        self.field(field, |out| {
            for (nth, (name, text)) in table.iter().enumerate() {
                push_separator(nth, out);
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                push_escaped(out, text.as_bytes());
            }
        });
    }
}

fn push_separator(nth: usize, out: &mut Vec<u8>) {
    if nth > 0 {
        out.push(b';');
    }
}

/// `MESSAGE`: what `journalctl` shows of a record about a connection.
fn push_message(event: &Event, out: &mut Vec<u8>) {
    let connection = event.connection();
    out.extend_from_slice(b"MESSAGE=");
    if connection.comm().is_empty() {
        out.push(b'?');
    } else {
        push_escaped(out, connection.comm());
    }
    if let Some(pid) = connection.pid() {
        out.push(b'[');
        push_number(out, pid.into());
        out.push(b']');
    }
    out.push(b' ');
    push_address(out, connection.laddr());
    if let Some(port) = connection.lport() {
        out.push(b' ');
        push_number(out, port.into());
    }
    if let Some(address) = connection.raddr() {
        out.extend_from_slice(b" - ");
        push_address(out, address);
    }
    if let Some(port) = connection.rport() {
        out.push(b' ');
        push_number(out, port.into());
    }
    out.extend_from_slice(b": ");
    let mut word = |text: &str| out.extend_from_slice(text.as_bytes());
    match event {
        Event::Socket(socket) => word(socket.state().name()),
        Event::Transition(step) => {
            word(step.oldstate().name());
            word(" to ");
            word(step.newstate().name());
        }
        Event::Accept(_) => word("accepted"),
        Event::Open(open) => {
            word("still open: ");
            word(open.state().name());
        }
        Event::Owner(_) => word("owner changed"),
        Event::Retransmit(retransmit) => {
            word("sent again: ");
            word(retransmit.segment().name());
        }
        Event::Reset(reset) => {
            word("reset ");
            word(reset.direction().name());
        }
        Event::Listener(_) => word("trouble at the listener"),
        Event::Slow(slow) => {
            word("still waits: ");
            word(slow.phase().name());
        }
        Event::Close(close) => {
            word("closed: ");
            word(close.reason().name());
        }
    }
    out.push(b'\n');
}

impl Consumer for Journald {
    fn name(&self) -> &'static str {
        "journald"
    }

    fn start(&mut self, start: &Start) {
        self.names.reset_reasons.clone_from(&start.reset_reasons);
        self.names.processes = start.processes.clone();
        self.begin(Kind::Start, start.mono_ns, INFO);
        self.entry.extend_from_slice(b"MESSAGE=tracing begins\n");
        fields::start(start, &mut Entry(&mut self.entry));
        self.send();
    }

    fn begin_batch(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }

    fn event(&mut self, event: &Event) -> bool {
        let connection = event.connection();
        let priority = match event {
            Event::Close(close) if close.reason().is_failure() => NOTICE,
            Event::Listener(_) | Event::Slow(_) => WARNING,
            Event::Close(_) => INFO,
            _ => DEBUG,
        };
        self.begin(Kind::from(event), connection.mono_ns(), priority);
        push_message(event, &mut self.entry);
        let mut entry = Entry(&mut self.entry);
        fields::about(connection, &self.names, &mut entry);
        fields::details(event, &self.names, &mut entry);
        self.send();
        true
    }

    fn lost(&mut self, lost: &Lost) {
        self.begin(Kind::Lost, lost.mono_ns, WARNING);
        self.entry.extend_from_slice(b"MESSAGE=records were lost\n");
        fields::lost(lost, &mut Entry(&mut self.entry));
        self.send();
    }

    fn end(&mut self, end: &End) {
        self.begin(Kind::End, end.mono_ns, INFO);
        self.entry.extend_from_slice(b"MESSAGE=tracing ends\n");
        fields::end(end, &mut Entry(&mut self.entry));
        self.send();
    }

    fn flush(&mut self) -> Result<Flow, Error> {
        Ok(Flow::Open)
    }

    fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}
