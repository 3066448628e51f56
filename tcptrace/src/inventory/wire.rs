//! Netlink messages of `NETLINK_SOCK_DIAG` for TCP, byte for byte: requests written, answers read.
//! `include/uapi/linux/{netlink,sock_diag,inet_diag,tcp}.h`.
//!
//! Pure: any bytes are a socket, an end, an error, or passed over. Attributes that are not known are passed over,
//! `struct tcp_info` may be shorter or longer than ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_common::tcp;
use zerocopy::{
    FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::{BigEndian, NativeEndian, U16, U32, U64},
};

use super::socket::{Counters, Memory, Socket, TimerKind};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CONG: u16 = 4;
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_SHUTDOWN: u16 = 8;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `SK_MEMINFO_DROPS`
const MEMINFO_DROPS: usize = 8;
/// `TCP_INFINITE_SSTHRESH`
const INFINITE_SSTHRESH: u32 = 0x7fff_ffff;

/// Timers of `idiag_timer`.
const TIMER_RETRANSMIT: u8 = 1;
const TIMER_KEEPALIVE: u8 = 2;
const TIMER_TIME_WAIT: u8 = 3;
const TIMER_PERSIST: u8 = 4;
const TIMER_DELAYED_ACK: u8 = 5;

/// `struct nlmsghdr`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    len: U32<NativeEndian>,
    kind: U16<NativeEndian>,
    flags: U16<NativeEndian>,
    seq: U32<NativeEndian>,
    port: U32<NativeEndian>,
}

/// `struct inet_diag_sockid`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SockId {
    sport: U16<BigEndian>,
    dport: U16<BigEndian>,
    src: [u8; 16],
    dst: [u8; 16],
    interface: U32<NativeEndian>,
    cookie: U64<NativeEndian>,
}

/// A dump of TCP sockets: `struct nlmsghdr`, `struct inet_diag_req_v2`.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: U32<NativeEndian>,
    id: SockId,
}

/// `struct inet_diag_msg`
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retries: u8,
    id: SockId,
    expires_ms: U32<NativeEndian>,
    recv_queue: U32<NativeEndian>,
    send_queue: U32<NativeEndian>,
    uid: U32<NativeEndian>,
    inode: U32<NativeEndian>,
}

/// `struct rtattr`
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Attribute {
    len: U16<NativeEndian>,
    kind: U16<NativeEndian>,
}

/// The beginning of `struct tcp_info`, as of 5.10. It only grows.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Info {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    wscales: u8,
    limited: u8,
    rto: U32<NativeEndian>,
    ato: U32<NativeEndian>,
    snd_mss: U32<NativeEndian>,
    rcv_mss: U32<NativeEndian>,
    unacked: U32<NativeEndian>,
    sacked: U32<NativeEndian>,
    lost: U32<NativeEndian>,
    retrans: U32<NativeEndian>,
    fackets: U32<NativeEndian>,
    last_data_sent: U32<NativeEndian>,
    last_ack_sent: U32<NativeEndian>,
    last_data_recv: U32<NativeEndian>,
    last_ack_recv: U32<NativeEndian>,
    pmtu: U32<NativeEndian>,
    rcv_ssthresh: U32<NativeEndian>,
    rtt: U32<NativeEndian>,
    rttvar: U32<NativeEndian>,
    snd_ssthresh: U32<NativeEndian>,
    snd_cwnd: U32<NativeEndian>,
    advmss: U32<NativeEndian>,
    reordering: U32<NativeEndian>,
    rcv_rtt: U32<NativeEndian>,
    rcv_space: U32<NativeEndian>,
    total_retrans: U32<NativeEndian>,
    pacing_rate: U64<NativeEndian>,
    max_pacing_rate: U64<NativeEndian>,
    bytes_acked: U64<NativeEndian>,
    bytes_received: U64<NativeEndian>,
    segs_out: U32<NativeEndian>,
    segs_in: U32<NativeEndian>,
    notsent_bytes: U32<NativeEndian>,
    min_rtt: U32<NativeEndian>,
    data_segs_in: U32<NativeEndian>,
    data_segs_out: U32<NativeEndian>,
    delivery_rate: U64<NativeEndian>,
    busy_time: U64<NativeEndian>,
    rwnd_limited: U64<NativeEndian>,
    sndbuf_limited: U64<NativeEndian>,
    delivered: U32<NativeEndian>,
    delivered_ce: U32<NativeEndian>,
    bytes_sent: U64<NativeEndian>,
    bytes_retrans: U64<NativeEndian>,
}

/// What to ask of each socket besides its addresses and queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// What the kernel counts, and the congestion control
    pub counters: bool,
    /// Memory, and drops
    pub memory: bool,
}

/// Which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

impl Request {
    /// `states`: a bit each, by the kernel's number.
    pub(super) fn new(family: Family, states: u16, ask: Ask) -> Self {
        let mut extensions = 0_u8;
        // `INET_DIAG_SHUTDOWN`, the cgroup and more come unasked.
        if ask.counters {
            extensions |= 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_CONG - 1);
        }
        if ask.memory {
            extensions |= 1 << (INET_DIAG_SKMEMINFO - 1);
        }
        Self {
            header: Header {
                len: U32::new(u32::try_from(size_of::<Self>()).unwrap_or(0)),
                kind: U16::new(SOCK_DIAG_BY_FAMILY),
                flags: U16::new(NLM_F_REQUEST | NLM_F_DUMP),
                seq: U32::new(1),
                port: U32::new(0),
            },
            family: match family {
                Family::V4 => AF_INET,
                Family::V6 => AF_INET6,
            },
            protocol: IPPROTO_TCP,
            extensions,
            pad: 0,
            states: U32::new(states.into()),
            id: SockId {
                sport: U16::new(0),
                dport: U16::new(0),
                src: [0; 16],
                dst: [0; 16],
                interface: U32::new(0),
                cookie: U64::new(u64::MAX),
            },
        }
    }
}

/// How an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More is to come
    More,
    /// That was all
    Done,
    /// The kernel refuses; an errno
    Refused(i32),
}

/// Reads what one `recv` brought; each socket goes to `found`.
pub fn read(mut bytes: &[u8], mut found: impl FnMut(Socket, Option<Counters>)) -> Next {
    while let Ok((header, _)) = Header::ref_from_prefix(bytes) {
        let len = usize::try_from(header.len.get()).unwrap_or(0);
        let Some(payload) = bytes.get(size_of::<Header>()..len) else {
            // Cut short, or no message at all: nothing that follows can be told apart.
            return Next::Done;
        };
        match header.kind.get() {
            SOCK_DIAG_BY_FAMILY => {
                if let Some((socket, counters)) = read_socket(payload) {
                    found(socket, counters);
                }
            }
            NLMSG_DONE => {
                return match errno(payload) {
                    0 => Next::Done,
                    errno => Next::Refused(errno),
                };
            }
            NLMSG_ERROR => return Next::Refused(errno(payload)),
            _ => {}
        }
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
    }
    Next::More
}

/// Both an error and the end of a dump begin with a negative errno, or 0.
fn errno(payload: &[u8]) -> i32 {
    let number = payload
        .first_chunk()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    number.saturating_neg()
}

/// `NLMSG_ALIGN`, `RTA_ALIGN`
const fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn read_socket(payload: &[u8]) -> Option<(Socket, Option<Counters>)> {
    let (message, mut attributes) = Message::ref_from_prefix(payload).ok()?;
    let (local, mapped) = address(message.family, message.id.src)?;
    let (remote, remote_mapped) = address(message.family, message.id.dst)?;
    // A socket on all addresses of both families is none of IPv4 alone.
    let mapped = mapped && (remote_mapped || message.state == tcp::LISTEN);
    let request = message.state == tcp::SYN_RECV && message.inode.get() == 0;
    let mut socket = Socket {
        cookie: message.id.cookie.get(),
        local,
        remote: if mapped && !remote_mapped {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            remote
        },
        mapped,
        lport: message.id.sport.get(),
        rport: message.id.dport.get(),
        state: message.state,
        timer: timer(message, request),
        timer_retries: message.retries,
        timer_ms: clamped(message.expires_ms.get()),
        recv_queue: message.recv_queue.get(),
        send_queue: message.send_queue.get(),
        uid: message.uid.get(),
        inode: message.inode.get(),
        interface: message.id.interface.get(),
        ..Socket::default()
    };
    let mut counters = None;
    while let Ok((attribute, _)) = Attribute::ref_from_prefix(attributes) {
        let len = usize::from(attribute.len.get());
        let Some(value) = attributes.get(size_of::<Attribute>()..len) else {
            break;
        };
        match attribute.kind.get() {
            INET_DIAG_INFO => {
                let counted = read_info(value);
                let known = counters.get_or_insert_with(Counters::default);
                *known = Counters {
                    congestion: known.congestion,
                    ..counted
                };
            }
            INET_DIAG_CONG => {
                let known = counters.get_or_insert_with(Counters::default);
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                let len = name.len().min(known.congestion.len());
                known.congestion[..len].copy_from_slice(&name[..len]);
            }
            INET_DIAG_SKMEMINFO => socket.memory = read_memory(value),
            INET_DIAG_SKV6ONLY => socket.v6_only = value.first().is_some_and(|only| *only != 0),
            INET_DIAG_SHUTDOWN => socket.shutdown = value.first().copied().unwrap_or(0),
            INET_DIAG_CGROUP_ID => {
                socket.cgroup = value
                    .first_chunk()
                    .map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            }
            _ => {}
        }
        attributes = attributes.get(aligned(len)..).unwrap_or_default();
    }
    Some((socket, counters))
}

/// An address, and whether it was an IPv4 address mapped into IPv6.
fn address(family: u8, bytes: [u8; 16]) -> Option<(IpAddr, bool)> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Some((Ipv4Addr::new(a, b, c, d).into(), false))
        }
        AF_INET6 => {
            let address = Ipv6Addr::from(bytes);
            Some(match address.to_ipv4_mapped() {
                Some(address) => (address.into(), true),
                None => (address.into(), false),
            })
        }
        _ => None,
    }
}

fn timer(message: &Message, request: bool) -> TimerKind {
    match message.timer {
        // The timer of a request is that of its SYN-ACK.
        TIMER_RETRANSMIT if request => TimerKind::SynAck,
        TIMER_RETRANSMIT => TimerKind::Retransmit,
        // Of an orphan it bounds the wait for the peer's FIN (`tcp_fin_timeout`).
        TIMER_KEEPALIVE if message.state == tcp::FIN_WAIT2 && message.inode.get() == 0 => {
            TimerKind::FinTimeout
        }
        TIMER_KEEPALIVE => TimerKind::Keepalive,
        TIMER_TIME_WAIT => TimerKind::TimeWait,
        TIMER_PERSIST => TimerKind::Persist,
        TIMER_DELAYED_ACK => TimerKind::DelayedAck,
        _ => TimerKind::None,
    }
}

/// A timer that fires while it is looked at has a negative rest.
fn clamped(expires_ms: u32) -> u32 {
    if expires_ms > i32::MAX.unsigned_abs() {
        0
    } else {
        expires_ms
    }
}

fn read_memory(value: &[u8]) -> Option<Memory> {
    let (words, _) =
        <[U32<NativeEndian>]>::ref_from_prefix_with_elems(value, value.len() / 4).ok()?;
    Some(Memory {
        drops: words.get(MEMINFO_DROPS)?.get(),
    })
}

/// What the kernel is too old to tell is zero, as in its own structure's padding.
fn read_info(value: &[u8]) -> Counters {
    let mut info = Info::new_zeroed();
    let bytes = info.as_mut_bytes();
    let len = value.len().min(bytes.len());
    bytes[..len].copy_from_slice(&value[..len]);
    let known = |number: u32, unknown: u32| if number == unknown { 0 } else { number };
    Counters {
        tx_bytes: info.bytes_sent.get(),
        rx_bytes: info.bytes_received.get(),
        retrans_bytes: info.bytes_retrans.get(),
        tx_segs: info.segs_out.get(),
        rx_segs: info.segs_in.get(),
        data_tx_segs: info.data_segs_out.get(),
        data_rx_segs: info.data_segs_in.get(),
        retransmits: info.total_retrans.get(),
        unacked: info.unacked.get(),
        lost: info.lost.get(),
        unsent_bytes: info.notsent_bytes.get(),
        srtt_us: info.rtt.get(),
        rttvar_us: info.rttvar.get(),
        min_rtt_us: known(info.min_rtt.get(), u32::MAX),
        rto_us: info.rto.get(),
        mss: info.snd_mss.get(),
        cwnd: info.snd_cwnd.get(),
        ssthresh: known(info.snd_ssthresh.get(), INFINITE_SSTHRESH),
        last_sent_ms: info.last_data_sent.get(),
        last_received_ms: info.last_data_recv.get(),
        wscales: info.wscales,
        options: info.options,
        congestion: [0; 16],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<Header>(), 16);
        assert_eq!(size_of::<SockId>(), 48);
        assert_eq!(size_of::<Request>(), 16 + 56);
        assert_eq!(size_of::<Message>(), 72);
        assert_eq!(std::mem::offset_of!(Info, total_retrans), 100);
        assert_eq!(std::mem::offset_of!(Info, bytes_received), 128);
        assert_eq!(std::mem::offset_of!(Info, min_rtt), 148);
        assert_eq!(std::mem::offset_of!(Info, bytes_sent), 200);
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(size_of::<Header>() + payload.len()).unwrap();
        let header = Header {
            len: U32::new(len),
            kind: U16::new(kind),
            flags: U16::new(0),
            seq: U32::new(1),
            port: U32::new(0),
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An established IPv4-mapped connection, with a short `tcp_info` and an attribute of the future.
    fn established() -> Vec<u8> {
        let mut payload = vec![AF_INET6, tcp::ESTABLISHED, TIMER_KEEPALIVE, 3];
        payload.extend([0, 80, 0x1f, 0x90]);
        for last in [1, 2] {
            payload.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]);
        }
        payload.extend(7_u32.to_ne_bytes());
        payload.extend(0xabcd_u64.to_ne_bytes());
        for word in [u32::MAX - 3, 11, 12, 1000, 4711] {
            payload.extend(word.to_ne_bytes());
        }
        let attribute = |payload: &mut Vec<u8>, kind: u16, value: &[u8]| {
            payload.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(value);
            payload.resize(payload.len().next_multiple_of(4), 0);
        };
        let mut info = vec![0; 104];
        info[100] = 9;
        attribute(&mut payload, INET_DIAG_INFO, &info);
        attribute(&mut payload, 999, b"what is this");
        attribute(&mut payload, INET_DIAG_CGROUP_ID, &5_u64.to_ne_bytes());
        attribute(&mut payload, INET_DIAG_CONG, b"cubic\0");
        payload
    }

    #[test]
    fn a_socket_is_read() {
        let mut found = Vec::new();
        let mut bytes = message(SOCK_DIAG_BY_FAMILY, &established());
        assert_eq!(
            read(&bytes, |socket, counters| found.push((socket, counters))),
            Next::More
        );
        let (socket, counters) = &found[0];
        assert_eq!(socket.cookie, 0xabcd);
        assert!(socket.mapped);
        assert_eq!(socket.local, IpAddr::from([10, 0, 0, 1]));
        assert_eq!((socket.lport, socket.rport), (80, 8080));
        assert_eq!(socket.timer, TimerKind::Keepalive);
        assert_eq!(socket.timer_ms, 0, "it underflowed");
        assert_eq!((socket.recv_queue, socket.send_queue), (11, 12));
        assert_eq!((socket.uid, socket.inode, socket.cgroup), (1000, 4711, 5));
        let counters = counters.unwrap();
        assert_eq!((counters.retransmits, counters.tx_bytes), (9, 0));
        assert_eq!(counters.congestion(), b"cubic");
        bytes.extend(message(NLMSG_DONE, &0_i32.to_ne_bytes()));
        assert_eq!(read(&bytes, |_, _| {}), Next::Done);
    }

    #[test]
    fn a_refusal_is_an_errno() {
        let bytes = message(NLMSG_ERROR, &(-13_i32).to_ne_bytes());
        assert_eq!(read(&bytes, |_, _| panic!()), Next::Refused(13));
    }

    #[test]
    fn whatever_comes_is_survived() {
        let whole = message(SOCK_DIAG_BY_FAMILY, &established());
        for len in 0..whole.len() {
            let _next = read(&whole[..len], |_, _| {});
            for change in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[len] = change;
                let _next = read(&bytes, |_, _| {});
            }
        }
    }
}
