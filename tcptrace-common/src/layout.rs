//! Where the running kernel keeps the fields the programs read.
//!
//! Rust emits no CO-RE relocations, so no offset may be known at compile time. The agent reads
//! them from the running kernel's BTF and writes this block into the object's read-only data
//! before load; the verifier then sees constants.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Marks a member that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets from the start of the named struct, in the kernel's own layout.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Eq)]
#[repr(C)]
pub struct Layout {
    /// `sock.__sk_common.skc_daddr` (`__be32`)
    pub sk_daddr: u32,
    /// `sock.__sk_common.skc_rcv_saddr` (`__be32`)
    pub sk_rcv_saddr: u32,
    /// `sock.__sk_common.skc_dport` (`__be16`)
    pub sk_dport: u32,
    /// `sock.__sk_common.skc_num` (`u16`, host order)
    pub sk_num: u32,
    /// `sock.__sk_common.skc_family` (`u16`)
    pub sk_family: u32,
    /// `sock.__sk_common.skc_state` (`u8`)
    pub sk_state: u32,
    /// `sock.__sk_common.skc_net` (`struct net *`)
    pub sk_net: u32,
    /// `sock.__sk_common.skc_v6_daddr`; [`ABSENT`] without `CONFIG_IPV6`
    pub sk_v6_daddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`; [`ABSENT`] without `CONFIG_IPV6`
    pub sk_v6_rcv_saddr: u32,
    /// `sock.__sk_common.skc_cookie` (`atomic64_t`)
    pub sk_cookie: u32,
    /// `sock.sk_protocol` (`u16`; `u8` before 5.6)
    pub sk_protocol: u32,
    /// `sock.sk_lock.owned` (`int`): set while a process works on the socket
    pub sk_lock_owned: u32,
    /// `sock.sk_err` (`int`)
    pub sk_err: u32,
    /// `sock.sk_shutdown` (`u8`)
    pub sk_shutdown: u32,
    /// `sock.sk_socket` (`struct socket *`)
    pub sk_socket: u32,
    /// `inet_sock.inet_sport` (`__be16`)
    pub inet_sport: u32,
    /// `tcp_sock.tsorted_sent_queue` (`struct list_head`)
    pub tp_tsorted_sent_queue: u32,
    /// `net.ns.inum` (`unsigned int`)
    pub net_inum: u32,
    /// `socket.sk` (`struct sock *`)
    pub socket_sk: u32,
    /// `socket.file` (`struct file *`)
    pub socket_file: u32,
    /// `file.private_data` (`void *`)
    pub file_private_data: u32,
    /// `file.f_inode` (`struct inode *`)
    pub file_inode: u32,
    /// `inode.i_mode` (`umode_t`)
    pub inode_mode: u32,
    /// `task_struct.flags` (`unsigned int`)
    pub task_flags: u32,
    /// `task_struct.tgid` (`pid_t`)
    pub task_tgid: u32,
    /// `task_struct.group_leader` (`struct task_struct *`)
    pub task_group_leader: u32,
    /// `task_struct.comm` (`char[16]`)
    pub task_comm: u32,
    /// `task_struct.start_time` (`u64`, ns)
    pub task_start_time: u32,
    /// `task_struct.files` (`struct files_struct *`)
    pub task_files: u32,
    /// `task_struct.cred` (`const struct cred *`)
    pub task_cred: u32,
    /// `cred.uid` (`kuid_t`)
    pub cred_uid: u32,
    /// `files_struct.fdt` (`struct fdtable *`)
    pub files_fdt: u32,
    /// `fdtable.fd` (`struct file **`)
    pub fdt_fd: u32,
    /// `fdtable.max_fds` (`unsigned int`)
    pub fdt_max_fds: u32,
    /// `syscall_trace_exit.ret` (`long`): the record of `syscalls:sys_exit_accept4`; [`ABSENT`]
    /// without `CONFIG_FTRACE_SYSCALLS`
    pub sys_exit_ret: u32,
    /// `mptcp_sock.first` (`struct sock *`); [`ABSENT`] without `CONFIG_MPTCP`
    pub mptcp_first: u32,
}

impl Layout {
    /// Nothing found yet.
    pub const NONE: Self = Self {
        sk_daddr: ABSENT,
        sk_rcv_saddr: ABSENT,
        sk_dport: ABSENT,
        sk_num: ABSENT,
        sk_family: ABSENT,
        sk_state: ABSENT,
        sk_net: ABSENT,
        sk_v6_daddr: ABSENT,
        sk_v6_rcv_saddr: ABSENT,
        sk_cookie: ABSENT,
        sk_protocol: ABSENT,
        sk_lock_owned: ABSENT,
        sk_err: ABSENT,
        sk_shutdown: ABSENT,
        sk_socket: ABSENT,
        inet_sport: ABSENT,
        tp_tsorted_sent_queue: ABSENT,
        net_inum: ABSENT,
        socket_sk: ABSENT,
        socket_file: ABSENT,
        file_private_data: ABSENT,
        file_inode: ABSENT,
        inode_mode: ABSENT,
        task_flags: ABSENT,
        task_tgid: ABSENT,
        task_group_leader: ABSENT,
        task_comm: ABSENT,
        task_start_time: ABSENT,
        task_files: ABSENT,
        task_cred: ABSENT,
        cred_uid: ABSENT,
        files_fdt: ABSENT,
        fdt_fd: ABSENT,
        fdt_max_fds: ABSENT,
        sys_exit_ret: ABSENT,
        mptcp_first: ABSENT,
    };
}
