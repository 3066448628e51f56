//! Who has a TCP socket open, of all processes and all network namespaces, one line for each descriptor:
//! `iter/task_file`, run by `list` and `listen` alone. It follows no connection and touches no map.

use aya_ebpf::helpers::generated::bpf_seq_write;
use tcptrace_common::holder::{HOLDER_KEEPALIVE, Holder};

use super::snapshot::{TaskFile, socket_behind};
use crate::{
    constants::off,
    kernel::{Object as _, Probed},
};

/// `SOCK_KEEPOPEN` of `enum sock_flags`, a bit
const SOCK_KEEPOPEN: u64 = 1 << 3;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn holders(ctx: *const TaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its pointers may be null at the last call.
    let &TaskFile {
        meta,
        task,
        fd,
        file,
    } = unsafe { &*ctx };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let (task, file) = (Probed(task as u64), Probed(file as u64));
    let Some(sk) = socket_behind(file) else {
        return 0;
    };
    let leader = Probed(task.read(off!(task_group_leader)));
    let flags: u64 = sk.read(off!(sk_flags));
    let holder = Holder {
        // Who asks has dumped the sockets before, which gave each its cookie.
        cookie: sk.read(off!(sk_cookie)),
        start_ns: leader.read(off!(task_start_time)),
        tgid: leader.read(off!(task_tgid)),
        uid: Probed(leader.read(off!(task_cred))).read(off!(cred_uid)),
        fd: fd as u32,
        flags: if flags & SOCK_KEEPOPEN == 0 {
            0
        } else {
            HOLDER_KEEPALIVE
        },
        netns: Probed(sk.read(off!(sk_net))).read(off!(net_inum)),
        reserved: 0,
        comm: leader.read(off!(task_comm)),
    };
    // SAFETY: `meta` is the iterator's own.
    let seq = unsafe { (*meta).seq };
    // SAFETY: `seq` is the iterator's; the record is initialised plain memory. When the buffer is full
    // the kernel calls us again for the same object.
    let _again =
        unsafe { bpf_seq_write(seq, (&raw const holder).cast(), size_of::<Holder>() as u32) };
    0
}
