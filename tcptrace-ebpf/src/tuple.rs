//! A connection's two ends.

use tcptrace_common::record::FLAG_MAPPED;

use crate::{constants::off, kernel::Object};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Both ends of a connection. Addresses in network order, IPv4 in the first four bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Tuple {
    /// Local address as two words
    pub laddr: [u64; 2],
    /// Remote address as two words
    pub raddr: [u64; 2],
    /// Local port, host order; 0: none
    pub lport: u16,
    /// Remote port, host order; 0: none
    pub rport: u16,
    /// 4, 6, or 0 while unread
    pub family: u8,
    /// `FLAG_MAPPED`, for an IPv6 socket with IPv4-mapped addresses, or 0
    pub mapped: u8,
    /// 1: nothing of it is missing
    pub whole: u8,
    /// Zero
    pub reserved: u8,
}

/// What tells one request for a connection from another.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Request {
    /// Remote address
    pub raddr: [u64; 2],
    /// Network namespace inode
    pub netns: u32,
    /// Local port
    pub lport: u16,
    /// Remote port
    pub rport: u16,
}

/// Second word of an address's first half plus `ffff` in the second: `::ffff:a.b.c.d`.
#[inline(always)]
fn v4_of_mapped(addr: [u64; 2]) -> Option<u32> {
    let (low, high) = (addr[1] as u32, (addr[1] >> 32) as u32);
    (addr[0] == 0 && low == 0x0000_ffff_u32.to_be()).then_some(high)
}

impl Tuple {
    /// Unread.
    pub(crate) const EMPTY: Self = Self {
        laddr: [0; 2],
        raddr: [0; 2],
        lport: 0,
        rport: 0,
        family: 0,
        mapped: 0,
        whole: 0,
        reserved: 0,
    };

    /// The request that this became, or is.
    #[inline(always)]
    pub(crate) fn request(&self, netns: u32) -> Request {
        Request {
            raddr: self.raddr,
            netns,
            lport: self.lport,
            rport: self.rport,
        }
    }

    /// Reads both ends from a `struct sock`.
    ///
    /// `listening`: a listener has no remote end and may have any local address.
    ///
    /// The kernel zeroes `skc_num` before it reports `CLOSE` (`inet_put_port`), but keeps
    /// `inet_sport`; `sport` reads it.
    #[inline(always)]
    pub(crate) fn read(sk: impl Object, listening: bool, sport: impl FnOnce() -> u16) -> Self {
        let mut tuple = Self {
            laddr: [0; 2],
            raddr: [0; 2],
            lport: sk.read(off!(sk_num)),
            rport: u16::from_be(sk.read(off!(sk_dport))),
            family: 0,
            mapped: 0,
            whole: 0,
            reserved: 0,
        };
        if tuple.lport == 0 {
            tuple.lport = u16::from_be(sport());
        }
        let family: u16 = sk.read(off!(sk_family));
        if family == AF_INET {
            tuple.family = 4;
            tuple.laddr[0] = u64::from(sk.read::<u32>(off!(sk_rcv_saddr)));
            tuple.raddr[0] = u64::from(sk.read::<u32>(off!(sk_daddr)));
        } else if family == AF_INET6 {
            let laddr = [
                sk.read(off!(sk_v6_rcv_saddr)),
                sk.read(off!(sk_v6_rcv_saddr) + 8),
            ];
            let raddr = [sk.read(off!(sk_v6_daddr)), sk.read(off!(sk_v6_daddr) + 8)];
            let remote = v4_of_mapped(raddr);
            let local = v4_of_mapped(laddr);
            if remote.is_some() || (local.is_some() && raddr == [0; 2]) {
                tuple.family = 4;
                tuple.mapped = FLAG_MAPPED;
                tuple.laddr[0] = u64::from(sk.read::<u32>(off!(sk_rcv_saddr)));
                tuple.raddr[0] = u64::from(remote.unwrap_or(0));
            } else {
                tuple.family = 6;
                tuple.laddr = laddr;
                tuple.raddr = raddr;
            }
        }
        let whole = tuple.lport != 0
            && (listening
                || (tuple.rport != 0
                    && (tuple.raddr[0] | tuple.raddr[1]) != 0
                    && (tuple.laddr[0] | tuple.laddr[1]) != 0));
        tuple.whole = u8::from(whole);
        if listening {
            tuple.rport = 0;
            tuple.raddr = [0; 2];
        }
        tuple
    }
}
