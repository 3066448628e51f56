//! The time-wait socket in the kernel's memory: where it is, and what its timer says.

use tcptrace_common::{
    layout::ABSENT,
    map_index::{TIME_WAIT_BEGIN_JIFFIES, TIME_WAIT_BEGIN_NS},
    tcp,
};

use crate::{
    constants::{config, off},
    kernel::{Object as _, Probed, Typed, jiffies, number},
    maps::TIME_WAIT,
};

/// Nodes of a hash chain that are looked at. A new one is put at the head.
const CHAIN_MAX: u32 = 8;
const NS_PER_S: u64 = 1_000_000_000;
/// `TCP_TIMEWAIT_LEN` (include/net/tcp.h), in seconds
const TIMEWAIT_S: u64 = 60;

/// A time-wait socket: where it is, or was, and its cookie, the one of its connection; 0 if nobody had
/// asked for that.
#[derive(Clone, Copy)]
pub(crate) struct TimeWait {
    pub(super) address: u64,
    pub(super) cookie: u64,
}

impl TimeWait {
    /// The one that is at this address now.
    #[inline(always)]
    pub(crate) fn at(address: u64) -> Self {
        let address = number(address);
        let cookie = if config!(cookie_helper) == 0 {
            0
        } else {
            Probed(address).read(off!(sk_cookie))
        };
        Self { address, cookie }
    }

    /// The one that has taken this closing socket's place in the hash table.
    #[inline(always)]
    pub(crate) fn in_place_of(sk: Typed) -> Option<Self> {
        if off!(tw_timer) == ABSENT {
            return None;
        }
        let net = sk.probe(off!(sk_net));
        let hashinfo = Probed(if off!(net_hashinfo) == ABSENT {
            Probed(net.read(off!(net_death_row))).read(off!(death_row_hashinfo))
        } else {
            net.read(off!(net_hashinfo))
        });
        let buckets: u64 = hashinfo.read(off!(hashinfo_ehash));
        let mask: u32 = hashinfo.read(off!(hashinfo_mask));
        let hash: u32 = sk.read(off!(sk_hash));
        let dport: u16 = sk.read(off!(sk_dport));
        let cookie: u64 = sk.read(off!(sk_cookie));
        // A bucket is one pointer; a chain ends in an odd number.
        let mut node: u64 = Probed(buckets + u64::from(hash & mask) * 8).read(0);
        for _ in 0..CHAIN_MAX {
            if node & 1 != 0 || node == 0 {
                return None;
            }
            let found = Probed(node - u64::from(off!(sk_nulls_node)));
            // Most chains have one node, ours: first what is least likely to be another's.
            if found.read::<u64>(off!(sk_cookie)) == cookie
                && found.read::<u8>(off!(sk_state)) == tcp::TIME_WAIT
                && (cookie != 0
                    || (found.read::<u32>(off!(sk_hash)) == hash
                        && found.read::<u16>(off!(sk_dport)) == dport))
            {
                let cookie = if config!(cookie_helper) == 0 {
                    0
                } else {
                    cookie
                };
                return Some(Self {
                    address: found.0,
                    cookie,
                });
            }
            node = Probed(node).read(0);
        }
        None
    }

    /// As it stands on the list.
    #[inline(always)]
    pub(crate) fn listed([address, cookie]: [u64; 2]) -> Self {
        Self { address, cookie }
    }

    #[inline(always)]
    fn probe(self) -> Probed {
        Probed(self.address)
    }

    /// Under what its records are kept: its address mixed with its cookie. The address alone comes again
    /// with another connection, the cookie alone with the same socket's next one. Of 100,000 records two
    /// have the same key once in a billion times. Without a cookie, its address.
    #[inline(always)]
    pub(crate) fn key(self) -> u64 {
        self.address ^ self.cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Whether it still waits for the peer's FIN.
    #[inline(always)]
    pub(super) fn waits_for_fin(self) -> bool {
        self.probe().read::<u8>(off!(tw_substate)) == tcp::FIN_WAIT2
    }

    #[inline(always)]
    pub(super) fn timer(self) -> Probed {
        Probed(self.address + u64::from(off!(tw_timer)))
    }

    /// Whether it is still there, with these ports: its memory may have been given to another.
    #[inline(always)]
    pub(super) fn is_there(self, lport: u16, rport: u16) -> bool {
        let there = self.probe();
        if self.cookie != 0 {
            return there.read::<u64>(off!(sk_cookie)) == self.cookie;
        }
        there.read::<u16>(off!(sk_dport)) == rport.to_be()
            && there.read::<u16>(off!(sk_num)) == lport
    }

    /// Whether its timer runs. It does from before the socket reports `CLOSE` until
    /// `inet_twsk_kill`, whose callers stop it first.
    #[inline(always)]
    pub(super) fn is_pending(self) -> bool {
        self.timer().read::<u64>(off!(timer_pprev)) != 0
    }

    /// Whether it is still there, with these ports, and its time is not over. In this order: another's timer
    /// in the same place is not taken for its own.
    #[inline(always)]
    pub(super) fn is_running(self, lport: u16, rport: u16) -> bool {
        self.is_pending() && self.is_there(lport, rport)
    }

    /// Whether its time is over, by the kernel's own clock.
    #[inline(always)]
    pub(super) fn is_due(self) -> bool {
        let expires: u64 = self.timer().read(off!(timer_expires));
        jiffies().wrapping_sub(expires).cast_signed() >= 0
    }

    /// Whether its timer has gone off, set to `TCP_TIMEWAIT_LEN`: that is at the end of its bucket of the
    /// timer wheel, seconds later than its time (`calc_index`, kernel/time/timer.c).
    #[inline(always)]
    fn has_gone_off(self, now_ns: u64) -> bool {
        let Some(hz) = hz(now_ns) else {
            return false;
        };
        let level = if TIMEWAIT_S * hz < 63 << 9 { 3 } else { 4 };
        let expires: u64 = self.timer().read(off!(timer_expires));
        let bucket = ((expires >> (level * 3)) + 1) << (level * 3);
        jiffies().wrapping_sub(bucket).cast_signed() >= 0
    }

    /// Whether its network namespace is being taken down, with all that is in it.
    #[inline(always)]
    pub(super) fn net_is_dying(self) -> bool {
        if off!(net_count) == ABSENT {
            return true;
        }
        let net = Probed(self.probe().read(off!(sk_net)));
        net.read::<u32>(off!(net_count)) == 0
    }

    /// Whether its timer, which is being stopped, will surely not be set anew: its time is over, or its
    /// namespace is. It keeps the time it was set to until afterwards (`__mod_timer`).
    #[inline(always)]
    pub(super) fn is_final(self, now_ns: u64) -> bool {
        self.has_gone_off(now_ns) || (off!(net_count) != ABSENT && self.net_is_dying())
    }

    /// When the peer's FIN came, to the tick: its timer was then set to `TCP_TIMEWAIT_LEN`, even
    /// where it stayed in its bucket of the timer wheel (`tcp_timewait_state_process`,
    /// `__mod_timer`). Between `entered_ns` and `now_ns`.
    #[inline(always)]
    pub(super) fn fin_ns(self, entered_ns: u64, now_ns: u64) -> u64 {
        let Some(hz) = hz(now_ns) else {
            return now_ns;
        };
        let expires: u64 = self.timer().read(off!(timer_expires));
        let set = expires.wrapping_sub(TIMEWAIT_S * hz);
        let since_ns = jiffies().wrapping_sub(set).wrapping_mul(NS_PER_S / hz);
        if since_ns > now_ns.saturating_sub(entered_ns) {
            return entered_ns;
        }
        now_ns - since_ns
    }
}

/// Ticks per second (`CONFIG_HZ`), from how many there have been since the first look.
#[inline(always)]
fn hz(now_ns: u64) -> Option<u64> {
    let (ns, ticks) = (
        TIME_WAIT.get(TIME_WAIT_BEGIN_NS)?,
        TIME_WAIT.get(TIME_WAIT_BEGIN_JIFFIES)?,
    );
    let ticks = jiffies().wrapping_sub(*ticks);
    let ns = now_ns.wrapping_sub(*ns);
    // Fewer do not tell 250 from 300.
    if ticks < 25 || ns < NS_PER_S / 50 {
        return None;
    }
    // In microseconds, or ten years of ticks would not fit.
    let about = (ticks * 1_000_000).checked_div(ns / 1000)?;
    Some(match about {
        0..175 => 100,
        175..275 => 250,
        275..650 => 300,
        _ => 1000,
    })
}

/// Notes the moment of the first look; see [`hz`].
#[inline(always)]
pub(crate) fn begin(now_ns: u64) {
    let (Some(ns), Some(ticks)) = (
        TIME_WAIT.get_ptr_mut(TIME_WAIT_BEGIN_NS),
        TIME_WAIT.get_ptr_mut(TIME_WAIT_BEGIN_JIFFIES),
    ) else {
        return;
    };
    // SAFETY: a live, aligned map value; only the agent's runs, one after the other, come here.
    let ns = unsafe { &mut *ns };
    // SAFETY: as above.
    let ticks = unsafe { &mut *ticks };
    if *ns == 0 {
        *ticks = jiffies();
        *ns = now_ns;
    }
}
