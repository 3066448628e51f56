//! What the service manager is told: that tracing has begun, that the loop is alive, that it ends.
//!
//! `sd_notify(3)`. Without `NOTIFY_SOCKET` all of this does nothing.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send};

/// The service manager, if it started us and wants to know.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<OwnedFd>,
    /// How often it wants to hear that we are alive: half of what it waits for
    period: Option<Duration>,
    told: Option<Instant>,
}

impl Manager {
    /// Connects now: later there may be no right to.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        let Some(path) = variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Self::default();
        };
        let socket = open(&path)
            .inspect_err(|why| log::warn!("the service manager at {path} is not told: {why}"))
            .ok();
        // WATCHDOG_PID names whom it is for.
        let is_ours =
            variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let period = variable("WATCHDOG_USEC")
            .and_then(|us| us.parse().ok())
            .filter(|us| is_ours && *us > 0)
            .map(|us| Duration::from_micros(us) / 2);
        Self {
            socket,
            period,
            told: None,
        }
    }

    /// Everything is attached.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=tracing\n");
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=delivering what has happened\n");
    }

    /// The loop is alive; how long until it must say so again.
    pub fn alive(&mut self) -> Option<Duration> {
        let period = self.period?;
        let now = Instant::now();
        let left = |told: Instant| (told + period).saturating_duration_since(now);
        match self.told.map(left) {
            Some(left) if !left.is_zero() => Some(left),
            _ => {
                self.told = Some(now);
                self.tell("WATCHDOG=1\n");
                Some(period)
            }
        }
    }

    fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket
            && let Err(why) = send(socket, what.as_bytes(), SendFlags::NOSIGNAL)
        {
            log::debug!("the service manager is not told: {why}");
        }
    }
}

/// A path, or behind `@` a name in the abstract namespace.
fn open(path: &str) -> rustix::io::Result<OwnedFd> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(path)?,
    };
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket)
}
