//! Sockets that connect in unusual ways, and what is said of them.

use std::{
    fmt::Write as _,
    io,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
};

use super::PATIENCE;

pub(super) fn begin_connect(
    addr: SocketAddr,
) -> io::Result<(TcpStream, Result<(), rustix::io::Errno>)> {
    let socket = rustix::net::socket_with(
        family_of(addr),
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let result = rustix::net::connect(&socket, &addr);
    if let Err(error) = result
        && error != rustix::io::Errno::INPROGRESS
    {
        return Err(error.into());
    }
    Ok((TcpStream::from(socket), result))
}

pub(super) fn finish_connect(stream: &TcpStream) -> io::Result<()> {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    rustix::event::poll(&mut fds, None)?;
    sockopt::socket_error(stream)??;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))
}

pub(super) fn connect_nonblocking(addr: SocketAddr) -> io::Result<TcpStream> {
    let (stream, _) = begin_connect(addr)?;
    finish_connect(&stream)?;
    Ok(stream)
}

/// From an address of the caller's choice. If it is the one connected to, the socket meets
/// itself.
pub(super) fn connect_from(local: SocketAddr, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        family_of(addr),
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &local)?;
    rustix::net::connect(&socket, &addr)?;
    Ok(TcpStream::from(socket))
}

pub(super) fn set_option(stream: &TcpStream, option: &str, value: u32) -> io::Result<()> {
    let seconds = Duration::from_secs(value.into());
    match option {
        "keepalive" => {
            sockopt::set_socket_keepalive(stream, true)?;
            sockopt::set_tcp_keepidle(stream, seconds)?;
            sockopt::set_tcp_keepintvl(stream, seconds)?;
            sockopt::set_tcp_keepcnt(stream, 1)?;
        }
        "user-timeout-ms" => sockopt::set_tcp_user_timeout(stream, value)?,
        "nodelay" => sockopt::set_tcp_nodelay(stream, value != 0)?,
        _ => panic!("unknown option {option:?}"),
    }
    Ok(())
}

pub(super) fn info(stream: &TcpStream) -> io::Result<String> {
    let mut info = [0_u8; 512];
    let mut len = libc::socklen_t::try_from(info.len()).unwrap();
    // SAFETY: the kernel writes at most `len` bytes into `info`, and the length into `len`.
    let failed = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut hex = String::new();
    for byte in &info[..usize::try_from(len).unwrap()] {
        write!(hex, "{byte:02x}").expect("text has room");
    }
    Ok(hex)
}

pub(super) fn connect_after(refused: SocketAddr, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        family_of(addr),
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    assert!(rustix::net::connect(&socket, &refused).is_err());
    rustix::net::connect(&socket, &addr)?;
    Ok(TcpStream::from(socket))
}

pub(super) fn connect_fastopen(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        family_of(addr),
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let flags = rustix::net::SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
    rustix::net::sendto(&socket, b"x", flags, &addr)?;
    Ok(TcpStream::from(socket))
}

pub(super) fn family_of(addr: SocketAddr) -> AddressFamily {
    if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    }
}

/// The address as the tracer shows it: an IPv4-mapped one is plain IPv4.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

pub(super) fn addr_of(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn index(text: &str) -> usize {
    text.parse().unwrap()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

pub(super) fn name_of(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "ECONNREFUSED",
        Some(libc::ECONNRESET) => "ECONNRESET",
        Some(libc::ECONNABORTED) => "ECONNABORTED",
        Some(libc::ETIMEDOUT) => "ETIMEDOUT",
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH",
        Some(libc::ENETUNREACH) => "ENETUNREACH",
        Some(libc::EPIPE) => "EPIPE",
        _ => return format!("{error:?}"),
    };
    name.to_owned()
}
