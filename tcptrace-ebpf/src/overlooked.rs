//! Accepts that no hook saw.
//!
//! At the end of the system call another thread may have closed or moved the descriptor already; `io_uring`
//! and the system calls of 32-bit programs have other ends. Then the socket's next state change proves it:
//! what was accepted has a `struct socket`, and its file keeps the credentials of the task that made it
//! (`alloc_file_pseudo` in `do_accept`). Each process has credentials of its own (`copy_creds`), and the file
//! holds on to them. So if the running task has the socket's lock and acts with the same, its process has
//! accepted the connection. If not, somebody else has, and who is not known.

use tcptrace_common::record::{ROLE_SERVER, UNKNOWN};

use crate::{
    constants::{config, off},
    hook::accept,
    kernel::{self, Object as _, Probed, Typed, Walked},
    owner,
    sock::{JOINED, OVERLOOKED, Sock},
};

/// Looks whether a connection that nobody is known to have accepted was accepted all the same. The caller
/// holds the socket's lock.
#[inline(always)]
pub(crate) fn look(sk: Typed, sock: &mut Sock, now_ns: u64) {
    if sock.role != ROLE_SERVER || sock.slot != 0 || sock.overlooked == JOINED {
        return;
    }
    let socket = sk.read::<*const u8>(off!(sk_socket));
    if !socket.is_null() {
        find(sk, kernel::number(socket as u64), sock, now_ns);
    }
}

/// A function of its own: few come here.
#[inline(never)]
fn find(sk: Typed, socket: u64, sock: &mut Sock, now_ns: u64) {
    let file = Probed(Probed(socket).read(off!(socket_file)));
    // Without one it is the kernel's, which is nobody.
    if file.0 == 0 {
        return;
    }
    sock.overlooked = OVERLOOKED;
    // How long it waited is not known, so neither is whether it is wanted.
    if config!(slower_ns) != 0 || !owner::proven(sk) {
        return;
    }
    let maker: u64 = file.read(off!(file_cred));
    let acting: u64 =
        kernel::number(Walked::current_task().read::<*const u8>(off!(task_acting_cred)) as u64);
    if maker == acting {
        accept::overlooked(sock, now_ns, [UNKNOWN; 2]);
    }
}
