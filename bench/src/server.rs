//! The other end of the load.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, Result};

use super::load::{PORT, Plan, THREADS, allow_files, say};

/// The server: `ready` once it listens, `closed` for each thread whose last connection is gone.
pub(super) fn run(plan: Plan) -> Result<()> {
    allow_files()?;
    if plan.connections > 0 || plan.endless {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        for _ in 0..THREADS {
            let listener = listener.try_clone()?;
            thread::spawn(move || serve(&listener));
        }
    }
    for thread in 0..THREADS {
        let number = Plan::share(plan.hold, thread);
        if number > 0 {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, plan.hold_port(thread)))?;
            thread::spawn(move || hold_until_closed(&listener, number));
        }
    }
    say("ready")?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _peer) = listener.accept()?;
        answer(&stream)?;
        // The client closes first.
        stream.read_exact(&mut [0]).unwrap_or_default();
    }
}

fn hold_until_closed(listener: &TcpListener, number: u32) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..number {
        let (stream, _peer) = listener.accept()?;
        answer(&stream)?;
        streams.push(stream);
    }
    for mut stream in streams {
        stream.read_exact(&mut [0]).unwrap_or_default();
    }
    say("closed")?;
    // Its processor time is counted as long as it lives.
    loop {
        thread::park();
    }
}
fn answer(mut stream: &TcpStream) -> Result<()> {
    stream.read_exact(&mut [0]).context("receive")?;
    stream.write_all(b"!").context("send")
}
