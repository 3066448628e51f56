//! The connections that were open before tracing began, inserted without replacing what the other
//! hooks already know.
//!
//! * `iter/task_file`, `SNAPSHOT_PASS` 0: every TCP socket that a process holds, in every network
//!   and PID namespace, with its holder; of several holders the one that started first. Once
//!   before the state hooks are attached, so that on a busy host what comes at once finds its
//!   owner, and once after, so that nothing falls between.
//! * `iter/task_file`, `SNAPSHOT_PASS` 1: writes one `socket` record for each.
//! * `iter/tcp`, once per network namespace: the sockets nobody holds (orphans, and connections
//!   not yet accepted), with their records.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_seq_write, bpf_sock_from_file},
};
use tcptrace_common::{
    count,
    layout::ABSENT,
    proto::accept::Progress,
    record::{
        FLAG_FIRST, FLAG_ROLE_INFERRED, KIND_SOCKET, Owner, ROLE_CLIENT, ROLE_LISTENER,
        ROLE_SERVER, ROLE_UNKNOWN, Record, SOURCE_LISTENER, SOURCE_SNAPSHOT, SPAN_UNKNOWN, Step,
    },
    tcp,
};

use crate::{
    constants::{config, off},
    emit,
    filter::{self, Decision, Stage},
    keeper,
    kernel::{self, Object as _, Probed, Typed, copy},
    listener,
    maps::{self, LISTENING, QUEUED, SNAPSHOT_PASS, SOCKS},
    owner::IPPROTO_MPTCP,
    phase,
    process::{self, Room},
    publish,
    sock::{NOTHING, PARTIAL, Sock},
    tuple::{Place, Tuple},
};

const IPPROTO_TCP: u16 = 6;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// `struct bpf_iter__task_file`; the layout of an iterator's context is kernel ABI.
#[repr(C)]
pub(super) struct TaskFile {
    pub(super) meta: *const Meta,
    pub(super) task: *const u8,
    pub(super) fd: u64,
    pub(super) file: *const u8,
}

/// `struct bpf_iter__tcp`
#[repr(C)]
struct Tcp {
    meta: *const Meta,
    sk: *const u8,
    uid: u64,
}

/// How much of an accept queue is looked at.
const QUEUE_MAX: u32 = 512;
/// `net.ipv4.ip_local_port_range` where nobody has changed it
const DEFAULT_PORTS: (u16, u16) = (32_768, 60_999);

/// `struct bpf_iter_meta`
#[repr(C)]
pub(super) struct Meta {
    pub(super) seq: *mut aya_ebpf::bindings::seq_file,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn snapshot_files(ctx: *const TaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its pointers may be null at the last call.
    let &TaskFile {
        meta,
        task,
        fd: _,
        file,
    } = unsafe { &*ctx };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let typed = file;
    let (task, file) = (Probed(task as u64), Probed(file as u64));
    let Some(sk) = socket_behind(file) else {
        return 0;
    };
    if SNAPSHOT_PASS.get(0).is_some_and(|pass| *pass == 0) {
        let leader = Probed(task.read(off!(task_group_leader)));
        hold(sk, leader, cookie_of_file(typed, sk));
    } else if let Some(pointer) = SOCKS.get_ptr_mut(sk.0) {
        // SAFETY: a live record: the iterator holds a reference to the file.
        list(meta, sk.0, unsafe { &mut *pointer });
    }
    0
}

/// The TCP socket behind a file; of an MPTCP connection its first subflow.
#[inline(always)]
pub(super) fn socket_behind(file: Probed) -> Option<Probed> {
    let inode = Probed(file.read(off!(file_inode)));
    if inode.read::<u16>(off!(inode_mode)) & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket = Probed(file.read(off!(file_private_data)));
    if socket.read::<u64>(off!(socket_file)) != file.0 {
        return None;
    }
    let mut sk = Probed(socket.read(off!(socket_sk)));
    if sk.0 == 0 || !is_inet(sk) {
        return None;
    }
    if sk.read::<u16>(off!(sk_protocol)) == IPPROTO_MPTCP && off!(mptcp_first) != ABSENT {
        sk = Probed(sk.read(off!(mptcp_first)));
    }
    (sk.0 != 0 && sk.read::<u16>(off!(sk_protocol)) == IPPROTO_TCP).then_some(sk)
}

/// The cookie of the socket behind a file; 0 if that cannot be had through the file.
#[inline(always)]
fn cookie_of_file(file: *const u8, sk: Probed) -> u64 {
    if config!(cookie_helper) == 0 {
        return kernel::cookie_or_own_id(sk.read(off!(sk_cookie)), kernel::now_ns());
    }
    // SAFETY: `file` is the iterator's typed pointer, which is what the helper takes.
    let socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) };
    if socket.is_null() {
        return 0;
    }
    let behind = Typed(Typed(socket.cast::<u8>()).read::<*const u8>(off!(socket_sk)));
    if behind.0.is_null() || behind.address() != sk.0 {
        return 0;
    }
    kernel::cookie(behind, 0)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn snapshot_tcp(ctx: *const Tcp) -> i32 {
    // SAFETY: the kernel passes a valid context; its pointers may be null at the last call.
    let &Tcp { meta, sk, uid: _ } = unsafe { &*ctx };
    if sk.is_null() {
        return 0;
    }
    let typed = Typed(sk);
    let sk = Probed(sk as u64);
    let state: u8 = sk.read(off!(sk_state));
    // Requests and time-wait sockets are no `struct sock`.
    if state == tcp::NEW_SYN_RECV || state == tcp::TIME_WAIT {
        return 0;
    }
    if sk.read::<u16>(off!(sk_protocol)) != IPPROTO_TCP {
        return 0;
    }
    let cookie = kernel::cookie(typed, kernel::now_ns());
    if own_record(sk, cookie).is_none() && may_be_wanted(sk, state) {
        // Here alone: who looks at files comes by a socket as often as somebody holds it.
        let full = insert(sk, None, cookie, process::Place::Agent);
        maps::count(count::MAP_FULL, u64::from(full));
    }
    if let Some(pointer) = SOCKS.get_ptr_mut(sk.0) {
        // SAFETY: a live record: the iterator holds the socket.
        let sock = unsafe { &mut *pointer };
        if sock.conn == 0 {
            sock.conn = cookie;
        }
        if state == tcp::LISTEN {
            note_queue(sk);
        } else if sk.read::<u64>(off!(sk_socket)) == 0 {
            queued(sk.0, sock);
        }
        list(meta, sk.0, sock);
    }
    0
}

/// With `-p`: whether a socket that nobody holds may come to be a wanted process's: it waits in the
/// queue of a listener that one holds.
#[inline(always)]
fn may_be_wanted(sk: Probed, state: u8) -> bool {
    if !filter::owner::is_on() {
        return true;
    }
    state != tcp::LISTEN && listener_of(sk.0).is_some()
}

/// The record of the listener in whose accept queue this socket was found, and its address.
#[inline(always)]
fn listener_of(address: u64) -> Option<(u64, *mut Sock)> {
    // SAFETY: the value is copied at once; only this walk writes the map.
    let listener = unsafe { QUEUED.get(address) }.copied()?;
    SOCKS.get_ptr_mut(listener).map(|sock| (listener, sock))
}

/// Notes what waits in the accept queue of a listener. The kernel walks the listeners of a namespace before
/// its connections. What stands further back in a longer queue stays without an owner until accepted.
#[inline(always)]
fn note_queue(listener: Probed) {
    let mut request = Probed(listener.read(off!(icsk_accept_head)));
    for _ in 0..QUEUE_MAX {
        if request.0 == 0 {
            return;
        }
        let child: u64 = request.read(off!(req_sk));
        // Full: the same as further back.
        let _full = QUEUED.insert(child, listener.0, 0);
        request = Probed(request.read(off!(req_dl_next)));
    }
}

/// A connection that no process has accepted belongs to its listener's owner. Whoever has been accepted
/// since has a `sk_socket`.
#[inline(always)]
fn queued(key: u64, sock: &mut Sock) {
    let state = sock.state();
    if sock.owners[0].tgid != 0
        || sock.slot != 0
        || (state != tcp::ESTABLISHED && state != tcp::CLOSE_WAIT && state != tcp::SYN_RECV)
    {
        return;
    }
    let Some((address, listener)) = listener_of(key) else {
        return;
    };
    // SAFETY: a live record.
    let listener = unsafe { &*listener };
    if listener.state() == tcp::LISTEN && listener.owners[0].tgid != 0 {
        copy(&mut sock.owners[0], &listener.owners[0]);
        sock.sources[0] = SOURCE_LISTENER;
        sock.listener = address;
        sock.role = ROLE_SERVER;
        sock.processes[0] = listener.processes[0];
        filter::decide(Stage::Found, sock);
    }
}

#[inline(always)]
fn is_inet(sk: Probed) -> bool {
    let family: u16 = sk.read(off!(sk_family));
    family == AF_INET || family == AF_INET6
}

/// The record of this socket. One of an earlier socket at its address, which ended before anybody was told
/// of ends, is removed.
#[inline(always)]
fn own_record(sk: Probed, cookie: u64) -> Option<*mut Sock> {
    let pointer = SOCKS.get_ptr_mut(sk.0)?;
    // SAFETY: a live record; only read.
    let sock = unsafe { &*pointer };
    let earlier = config!(cookie_helper) != 0
        && sock.flags & PARTIAL != 0
        && sock.conn != 0
        && cookie != 0
        && sock.conn != cookie;
    if earlier {
        let _gone = SOCKS.remove(sk.0);
        listener::end(sk.0);
        return None;
    }
    Some(pointer)
}

/// Records that this process holds the socket.
#[inline(always)]
fn hold(sk: Probed, leader: Probed, cookie: u64) {
    let start_ns: u64 = leader.read(off!(task_start_time));
    if own_record(sk, cookie).is_none() {
        let _full = insert(sk, Some((leader, start_ns)), cookie, process::Place::Agent);
    }
    let Some(pointer) = SOCKS.get_ptr_mut(sk.0) else {
        return;
    };
    // SAFETY: a live record: the iterator holds a reference to the file.
    let sock = unsafe { &mut *pointer };
    let tgid = leader.read(off!(task_tgid));
    let mut wanted = !filter::owner::is_on();
    if filter::owner::is_on() {
        process::look(tgid, leader, process::Place::Agent);
        let mut owner = Owner::NONE;
        holder(&mut owner, leader);
        if filter::owner::takes(&owner) {
            wanted = true;
            sock.wanted_holder = 1;
            phase::activate();
        }
    }
    let partial = sock.flags & PARTIAL != 0;
    let unowned = sock.owners[0].tgid == 0;
    let earlier = sock.sources[0] == SOURCE_SNAPSHOT && start_ns < sock.seen_ns;
    if partial && (unowned || earlier) {
        holder(&mut sock.owners[0], leader);
        sock.sources[0] = SOURCE_SNAPSHOT;
        sock.seen_ns = start_ns;
        sock.processes[0] = 0;
        if sock.role == ROLE_LISTENER {
            keeper::begin(&sock.owners[0]);
        }
    }
    if partial && wanted && sock.owners[0].tgid == tgid && sock.processes[0] == 0 {
        sock.processes[0] = process::introduce(tgid, leader, process::Place::Agent, false);
    }
}

#[inline(always)]
fn holder(owner: &mut Owner, leader: Probed) {
    owner.tgid = leader.read(off!(task_tgid));
    owner.uid = Probed(leader.read(off!(task_cred))).read(off!(cred_uid));
    owner.cgroup = 0;
    if config!(processes) != 0 {
        owner.cgroup = Probed(process::cgroups(leader)[0]).read(off!(kn_id));
    }
    owner.comm = leader.read(off!(task_comm));
}

/// Makes the record of a socket whose beginning went unseen. Returns whether there was no room for it.
#[inline(always)]
pub(crate) fn insert(
    sk: Probed,
    held_by: Option<(Probed, u64)>,
    cookie: u64,
    place: process::Place,
) -> bool {
    let state: u8 = sk.read(off!(sk_state));
    if state == tcp::CLOSE || state == 0 {
        return false;
    }
    // It would not fit on the stack.
    let Some(room) = Room::of(place as u32) else {
        return true;
    };
    let sock = room.record::<Sock>();
    copy(sock, &NOTHING);
    sock.tuple = Tuple::read(sk, state == tcp::LISTEN, || {
        sk.read::<u16>(off!(inet_sport))
    });
    sock.netns = Probed(sk.read(off!(sk_net))).read(off!(net_inum));
    if !filter::netns::takes(sock.netns) {
        return false;
    }
    if state == tcp::LISTEN {
        let place = Place::of(&sock.tuple, sock.netns);
        let _full = LISTENING.insert(place, 0, 0);
        let _full = LISTENING.insert(place.of_any_family(), 0, 0);
    }
    sock.flags = PARTIAL;
    sock.origin = state;
    sock.path[0] = Step::new(0, state);
    sock.path_len = 1;
    sock.sent = 1;
    sock.accept = Progress::OPEN.0;
    sock.role = if state == tcp::LISTEN {
        ROLE_LISTENER
    } else {
        ROLE_UNKNOWN
    };
    sock.conn = cookie;
    if filter::decide(Stage::Found, sock) == Decision::Drop {
        return false;
    }
    if let Some((leader, start_ns)) = held_by {
        holder(&mut sock.owners[0], leader);
        sock.sources[0] = SOURCE_SNAPSHOT;
        sock.seen_ns = start_ns;
        if sock.role == ROLE_LISTENER {
            keeper::begin(&sock.owners[0]);
        }
    }
    // Live events win: a record made meanwhile stays.
    if SOCKS.insert(sk.0, &*sock, u64::from(BPF_NOEXIST)).is_err() {
        return SOCKS.get_ptr_mut(sk.0).is_none();
    }
    if state == tcp::LISTEN {
        listener::begin(sk.0, 0);
    }
    // Closed meanwhile, and nobody there to remove what we have just inserted.
    if sk.read::<u8>(off!(sk_state)) == tcp::CLOSE {
        let _gone = SOCKS.remove(sk.0);
        listener::end(sk.0);
    }
    false
}

/// The role that a connection seems to have which was open before we came: a server's if somebody listens where
/// it is, a client's if nobody listens at its port and it is one that the kernel chooses for `connect()`.
#[inline(never)]
fn guess(sk: Probed, sock: &Sock) -> u8 {
    let place = Place::of(&sock.tuple, sock.netns);
    let listens = |place: Place| {
        // SAFETY: the value is not looked at.
        unsafe { LISTENING.get(place) }.is_some()
    };
    if listens(place) || listens(place.anywhere()) {
        return ROLE_SERVER | FLAG_ROLE_INFERRED;
    }
    if listens(place.of_any_family()) || !is_ephemeral(sk, sock.tuple.lport) {
        return 0;
    }
    ROLE_CLIENT | FLAG_ROLE_INFERRED
}

/// Whether the kernel chooses such a port for `connect()`, in the namespace of this socket.
#[inline(always)]
fn is_ephemeral(sk: Probed, port: u16) -> bool {
    if off!(net_port_range) == ABSENT {
        return (DEFAULT_PORTS.0..=DEFAULT_PORTS.1).contains(&port);
    }
    let net = Probed(sk.read(off!(sk_net)));
    let word: u32 = net.read(off!(net_port_range));
    let last = if off!(net_port_last) == ABSENT {
        (word >> 16) as u16
    } else {
        net.read::<u32>(off!(net_port_last)) as u16
    };
    port >= word as u16 && port <= last
}

/// Writes the `socket` record of a connection that was open before we came, once.
#[inline(always)]
fn list(meta: *const Meta, key: u64, sock: &mut Sock) {
    if sock.flags & PARTIAL == 0 || sock.listed != 0 || sock.path_len != 1 || sock.conn == 0 {
        return;
    }
    if sock.role == ROLE_UNKNOWN && sock.tuple.whole != 0 {
        sock.guess = guess(Probed(key), sock);
    }
    if filter::decide(Stage::Listed, sock) == Decision::Drop {
        publish::drop_record(key, sock);
        return;
    }
    if !filter::is_shown(sock) {
        return;
    }
    // It may have changed since it was found, unseen, before the state hooks were attached: then its next
    // transition tells of it.
    let state: u8 = Probed(key).read(off!(sk_state));
    if state == tcp::CLOSE || !publish::is_still(Probed(key), sock.conn) {
        let _gone = SOCKS.remove(key);
        return;
    }
    if state != sock.state() {
        return;
    }
    // Found between `SYN_SENT` and the choice of its port: its next step tells of it.
    if sock.tuple.whole == 0 {
        let tuple = Tuple::read(Probed(key), sock.role == ROLE_LISTENER, || 0);
        if tuple.whole == 0 {
            return;
        }
        sock.tuple = tuple;
    }
    let mut record = Record::EMPTY;
    emit::fill(&mut record, sock, &sock.tuple);
    record.mono_ns = kernel::now_ns();
    record.kind = KIND_SOCKET;
    record.old = state;
    record.new = state;
    record.span_ns = SPAN_UNKNOWN;
    record.flags |= FLAG_FIRST;
    // SAFETY: `meta` is the iterator's own.
    let seq = unsafe { (*meta).seq };
    // SAFETY: `seq` is the iterator's; the record is initialised plain memory. When the buffer
    // is full the kernel calls us again for the same object.
    let written =
        unsafe { bpf_seq_write(seq, (&raw const record).cast(), size_of::<Record>() as u32) };
    if written == 0 {
        sock.listed = 1;
    }
}
