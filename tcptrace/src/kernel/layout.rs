//! From the kernel's description of its types to the offsets the kernel programs read at.

use tcptrace_common::layout::{ABSENT, Layout};

use super::btf::{Btf, BtfError};

/// A fact that cannot be known for want of a member, and which.
#[derive(Debug)]
pub struct Lacking {
    /// As in `check` and in the `start` record
    pub fact: &'static str,
    /// The member
    pub why: BtfError,
}

/// Finds every offset. A member the programs cannot do without is an error that names it;
/// those of optional kernel parts (IPv6, MPTCP, tracepoints of system calls) are [`ABSENT`], and so
/// are those of a fact that lacks one of its members.
pub fn resolve(btf: &Btf<'_>) -> Result<(Layout, Vec<Lacking>), BtfError> {
    let mut layout = core(btf)?;
    let mut lacking = Vec::new();
    for (fact, find) in [
        ("time_wait", time_wait as fn(&Btf<'_>, &mut Layout) -> Found),
        ("counters", counters),
        ("listener", listeners),
        ("process", processes),
    ] {
        let mut more = layout;
        match find(btf, &mut more) {
            Ok(()) => layout = more,
            Err(why) => lacking.push(Lacking { fact, why }),
        }
    }
    Ok((layout, lacking))
}

type Found = Result<(), BtfError>;

fn time_wait(btf: &Btf<'_>, layout: &mut Layout) -> Found {
    let common = |member: &str| btf.offset("sock", &format!("__sk_common.{member}"));
    layout.sk_hash = common("skc_hash")?;
    layout.sk_nulls_node = common("skc_nulls_node")?;
    // A pointer from 5.18 to 6.0.
    if let Ok(offset) = btf.offset("net", "ipv4.tcp_death_row.hashinfo") {
        layout.net_hashinfo = offset;
    } else {
        layout.net_death_row = btf.offset("net", "ipv4.tcp_death_row")?;
    }
    layout.death_row_hashinfo = btf.offset("inet_timewait_death_row", "hashinfo")?;
    layout.hashinfo_ehash = btf.offset("inet_hashinfo", "ehash")?;
    layout.hashinfo_mask = btf.offset("inet_hashinfo", "ehash_mask")?;
    layout.tw_substate = btf.offset("inet_timewait_sock", "tw_substate")?;
    layout.timer_pprev = btf.offset("timer_list", "entry.pprev")?;
    layout.timer_expires = btf.offset("timer_list", "expires")?;
    layout.net_count = ["ns.count", "ns.__ns_ref", "count"]
        .into_iter()
        .find_map(|path| btf.offset("net", path).ok())
        .unwrap_or(ABSENT);
    layout.timer_function = btf.offset("timer_list", "function")?;
    layout.tw_timer = btf.offset("inet_timewait_sock", "tw_timer")?;
    Ok(())
}

fn counters(btf: &Btf<'_>, layout: &mut Layout) -> Found {
    let tp = |path: &str| btf.offset("tcp_sock", path);
    let bit = |path: &str| btf.bit_offset("tcp_sock", path);
    layout.icsk_ca_ops = btf.offset("inet_connection_sock", "icsk_ca_ops")?;
    layout.ca_name = btf.offset("tcp_congestion_ops", "name")?;
    layout.tp_bytes_sent = tp("bytes_sent")?;
    layout.tp_bytes_received = tp("bytes_received")?;
    layout.tp_bytes_retrans = tp("bytes_retrans")?;
    layout.tp_segs_out = tp("segs_out")?;
    layout.tp_segs_in = tp("segs_in")?;
    layout.tp_total_retrans = tp("total_retrans")?;
    layout.tp_srtt_us = tp("srtt_us")?;
    layout.tp_rtt_min = tp("rtt_min.s")?;
    layout.tp_mss_cache = tp("mss_cache")?;
    layout.tp_snd_cwnd = tp("snd_cwnd")?;
    layout.tp_rcv_nxt = tp("rcv_nxt")?;
    layout.tp_ecn_flags = tp("ecn_flags")?;
    layout.tp_tstamp_ok = bit("rx_opt.tstamp_ok")?;
    layout.tp_wscale_ok = bit("rx_opt.wscale_ok")?;
    layout.tp_sack_ok = bit("rx_opt.sack_ok")?;
    layout.tp_snd_wscale = bit("rx_opt.snd_wscale")?;
    layout.tp_rcv_wscale = bit("rx_opt.rcv_wscale")?;
    layout.tp_syn_data = bit("syn_data")?;
    // Last: what says that all are found.
    layout.tp_syn_data_acked = bit("syn_data_acked")?;
    Ok(())
}

fn listeners(btf: &Btf<'_>, layout: &mut Layout) -> Found {
    layout.sk_ack_backlog = btf.offset("sock", "sk_ack_backlog")?;
    layout.sk_max_ack_backlog = btf.offset("sock", "sk_max_ack_backlog")?;
    layout.sk_drops = btf.offset("sock", "sk_drops")?;
    layout.req_num_retrans = btf.offset("request_sock", "num_retrans")?;
    layout.req_snt_synack = btf.offset("tcp_request_sock", "snt_synack")?;
    layout.icsk_fastopen_max = btf.offset(
        "inet_connection_sock",
        "icsk_accept_queue.fastopenq.max_qlen",
    )?;
    layout.icsk_qlen = btf.offset("inet_connection_sock", "icsk_accept_queue.qlen")?;
    Ok(())
}

fn processes(btf: &Btf<'_>, layout: &mut Layout) -> Found {
    let task = |member: &str| btf.offset("task_struct", member);
    layout.task_pid = task("pid")?;
    layout.task_signal = task("signal")?;
    layout.signal_live = btf.offset("signal_struct", "live")?;
    layout.task_parent = task("real_parent")?;
    layout.task_mm = task("mm")?;
    layout.task_start_boottime = task("start_boottime")?;
    layout.task_exec_id = task("self_exec_id")?;
    layout.mm_exe_file = btf.offset("mm_struct", "exe_file")?;
    layout.mm_arg_start = btf.offset("mm_struct", "arg_start")?;
    layout.mm_arg_end = btf.offset("mm_struct", "arg_end")?;
    layout.file_dentry = btf.offset("file", "f_path.dentry")?;
    layout.file_mnt = btf.offset("file", "f_path.mnt")?;
    layout.dentry_parent = btf.offset("dentry", "d_parent")?;
    layout.dentry_name = btf.offset("dentry", "d_name.name")?;
    layout.dentry_name_len = btf.offset("dentry", "d_name.len")?;
    layout.mnt_root = btf.offset("vfsmount", "mnt_root")?;
    layout.mount_mnt = btf.offset("mount", "mnt")?;
    layout.mount_parent = btf.offset("mount", "mnt_parent")?;
    layout.mount_mountpoint = btf.offset("mount", "mnt_mountpoint")?;
    layout.task_cgroups = task("cgroups")?;
    layout.cset_dfl = btf.offset("css_set", "dfl_cgrp")?;
    layout.css_cgroup = btf.offset("cgroup_subsys_state", "cgroup")?;
    layout.cgroup_root = btf.offset("cgroup", "root")?;
    layout.cgroup_kn = btf.offset("cgroup", "kn")?;
    layout.kn_id = btf.offset("kernfs_node", "id")?;
    layout.kn_name = btf.offset("kernfs_node", "name")?;
    layout.kn_parent = btf
        .offset("kernfs_node", "parent")
        .or_else(|_older| btf.offset("kernfs_node", "__parent"))?;
    // Which controller is which depends on the kernel's configuration.
    let controllers = btf.enumerators("cgroup_subsys_id")?;
    let pids = controllers.iter().find(|(_, name)| *name == "pids_cgrp_id");
    let index = pids.map_or(0, |(index, _)| *index);
    layout.cset_css = btf.offset("css_set", "subsys")? + 8 * index;
    Ok(())
}

fn core(btf: &Btf<'_>) -> Result<Layout, BtfError> {
    let sock = |path: &str| btf.offset("sock", path);
    let common = |member: &str| btf.offset("sock", &format!("__sk_common.{member}"));
    let optional = |offset: Result<u32, BtfError>| match offset {
        Err(BtfError::NoMember { .. } | BtfError::NoStruct(_)) => Ok(ABSENT),
        other => other,
    };
    let v6_daddr = optional(common("skc_v6_daddr"))?;
    let v6_rcv_saddr = optional(common("skc_v6_rcv_saddr"))?;
    let net_port_range = optional(btf.offset("net", "ipv4.ip_local_ports.range"))?;
    // The lock, which guards two words, went with the second of them.
    let has_two_words = btf.offset("net", "ipv4.ip_local_ports.lock").is_ok();
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
        sk_err_soft: sock("sk_err_soft")?,
        sk_shutdown: sock("sk_shutdown")?,
        sk_socket: sock("sk_socket")?,
        inet_sport: btf.offset("inet_sock", "inet_sport")?,
        tp_write_seq: btf.offset("tcp_sock", "write_seq")?,
        tp_snd_una: btf.offset("tcp_sock", "snd_una")?,
        tp_tsorted_sent_queue: btf.offset("tcp_sock", "tsorted_sent_queue")?,
        net_inum: btf.offset("net", "ns.inum")?,
        socket_sk: btf.offset("socket", "sk")?,
        socket_file: btf.offset("socket", "file")?,
        file_private_data: btf.offset("file", "private_data")?,
        file_cred: btf.offset("file", "f_cred")?,
        file_inode: btf.offset("file", "f_inode")?,
        inode_mode: btf.offset("inode", "i_mode")?,
        task_flags: btf.offset("task_struct", "flags")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        task_group_leader: btf.offset("task_struct", "group_leader")?,
        task_comm: btf.offset("task_struct", "comm")?,
        task_start_time: btf.offset("task_struct", "start_time")?,
        task_files: btf.offset("task_struct", "files")?,
        task_cred: btf.offset("task_struct", "real_cred")?,
        task_acting_cred: btf.offset("task_struct", "cred")?,
        cred_uid: btf.offset("cred", "uid")?,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdt_fd: btf.offset("fdtable", "fd")?,
        fdt_max_fds: btf.offset("fdtable", "max_fds")?,
        sys_exit_ret: optional(btf.offset("syscall_trace_exit", "ret"))?,
        mptcp_first: optional(btf.offset("mptcp_sock", "first"))?,
        sk_flags: common("skc_flags")?,
        file_count: optional(btf.offset("file", "f_count"))?,
        file_ref: optional(btf.offset("file", "f_ref"))?,
        sk_kern_sock: optional(btf.bit_offset("sock", "sk_kern_sock"))?,
        sk_use_task_frag: optional(sock("sk_use_task_frag"))?,
        subflow_mp_join: optional(btf.bit_offset("mptcp_subflow_context", "mp_join"))?,
        icsk_accept_head: btf
            .offset("inet_connection_sock", "icsk_accept_queue.rskq_accept_head")?,
        req_dl_next: btf.offset("request_sock", "dl_next")?,
        req_sk: btf.offset("request_sock", "sk")?,
        icsk_ulp_data: optional(btf.offset("inet_connection_sock", "icsk_ulp_data"))?,
        tp_rcv_tstamp: optional(btf.offset("tcp_sock", "rcv_tstamp"))?,
        subflow_conn: optional(btf.offset("mptcp_subflow_context", "conn"))?,
        task_exit_code: optional(btf.offset("task_struct", "exit_code"))?,
        sk_lingertime: optional(sock("sk_lingertime"))?,
        tp_copied_seq: optional(btf.offset("tcp_sock", "copied_seq"))?,
        net_port_range,
        net_port_last: if has_two_words {
            net_port_range.saturating_add(4)
        } else {
            ABSENT
        },
        skb_head: optional(btf.offset("sk_buff", "head"))?,
        skb_transport_header: optional(btf.offset("sk_buff", "transport_header"))?,
        ..Layout::NONE
    })
}
