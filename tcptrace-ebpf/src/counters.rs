//! What the kernel counts of a connection, read as `tcp_get_info` (net/ipv4/tcp.c) reads it.

use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use tcptrace_common::{
    layout::ABSENT,
    record::{
        Counters, KNOWN_COUNTERS, KNOWN_HANDSHAKE, KNOWN_ISN, OPTION_ECN, OPTION_FASTOPEN,
        OPTION_SACK, OPTION_TIMESTAMPS, OPTION_WSCALE, ROLE_CLIENT, ROLE_SERVER, UNKNOWN,
    },
};

use crate::{
    constants::off,
    kernel::{Object as _, Typed},
    maps::SYNACKS,
    sock::Sock,
};

/// `TCP_ECN_OK` (include/net/tcp.h)
const ECN_OK: u8 = 1;

/// The `struct tcp_sock` around a socket; none if the kernel says it is no TCP socket, or lacks a
/// field that is counted.
#[inline(always)]
fn tcp_sock(sk: Typed) -> Option<Typed> {
    if off!(tp_syn_data_acked) == ABSENT {
        return None;
    }
    // SAFETY: `sk` is a typed socket pointer, which is what the helper takes.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk.0.cast_mut().cast()) };
    (!tp.is_null()).then_some(Typed(tp.cast()))
}

/// A bit field of at most a byte that does not cross one.
#[inline(always)]
fn bits(tp: Typed, bit_offset: u32, mask: u8) -> u8 {
    tp.read::<u8>(bit_offset / 8) >> (bit_offset % 8) & mask
}

/// Reads what is counted at this moment.
#[inline(always)]
pub(crate) fn read(sk: Typed, counters: &mut Counters) {
    let Some(tp) = tcp_sock(sk) else { return };
    counters.tx_bytes = tp.read(off!(tp_bytes_sent));
    counters.rx_bytes = tp.read(off!(tp_bytes_received));
    counters.retrans_bytes = tp.read(off!(tp_bytes_retrans));
    counters.tx_segs = tp.read(off!(tp_segs_out));
    counters.rx_segs = tp.read(off!(tp_segs_in));
    counters.retransmits = tp.read(off!(tp_total_retrans));
    counters.srtt_us = tp.read::<u32>(off!(tp_srtt_us)) >> 3;
    // `struct minmax_sample` is a time and a value.
    counters.min_rtt_us = tp.read(off!(tp_rtt_min) + 4);
    counters.mss_bytes = tp.read(off!(tp_mss_cache));
    counters.cwnd = tp.read(off!(tp_snd_cwnd));
    let ca_ops = Typed(tp.read::<*const u8>(off!(icsk_ca_ops)));
    counters.congestion = ca_ops.words(off!(ca_name));
    counters.wscales = bits(tp, off!(tp_snd_wscale), 15) | bits(tp, off!(tp_rcv_wscale), 15) << 4;
    // Without branches: the verifier follows each.
    let sack = bits(tp, off!(tp_sack_ok), 1);
    let timestamps = bits(tp, off!(tp_tstamp_ok), 1);
    let wscale = bits(tp, off!(tp_wscale_ok), 1);
    let ecn = tp.read::<u8>(off!(tp_ecn_flags)) & ECN_OK;
    let fastopen = bits(tp, off!(tp_syn_data_acked), 1);
    counters.options = (sack * OPTION_SACK)
        | (timestamps * OPTION_TIMESTAMPS)
        | (wscale * OPTION_WSCALE)
        | (ecn * OPTION_ECN)
        | (fastopen * OPTION_FASTOPEN);
    counters.known |= KNOWN_COUNTERS;
}

/// Whether all that was sent has been acknowledged, a FIN included.
#[inline(always)]
pub(crate) fn is_acknowledged(sk: Typed) -> bool {
    // SAFETY: `sk` is a typed socket pointer, which is what the helper takes.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk.0.cast_mut().cast()) };
    if tp.is_null() {
        return false;
    }
    let tp = Typed(tp.cast());
    tp.read::<u32>(off!(tp_snd_una)) == tp.read::<u32>(off!(tp_write_seq))
}

/// Segments sent again so far.
#[inline(always)]
pub(crate) fn retransmits(sk: Typed) -> u32 {
    tcp_sock(sk).map_or(UNKNOWN, |tp| tp.read(off!(tp_total_retrans)))
}

/// What the handshake leaves behind for a moment, as the connection becomes `ESTABLISHED`: both
/// sides' first numbers stand just below the next ones (`tcp_rcv_synsent_state_process`, and
/// `tcp_rcv_state_process` for `SYN_RECV`).
#[inline(always)]
pub(crate) fn handshake(sk: Typed, sock: &mut Sock, now_ns: u64) {
    let Some(tp) = tcp_sock(sk) else { return };
    let retransmits: u32 = tp.read(off!(tp_total_retrans));
    sock.counters.syn_retransmits = if retransmits > 255 {
        255
    } else {
        retransmits as u8
    };
    // Data in the SYN, ours or the peer's, moves them further.
    if bits(tp, off!(tp_syn_data), 1) | bits(tp, off!(tp_syn_data_acked), 1) == 0
        && (sock.role == ROLE_CLIENT || sock.role == ROLE_SERVER)
    {
        sock.counters.isn = tp.read::<u32>(off!(tp_snd_una)).wrapping_sub(1);
        sock.counters.peer_isn = tp.read::<u32>(off!(tp_rcv_nxt)).wrapping_sub(1);
        sock.counters.known |= KNOWN_ISN;
    }
    if sock.role != ROLE_SERVER {
        return;
    }
    if retransmits == 0 {
        // `tcp_synack_rtt_meas` has just made it the first sample: from SYN-ACK to ACK. None with
        // a SYN cookie, which keeps no time.
        let rtt_us = tp.read::<u32>(off!(tp_srtt_us)) >> 3;
        if rtt_us != 0 {
            sock.counters.handshake_us = rtt_us;
            sock.counters.known |= KNOWN_HANDSHAKE;
        }
        return;
    }
    // No sample from a SYN-ACK sent twice; `hook::retransmit` has kept the time of the first.
    let key = sock.tuple.request(sock.netns);
    // SAFETY: the value is copied at once.
    if let Some(sent_us) = unsafe { SYNACKS.get(&key) } {
        let since_us = (now_ns / 1000).wrapping_sub(*sent_us);
        sock.counters.handshake_us = since_us as u32;
        sock.counters.known |= KNOWN_HANDSHAKE;
        let _gone = SYNACKS.remove(&key);
    }
}
