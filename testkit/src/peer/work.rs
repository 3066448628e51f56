//! What a peer does with its sockets and listeners.

use std::{
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, RawFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{SocketFlags, SocketType, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open},
};

use super::{
    First, PATIENCE, Peer,
    converse::{DISMISSED, converse_as_client, converse_as_server, in_thread},
    socket::{addr_of, canonical, family_of, index},
};

impl Peer {
    pub(super) fn stream(&mut self, id: &str) -> &mut TcpStream {
        self.streams[index(id)].as_mut().expect("an open stream")
    }

    /// Answers `ID LOCAL REMOTE COOKIE`.
    pub(super) fn keep(&mut self, stream: TcpStream) -> io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let peer = stream.peer_addr()?;
        let kept = self.keep_local(stream)?;
        let (head, cookie) = kept.rsplit_once(' ').unwrap();
        Ok(format!("{head} {} {cookie}", canonical(peer)))
    }

    /// Answers `ID LOCAL COOKIE`.
    pub(super) fn keep_local(&mut self, stream: TcpStream) -> io::Result<String> {
        let cookie = sockopt::socket_cookie(&stream)?;
        let local = canonical(stream.local_addr()?);
        self.streams.push(Some(stream));
        Ok(format!("{} {local} {cookie:x}", self.streams.len() - 1))
    }

    /// Another process's listener. Answers `ID ADDR`.
    pub(super) fn inherit(&mut self, pid: i32, descriptor: RawFd) -> io::Result<String> {
        let holder = Pid::from_raw(pid).unwrap();
        let holder = pidfd_open(holder, PidfdFlags::empty())?;
        let listener = pidfd_getfd(holder, descriptor, PidfdGetfdFlags::empty())?;
        let listener = TcpListener::from(listener);
        let addr = listener.local_addr()?;
        self.listeners.push(Some(listener));
        Ok(format!("{} {addr}", self.listeners.len() - 1))
    }

    /// Answers `ID ADDR`.
    pub(super) fn listen(&mut self, addr: &str, flags: &[&str]) -> io::Result<String> {
        let addr = addr_of(addr);
        let socket = rustix::net::socket_with(
            family_of(addr),
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut backlog = 1024;
        for flag in flags {
            match *flag {
                "reuseport" => sockopt::set_socket_reuseport(&socket, true)?,
                "dual" => sockopt::set_ipv6_v6only(&socket, false)?,
                _ => {
                    let text = flag.strip_prefix("backlog=").expect("a known flag");
                    backlog = text.parse().unwrap();
                }
            }
        }
        rustix::net::bind(&socket, &addr)?;
        rustix::net::listen(&socket, backlog)?;
        let listener = TcpListener::from(socket);
        let local = listener.local_addr()?;
        self.listeners.push(Some(listener));
        Ok(format!("{} {local}", self.listeners.len() - 1))
    }

    pub(super) fn accept(&mut self, id: usize, thread: Option<&str>) -> io::Result<String> {
        let listener = self.listeners[id].as_ref().unwrap();
        let (stream, _) = match thread {
            Some(name) => in_thread(name, || listener.accept())?,
            None => listener.accept()?,
        };
        self.keep(stream)
    }

    /// Answers with the local ends.
    pub(super) fn hold(&mut self, addr: SocketAddr, count: usize) -> io::Result<String> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let stream = TcpStream::connect(addr)?;
            clients.push(canonical(stream.local_addr()?).to_string());
            self.streams.push(Some(stream));
        }
        Ok(clients.join(","))
    }

    /// Answers with the remote ends.
    pub(super) fn take(&mut self, id: usize, count: usize) -> io::Result<String> {
        let listener = self.listeners[id].as_ref().unwrap();
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let (stream, client) = listener.accept()?;
            clients.push(canonical(client).to_string());
            self.streams.push(Some(stream));
        }
        Ok(clients.join(","))
    }

    /// Answers with the remote ends of the connections it accepted.
    pub(super) fn serve(&mut self, id: usize, count: usize, first: First) -> io::Result<String> {
        let listener = self.listeners[id].as_ref().unwrap();
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let (stream, client) = listener.accept()?;
            clients.push(canonical(client).to_string());
            converse_as_server(stream, first)?;
        }
        Ok(clients.join(","))
    }

    /// Serves whoever comes, sleeping in `accept()` as workers of a prefork server do, until a
    /// client dismisses it.
    pub(super) fn serve_until_dismissed(&mut self, id: usize, first: First) -> io::Result<String> {
        let listener = self.listeners[id].as_ref().unwrap();
        let mut clients = Vec::new();
        loop {
            let (stream, client) = listener.accept()?;
            clients.push(canonical(client).to_string());
            if converse_as_server(stream, first)? == DISMISSED {
                return Ok(clients.join(","));
            }
        }
    }

    /// Serves whoever comes until the next line from the harness. For a listener that no other
    /// process accepts from.
    pub(super) fn serve_until_told(&mut self, id: usize, first: First) -> io::Result<String> {
        let listener = self.listeners[id].as_ref().unwrap();
        let mut clients = Vec::new();
        loop {
            let mut fds = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::from_borrowed_fd(self.control.get_ref().as_fd(), PollFlags::IN),
            ];
            rustix::event::poll(&mut fds, None)?;
            if !fds[0].revents().is_empty() {
                let (stream, client) = listener.accept()?;
                clients.push(canonical(client).to_string());
                converse_as_server(stream, first)?;
            } else if !fds[1].revents().is_empty() {
                let mut line = String::new();
                self.control.read_line(&mut line)?;
                return Ok(clients.join(","));
            }
        }
    }

    /// Answers with how many it was, after the next line from the harness.
    pub(super) fn dial_until_told(&mut self, addr: SocketAddr, first: First) -> io::Result<String> {
        let mut count = 0;
        loop {
            converse_as_client(TcpStream::connect(addr)?, b'x', first)?;
            count += 1;
            let mut fds = [PollFd::from_borrowed_fd(
                self.control.get_ref().as_fd(),
                PollFlags::IN,
            )];
            if rustix::event::poll(&mut fds, Some(&Timespec::default()))? > 0 {
                let mut line = String::new();
                self.control.read_line(&mut line)?;
                return Ok(count.to_string());
            }
        }
    }

    /// Answers with the child's pid; the child obeys the next spare control socket.
    ///
    /// `parent_death`: what becomes of the child when this process ends.
    pub(super) fn fork(&mut self, parent_death: Option<Signal>) -> io::Result<String> {
        let control = self.spares.remove(0);
        // SAFETY: this process has one thread at this moment: `in_thread` joins its own.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                rustix::process::set_parent_process_death_signal(parent_death)?;
                self.control = BufReader::new(control);
                self.obey();
                std::process::exit(0);
            }
            pid => Ok(pid.to_string()),
        }
    }
}
