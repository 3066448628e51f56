//! From the kernel's description of its types to the offsets the kernel programs read at.

use tcptrace_common::layout::{ABSENT, Layout};

use super::btf::{Btf, BtfError};

/// Finds every offset. A member the programs cannot do without is an error that names it;
/// those of optional kernel parts (IPv6, MPTCP, tracepoints of system calls) are [`ABSENT`].
pub fn resolve(btf: &Btf<'_>) -> Result<Layout, BtfError> {
    let sock = |path: &str| btf.offset("sock", path);
    let common = |member: &str| btf.offset("sock", &format!("__sk_common.{member}"));
    let optional = |offset: Result<u32, BtfError>| match offset {
        Err(BtfError::NoMember { .. } | BtfError::NoStruct(_)) => Ok(ABSENT),
        other => other,
    };
    let v6_daddr = optional(common("skc_v6_daddr"))?;
    let v6_rcv_saddr = optional(common("skc_v6_rcv_saddr"))?;
    Ok(Layout {
        sk_daddr: common("skc_daddr")?,
        sk_rcv_saddr: common("skc_rcv_saddr")?,
        sk_dport: common("skc_dport")?,
        sk_num: common("skc_num")?,
        sk_family: common("skc_family")?,
        sk_state: common("skc_state")?,
        sk_net: common("skc_net.net")?,
        // Without IPv6 no socket has that family, and the reads are never reached; the verifier
        // still wants them inside the struct.
        sk_v6_daddr: if v6_daddr == ABSENT {
            common("skc_daddr")?
        } else {
            v6_daddr
        },
        sk_v6_rcv_saddr: if v6_rcv_saddr == ABSENT {
            common("skc_daddr")?
        } else {
            v6_rcv_saddr
        },
        sk_cookie: common("skc_cookie")?,
        sk_protocol: sock("sk_protocol")?,
        sk_lock_owned: sock("sk_lock.owned")?,
        sk_err: sock("sk_err")?,
        sk_shutdown: sock("sk_shutdown")?,
        sk_socket: sock("sk_socket")?,
        inet_sport: btf.offset("inet_sock", "inet_sport")?,
        tp_tsorted_sent_queue: btf.offset("tcp_sock", "tsorted_sent_queue")?,
        net_inum: btf.offset("net", "ns.inum")?,
        socket_sk: btf.offset("socket", "sk")?,
        socket_file: btf.offset("socket", "file")?,
        file_private_data: btf.offset("file", "private_data")?,
        file_inode: btf.offset("file", "f_inode")?,
        inode_mode: btf.offset("inode", "i_mode")?,
        task_flags: btf.offset("task_struct", "flags")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        task_group_leader: btf.offset("task_struct", "group_leader")?,
        task_comm: btf.offset("task_struct", "comm")?,
        task_start_time: btf.offset("task_struct", "start_time")?,
        task_files: btf.offset("task_struct", "files")?,
        task_cred: btf.offset("task_struct", "cred")?,
        cred_uid: btf.offset("cred", "uid")?,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdt_fd: btf.offset("fdtable", "fd")?,
        fdt_max_fds: btf.offset("fdtable", "max_fds")?,
        sys_exit_ret: optional(btf.offset("syscall_trace_exit", "ret"))?,
        mptcp_first: optional(btf.offset("mptcp_sock", "first"))?,
    })
}
