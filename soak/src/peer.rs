//! Both ends of a connection of the load: what a client asks for with its first byte, a server does.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::claim::{Kind, Who};
use super::random::Random;

/// Whoever waits longer gives up: the other end may have been killed, or its network cut off.
const PATIENCE: Duration = Duration::from_secs(3);

/// Nobody listens here.
const CLOSED_PORT: u16 = 1;

/// The first of the servers' ports.
const FIRST_PORT: u16 = 7000;

/// How a connection goes on, as the client's first byte tells the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Script {
    ClientCloses,
    ServerCloses,
    ServerResets,
    ClientShuts,
    ServerShuts,
    /// The server closes with data unread
    ServerIgnores,
    /// As [`Script::ClientCloses`], after a while
    ServerThinks,
}

impl Script {
    const ALL: [Self; 7] = [
        Self::ClientCloses,
        Self::ServerCloses,
        Self::ServerResets,
        Self::ClientShuts,
        Self::ServerShuts,
        Self::ServerIgnores,
        Self::ServerThinks,
    ];

    fn of(byte: u8) -> Self {
        Self::ALL[usize::from(byte) % Self::ALL.len()]
    }
}

/// The addresses of a namespace, which nothing else on the host uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Addresses {
    /// `run`: the process that directs the soak; `workload`: the number of the namespace in it.
    pub(super) fn new(run: u32, workload: u16) -> Self {
        let [_, _, high, low] = run.to_be_bytes();
        let [_, second] = (192 + workload % 64).to_be_bytes();
        let [_, upper, middle, lower] = run.to_be_bytes();
        Self {
            v4: Ipv4Addr::new(127, second, high, low),
            v6: Ipv6Addr::new(
                0xfd73,
                0x6f61,
                0x6b00 | u16::from(upper),
                u16::from_be_bytes([middle, lower]),
                workload,
                0,
                0,
                1,
            ),
        }
    }

    /// Where a server listens: a number and the family.
    pub(super) fn server(self, number: u16, is_v6: bool) -> SocketAddr {
        self.at(FIRST_PORT + number, is_v6)
    }

    fn at(self, port: u16, is_v6: bool) -> SocketAddr {
        if is_v6 {
            (self.v6, port).into()
        } else {
            (self.v4, port).into()
        }
    }

    /// A server, or nobody, in one of the ways to speak to it.
    fn any(self, servers: u16, random: &mut Random) -> SocketAddr {
        let number = u16::try_from(random.below(servers.into())).unwrap_or_default();
        let addr = self.server(number, random.one_in(3));
        match addr {
            SocketAddr::V4(v4) if random.one_in(5) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            addr => addr,
        }
    }
}

/// Opens a listener.
pub(super) fn listen(addr: SocketAddr, who: Who) -> io::Result<TcpListener> {
    let socket = socket(addr, SocketFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    who.claims(&socket, Kind::Listens, 0)?;
    // The workers of the one before it may have a moment to live.
    let limit = Instant::now() + PATIENCE;
    while let Err(why) = rustix::net::bind(&socket, &addr) {
        if Instant::now() > limit {
            return Err(why.into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    rustix::net::listen(&socket, 128)?;
    Ok(TcpListener::from(socket))
}

/// Accepts and obeys, for good.
pub(super) fn serve(listener: &TcpListener, who: Who, owner: Who) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // No descriptors, or no memory: others will have done with theirs.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        // The client may be killed, or be rude, at any time.
        let _broken = answer(stream, who, owner);
    }
}

fn answer(mut stream: TcpStream, who: Who, owner: Who) -> io::Result<()> {
    who.claims(&stream, Kind::Accepted, owner.pid)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match Script::of(byte[0]) {
        Script::ClientCloses => {
            stream.write_all(b"!")?;
            until_eof(&mut stream)
        }
        Script::ServerCloses | Script::ServerIgnores => stream.write_all(b"!"),
        Script::ServerResets => reset(&stream),
        Script::ClientShuts => {
            until_eof(&mut stream)?;
            stream.write_all(&[b'!'; 3000])
        }
        Script::ServerShuts => {
            stream.shutdown(Shutdown::Write)?;
            until_eof(&mut stream)
        }
        Script::ServerThinks => {
            thread::sleep(Duration::from_millis(30));
            stream.write_all(b"!")?;
            until_eof(&mut stream)
        }
    }
}

fn until_eof(stream: &mut TcpStream) -> io::Result<()> {
    let mut some = [0; 4096];
    while stream.read(&mut some)? > 0 {}
    Ok(())
}

/// Closing it will send an RST.
fn reset(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn socket(addr: SocketAddr, flags: SocketFlags) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// A client: whom it is known as, and whom it may ask.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) who: Who,
    pub(super) addresses: Addresses,
    pub(super) servers: u16,
    pub(super) random: Random,
    /// Connections that stay for a while, and until when
    pub(super) kept: Vec<(Instant, TcpStream)>,
}

impl Client {
    /// Connects, and does what chance says; what went wrong is part of it.
    pub(super) fn act(&mut self) {
        let addr = self.addresses.any(self.servers, &mut self.random);
        let now = Instant::now();
        if self.random.one_in(8) {
            self.kept.retain(|(until, _)| *until > now);
        }
        let _broken = match self.random.below(24) {
            0 => self.refused(),
            1 => self.impatient(addr),
            2 => self.rude(addr),
            3 => self.again(addr),
            4 => self.burst(addr),
            5 if self.kept.len() < 50 => self.keep(addr),
            6 => self.deaf(addr),
            7..16 => self.talk(addr, Script::ClientCloses),
            _ => {
                let script = self.random.pick(&Script::ALL);
                self.talk(addr, script)
            }
        };
    }

    /// Connects, saying before or afterwards that it was us.
    fn connect(&mut self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket(addr, SocketFlags::CLOEXEC)?;
        // The cookie is given to whoever asks first: the tracer as well as us.
        let early = self.random.one_in(2);
        if early {
            self.who.claims(&socket, Kind::Connected, 0)?;
        }
        rustix::net::connect(&socket, &addr)?;
        if !early {
            self.who.claims(&socket, Kind::Connected, 0)?;
        }
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn talk(&mut self, addr: SocketAddr, script: Script) -> io::Result<()> {
        let stream = self.connect(addr)?;
        converse(stream, script)
    }

    fn refused(&mut self) -> io::Result<()> {
        let is_v6 = self.random.one_in(2);
        let addr = self.addresses.at(CLOSED_PORT, is_v6);
        self.connect(addr).map(drop)
    }

    /// Goes away without a word, perhaps before it is connected.
    fn impatient(&mut self, addr: SocketAddr) -> io::Result<()> {
        let socket = socket(addr, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        self.who.claims(&socket, Kind::Connected, 0)?;
        // In progress.
        let _begun = rustix::net::connect(&socket, &addr);
        Ok(())
    }

    fn rude(&mut self, addr: SocketAddr) -> io::Result<()> {
        let mut stream = self.connect(addr)?;
        stream.write_all(&[Script::ClientCloses as u8])?;
        reset(&stream)
    }

    /// Several lives of one socket.
    fn again(&mut self, addr: SocketAddr) -> io::Result<()> {
        let socket = socket(addr, SocketFlags::CLOEXEC)?;
        let closed = SocketAddr::new(addr.ip(), CLOSED_PORT);
        let _refused = rustix::net::connect(&socket, &closed);
        rustix::net::connect(&socket, &addr)?;
        if self.random.one_in(2) {
            rustix::net::connect_unspec(&socket)?;
            rustix::net::connect(&socket, &addr)?;
        }
        self.who.claims(&socket, Kind::Connected, 0)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        converse(stream, Script::ClientCloses)
    }

    fn burst(&mut self, addr: SocketAddr) -> io::Result<()> {
        let streams: io::Result<Vec<_>> = (0..20).map(|_| self.connect(addr)).collect();
        streams.map(drop)
    }

    fn keep(&mut self, addr: SocketAddr) -> io::Result<()> {
        let stream = self.connect(addr)?;
        let until = Instant::now() + self.random.millis(100, 15_000);
        self.kept.push((until, stream));
        Ok(())
    }

    /// Closes with the answer unread.
    fn deaf(&mut self, addr: SocketAddr) -> io::Result<()> {
        let mut stream = self.connect(addr)?;
        stream.write_all(&[Script::ClientCloses as u8])?;
        stream.peek(&mut [0]).map(drop)
    }
}

/// The client's half.
fn converse(mut stream: TcpStream, script: Script) -> io::Result<()> {
    stream.write_all(&[script as u8])?;
    match script {
        Script::ClientCloses | Script::ServerThinks => stream.read_exact(&mut [0]),
        Script::ClientShuts => {
            stream.shutdown(Shutdown::Write)?;
            until_eof(&mut stream)
        }
        Script::ServerIgnores => {
            stream.write_all(&[b'?'; 100])?;
            until_eof(&mut stream)
        }
        Script::ServerCloses | Script::ServerResets | Script::ServerShuts => until_eof(&mut stream),
    }
}
