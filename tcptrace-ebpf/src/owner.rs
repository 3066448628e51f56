//! Which process a socket belongs to, where the kernel proves it.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_cgroup_id};
use tcptrace_common::{layout::ABSENT, record::Owner, tcp};

use crate::{
    constants::off,
    filter,
    kernel::{self, Object as _, Probed, Typed, Walked},
    process::{self, Place},
};

const PF_KTHREAD: u32 = 0x0020_0000;
pub(crate) const IPPROTO_MPTCP: u16 = 262;
/// In `sk_shutdown` (include/net/sock.h)
const SEND_SHUTDOWN: u8 = 2;

/// Whether the running task works on this socket.
///
/// `sk_lock.owned` is set by `lock_sock` and cleared by `release_sock`, so while it is set the
/// code that changes the socket's state runs in the task that took the lock; softirqs queue to
/// the backlog instead, which that same task then runs (net/core/sock.c, 5.10 to 7.3).
#[inline(always)]
pub(crate) fn proven(sk: Typed) -> bool {
    sk.read::<u32>(off!(sk_lock_owned)) != 0
}

/// Whether a process has made this socket, which connects or begins to listen. The kernel makes others
/// in the course of anybody's system call (`sock_create_kern`): those have no file, or it is the kernel's
/// as well, which then wants no page of the task's (`nvme_tcp_alloc_queue`, 6.7).
///
/// The first subflow of an MPTCP connection is such a one, and is made as its process connects or
/// listens; what is added to it later somebody else may have caused
/// (`mptcp_pm_nl_add_addr_doit`, `net/mptcp/pm_kernel.c`, 5.12 to 7.3).
#[inline(always)]
pub(crate) fn is_of_a_process(sk: Typed) -> bool {
    is_users(Probed(sk.address())) || is_first_subflow(sk)
}

#[inline(always)]
fn is_users(sk: Probed) -> bool {
    let socket = Probed(sk.read(off!(sk_socket)));
    if socket.0 == 0 || socket.read::<u64>(off!(socket_file)) == 0 {
        return false;
    }
    if off!(sk_kern_sock) != ABSENT && is_set(sk, off!(sk_kern_sock)) {
        return false;
    }
    off!(sk_use_task_frag) == ABSENT || sk.read::<u8>(off!(sk_use_task_frag)) != 0
}

/// A bit field of one bit.
#[inline(always)]
fn is_set(object: Probed, bit_offset: u32) -> bool {
    object.read::<u8>(bit_offset / 8) >> (bit_offset % 8) & 1 != 0
}

/// Whether it is a subflow of an MPTCP connection of which nobody has shut anything: somebody takes an
/// address away from all connections, in a system call of his own (`mptcp_pm_nl_del_addr_doit`).
#[inline(never)]
pub(crate) fn is_taken_away(sk: Typed) -> bool {
    if off!(subflow_conn) == ABSENT || off!(icsk_ulp_data) == ABSENT {
        return false;
    }
    let subflow = sk.probe(off!(icsk_ulp_data));
    if subflow.0 == 0 {
        return false;
    }
    let whole = Probed(subflow.read(off!(subflow_conn)));
    whole.read::<u16>(off!(sk_protocol)) == IPPROTO_MPTCP
        && whole.read::<u8>(off!(sk_shutdown)) & SEND_SHUTDOWN == 0
}

/// Whether it was added to an MPTCP connection by the peer: never in its listener's accept queue
/// (`subflow_syn_recv_sock`), it belongs to whoever has accepted that connection.
#[inline(always)]
pub(crate) fn has_joined(sk: Typed) -> bool {
    if off!(subflow_mp_join) == ABSENT || off!(icsk_ulp_data) == ABSENT {
        return false;
    }
    let subflow = sk.probe(off!(icsk_ulp_data));
    subflow.0 != 0 && is_joined(subflow)
}

/// A function of its own: few have an upper layer.
#[inline(never)]
fn is_joined(subflow: Probed) -> bool {
    let whole = Probed(subflow.read(off!(subflow_conn)));
    whole.read::<u16>(off!(sk_protocol)) == IPPROTO_MPTCP && is_set(subflow, off!(subflow_mp_join))
}

/// A function of its own: it is seldom asked.
#[inline(never)]
fn is_first_subflow(sk: Typed) -> bool {
    if off!(subflow_conn) == ABSENT || off!(icsk_ulp_data) == ABSENT {
        return false;
    }
    let subflow = sk.probe(off!(icsk_ulp_data));
    let whole = Probed(subflow.read(off!(subflow_conn)));
    let state: u8 = whole.read(off!(sk_state));
    whole.read::<u16>(off!(sk_protocol)) == IPPROTO_MPTCP
        && (state == tcp::CLOSE || state == tcp::SYN_SENT || state == tcp::LISTEN)
        && is_users(whole)
}

/// The running task's thread group, unless it is a kernel thread: a worker that acts for others
/// owns nothing.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    let flags: u32 = Walked::current_task().read(off!(task_flags));
    if flags & PF_KTHREAD != 0 {
        return 0;
    }
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The leader of the running task's thread group.
#[inline(always)]
pub(crate) fn leader() -> Probed {
    let leader = Walked::current_task().follow(off!(task_group_leader));
    Probed(kernel::number(leader.address()))
}

/// Tells who the running process is, of which [`current`] has found that it owns something.
#[inline(always)]
pub(crate) fn introduce(place: Place) -> u32 {
    process::introduce(current_tgid(), leader(), place, true)
}

/// Whether the user asked for the connections of the running process.
#[inline(always)]
pub(crate) fn is_wanted() -> bool {
    let mut owner = Owner::NONE;
    current(&mut owner);
    filter::owner::takes(&owner)
}

/// The running process, `tgid` 0 for a kernel thread. Name and user are those of the thread-group
/// leader: threads, and those of `io_uring` among them, have their own.
#[inline(always)]
pub(crate) fn current(owner: &mut Owner) {
    owner.tgid = current_tgid();
    if owner.tgid == 0 {
        return;
    }
    // SAFETY: no arguments; the helper returns the running task's cgroup v2 id.
    owner.cgroup = unsafe { bpf_get_current_cgroup_id() };
    let leader = Walked::current_task().follow(off!(task_group_leader));
    let leaders = Probed(kernel::number(leader.address()));
    owner.uid = Probed(leaders.read(off!(task_cred))).read(off!(cred_uid));
    owner.comm = leader.name(off!(task_comm));
}
