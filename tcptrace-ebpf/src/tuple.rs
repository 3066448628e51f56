//! A connection's two ends.

use tcptrace_common::record::FLAG_MAPPED;

use crate::{
    constants::off,
    kernel::{Object, is_zero},
};

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

/// Where a listener may be.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Place {
    /// Local address; 0: any
    laddr: [u64; 2],
    /// Network namespace inode
    netns: u32,
    /// Local port
    lport: u16,
    /// `AF_INET`, `AF_INET6`; 0: of any family and at any address
    family: u16,
}

impl Place {
    /// Where a socket is.
    #[inline(always)]
    pub(crate) fn of(tuple: &Tuple, netns: u32) -> Self {
        let is_v4 = tuple.family == 4 && tuple.mapped == 0;
        Self {
            laddr: [tuple.laddr[0], tuple.laddr[1]],
            netns,
            lport: tuple.lport,
            // A child is of its listener's family.
            family: if is_v4 { AF_INET } else { AF_INET6 },
        }
    }

    /// The same port and family, at any address.
    #[inline(always)]
    pub(crate) fn anywhere(self) -> Self {
        Self {
            laddr: [0; 2],
            ..self
        }
    }

    /// The same port.
    #[inline(always)]
    pub(crate) fn of_any_family(self) -> Self {
        Self {
            family: 0,
            ..self.anywhere()
        }
    }
}

/// 1 for `::ffff:a.b.c.d`, which the second half of `second` is the last four bytes of; 0 for all else.
#[inline(always)]
fn is_mapped(first: u64, second: u64) -> u64 {
    is_zero(first | ((second & 0xffff_ffff) ^ u64::from(0x0000_ffff_u32.to_be())))
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
            raddr: [self.raddr[0], self.raddr[1]],
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
        let mut lport: u16 = sk.read(off!(sk_num));
        if lport == 0 {
            lport = u16::from_be(sport());
        }
        let mut rport = u16::from_be(sk.read(off!(sk_dport)));
        // Words, not arrays: clearing an array becomes a call that does it byte by byte.
        let (mut laddr_0, mut laddr_1, mut raddr_0, mut raddr_1) = (0, 0, 0, 0);
        let mut version = 0;
        let mut mapped = 0;
        let family: u16 = sk.read(off!(sk_family));
        if family == AF_INET {
            version = 4;
            laddr_0 = u64::from(sk.read::<u32>(off!(sk_rcv_saddr)));
            raddr_0 = u64::from(sk.read::<u32>(off!(sk_daddr)));
        } else if family == AF_INET6 {
            laddr_0 = sk.read(off!(sk_v6_rcv_saddr));
            laddr_1 = sk.read(off!(sk_v6_rcv_saddr) + 8);
            raddr_0 = sk.read(off!(sk_v6_daddr));
            raddr_1 = sk.read(off!(sk_v6_daddr) + 8);
            version = 6;
            let remote = is_mapped(raddr_0, raddr_1);
            let local = is_mapped(laddr_0, laddr_1) & is_zero(raddr_0 | raddr_1);
            if remote | local != 0 {
                version = 4;
                mapped = FLAG_MAPPED;
                laddr_0 = u64::from(sk.read::<u32>(off!(sk_rcv_saddr)));
                raddr_0 = raddr_1 >> 32;
                laddr_1 = 0;
                raddr_1 = 0;
            }
        }
        let missing =
            is_zero(rport.into()) | is_zero(raddr_0 | raddr_1) | is_zero(laddr_0 | laddr_1);
        let whole = 1 ^ (is_zero(lport.into()) | (missing & u64::from(!listening)));
        if listening {
            rport = 0;
            raddr_0 = 0;
            raddr_1 = 0;
        }
        Self {
            laddr: [laddr_0, laddr_1],
            raddr: [raddr_0, raddr_1],
            lport,
            rport,
            family: version,
            mapped,
            whole: whole as u8,
            reserved: 0,
        }
    }
}
