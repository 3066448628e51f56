//! What few programs do to a socket.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

use rustix::event::{PollFd, PollFlags};

/// Until the socket has an error, which stays with it.
pub(super) fn await_error(stream: &TcpStream) -> io::Result<()> {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    rustix::event::poll(&mut fds, None)?;
    assert!(fds[0].revents().contains(PollFlags::ERR));
    Ok(())
}

/// As a 32-bit program does it, and a 64-bit one may.
#[cfg(target_arch = "x86_64")]
pub(super) fn accept_by_interrupt(listener: &TcpListener) -> io::Result<OwnedFd> {
    /// `accept4` in `arch/x86/entry/syscalls/syscall_32.tbl`
    const ACCEPT4: i64 = 364;
    let result: i64;
    // SAFETY: the arguments are a descriptor and no addresses; `rbx`, which the compiler keeps for
    // itself, is put back, and the kernel clears the others that are named.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) i64::from(listener.as_raw_fd()) => _,
            inlateout("rax") ACCEPT4 => result,
            in("rcx") 0,
            in("rdx") 0,
            in("rsi") 0,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    let result = i32::try_from(result).unwrap_or(-libc::ENOSYS);
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn accept_by_interrupt(_listener: &TcpListener) -> io::Result<OwnedFd> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Sets an option that `rustix` has no function for.
pub(super) fn set_flag(stream: &impl AsRawFd, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
    // SAFETY: the kernel reads `len` bytes of `on`.
    let failed = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            len,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
