//! Where the running kernel keeps the fields the programs read.
//!
//! Rust emits no CO-RE relocations, so no offset may be known at compile time. The agent reads
//! them from the running kernel's BTF and writes this block into the object's read-only data
//! before load; the verifier then sees constants.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Marks a member that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets (bit offsets where said) from the start of the named struct, in the kernel's own layout.
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
    /// `sock.sk_err_soft` (`int`): the error that time running out would be told by
    pub sk_err_soft: u32,
    /// `sock.sk_shutdown` (`u8`)
    pub sk_shutdown: u32,
    /// `sock.sk_socket` (`struct socket *`)
    pub sk_socket: u32,
    /// `inet_sock.inet_sport` (`__be16`)
    pub inet_sport: u32,
    /// `tcp_sock.write_seq` (`u32`): behind all that is to be sent, a FIN included
    pub tp_write_seq: u32,
    /// `tcp_sock.snd_una` (`u32`)
    pub tp_snd_una: u32,
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
    /// `file.f_cred` (`const struct cred *`): of the task that opened it
    pub file_cred: u32,
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
    /// `task_struct.real_cred` (`const struct cred *`)
    pub task_cred: u32,
    /// `task_struct.cred` (`const struct cred *`): what it acts with
    pub task_acting_cred: u32,
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
    /// `sock.__sk_common.skc_flags` (`unsigned long`)
    pub sk_flags: u32,
    /// `sock.sk_kern_sock` (a bit); [`ABSENT`] if it has another name
    pub sk_kern_sock: u32,
    /// `sock.sk_use_task_frag` (`bool`); [`ABSENT`] before 6.2
    pub sk_use_task_frag: u32,
    /// `mptcp_subflow_context.mp_join` (a bit); [`ABSENT`] without `CONFIG_MPTCP`
    pub subflow_mp_join: u32,
    /// `inet_connection_sock.icsk_accept_queue.rskq_accept_head` (`struct request_sock *`)
    pub icsk_accept_head: u32,
    /// `request_sock.dl_next` (`struct request_sock *`): the next one in the accept queue
    pub req_dl_next: u32,
    /// `request_sock.sk` (`struct sock *`): the connection made of it
    pub req_sk: u32,
    /// `inet_connection_sock.icsk_ulp_data` (`void *`)
    pub icsk_ulp_data: u32,
    /// `mptcp_subflow_context.conn` (`struct sock *`); [`ABSENT`] without `CONFIG_MPTCP`
    pub subflow_conn: u32,
    /// `sock.__sk_common.skc_hash` (`u32`)
    pub sk_hash: u32,
    /// `sock.__sk_common.skc_nulls_node` (`struct hlist_nulls_node`)
    pub sk_nulls_node: u32,
    /// `sock.sk_ack_backlog` (`u32`)
    pub sk_ack_backlog: u32,
    /// `sock.sk_max_ack_backlog` (`u32`)
    pub sk_max_ack_backlog: u32,
    /// `sock.sk_drops` (`atomic_t`)
    pub sk_drops: u32,
    /// `net.ipv4.tcp_death_row.hashinfo` (`struct inet_hashinfo *`); [`ABSENT`] where
    /// `tcp_death_row` is a pointer
    pub net_hashinfo: u32,
    /// `net.ipv4.tcp_death_row`, a pointer from 5.18 to 6.0; [`ABSENT`] elsewhere
    pub net_death_row: u32,
    /// `inet_timewait_death_row.hashinfo`
    pub death_row_hashinfo: u32,
    /// `inet_hashinfo.ehash` (`struct inet_ehash_bucket *`)
    pub hashinfo_ehash: u32,
    /// `inet_hashinfo.ehash_mask` (`unsigned int`)
    pub hashinfo_mask: u32,
    /// `inet_timewait_sock.tw_substate` (`unsigned char`)
    pub tw_substate: u32,
    /// `inet_timewait_sock.tw_timer` (`struct timer_list`)
    pub tw_timer: u32,
    /// `timer_list.entry.pprev` (`struct hlist_node **`): null once the timer is not pending
    pub timer_pprev: u32,
    /// `timer_list.expires` (`unsigned long`, jiffies)
    pub timer_expires: u32,
    /// `net.ns.count` (`refcount_t`); [`ABSENT`] where the kernel keeps it elsewhere
    pub net_count: u32,
    /// `timer_list.function` (`void (*)(struct timer_list *)`)
    pub timer_function: u32,
    /// `request_sock.num_retrans` (`u8`)
    pub req_num_retrans: u32,
    /// `tcp_request_sock.snt_synack` (`u64`, µs of `CLOCK_MONOTONIC`)
    pub req_snt_synack: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen` (`atomic_t`)
    pub icsk_qlen: u32,
    /// `inet_connection_sock.icsk_accept_queue.fastopenq.max_qlen` (`int`): 0 without Fast Open
    pub icsk_fastopen_max: u32,
    /// `inet_connection_sock.icsk_ca_ops` (`const struct tcp_congestion_ops *`)
    pub icsk_ca_ops: u32,
    /// `tcp_congestion_ops.name` (`char[16]`)
    pub ca_name: u32,
    /// `tcp_sock.bytes_sent` (`u64`)
    pub tp_bytes_sent: u32,
    /// `tcp_sock.bytes_received` (`u64`)
    pub tp_bytes_received: u32,
    /// `tcp_sock.bytes_retrans` (`u64`)
    pub tp_bytes_retrans: u32,
    /// `tcp_sock.segs_out` (`u32`)
    pub tp_segs_out: u32,
    /// `tcp_sock.segs_in` (`u32`)
    pub tp_segs_in: u32,
    /// `tcp_sock.total_retrans` (`u32`)
    pub tp_total_retrans: u32,
    /// `tcp_sock.srtt_us` (`u32`): eight times the smoothed round-trip time
    pub tp_srtt_us: u32,
    /// `tcp_sock.rtt_min.s` (`struct minmax_sample[3]`: time, value)
    pub tp_rtt_min: u32,
    /// `tcp_sock.mss_cache` (`u32`)
    pub tp_mss_cache: u32,
    /// `tcp_sock.snd_cwnd` (`u32`)
    pub tp_snd_cwnd: u32,
    /// `tcp_sock.rcv_nxt` (`u32`)
    pub tp_rcv_nxt: u32,
    /// `tcp_sock.rcv_tstamp` (`u32`): jiffies of the last ACK that was taken
    pub tp_rcv_tstamp: u32,
    /// `tcp_sock.ecn_flags` (`u8`)
    pub tp_ecn_flags: u32,
    /// Bit offset of `tcp_sock.rx_opt.tstamp_ok`
    pub tp_tstamp_ok: u32,
    /// Bit offset of `tcp_sock.rx_opt.wscale_ok`
    pub tp_wscale_ok: u32,
    /// Bit offset of `tcp_sock.rx_opt.sack_ok` (3 or 4 bits)
    pub tp_sack_ok: u32,
    /// Bit offset of `tcp_sock.rx_opt.snd_wscale` (4 bits)
    pub tp_snd_wscale: u32,
    /// Bit offset of `tcp_sock.rx_opt.rcv_wscale` (4 bits)
    pub tp_rcv_wscale: u32,
    /// Bit offset of `tcp_sock.syn_data`
    pub tp_syn_data: u32,
    /// Bit offset of `tcp_sock.syn_data_acked`
    pub tp_syn_data_acked: u32,
    /// `task_struct.pid` (`pid_t`): of the thread
    pub task_pid: u32,
    /// `task_struct.signal` (`struct signal_struct *`)
    pub task_signal: u32,
    /// `signal_struct.live` (`atomic_t`): threads that have not ended
    pub signal_live: u32,
    /// `task_struct.real_parent` (`struct task_struct *`)
    pub task_parent: u32,
    /// `task_struct.mm` (`struct mm_struct *`)
    pub task_mm: u32,
    /// `task_struct.start_boottime` (`u64`, ns)
    pub task_start_boottime: u32,
    /// `task_struct.self_exec_id` (`u64`; `u32` before 5.7)
    pub task_exec_id: u32,
    /// `mm_struct.exe_file` (`struct file *`)
    pub mm_exe_file: u32,
    /// `mm_struct.arg_start` (`unsigned long`)
    pub mm_arg_start: u32,
    /// `mm_struct.arg_end` (`unsigned long`)
    pub mm_arg_end: u32,
    /// `file.f_path.dentry` (`struct dentry *`)
    pub file_dentry: u32,
    /// `file.f_path.mnt` (`struct vfsmount *`)
    pub file_mnt: u32,
    /// `dentry.d_parent` (`struct dentry *`)
    pub dentry_parent: u32,
    /// `dentry.d_name.name` (`const unsigned char *`)
    pub dentry_name: u32,
    /// `dentry.d_name.len` (`u32`)
    pub dentry_name_len: u32,
    /// `vfsmount.mnt_root` (`struct dentry *`)
    pub mnt_root: u32,
    /// `mount.mnt` (`struct vfsmount`)
    pub mount_mnt: u32,
    /// `mount.mnt_parent` (`struct mount *`)
    pub mount_parent: u32,
    /// `mount.mnt_mountpoint` (`struct dentry *`)
    pub mount_mountpoint: u32,
    /// `task_struct.cgroups` (`struct css_set *`)
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp` (`struct cgroup *`)
    pub cset_dfl: u32,
    /// `css_set.subsys[pids_cgrp_id]` (`struct cgroup_subsys_state *`); without that controller, of another
    pub cset_css: u32,
    /// `cgroup_subsys_state.cgroup` (`struct cgroup *`)
    pub css_cgroup: u32,
    /// `cgroup.root` (`struct cgroup_root *`)
    pub cgroup_root: u32,
    /// `cgroup.kn` (`struct kernfs_node *`)
    pub cgroup_kn: u32,
    /// `kernfs_node.id` (`u64`)
    pub kn_id: u32,
    /// `kernfs_node.name` (`const char *`)
    pub kn_name: u32,
    /// `file.f_count` (`atomic_long_t`); [`ABSENT`] from 6.13 on
    pub file_count: u32,
    /// `file.f_ref` (`file_ref_t`); [`ABSENT`] before 6.13
    pub file_ref: u32,
    /// `kernfs_node.parent` (`struct kernfs_node *`; `__parent` from 6.15 on)
    pub kn_parent: u32,
    /// `task_struct.exit_code` (`int`)
    pub task_exit_code: u32,
    /// `sock.sk_lingertime` (`unsigned long`)
    pub sk_lingertime: u32,
    /// `tcp_sock.copied_seq` (`u32`): behind what was read
    pub tp_copied_seq: u32,
    /// `net.ipv4.ip_local_ports.range`: two `int`, or from 6.8 on both in one `u32`, the last one above
    pub net_port_range: u32,
    /// The same, of the last one where it is an `int` of its own; [`ABSENT`] from 6.8 on
    pub net_port_last: u32,
    /// `sk_buff.head` (`unsigned char *`)
    pub skb_head: u32,
    /// `sk_buff.transport_header` (`u16`): from `head`
    pub skb_transport_header: u32,
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
        sk_err_soft: ABSENT,
        sk_shutdown: ABSENT,
        sk_socket: ABSENT,
        inet_sport: ABSENT,
        tp_write_seq: ABSENT,
        tp_snd_una: ABSENT,
        tp_tsorted_sent_queue: ABSENT,
        net_inum: ABSENT,
        socket_sk: ABSENT,
        socket_file: ABSENT,
        file_private_data: ABSENT,
        file_cred: ABSENT,
        file_inode: ABSENT,
        inode_mode: ABSENT,
        task_flags: ABSENT,
        task_tgid: ABSENT,
        task_group_leader: ABSENT,
        task_comm: ABSENT,
        task_start_time: ABSENT,
        task_files: ABSENT,
        task_cred: ABSENT,
        task_acting_cred: ABSENT,
        cred_uid: ABSENT,
        files_fdt: ABSENT,
        fdt_fd: ABSENT,
        fdt_max_fds: ABSENT,
        sys_exit_ret: ABSENT,
        mptcp_first: ABSENT,
        sk_flags: ABSENT,
        sk_kern_sock: ABSENT,
        sk_use_task_frag: ABSENT,
        subflow_mp_join: ABSENT,
        icsk_accept_head: ABSENT,
        req_dl_next: ABSENT,
        req_sk: ABSENT,
        icsk_ulp_data: ABSENT,
        subflow_conn: ABSENT,
        sk_hash: ABSENT,
        sk_nulls_node: ABSENT,
        sk_ack_backlog: ABSENT,
        sk_max_ack_backlog: ABSENT,
        sk_drops: ABSENT,
        net_hashinfo: ABSENT,
        net_death_row: ABSENT,
        death_row_hashinfo: ABSENT,
        hashinfo_ehash: ABSENT,
        hashinfo_mask: ABSENT,
        tw_substate: ABSENT,
        tw_timer: ABSENT,
        timer_pprev: ABSENT,
        timer_expires: ABSENT,
        net_count: ABSENT,
        timer_function: ABSENT,
        req_num_retrans: ABSENT,
        req_snt_synack: ABSENT,
        icsk_qlen: ABSENT,
        icsk_fastopen_max: ABSENT,
        icsk_ca_ops: ABSENT,
        ca_name: ABSENT,
        tp_bytes_sent: ABSENT,
        tp_bytes_received: ABSENT,
        tp_bytes_retrans: ABSENT,
        tp_segs_out: ABSENT,
        tp_segs_in: ABSENT,
        tp_total_retrans: ABSENT,
        tp_srtt_us: ABSENT,
        tp_rtt_min: ABSENT,
        tp_mss_cache: ABSENT,
        tp_snd_cwnd: ABSENT,
        tp_rcv_nxt: ABSENT,
        tp_rcv_tstamp: ABSENT,
        tp_ecn_flags: ABSENT,
        tp_tstamp_ok: ABSENT,
        tp_wscale_ok: ABSENT,
        tp_sack_ok: ABSENT,
        tp_snd_wscale: ABSENT,
        tp_rcv_wscale: ABSENT,
        tp_syn_data: ABSENT,
        tp_syn_data_acked: ABSENT,
        task_pid: ABSENT,
        task_signal: ABSENT,
        signal_live: ABSENT,
        task_parent: ABSENT,
        task_mm: ABSENT,
        task_start_boottime: ABSENT,
        task_exec_id: ABSENT,
        mm_exe_file: ABSENT,
        mm_arg_start: ABSENT,
        mm_arg_end: ABSENT,
        file_dentry: ABSENT,
        file_mnt: ABSENT,
        dentry_parent: ABSENT,
        dentry_name: ABSENT,
        dentry_name_len: ABSENT,
        mnt_root: ABSENT,
        mount_mnt: ABSENT,
        mount_parent: ABSENT,
        mount_mountpoint: ABSENT,
        task_cgroups: ABSENT,
        cset_dfl: ABSENT,
        cset_css: ABSENT,
        css_cgroup: ABSENT,
        cgroup_root: ABSENT,
        cgroup_kn: ABSENT,
        kn_id: ABSENT,
        kn_name: ABSENT,
        file_count: ABSENT,
        file_ref: ABSENT,
        kn_parent: ABSENT,
        task_exit_code: ABSENT,
        sk_lingertime: ABSENT,
        tp_copied_seq: ABSENT,
        net_port_range: ABSENT,
        net_port_last: ABSENT,
        skb_head: ABSENT,
        skb_transport_header: ABSENT,
    };
}
