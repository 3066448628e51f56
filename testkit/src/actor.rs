//! The harness's side of a [peer](crate::peer).

use std::{
    fmt::{self, Write as _},
    io::{BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Child, Command},
    time::Duration,
};

use rustix::{
    io::FdFlags,
    process::{Pid, Signal},
};

use crate::{netns::Netns, peer::First, wait};

const PATIENCE: Duration = Duration::from_secs(40);

/// A process that does as it is told.
pub struct Actor {
    /// Its pid, and its name unless [`Actor::rename`] changed it
    pub who: Who,
    /// [`None`]: its parent is a peer, which it does not survive
    child: Option<Child>,
    control: BufReader<UnixStream>,
    /// For its children to come
    spares: Vec<UnixStream>,
}

/// The owner a record should name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub pid: u32,
    pub comm: String,
    pub uid: u32,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, uid {})", self.pid, self.comm, self.uid)
    }
}

/// A connected socket of an [`Actor`].
#[derive(Clone, Debug)]
pub struct Held {
    id: String,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// In hexadecimal, as `ss -e` shows it
    pub cookie: String,
}

impl Listener {
    /// How its actor calls it.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Held {
    /// What nobody holds in the name of a test.
    pub fn at(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            id: String::new(),
            local,
            remote,
            cookie: String::new(),
        }
    }
}

/// A listening socket of an [`Actor`], or of its parent.
#[derive(Clone, Debug)]
pub struct Listener {
    id: String,
    pub local: SocketAddr,
}

impl Actor {
    pub fn spawn(netns: &Netns, comm: &str) -> Self {
        const FORKS: usize = 3;
        let (controls, theirs): (Vec<_>, Vec<OwnedFd>) = (0..=FORKS)
            .map(|_| UnixStream::pair().unwrap())
            .map(|(ours, theirs)| (ours, OwnedFd::from(theirs)))
            .unzip();
        let mut controls = controls.into_iter();
        let control = controls.next().unwrap();

        let mut command = Command::new("/proc/self/exe");
        command.arg("peer");
        command.args(theirs.iter().map(|fd| fd.as_raw_fd().to_string()));
        let inherit = move || {
            for fd in &theirs {
                rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only fcntl is called, which is a system call.
        unsafe { command.pre_exec(inherit) };
        let child = netns.enter(&mut command).spawn().unwrap();
        let who = Who {
            pid: child.id(),
            comm: String::new(),
            uid: 0,
        };
        let mut actor = Self::new(who, control, controls.collect());
        actor.child = Some(child);
        actor.rename(comm.as_bytes());
        comm.clone_into(&mut actor.who.comm);
        actor
    }

    fn new(who: Who, control: UnixStream, spares: Vec<UnixStream>) -> Self {
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            who,
            child: None,
            control: BufReader::new(control),
            spares,
        }
    }

    /// Tells it what to do, without waiting until it is done.
    pub fn tell(&mut self, command: &str) {
        self.control
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .unwrap();
    }

    /// What came of the oldest command not yet asked for: the text after `ok` or `err`.
    pub fn result(&mut self) -> Result<String, String> {
        let mut answer = String::new();
        match self.control.read_line(&mut answer) {
            Ok(0) => panic!("peer {} ended", self.who),
            Ok(_) => {}
            Err(error) => panic!("no answer from peer {}: {error}", self.who),
        }
        let answer = answer.trim_end();
        match answer.split_once(' ') {
            Some(("ok", text)) => Ok(text.to_owned()),
            Some(("err", text)) => Err(text.to_owned()),
            _ if answer == "ok" => Ok(String::new()),
            _ => panic!("peer {} answered {answer:?}", self.who),
        }
    }

    pub fn answer(&mut self) -> String {
        match self.result() {
            Ok(text) => text,
            Err(error) => panic!("peer {} failed: {error}", self.who),
        }
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    pub fn rename(&mut self, comm: &[u8]) {
        let mut command = "comm ".to_owned();
        for byte in comm {
            write!(command, "{byte:02x}").unwrap();
        }
        self.ask(&command);
    }

    pub fn become_user(&mut self, uid: u32) {
        self.ask(&format!("setuid {uid}"));
        self.who.uid = uid;
    }

    /// `flags`: `reuseport`, `dual`, `backlog=NUMBER`.
    pub fn listen(&mut self, addr: SocketAddr, flags: &str) -> Listener {
        let answer = self.ask(&format!("listen {addr} {flags}"));
        let (id, local) = answer.split_once(' ').unwrap();
        Listener {
            id: id.to_owned(),
            local: local.parse().unwrap(),
        }
    }

    /// Another's listener, by a descriptor of its own.
    pub fn inherit(&mut self, other: &mut Self, listener: &Listener) -> Listener {
        let descriptor = other.ask(&format!("descriptor {}", listener.id));
        let answer = self.ask(&format!("inherit {} {descriptor}", other.who.pid));
        let (id, local) = answer.split_once(' ').unwrap();
        Listener {
            id: id.to_owned(),
            local: local.parse().unwrap(),
        }
    }

    pub fn unlisten(&mut self, listener: &Listener) {
        self.ask(&format!("unlisten {}", listener.id));
    }

    /// `how`: nothing, `thread NAME` or `uring`. Ask [`Actor::held`] for the connection.
    pub fn tell_accept(&mut self, listener: &Listener, how: &str) {
        self.tell(&format!("accept {} {how}", listener.id));
    }

    pub fn accept(&mut self, listener: &Listener) -> Held {
        self.tell_accept(listener, "");
        self.held()
    }

    /// `how`: nothing, `thread NAME`, `nonblocking`, `fastopen`, `uring` or `from ADDR`.
    pub fn connect(&mut self, addr: SocketAddr, how: &str) -> Held {
        self.tell(&format!("connect {addr} {how}"));
        self.held()
    }

    /// Leaves the connect under way: [`Actor::finish`] waits for what comes of it.
    pub fn begin(&mut self, addr: SocketAddr) -> Held {
        let answer = self.ask(&format!("connect {addr} begin"));
        let words: Vec<&str> = answer.split(' ').collect();
        let [id, local, cookie] = words[..] else {
            panic!("not a connection: {answer:?}");
        };
        held(&format!("{id} {local} {addr} {cookie}"))
    }

    pub fn finish(&mut self, held: &Held) -> Result<String, String> {
        self.tell(&format!("finish {}", held.id));
        self.result()
    }

    /// Connects an open socket once more.
    pub fn reconnect(&mut self, held: &Held, addr: SocketAddr) -> Held {
        self.tell(&format!("reconnect {} {addr}", held.id));
        self.held()
    }

    /// `option`: `keepalive` after so many seconds and once, `user-timeout-ms`, `nodelay`.
    pub fn set(&mut self, held: &Held, option: &str, value: u32) {
        self.ask(&format!("set {} {option} {value}", held.id));
    }

    /// [`Actor::act`] with a number of bytes.
    pub fn act_on(&mut self, verb: &str, held: &Held, bytes: usize) {
        self.ask(&format!("{verb} {} {bytes}", held.id));
    }

    pub fn held(&mut self) -> Held {
        held(&self.answer())
    }

    /// `verb`: `send` or `receive` a byte, be `readable`, have `failed`, receive `eof`, `shutdown` its direction, `linger` on
    /// for no time, meet an `error`, `disconnect`.
    pub fn act(&mut self, verb: &str, held: &Held) -> String {
        self.ask(&format!("{verb} {}", held.id))
    }

    /// Closes its end of a connection that this end closes first, or second.
    pub fn close(&mut self, held: &Held) {
        self.act("close", held);
    }

    pub fn tell_close(&mut self, held: &Held) {
        self.tell(&format!("close {}", held.id));
    }

    pub fn tell_serve(&mut self, listener: &Listener, count: usize, first: First) {
        self.tell(&format!("serve {} {count} {}", listener.id, first.word()));
    }

    /// Connections that stay open until [`Actor::release`]; their [`Actor::clients`].
    pub fn tell_hold(&mut self, addr: SocketAddr, count: usize) {
        self.tell(&format!("hold {addr} {count}"));
    }

    /// The other side of [`Actor::tell_hold`].
    pub fn tell_take(&mut self, listener: &Listener, count: usize) {
        self.tell(&format!("take {} {count}", listener.id));
    }

    /// Closes all its connections, the oldest first.
    pub fn release(&mut self) {
        self.ask("release");
    }

    /// Its result are the [`Actor::clients`], after one of them has dismissed it.
    pub fn tell_serve_until_dismissed(&mut self, listener: &Listener, first: First) {
        self.tell(&format!(
            "serve-until-dismissed {} {}",
            listener.id,
            first.word()
        ));
    }

    /// Makes one of the servers on this address accept no more.
    pub fn dismiss(&mut self, addr: SocketAddr, first: First) -> Vec<SocketAddr> {
        self.tell(&format!("dismiss {addr} {}", first.word()));
        self.clients()
    }

    /// For a listener nobody else accepts from.
    pub fn tell_serve_until_told(&mut self, listener: &Listener, first: First) {
        self.tell(&format!(
            "serve-until-told {} {}",
            listener.id,
            first.word()
        ));
    }

    /// Ends [`Actor::tell_serve_until_told`]; whom it served.
    pub fn stop_serving(&mut self) -> Vec<SocketAddr> {
        self.tell("enough");
        self.clients()
    }

    /// Accepts, while another thread takes each descriptor away. Its result are the
    /// [`Actor::clients`]. `how`: `move` or `close`.
    pub fn tell_lose(&mut self, listener: &Listener, count: usize, how: &str) {
        self.tell(&format!("lose {} {count} {how}", listener.id));
    }

    pub fn tell_dial(&mut self, addr: SocketAddr, count: usize, first: First) {
        self.tell(&format!("dial {addr} {count} {}", first.word()));
    }

    /// The clients' ends that `serve` and `dial` answer with.
    pub fn clients(&mut self) -> Vec<SocketAddr> {
        let answer = self.answer();
        let clients = answer.split(',').filter(|client| !client.is_empty());
        clients.map(|client| client.parse().unwrap()).collect()
    }

    /// A child with copies of all its sockets. Its name is its parent's.
    pub fn fork(&mut self) -> Self {
        self.fork_as("fork")
    }

    /// The last child of this process, which may have children itself.
    pub fn fork_parent(&mut self) -> Self {
        let mut child = self.fork();
        child.spares = std::mem::take(&mut self.spares);
        child
    }

    /// A child that lives on when its parent ends. It must not be left waiting for anything but
    /// its next command.
    pub fn fork_orphan(&mut self) -> Self {
        self.fork_as("fork orphan")
    }

    fn fork_as(&mut self, command: &str) -> Self {
        let pid = self.ask(command).parse().unwrap();
        let control = self.spares.remove(0);
        let who = Who {
            pid,
            ..self.who.clone()
        };
        Self::new(who, control, Vec::new())
    }

    /// Waits until the process sleeps inside `accept` or `accept4`.
    pub fn await_blocked_in_accept(&self) {
        let path = format!("/proc/{}/syscall", self.who.pid);
        let mut last = String::new();
        let blocked = wait::poll(Duration::from_secs(10), || {
            last = std::fs::read_to_string(&path).unwrap();
            let number = last.split_whitespace().next()?.parse().ok()?;
            [libc::SYS_accept, libc::SYS_accept4]
                .contains(&number)
                .then_some(())
        });
        assert!(
            blocked.is_some(),
            "peer {} does not wait in accept: {path}: {last}",
            self.who
        );
    }

    /// Ends the process as a crash would: the kernel closes what it had open.
    pub fn kill(mut self) {
        self.end();
    }

    /// Has it exit, and waits until it has.
    pub fn exit(mut self) {
        self.control.get_mut().shutdown(Shutdown::Both).unwrap();
        self.child.take().unwrap().wait().unwrap();
    }

    /// Has a signal end it, and waits until it has.
    pub fn signal(mut self, signal: Signal) {
        let mut child = self.child.take().unwrap();
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.end();
    }
}

fn held(answer: &str) -> Held {
    let words: Vec<&str> = answer.split(' ').collect();
    let [id, local, remote, cookie] = words[..] else {
        panic!("not a connection: {answer:?}");
    };
    Held {
        id: id.to_owned(),
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        cookie: cookie.to_owned(),
    }
}
