//! One operation through an `io_uring` of its own.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use rustix::net::{SocketFlags, SocketType, addr::SocketAddrArg as _};

/// Submits the operation, and waits for what it returns.
///
/// # Safety
///
/// What the operation points to must stay valid until this returns.
unsafe fn complete(operation: &squeue::Entry) -> io::Result<i32> {
    let mut ring = IoUring::new(2)?;
    // SAFETY: the caller vouches for the operation; the ring does not outlive this function.
    let pushed = unsafe { ring.submission().push(operation) };
    pushed.expect("an empty ring has room");
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().expect("a completion").result();
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(result)
}

pub(super) fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let operation =
        opcode::Accept::new(Fd(listener.as_raw_fd()), ptr::null_mut(), ptr::null_mut()).build();
    // SAFETY: it points to nothing, and the listener stays open.
    let fd = unsafe { complete(&operation) }?;
    // SAFETY: a descriptor the kernel has just made for us.
    Ok(TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

pub(super) fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        super::family_of(addr),
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let bytes = addr.as_any();
    let operation = opcode::Connect::new(
        Fd(socket.as_raw_fd()),
        bytes.as_ptr().cast(),
        bytes.addr_len(),
    )
    .build();
    // SAFETY: `bytes` lives until the end of this function, and the socket stays open.
    unsafe { complete(&operation) }?;
    Ok(TcpStream::from(socket))
}
