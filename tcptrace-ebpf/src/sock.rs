//! The record of one live socket.

use tcptrace_common::{
    config::BACKLOG_WORDS,
    record::{
        Counters, FLAG_NO_FASTOPEN, FLAG_PARTIAL, FLAG_ROLE_INFERRED, ORIGINS, Origin, Owner,
        PATH_LEN, Step,
    },
    tcp,
};

use crate::{constants::config, tuple::Tuple};

/// Open before tracing began, or first seen half-way.
pub(crate) const PARTIAL: u8 = FLAG_PARTIAL;
/// Its listener does not take Fast Open.
pub(crate) const NO_FASTOPEN: u8 = FLAG_NO_FASTOPEN;
/// Its first step waits in `PENDING`.
pub(crate) const WAITING: u8 = 0x80;
/// Its first step waits, and `PENDING` had no room to say so.
pub(crate) const UNLISTED: u8 = 0x40;
/// A kernel thread has closed it: not he who does so once more.
pub(crate) const BY_KERNEL: u32 = u32::MAX;

/// Somebody has accepted it, and no hook has seen who.
pub(crate) const OVERLOOKED: u8 = 1;
/// Nobody accepts it: it was added to an MPTCP connection.
pub(crate) const JOINED: u8 = 2;
/// Somebody has accepted it, no hook has seen who, and a state change has shown it.
pub(crate) const FOUND: u8 = OVERLOOKED | JOINED;

/// The record is of a `struct sock`.
pub(crate) const LIVE: u8 = 0;
/// The record is of a time-wait socket in which a connection waits for its peer's FIN.
pub(crate) const IN_TIME_WAIT: u8 = 1;
/// The socket's connection has become a time-wait socket; what is left has no more to tell.
pub(crate) const DEAD: u8 = 2;

/// A pair of ends in `TIME_WAIT`: what its last record must say.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TimeWaitRecord {
    /// Connection id
    pub conn: u64,
    /// When it entered `TIME_WAIT`
    pub since_ns: u64,
    /// When its timer was last stopped; 0: it runs
    pub ended_ns: u64,
    /// Address of the `struct inet_timewait_sock`
    pub tw: u64,
    /// Owner
    pub owner: Owner,
    /// The four-tuple
    pub tuple: Tuple,
    /// Network namespace inode
    pub netns: u32,
    /// `PARTIAL`, `FLAG_ROLE_INFERRED`
    pub flags: u8,
    /// `ROLE_*`
    pub role: u8,
    /// `SOURCE_*`
    pub source: u8,
    /// Steps before this one
    pub seq: u8,
    /// Which process the owner is; 0: not known
    pub process: u32,
    /// Zero
    pub reserved: u32,
}

/// A connection that waits for its SYN-ACK or for `accept()`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Waiting {
    /// Address of the `struct sock`; 0: none
    pub key: u64,
    /// Since when: `CLOCK_MONOTONIC`, ns, as in its path
    pub since_ns: u64,
}

/// What was last told of a listener.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Backlog {
    /// When somebody last accepted, or when it began to listen
    pub accept_ns: u64,
    /// Requests whose first SYN-ACK had to be sent again
    pub unanswered: u32,
    /// Of these, already told
    pub unanswered_reported: u32,
    /// `sk_drops` at the last look
    pub drops_reported: u32,
    /// Zero
    pub reserved: u32,
    /// Where those came from that were not told yet
    pub origins: [Origin; ORIGINS],
}

/// Nothing to tell of a listener, in read-only data: see [`NOTHING`].
#[unsafe(no_mangle)]
pub(crate) static NO_BACKLOG: Backlog = Backlog {
    accept_ns: 0,
    unanswered: 0,
    unanswered_reported: 0,
    drops_reported: 0,
    reserved: 0,
    origins: [Origin {
        prefix: 0,
        count: 0,
        family: 0,
    }; ORIGINS],
};

const _: () = assert!(size_of::<Backlog>() == BACKLOG_WORDS * 8);

impl Backlog {
    /// Counts a request from this origin: exactly as long as there are no more origins than places, and no more
    /// than came otherwise (Misra and Gries, 1982).
    #[inline(always)]
    pub(crate) fn count_origin(&mut self, prefix: u64, family: u8) {
        let family = u32::from(family);
        for origin in &mut self.origins {
            if origin.count != 0 && origin.prefix == prefix && origin.family == family {
                origin.count = origin.count.wrapping_add(1);
                return;
            }
        }
        for origin in &mut self.origins {
            if origin.count == 0 {
                origin.prefix = prefix;
                origin.family = family;
                origin.count = 1;
                return;
            }
        }
        for origin in &mut self.origins {
            origin.count = origin.count.wrapping_sub(1);
        }
    }
}

/// A record of nothing, in read-only data: made on the stack it would cost a call that clears it
/// byte by byte.
#[unsafe(no_mangle)]
pub(crate) static NOTHING: Sock = Sock::EMPTY;

/// What is known of a socket. One writer per field, so that no two CPUs race on a byte; `accept`, `conn` and
/// `seen_ns` are exchanged.
///
/// What each transition looks at stands together: over two CPUs, every line of the cache costs more than
/// what is done with it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Sock {
    /// The four-tuple (`set_state`)
    pub tuple: Tuple,
    /// Connection id; 0 while the kernel has not given the child its own (`set_state`)
    pub conn: u64,
    /// How far the report of its accept is; see `accept`
    pub accept: u64,
    /// The state before `path[0]` (`set_state`)
    pub origin: u8,
    /// Steps in `path` (`set_state`)
    pub path_len: u8,
    /// Steps already sent, or never to be (`publish`)
    pub sent: u8,
    /// `PARTIAL`, `NO_FASTOPEN`, `WAITING`, `UNLISTED` (`set_state`)
    pub flags: u8,
    /// `ROLE_*` (`set_state`)
    pub role: u8,
    /// `SOURCE_*` of each owner
    pub sources: [u8; 2],
    /// Which owner is in force (`accept`)
    pub slot: u8,
    /// A `filter::Decision` by role, four-tuple and owner (`filter`)
    pub by_owner: u8,
    /// 1: its `socket` record is written (`snapshot`)
    pub listed: u8,
    /// `sk_shutdown` at `CLOSE` (`set_state`)
    pub shutdown: u8,
    /// `LIVE`, `IN_TIME_WAIT`, `DEAD` (`timewait`)
    pub life: u8,
    /// With `--failed` or `--slower-than`, a `filter::Decision` by what becomes of it (`filter`)
    pub by_outcome: u8,
    /// 1: with `-p`, a process asked for has its file (`snapshot`)
    pub wanted_holder: u8,
    /// Steps without a time among those not yet sent (`set_state`)
    pub unseen_steps: u8,
    /// With `IN_TIME_WAIT`, what was known of its end when its timer was stopped: a `KNOWN_*` (`timewait`)
    pub known_at_stop: u8,
    /// States entered, oldest first; of a partial record the first has time 0 (`set_state`)
    pub path: [Step; PATH_LEN],
    /// Network namespace inode (`set_state`)
    pub netns: u32,
    /// Who closed it; 0: nobody, as far as is known; `BY_KERNEL` (`set_state`)
    pub closer: u32,
    /// `sk_err` at `CLOSE` (`set_state`)
    pub err: u32,
    /// The accept queue of the listener when it was accepted, and its limit (`accept`)
    pub backlog: [u32; 2],
    /// `OVERLOOKED`, `FOUND`, `JOINED` (`set_state`, by `overlooked`)
    pub overlooked: u8,
    /// Of one that was open at start: the role it seems to have and `FLAG_ROLE_INFERRED`; 0: not known (`snapshot`)
    pub guess: u8,
    /// `inet_sport` of the life before, which stays until this one is given a port; 0: none
    /// (`set_state`)
    pub former_sport: u16,
    /// When `accept()` returned it (`accept`)
    pub accept_ns: u64,
    /// Of a live socket, the start time of its holder, of several the first (`snapshot`); of one that lives
    /// on in a time-wait socket, when its timer was last stopped, or 0 if it runs (`timewait`)
    pub seen_ns: u64,
    /// Address of the listener a child was cloned from; 0: not known (`set_state`). With `IN_TIME_WAIT`, of the
    /// time-wait socket (`timewait`)
    pub listener: u64,
    /// `[0]` who opened it, or its listener's owner; `[1]` who accepted it
    pub owners: [Owner; 2],
    /// What the kernel counts; `reset` (`reset`), all else (`set_state`)
    pub counters: Counters,
    /// Which process each owner is; 0: not known
    pub processes: [u32; 2],
}

// What another tcptrace reads; whoever moves it raises `LIVE_VERSION`.
const _: () = {
    use core::mem::offset_of;
    use tcptrace_common::live::{pair, sock};
    assert!(offset_of!(Sock, conn) == sock::CONN);
    assert!(offset_of!(Sock, path_len) == sock::PATH_LEN_AT);
    assert!(offset_of!(Sock, flags) == sock::FLAGS);
    assert!(offset_of!(Sock, role) == sock::ROLE);
    assert!(offset_of!(Sock, sources) == sock::SOURCES);
    assert!(offset_of!(Sock, slot) == sock::SLOT);
    assert!(offset_of!(Sock, life) == sock::LIFE && DEAD == sock::DEAD);
    assert!(offset_of!(Sock, path) == sock::PATH);
    assert!(offset_of!(Sock, owners) == sock::OWNERS);
    assert!(size_of::<Sock>() == sock::BYTES);
    assert!(offset_of!(TimeWaitRecord, conn) == pair::CONN);
    assert!(offset_of!(TimeWaitRecord, since_ns) == pair::SINCE_NS);
    assert!(offset_of!(TimeWaitRecord, owner) == pair::OWNER);
    assert!(offset_of!(TimeWaitRecord, role) == pair::ROLE);
    assert!(offset_of!(TimeWaitRecord, source) == pair::SOURCE);
    assert!(size_of::<TimeWaitRecord>() == pair::BYTES);
};

impl Sock {
    /// A record of nothing.
    pub(crate) const EMPTY: Self = Self {
        tuple: Tuple::EMPTY,
        conn: 0,
        accept: 0,
        origin: 0,
        path_len: 0,
        sent: 0,
        flags: 0,
        role: 0,
        sources: [0; 2],
        slot: 0,
        by_owner: 0,
        listed: 0,
        shutdown: 0,
        life: LIVE,
        by_outcome: 0,
        wanted_holder: 0,
        unseen_steps: 0,
        known_at_stop: 0,
        path: [Step(0); PATH_LEN],
        netns: 0,
        closer: 0,
        err: 0,
        backlog: [0; 2],
        overlooked: 0,
        guess: 0,
        former_sport: 0,
        accept_ns: 0,
        seen_ns: 0,
        listener: 0,
        processes: [0; 2],
        owners: [Owner::NONE; 2],
        counters: Counters::NONE,
    };

    /// Whether it was there when the trace began: not if it was found before the state hooks were
    /// attached, and had ended before they were.
    #[inline(always)]
    pub(crate) fn is_reported(&self) -> bool {
        self.flags & PARTIAL == 0 || self.listed != 0 || self.accept_ns != 0 || self.path_len > 1
    }

    /// The owner in force.
    #[inline(always)]
    pub(crate) fn owner(&self) -> &Owner {
        &self.owners[usize::from(self.slot & 1)]
    }

    /// `ROLE_*` as records say it.
    #[inline(always)]
    pub(crate) fn apparent_role(&self) -> u8 {
        self.role | (self.guess & !FLAG_ROLE_INFERRED)
    }

    /// Its flags as records say them.
    #[inline(always)]
    pub(crate) fn record_flags(&self) -> u8 {
        // Both are kept as the flags of a record, so that nothing branches here: the verifier follows every
        // branch of every hook.
        (self.flags & (FLAG_PARTIAL | FLAG_NO_FASTOPEN)) | (self.guess & FLAG_ROLE_INFERRED)
    }

    /// 1: the owner in this slot owns it; 0: somebody has accepted it who is not known, so its listener's
    /// owner owns it no more.
    #[inline(always)]
    pub(crate) fn is_owned(&self, slot: u8) -> u8 {
        (self.overlooked & (slot ^ 1) & 1) ^ 1
    }

    /// Who closed it; 0: not known.
    #[inline(always)]
    pub(crate) fn closed_by(&self) -> u32 {
        if self.closer == BY_KERNEL {
            0
        } else {
            self.closer
        }
    }

    /// The present state; `origin` of a record without steps.
    #[inline(always)]
    pub(crate) fn state(&self) -> u8 {
        if self.path_len == 0 {
            self.origin
        } else {
            self.step(self.path_len - 1).state()
        }
    }

    /// Whether its last step has been made.
    #[inline(always)]
    pub(crate) fn has_ended(&self) -> bool {
        tcp::is_end(self.state())
    }

    /// A step. The mask is for the verifier: `index` is always below `PATH_LEN`.
    #[inline(always)]
    pub(crate) fn step(&self, index: u8) -> Step {
        self.path[index as usize & (PATH_LEN - 1)]
    }

    /// Whether its last step was this one. `close()` after `shutdown()` reports the present state once
    /// more, and once only: then it stands in the path twice.
    #[inline(always)]
    pub(crate) fn has_stepped(&self, old: u8, new: u8) -> bool {
        self.path_len > 0
            && self.state() == new
            && (old != new
                || (self.path_len > 1 && self.step(self.path_len.wrapping_sub(2)).state() == new))
    }

    /// Adds a step. A ninth, which no TCP makes, replaces the eighth.
    #[inline(always)]
    pub(crate) fn push(&mut self, step: Step) {
        let at = if self.path_len as usize >= PATH_LEN {
            self.sent = PATH_LEN as u8 - 1;
            PATH_LEN as u8 - 1
        } else {
            self.path_len
        };
        self.path[at as usize & (PATH_LEN - 1)] = step;
        self.path_len = at + 1;
    }

    /// Whether our side had sent its FIN before tracing began, by whom nobody saw.
    #[inline(always)]
    pub(crate) fn was_closed_before(&self) -> bool {
        let found = self.step(0);
        self.flags & PARTIAL != 0
            && (found.state() == tcp::FIN_WAIT1
                || found.state() == tcp::FIN_WAIT2
                || found.state() == tcp::CLOSING
                || found.state() == tcp::LAST_ACK)
    }

    /// The step that makes the connection's first record: none before it has been told of.
    #[inline(always)]
    pub(crate) fn first(&self) -> u8 {
        // A partial record's path begins with the state it was found in, which is no step; its
        // first record may have been a `socket` record.
        let partial = u8::from(self.flags & PARTIAL != 0);
        partial + partial * self.listed * config!(lists) * 0x40
    }
}
