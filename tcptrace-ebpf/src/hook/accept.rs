//! `accept()` hands a connection to a process.
//!
//! One of these is attached, the first that the running kernel takes, best first:
//!
//! | hook | since | why in this place |
//! |---|---|---|
//! | fentry, kprobe `__inet_accept(sock, newsock, newsk)` | 6.10, 6.1.y | after the wait, in the acceptor, once, `newsk` locked |
//! | fentry, kprobe `security_sock_graft(sk, parent)` | 5.10 | the same, one call deeper |
//! | kretprobe `inet_csk_accept` | 5.10 | misses a thread that was blocked before attach |
//! | `syscalls:sys_exit_accept{,4}` | 5.10 | blind to io_uring; `newsk` not locked |

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, kprobe, kretprobe, tracepoint},
    programs::{FEntryContext, ProbeContext, RetProbeContext, TracePointContext},
};
use tcptrace_common::{
    config::EMIT_ACCEPT,
    count,
    layout::ABSENT,
    record::{Owner, ROLE_SERVER, ROLE_UNKNOWN, SOURCE_ACCEPT, UNKNOWN},
    tcp,
};

use crate::{
    accept,
    constants::{config, off},
    emit,
    filter::{self, Decision, Stage},
    hook::snapshot,
    kernel::{self, Object as _, Probed, Walked},
    maps::{self, BACKLOGS, SOCKS},
    owner::{self, IPPROTO_MPTCP},
    phase, preempt,
    process::{self, Place},
    publish,
    sock::{FOUND, Sock},
};

const IPPROTO_TCP: u16 = 6;

#[fentry(function = "__inet_accept")]
pub(crate) fn accept_fentry_inet(ctx: FEntryContext) -> i32 {
    let _pinned = preempt::in_trampoline();
    accepted(ctx.arg::<u64>(2));
    0
}

#[fentry(function = "security_sock_graft")]
pub(crate) fn accept_fentry_graft(ctx: FEntryContext) -> i32 {
    let _pinned = preempt::in_trampoline();
    accepted(ctx.arg::<u64>(0));
    0
}

#[kprobe]
pub(crate) fn accept_kprobe_inet(ctx: ProbeContext) -> u32 {
    accepted(ctx.arg::<u64>(2).unwrap_or(0));
    0
}

#[kprobe]
pub(crate) fn accept_kprobe_graft(ctx: ProbeContext) -> u32 {
    accepted(ctx.arg::<u64>(0).unwrap_or(0));
    0
}

#[kretprobe]
pub(crate) fn accept_kretprobe(ctx: RetProbeContext) -> u32 {
    // An io_uring accept that must wait returns NULL and is tried again.
    accepted(ctx.ret::<u64>());
    0
}

#[tracepoint]
pub(crate) fn accept_exit(ctx: TracePointContext) -> u32 {
    syscall_exit(&ctx);
    0
}

#[tracepoint]
pub(crate) fn accept4_exit(ctx: TracePointContext) -> u32 {
    syscall_exit(&ctx);
    0
}

/// From the descriptor that `accept()` returns to the socket behind it:
/// `current->files->fdt->fd[ret]->private_data`, believed only if it points back to the file.
#[inline(always)]
fn syscall_exit(ctx: &TracePointContext) {
    if phase::is_idle() && !owner::is_wanted() {
        return;
    }
    let record = ctx.as_ptr() as u64;
    let ret: i64 = Probed(record).read(off!(sys_exit_ret));
    if ret < 0 {
        return;
    }
    let fd = ret as u32;
    let table = Walked::current_task()
        .follow(off!(task_files))
        .follow(off!(files_fdt));
    if fd >= table.read::<u32>(off!(fdt_max_fds)) {
        return;
    }
    let slots: u64 = table.read(off!(fdt_fd));
    let file = Probed(Probed(slots + u64::from(fd) * 8).read(0));
    let socket = Probed(file.read(off!(file_private_data)));
    // Neighbors in every kernel so far: one probe for both.
    let [back, sk] = if off!(socket_sk) == off!(socket_file) + 8 {
        socket.read::<[u64; 2]>(off!(socket_file))
    } else {
        [socket.read(off!(socket_file)), socket.read(off!(socket_sk))]
    };
    if file.0 == 0 || back != file.0 {
        return;
    }
    accepted(sk);
}

#[inline(always)]
fn accepted(mut key: u64) {
    // Nobody has been told since whose record is out of date.
    if phase::is_over() {
        return;
    }
    let mut known = SOCKS.get_ptr_mut(key);
    if known.is_none()
        && off!(mptcp_first) != ABSENT
        && Probed(key).read::<u16>(off!(sk_protocol)) == IPPROTO_MPTCP
    {
        key = Probed(key).read(off!(mptcp_first));
        known = SOCKS.get_ptr_mut(key);
    }
    if known.is_none() && adopt(kernel::number(key)) {
        known = SOCKS.get_ptr_mut(key);
    }
    if let Some(pointer) = known {
        // SAFETY: a live record: the accepting process holds a reference to the socket. The fields
        // written there are this hook's alone.
        took(kernel::number(key), unsafe { &mut *pointer });
    }
}

/// The running process has taken this connection. A function of its own: what [`adopt`] needs, and what
/// this does, would not fit on one stack.
#[inline(never)]
fn took(key: u64, sock: &mut Sock) {
    // An earlier socket's, whose end nobody saw.
    if sock.conn != 0 && !publish::is_still(Probed(key), sock.conn) {
        return;
    }
    // Only what was in a queue can be accepted. After the system call, the descriptor may already
    // stand for another socket of this process (`dup2` by another thread).
    let queued = sock.role == ROLE_SERVER
        || (sock.role == ROLE_UNKNOWN && sock.owners[0].tgid == 0 && sock.state() != tcp::LISTEN);
    if sock.slot != 0 || !queued {
        return;
    }
    let now_ns = kernel::now_ns();
    let tgid = owner::current_tgid();
    process::look(tgid, owner::leader(), Place::Accept);
    if tgid != 0 && (!filter::owner::is_on() || owner::is_wanted()) {
        owner::introduce(Place::Accept);
    }
    let backlog = taken_from(sock.listener, now_ns);
    if !own(sock, now_ns, backlog) {
        return;
    }
    let reports = config!(emit) & EMIT_ACCEPT != 0 && accept::accepted(sock);
    if filter::decides_at_accept() {
        publish::contended(key, sock);
    }
    if reports && filter::is_shown(sock) {
        let pointer: *mut Sock = sock;
        emit::accept(sock, now_ns, backlog, || accept::claim(pointer));
    }
}

/// The running process owns this connection from now on. Returns whether it is wanted.
#[inline(always)]
fn own(sock: &mut Sock, now_ns: u64, backlog: [u32; 2]) -> bool {
    owner::current(&mut sock.owners[1]);
    if sock.owners[1].tgid != 0 {
        sock.sources[1] = SOURCE_ACCEPT;
    }
    sock.processes[1] = process::which(sock.owners[1].tgid, owner::leader());
    sock.accept_ns = now_ns;
    sock.backlog = backlog;
    sock.role = ROLE_SERVER;
    sock.guess = 0;
    // SAFETY: an empty instruction: it keeps the compiler from moving the write of `slot`, which
    // brings the new owner into force for other CPUs, before the owner itself and the rest.
    unsafe { core::arch::asm!("") };
    sock.slot = 1;

    // Its record stays as long as the socket: another hook may be in the middle of it.
    filter::decide(Stage::Accept { now_ns }, sock) != Decision::Drop
}

/// The running process, which holds the socket's lock, turns out to have accepted the connection. The state
/// change that is under way reports it.
#[inline(always)]
pub(crate) fn overlooked(sock: &mut Sock, now_ns: u64, backlog: [u32; 2]) {
    sock.overlooked = FOUND;
    if own(sock, now_ns, backlog) {
        accept::leave(sock);
    }
}

/// With `-p`: a process asked for has accepted from a listener that it was not known to have; another
/// process has passed it the descriptor. This connection is known from here on, the next ones from
/// their beginning. Returns whether it is one.
///
/// A function of its own, for it makes a record on its stack.
#[inline(never)]
fn adopt(key: u64) -> bool {
    if !filter::owner::is_on() {
        return false;
    }
    let mut acceptor = Owner::NONE;
    owner::current(&mut acceptor);
    process::look(acceptor.tgid, owner::leader(), Place::Accept);
    if !filter::owner::takes(&acceptor) {
        return false;
    }
    let sk = Probed(key);
    let state: u8 = sk.read(off!(sk_state));
    if sk.read::<u16>(off!(sk_protocol)) != IPPROTO_TCP || state == tcp::LISTEN {
        return false;
    }
    phase::take_any_listener();
    phase::activate();
    let full = snapshot::insert(sk, None, sk.read(off!(sk_cookie)), Place::Accept);
    maps::count(count::MAP_FULL, u64::from(full));
    true
}

/// The listener's accept queue, without the connection that is being taken, and its limit; notes
/// that somebody took one.
#[inline(always)]
fn taken_from(listener: u64, now_ns: u64) -> [u32; 2] {
    let unknown = [UNKNOWN; 2];
    // Its record is there: the listener is, too.
    let Some(backlog) = BACKLOGS.get_ptr_mut(listener) else {
        return unknown;
    };
    // SAFETY: a live record; any acceptor's time will do.
    unsafe { (*backlog).accept_ns = now_ns };
    if off!(icsk_qlen) == ABSENT {
        return unknown;
    }
    let sk = Probed(listener);
    if off!(sk_max_ack_backlog) == off!(sk_ack_backlog) + 4 {
        return sk.read(off!(sk_ack_backlog));
    }
    [
        sk.read(off!(sk_ack_backlog)),
        sk.read(off!(sk_max_ack_backlog)),
    ]
}
