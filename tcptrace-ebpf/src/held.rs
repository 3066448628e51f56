//! Steps that are held in the record of their socket, to be sent in one record with those that follow
//! soon.
//!
//! While many connections come and go (`HOLDING`), most of them end before anybody could have read of
//! their beginning: one record then tells all of it. What is still held after a turn, the agent sends by
//! `hook::send_held`. A client's first step is held in the same way until its port is known.
//!
//! Up to three meet at one socket: `hook::set_state`, which has its lock; an accept hook, which may not
//! have it; and `hook::send_held`. Its `token` settles who does what. It stands for exactly the steps
//! that are held, and no other ever equals it.
//!
//! * `set_state` makes it, replaces it by another with each step it adds ([`hold`]), and takes it away
//!   to send them itself ([`take_back`]).
//! * `accept` marks it, so that whoever sends the steps tells of the accept as well ([`mark_accepted`]).
//!   If there is none to mark, it makes its record and then says there that it has ([`claim_accept`]).
//!   As long as nothing of a child has been sent ([`BORN`]), and while `set_state` sends what it has taken
//!   back, the mark is for that to find afterwards ([`accepted_meanwhile`]); and the last record tells of
//!   the accept, if it had come by then ([`last_accept`]). So it has its place in the ring after the first
//!   step and before the last.
//! * `send_held` makes its record of what the token stands for, and only then takes it away. If it is no
//!   longer there, its record is thrown away ([`send`]).
//!
//! `HINTS` says whose steps are held. An address there may be out of date, but none is missing: a token
//! is made first, and then its hint looked for; a hint is removed first, and then the token looked for.

use core::ptr::{read_volatile, write_volatile};

use tcptrace_common::{
    config::{EMIT_TRANSITION, HINT_ROWS, HINTS_IN_ROW, HOLDING_ANY, HOLDING_ON},
    count,
    record::{PATH_LEN, ROLE_CLIENT, ROLE_LISTENER},
};

use crate::{
    atomic::{compare_exchange, exchange},
    constants::config,
    emit, filter,
    kernel::{self, Probed, copy},
    maps::{self, HINTS, HOLDING, SOCKS},
    publish,
    sock::{ACCEPT_TOLD, ACCEPTED, HOLDS, Sock, UNLISTED, WAITING},
    tuple::Tuple,
};

/// Whose turn it is may change so often while one of the others tries: `accept` marks a token once, and
/// once only is it taken away.
const TRIES: u32 = 4;

/// The token of a child of which nothing has been sent.
pub(crate) const BORN: u64 = Token::SENDING;

/// Which steps of a socket are held: from one index up to another, since when the last was added.
#[derive(Clone, Copy)]
struct Token(u64);

impl Token {
    /// Steps are held.
    const HOLDS: u64 = 1;
    /// Also means: it was accepted, which whoever sends the steps has to tell.
    const ACCEPTED: u64 = 2;
    /// The accept has its place in the ring, or was counted as lost.
    const ACCEPT_TOLD: u64 = 4;
    const ACCEPT: u64 = Self::ACCEPTED | Self::ACCEPT_TOLD;
    /// Its last record is being made, which tells of the accept if nothing else has: the accept hook no
    /// longer does.
    const CLOSED: u64 = 8;
    /// No steps are held: what there is will be sent, or is being sent. Whoever does so looks for
    /// `ACCEPTED` afterwards. Where steps are held, this bit is one of `from`.
    const SENDING: u64 = 16;

    #[inline(always)]
    fn new(now_ns: u64, from: u8, len: u8) -> Self {
        // 52 bits of nanoseconds come again after 52 days.
        Self(now_ns << 12 | u64::from(len & 15) << 8 | u64::from(from & 15) << 4 | Self::HOLDS)
    }

    #[inline(always)]
    fn is_none(self) -> bool {
        self.0 & Self::HOLDS == 0
    }

    /// What stays when the steps have been sent, and the accept that it means with them.
    #[inline(always)]
    fn rest(self) -> u64 {
        // Whoever is told to tell of it has told.
        (self.0 & Self::ACCEPTED) << 1 | self.0 & Self::ACCEPT_TOLD
    }

    #[inline(always)]
    fn is_sending(self) -> bool {
        self.0 & (Self::HOLDS | Self::SENDING) == Self::SENDING
    }

    /// Whether somebody else tells of an accept that is marked here.
    #[inline(always)]
    fn takes_accept(self) -> bool {
        self.0 & (Self::HOLDS | Self::CLOSED) != 0 || self.is_sending()
    }

    #[inline(always)]
    fn from(self) -> u8 {
        (self.0 >> 4 & 15) as u8
    }

    #[inline(always)]
    fn len(self) -> u8 {
        (self.0 >> 8 & 15) as u8
    }

    #[inline(always)]
    fn is_accepted(self) -> bool {
        self.0 & Self::ACCEPTED != 0
    }

    /// The present one; another CPU may replace it at any time.
    #[inline(always)]
    fn of(sock: &Sock) -> Self {
        // SAFETY: a live field.
        Self(unsafe { read_volatile(&raw const sock.token) })
    }

    /// The same, for whoever does not have the socket's lock: what is read after it is not older.
    ///
    /// # Safety
    ///
    /// A live record.
    #[inline(always)]
    unsafe fn of_others(sock: *mut Sock) -> Self {
        // SAFETY: the caller's.
        let token = unsafe { &raw mut (*sock).token };
        // SAFETY: as above. It stays what it is.
        Self(unsafe { compare_exchange(token, 0, 0) })
    }

    /// Replaces this one of a socket; false if it is another by now.
    #[inline(always)]
    fn replace(self, sock: &mut Sock, by: u64) -> bool {
        // SAFETY: a live field.
        unsafe { compare_exchange(&raw mut sock.token, self.0, by) == self.0 }
    }
}

#[inline(always)]
fn is_set(index: u32) -> bool {
    HOLDING.get(index).is_some_and(|set| *set != 0)
}

/// Whether steps are to be held that could be sent.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    config!(exchanges) != 0 && is_set(HOLDING_ON)
}

/// The place in `HINTS` of the socket at this address.
#[inline(always)]
fn hint(key: u64) -> Option<*mut u64> {
    const PLACES: u64 = HINT_ROWS as u64 * HINTS_IN_ROW as u64;
    let place = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES.ilog2());
    let row = HINTS.get_ptr_mut((place / HINTS_IN_ROW as u64) as u32)?;
    Some(
        row.cast::<u64>()
            .wrapping_add(place as usize & (HINTS_IN_ROW - 1)),
    )
}

/// Puts this socket's address into its place; false if another's is there.
#[inline(always)]
fn list(place: *mut u64, key: u64) -> bool {
    // SAFETY: a live word of the map.
    let there = unsafe { read_volatile(place) };
    if there == key {
        return true;
    }
    // SAFETY: as above.
    there == 0
        && matches!(unsafe { compare_exchange(place, 0, key) }, before if before == 0 || before == key)
}

/// Holds the newest step of a socket whose lock the caller holds. False if that cannot be: then nothing
/// of it is listed, and [`take_back`] has to come before anything is sent.
#[inline(never)]
pub(crate) fn hold(key: u64, sock: &mut Sock, now_ns: u64) -> bool {
    if config!(exchanges) == 0
        || config!(emit) & EMIT_TRANSITION == 0
        || sock.role == ROLE_LISTENER
        || sock.flags & WAITING != 0
        || sock.path_len as usize >= PATH_LEN - 1
    {
        return false;
    }
    if sock.flags & HOLDS != 0 {
        if add(sock, now_ns) {
            return true;
        }
        if sock.flags & HOLDS != 0 {
            return false;
        }
        // Sent meanwhile, perhaps with the newest.
        if sock.sent >= sock.path_len {
            return true;
        }
    }
    begin(key, sock, now_ns)
}

/// Adds the newest step to those that are held; false if they have been sent, or will not be left
/// alone.
#[inline(always)]
fn add(sock: &mut Sock, now_ns: u64) -> bool {
    for _ in 0..TRIES {
        let before = Token::of(sock);
        if before.is_none() {
            taken(sock);
            return false;
        }
        let after = Token::new(now_ns, before.from(), sock.path_len);
        if before.replace(sock, after.0 | before.0 & Token::ACCEPT) {
            return true;
        }
    }
    false
}

/// `hook::send_held` has sent what was held.
#[inline(always)]
fn taken(sock: &mut Sock) {
    // SAFETY: a live field, written before the token was taken away.
    sock.sent = unsafe { read_volatile(&raw const sock.flushed) };
    sock.gaps = 0;
    sock.flags &= !HOLDS;
}

/// Begins to hold what has not been sent.
#[inline(always)]
fn begin(key: u64, sock: &mut Sock, now_ns: u64) -> bool {
    let key = kernel::number(key);
    let Some(place) = hint(key) else {
        return false;
    };
    let token = Token::new(now_ns, sock.sent, sock.path_len);
    // There is none, and nobody else makes one; but an accept hook may tell or mark just now.
    let before = Token::of(sock);
    if !before.replace(sock, token.0 | before.0 & Token::ACCEPT) {
        let before = Token::of(sock);
        if !before.replace(sock, token.0 | before.0 & Token::ACCEPT) {
            return false;
        }
    }
    sock.flags |= HOLDS;
    if !list(place, key) {
        return false;
    }
    if sock.flags & UNLISTED != 0 {
        sock.flags &= !UNLISTED;
        maps::count(count::UNLISTED_SENT, 1);
    }
    if let Some(any) = HOLDING.get_ptr_mut(HOLDING_ANY) {
        // SAFETY: a live, aligned map value; whoever sets it sets the same.
        let any = unsafe { &mut *any };
        if *any == 0 {
            *any = 1;
            // The agent says that it sleeps, and then looks here; we the other way round.
            // SAFETY: a live field. A full barrier: no token is 0 by now.
            unsafe { compare_exchange(&raw mut sock.token, 0, 0) };
            emit::nudge();
        }
    }
    true
}

/// Takes what is held back into the hands of the caller, who holds the socket's lock: what has not been
/// sent by now is the caller's to send. Whoever sends it then asks [`accepted_meanwhile`].
#[inline(always)]
pub(crate) fn take_back(sock: &mut Sock) {
    if config!(exchanges) == 0 || sock.flags & HOLDS == 0 {
        return;
    }
    let token = replace_token(sock);
    if token.is_none() {
        taken(sock);
    } else {
        sock.flags &= !HOLDS;
    }
}

/// What was taken back has been sent. True if it was accepted meanwhile: that the caller has to tell.
#[inline(always)]
pub(crate) fn accepted_meanwhile(sock: &mut Sock) -> bool {
    if config!(exchanges) == 0 || !Token::of(sock).is_sending() {
        return false;
    }
    // SAFETY: a live field.
    Token(unsafe { exchange(&raw mut sock.token, 0) }).is_accepted()
}

/// Takes the token away. With its last step, a socket never gets another.
#[inline(always)]
fn replace_token(sock: &mut Sock) -> Token {
    let by = if sock.has_ended() {
        Token::CLOSED
    } else {
        Token::SENDING
    };
    // SAFETY: a live field.
    let token = Token(unsafe { exchange(&raw mut sock.token, by) });
    if token.0 & Token::ACCEPT_TOLD != 0 {
        sock.flags |= ACCEPT_TOLD;
    }
    if token.is_accepted() {
        sock.flags |= ACCEPTED;
    }
    token
}

/// Whether the last record of this socket, whose lock the caller holds, is to tell that it was accepted, if
/// it was by now; as 1 or 0. From here on the accept hook leaves that to the caller.
#[inline(always)]
pub(crate) fn last_accept(sock: &mut Sock) -> u8 {
    replace_token(sock);
    sock.untold_accepts() | u8::from(sock.flags & ACCEPT_TOLD == 0)
}

/// Whether a record that is only read says that it was accepted and that nobody has told, as 1 or 0.
#[inline(always)]
pub(crate) fn untold_accepts(sock: &Sock) -> u8 {
    let marked = config!(exchanges) != 0 && Token::of(sock).is_accepted();
    sock.untold_accepts() | u8::from(marked)
}

/// The first step that nobody has sent, in a record that is only read.
#[inline(always)]
pub(crate) fn first_unsent(sock: &Sock) -> u8 {
    if config!(exchanges) == 0 || sock.flags & HOLDS == 0 {
        return sock.sent;
    }
    let token = Token::of(sock);
    if token.is_none() {
        sock.flushed
    } else {
        token.from()
    }
}

/// Leaves it to whoever sends what is held, or the last record, to tell that it was accepted. False if
/// nobody does: then the caller has to, if [`claim_accept`] lets him. All that is to be told has been
/// written.
#[inline(always)]
pub(crate) fn mark_accepted(sock: &mut Sock) -> bool {
    if config!(exchanges) == 0 {
        return false;
    }
    // Each step that is added meanwhile makes another.
    for _ in 0..PATH_LEN {
        let token = Token::of(sock);
        if !token.takes_accept() {
            return false;
        }
        if token.0 & Token::CLOSED != 0 || token.replace(sock, token.0 | Token::ACCEPTED) {
            return true;
        }
    }
    false
}

/// Says that it is told that this socket was accepted, by a record that has its place in the ring; false
/// if it has to be left to another ([`mark_accepted`]), and the record thrown away.
///
/// # Safety
///
/// A live record.
#[inline(always)]
pub(crate) unsafe fn claim_accept(sock: *mut Sock) -> bool {
    if config!(exchanges) == 0 {
        return true;
    }
    // SAFETY: the caller's.
    let token = unsafe { Token::of_others(sock) };
    // SAFETY: the caller's; it reads nothing of it afterwards.
    !token.takes_accept() && token.replace(unsafe { &mut *sock }, token.0 | Token::ACCEPT_TOLD)
}

/// Sends what is held of the socket at this address since `latest_ns` or before. True if something
/// stays that no hint tells of: the caller has to ask again.
#[inline(always)]
pub(crate) fn send(key: u64, latest_ns: u64) -> bool {
    let Some(place) = hint(key) else {
        return false;
    };
    if let Some(pointer) = SOCKS.get_ptr_mut(key) {
        // SAFETY: a live record. What is read of one that is replaced meanwhile is thrown away.
        let sock = unsafe { &*pointer };
        let token = Token::of(sock);
        if !token.is_none() && sock.step(token.from()).mono_ns() > latest_ns {
            // SAFETY: a live word of the map.
            return unsafe { read_volatile(place) } != key;
        }
    }
    // SAFETY: a live word of the map. If the token goes on after this, it is looked for below.
    unsafe { compare_exchange(place, key, 0) };
    for _ in 0..2 {
        let Some(pointer) = SOCKS.get_ptr_mut(key) else {
            return false;
        };
        // SAFETY: a live record.
        let token = unsafe { Token::of_others(pointer) };
        if token.is_none() || try_send(key, pointer, token) {
            return false;
        }
    }
    true
}

/// Sends what this token stands for; false if that cannot be now.
#[inline(always)]
fn try_send(key: u64, pointer: *mut Sock, token: Token) -> bool {
    // SAFETY: a live record. What is read of one that is replaced meanwhile is thrown away.
    let sock = unsafe { &*pointer };
    let mut tuple = Tuple::EMPTY;
    copy(&mut tuple, &sock.tuple);
    if tuple.whole == 0 && sock.role == ROLE_CLIENT {
        // A client that waits for its port: it has it by now.
        tuple = Tuple::read(Probed(key), false, || 0);
        if !publish::is_still(Probed(key), sock.conn) {
            return false;
        }
    }
    if tuple.whole == 0 || sock.conn == 0 {
        return false;
    }
    let wanted = filter::takes(&tuple);
    // SAFETY: a live record.
    let flushed = unsafe { &raw mut (*pointer).flushed };
    emit::held(
        sock,
        &tuple,
        [token.from(), token.len()],
        u8::from(token.is_accepted()),
        || {
            // SAFETY: a live field, this program's alone. It counts once the token is taken away.
            unsafe { write_volatile(flushed, token.len()) };
            // SAFETY: a live record; `sock` is not used any more.
            [
                token.replace(unsafe { &mut *pointer }, token.rest()),
                wanted,
            ]
        },
    )
}
