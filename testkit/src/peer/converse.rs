//! Many connections with a word each, from both ends.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use super::{
    First, PATIENCE,
    socket::{addr_of, canonical},
};

/// What a client says to a server that shall accept no more.
pub(super) const DISMISSED: u8 = b'q';

/// The client's word.
pub(super) fn converse_as_server(mut stream: TcpStream, first: First) -> io::Result<u8> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = [0; 16];
    stream.read_exact(&mut bytes[..1])?;
    stream.write_all(b"y")?;
    if first == First::Client {
        let rest = stream.read(&mut bytes[1..])?;
        assert_eq!(rest, 0, "more than the one byte");
    }
    Ok(bytes[0])
}

pub(super) fn converse_as_client(mut stream: TcpStream, word: u8, first: First) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = [0; 16];
    stream.write_all(&[word])?;
    stream.read_exact(&mut bytes[..1])?;
    if first == First::Server {
        let rest = stream.read(&mut bytes)?;
        assert_eq!(rest, 0, "more than the one byte");
    }
    Ok(())
}

/// Answers with the local ends of the connections it made.
pub(super) fn dial(addr: SocketAddr, count: usize, word: u8, first: First) -> io::Result<String> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TcpStream::connect(addr)?;
        clients.push(canonical(stream.local_addr()?).to_string());
        converse_as_client(stream, word, first)?;
    }
    Ok(clients.join(","))
}

pub(super) fn dial_for(addr: SocketAddr, time: Duration, first: First) -> io::Result<String> {
    let end = Instant::now() + time;
    let mut count = 0;
    while Instant::now() < end {
        converse_as_client(TcpStream::connect(addr)?, b'x', first)?;
        count += 1;
    }
    Ok(count.to_string())
}

/// Serves who closes first and says nothing.
pub(super) fn drain(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let rest = stream.read(&mut [0])?;
        assert_eq!(rest, 0, "somebody spoke");
    }
}

pub(super) fn rush(count: usize, addrs: &[&str]) -> io::Result<String> {
    let connect = |addr| {
        for _ in 0..count {
            let mut stream = TcpStream::connect(addr)?;
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let rest = stream.read(&mut [0])?;
            assert_eq!(rest, 0, "somebody spoke");
        }
        io::Result::Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = addrs
            .iter()
            .map(|addr| addr_of(addr))
            .map(|addr| scope.spawn(move || connect(addr)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    })?;
    Ok(String::new())
}

pub(super) fn in_thread<T: Send>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap()
    })
}
