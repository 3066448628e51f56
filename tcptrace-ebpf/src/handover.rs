//! Owners that change: another process holds the socket than the one that connected or accepted.

use tcptrace_common::{
    layout::ABSENT,
    record::{HOW_FORK, HOW_UNKNOWN, ROLE_LISTENER, SOURCE_HANDOVER, SOURCE_LISTENER},
    tcp,
};

use crate::{
    constants::off,
    emit, filter, keeper,
    kernel::{self, Object as _, Probed, Typed},
    maps::SOCKS,
    owner,
    process::{self, Place},
    publish,
    sock::LIVE,
};

/// Generations of processes that are looked through for a former owner.
const GENERATIONS: u32 = 4;

/// References to a file that are left while it is in use or being released; none if that cannot be known.
///
/// Until 6.12 they are counted from 1 (`f_count`), from 6.13 on from 0, and what is released is negative
/// (`file_ref_t`).
#[inline(always)]
fn references(file: Probed) -> Option<u64> {
    if off!(file_ref) != ABSENT {
        let count: i64 = file.read(off!(file_ref));
        return Some(if count < 0 { 0 } else { count as u64 + 1 });
    }
    if off!(file_count) == ABSENT {
        return None;
    }
    Some(file.read(off!(file_count)))
}

/// References to a socket's file that are left; none if it has no file, or that cannot be known. 0: the
/// running process, which has locked the socket, has given back the last one.
#[inline(always)]
pub(crate) fn references_left(sk: Typed) -> Option<u64> {
    let socket = Probed(sk.read(off!(sk_socket)));
    if socket.0 == 0 {
        return None;
    }
    let file = Probed(socket.read(off!(socket_file)));
    if file.0 == 0 { None } else { references(file) }
}

/// Whether the running process, which ends a connection whose socket it has locked, is the only one that holds
/// it: it has given back the last reference to its file, or has the only one and shuts it down.
///
/// Whoever destroys the sockets of others (`sock_diag_destroy`, which goes to `CLOSE` at once), or takes an
/// address away from MPTCP connections, holds none.
#[inline(always)]
fn holds_alone(sk: Typed, new: u8) -> bool {
    match references_left(sk) {
        Some(0) => true,
        Some(1) => new != tcp::CLOSE && !owner::is_taken_away(sk),
        _ => false,
    }
}

/// Whether a process descends from another.
#[inline(always)]
fn descends(leader: Probed, from: u32) -> bool {
    let mut task = leader;
    for _ in 0..GENERATIONS {
        task = Probed(task.read(off!(task_parent)));
        if task.read::<u32>(off!(task_tgid)) == from {
            return true;
        }
    }
    false
}

/// Whether it is one of ours: its iterators hold each file of the host for a moment, and may be the last to.
#[inline(always)]
fn looks_at_files(leader: Probed) -> bool {
    leader.read::<[u8; 8]>(off!(task_comm)) == *b"tcptrace"
}

/// A process brings about the end of a connection that it neither opened nor accepted. If nobody else holds
/// the socket any more, it has become the owner.
#[inline(always)]
pub(crate) fn at_the_end(sk: Typed, old: u8, new: u8) {
    let key = sk.address();
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: a live record; the running task holds this socket's lock.
    let sock = unsafe { &mut *pointer };
    // Of an earlier socket at this address, or steps went unseen.
    if sock.state() != old || (sock.conn != 0 && !publish::is_still(Probed(key), sock.conn)) {
        return;
    }
    if sock.role == ROLE_LISTENER {
        keeper::forget_gone(sock);
        return;
    }
    let slot = usize::from(sock.slot & 1);
    let tgid = owner::current_tgid();
    let before = sock.owners[slot].tgid;
    // Of a connection that nobody has accepted, the listener is what ends.
    let is_provisional = sock.sources[slot] == SOURCE_LISTENER;
    if tgid == 0 || before == tgid || sock.life != LIVE || is_provisional {
        return;
    }
    if !holds_alone(sk, new) {
        return;
    }
    let how = if before != 0 && descends(owner::leader(), before) {
        HOW_FORK
    } else if looks_at_files(owner::leader()) {
        return;
    } else {
        HOW_UNKNOWN
    };
    hand_over(kernel::number(key), how);
}

/// The running process is the owner from here on.
#[inline(never)]
fn hand_over(key: u64, how: u32) {
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: as in `at_the_end`.
    let sock = unsafe { &mut *pointer };
    let slot = usize::from(sock.slot & 1);
    let former = sock.owners[slot].tgid;
    // SAFETY: any bytes are two words.
    let comm: [u64; 2] = unsafe { core::mem::transmute(sock.owners[slot].comm) };
    owner::current(&mut sock.owners[slot]);
    sock.sources[slot] = SOURCE_HANDOVER;
    let shown = filter::is_shown(sock);
    sock.processes[slot] = if shown {
        owner::introduce(Place::Introduce)
    } else {
        process::which(sock.owners[slot].tgid, owner::leader())
    };
    if shown && sock.tuple.whole != 0 && sock.conn != 0 && !filter::outcome::is_on() {
        emit::owner(sock, kernel::now_ns(), former, how, comm);
    }
}
