//! The process at one end of a connection: it does what the test tells it, one line at a time.
//!
//! Everything a test claims about owners rests on these being processes of their own, with a pid
//! the test knows. A command is a line on the control socket, and so is its answer: `ok …` or
//! `err ERRNO`. Commands are synchronous, so that a test never has to guess how far a peer is.

mod converse;
mod odd;
mod riot;
mod socket;
mod thief;
mod uring;
mod work;

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    mem::ManuallyDrop,
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    time::Duration,
};

use rustix::{
    net::sockopt,
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
};

use converse::{DISMISSED, dial, dial_for, drain, in_thread, rush};
use socket::{
    addr_of, begin_connect, connect_after, connect_fastopen, connect_from, connect_nonblocking,
    family_of, finish_connect, index, info, name_of, set_option, unhex,
};

/// How long a peer waits for its counterpart before it reports failure instead.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who closes first, in commands that make many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    Client,
    Server,
}

impl First {
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    fn parse(word: &str) -> Self {
        match word {
            "client" => Self::Client,
            "server" => Self::Server,
            _ => panic!("who closes first: {word:?}"),
        }
    }
}

/// Runs a peer. `args`: the control socket's descriptor, then spare ones for forked children.
pub fn main(args: &[String]) -> ExitCode {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    // As services are. The scheduler shares the processors between sessions first: on 6.18, a storm from
    // the session of the tracer and the harness kept kernel threads, which both wait for, from running
    // for up to minutes.
    rustix::process::setsid().unwrap();
    allow_files();
    let mut controls = args.iter().map(|fd| {
        let fd: RawFd = fd.parse().unwrap();
        // SAFETY: the harness left these descriptors open for us, and nothing else uses them.
        UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) })
    });
    let control = controls.next().expect("a control socket");
    // The kernel closes what it holds, as it exits.
    let mut peer = ManuallyDrop::new(Peer {
        control: BufReader::new(control),
        spares: controls.collect(),
        listeners: Vec::new(),
        streams: Vec::new(),
    });
    peer.obey();
    ExitCode::SUCCESS
}

/// Some commands open thousands of sockets.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, most).unwrap();
}

struct Peer {
    control: BufReader<UnixStream>,
    spares: Vec<UnixStream>,
    listeners: Vec<Option<TcpListener>>,
    streams: Vec<Option<TcpStream>>,
}

impl Peer {
    /// Until the harness hangs up.
    fn obey(&mut self) {
        let mut line = String::new();
        while self.control.read_line(&mut line).is_ok_and(|len| len > 0) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match self.run(&words) {
                Ok(text) => format!("ok {text}\n"),
                Err(error) => format!("err {}\n", name_of(&error)),
            };
            if self.control.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
            line.clear();
        }
    }

    fn run(&mut self, words: &[&str]) -> io::Result<String> {
        match *words {
            ["listen", addr, ref flags @ ..] => self.listen(addr, flags),
            ["unlisten", id] => {
                drop(self.listeners[index(id)].take());
                Ok(String::new())
            }
            ["descriptor", id] => {
                let listener = self.listeners[index(id)].as_ref().unwrap();
                Ok(listener.as_raw_fd().to_string())
            }
            ["inherit", pid, descriptor] => {
                self.inherit(pid.parse().unwrap(), descriptor.parse().unwrap())
            }
            ["accept", id] => self.accept(index(id), None),
            ["accept", id, "thread", name] => self.accept(index(id), Some(name)),
            ["accept", id, "uring"] => {
                let listener = self.listeners[index(id)].as_ref().unwrap();
                let stream = uring::accept(listener)?;
                self.keep(stream)
            }
            // By the 32-bit system call. Answers with nothing: the connection is closed at once.
            ["accept", id, "int80"] => {
                let listener = self.listeners[index(id)].as_ref().unwrap();
                drop(odd::accept_by_interrupt(listener)?);
                Ok(String::new())
            }
            // Answers with the remote ends.
            ["lose", id, count, how] => {
                let listener = self.listeners[index(id)].as_ref().unwrap();
                thief::run(listener, count.parse().unwrap(), how)
            }
            // Answers with what it is sure of.
            ["riot", id, seed, millis, ref siblings @ ..] => {
                let listener = self.listeners[index(id)].as_ref().unwrap();
                let time = Duration::from_millis(millis.parse().unwrap());
                let siblings = siblings.iter().map(|pid| pid.parse().unwrap()).collect();
                riot::run(listener, seed.parse().unwrap(), time, siblings)
            }
            ["connect", addr] => self.keep(TcpStream::connect(addr_of(addr))?),
            ["connect", addr, "thread", name] => {
                let addr = addr_of(addr);
                let stream = in_thread(name, || TcpStream::connect(addr))?;
                self.keep(stream)
            }
            ["connect", addr, "nonblocking"] => {
                let stream = connect_nonblocking(addr_of(addr))?;
                self.keep(stream)
            }
            ["connect", addr, "fastopen"] => {
                let stream = connect_fastopen(addr_of(addr))?;
                self.keep(stream)
            }
            ["connect", addr, "uring"] => {
                let stream = uring::connect(addr_of(addr))?;
                self.keep(stream)
            }
            // With a socket that has been refused before.
            ["connect", addr, "after", refused] => {
                let stream = connect_after(addr_of(refused), addr_of(addr))?;
                self.keep(stream)
            }
            ["connect", addr, "from", local] => {
                let stream = connect_from(addr_of(local), addr_of(addr))?;
                self.keep(stream)
            }
            // Leaves the connect under way, for addresses that do not answer.
            ["connect", addr, "begin"] => {
                let (stream, _) = begin_connect(addr_of(addr))?;
                self.keep_local(stream)
            }
            // Waits for what came of it.
            ["finish", id] => {
                let stream = self.stream(id);
                finish_connect(stream)?;
                Ok(String::new())
            }
            // The same socket, after a connection of its own.
            ["reconnect", id, addr] => {
                let stream = self.streams[index(id)].take().expect("an open stream");
                rustix::net::connect(&stream, &addr_of(addr))?;
                self.keep(stream)
            }
            // Errors of ICMP messages are the socket's at once.
            ["recverr", id] => {
                odd::set_flag(&*self.stream(id), libc::IPPROTO_IP, libc::IP_RECVERR)?;
                Ok(String::new())
            }
            // Until it has an error, which stays with it.
            ["failed", id] => {
                odd::await_error(self.stream(id))?;
                Ok(String::new())
            }
            ["disconnect", id] => {
                rustix::net::connect_unspec(self.stream(id))?;
                Ok(String::new())
            }
            ["set", id, option, value] => {
                set_option(self.stream(id), option, value.parse().unwrap())?;
                Ok(String::new())
            }
            // What `struct tcp_info` has in it, in hexadecimal.
            ["info", id] => info(self.stream(id)),
            ["congestion", id] => sockopt::tcp_congestion(self.stream(id)).map_err(Into::into),
            ["receive", id, count] => {
                let mut bytes = vec![0; count.parse().unwrap()];
                self.stream(id).read_exact(&mut bytes)?;
                Ok(String::new())
            }
            ["send", id, count] => {
                let bytes = vec![b'x'; count.parse().unwrap()];
                self.stream(id).write_all(&bytes)?;
                Ok(String::new())
            }
            // Connections that stay open until `release`.
            ["hold", addr, count] => self.hold(addr_of(addr), count.parse().unwrap()),
            ["take", id, count] => self.take(index(id), count.parse().unwrap()),
            ["release"] => {
                self.streams.clear();
                Ok(String::new())
            }
            ["serve", id, count, first] => {
                self.serve(index(id), count.parse().unwrap(), First::parse(first))
            }
            ["dial", addr, count, first] => dial(
                addr_of(addr),
                count.parse().unwrap(),
                b'x',
                First::parse(first),
            ),
            ["dismiss", addr, first] => dial(addr_of(addr), 1, DISMISSED, First::parse(first)),
            // As `dial`, until the time is over; the count is not known before.
            ["dial-for", addr, millis, first] => {
                let time = Duration::from_millis(millis.parse().unwrap());
                dial_for(addr_of(addr), time, First::parse(first))
            }
            ["dial-until-told", addr, first] => {
                self.dial_until_told(addr_of(addr), First::parse(first))
            }
            // A thread for each listener from here on, for as long as this process lives.
            ["drain"] => {
                for listener in self.listeners.drain(..).flatten() {
                    std::thread::spawn(move || drain(&listener).unwrap());
                }
                Ok(String::new())
            }
            // So many connections to each address, in a thread of its own.
            ["rush", count, ref addrs @ ..] => rush(count.parse().unwrap(), addrs),
            ["serve-until-dismissed", id, first] => {
                self.serve_until_dismissed(index(id), First::parse(first))
            }
            ["serve-until-told", id, first] => {
                self.serve_until_told(index(id), First::parse(first))
            }
            ["send", id] => {
                self.stream(id).write_all(b"x")?;
                Ok(String::new())
            }
            ["receive", id] => {
                let mut byte = [0];
                self.stream(id).read_exact(&mut byte)?;
                Ok(String::new())
            }
            ["readable", id] => {
                self.stream(id).peek(&mut [0])?;
                Ok(String::new())
            }
            ["eof", id] => {
                let mut rest = Vec::new();
                self.stream(id).read_to_end(&mut rest)?;
                Ok(String::new())
            }
            ["shutdown", id] => {
                self.stream(id).shutdown(Shutdown::Write)?;
                Ok(String::new())
            }
            // Closing it will reset the connection.
            ["linger", id] => {
                let now = Some(Duration::ZERO);
                sockopt::set_socket_linger(self.stream(id), now)?;
                Ok(String::new())
            }
            ["error", id] => match self.stream(id).read(&mut [0]) {
                Ok(len) => panic!("{len} bytes in place of an error"),
                Err(error) => Ok(name_of(&error)),
            },
            ["close", id] => {
                drop(self.streams[index(id)].take());
                Ok(String::new())
            }
            ["comm", hex] => {
                let name = unhex(hex);
                let name = std::ffi::CString::new(name).unwrap();
                rustix::thread::set_name(&name)?;
                Ok(String::new())
            }
            ["setuid", uid] => {
                // SAFETY: changes this process's credentials, which nothing here relies on.
                match unsafe { libc::setuid(uid.parse().unwrap()) } {
                    0 => Ok(String::new()),
                    _ => Err(io::Error::last_os_error()),
                }
            }
            ["write-file", path, text] => std::fs::write(path, text).map(|()| String::new()),
            ["fork"] => self.fork(Some(Signal::KILL)),
            ["fork", "orphan"] => self.fork(None),
            _ => panic!("unknown command {words:?}"),
        }
    }
}
