//! What a record of the ring means. Pure: bytes in, values out.
//!
//! [`Event::decode`] makes events of a record: one, or several where steps were deferred until it. A
//! connection's last record gives a [`Transition`], then a [`Close`].

mod close;
mod connection;
mod decode;
mod ending;
mod evidence;
mod kind;
mod path;
mod state;
mod term;

pub use self::{
    close::Close,
    connection::Connection,
    decode::DecodeError,
    evidence::{EHOSTUNREACH, ETIMEDOUT},
    kind::{Accept, Listener, Network, Open, Owner, Reset, Retransmit, Slow, Socket, Transition},
    state::State,
    term::{
        Act, Cause, ClosedBy, Direction, How, LossCause, OwnerSource, Phase, Reason, Role, Segment,
        TcpOption,
    },
};

/// Something that happened to a connection.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// It was open at start
    Socket(Socket),
    /// Its state changed
    Transition(Transition),
    /// `accept()` returned it
    Accept(Accept),
    /// A segment was sent again
    Retransmit(Retransmit),
    /// RST was sent or received
    Reset(Reset),
    /// Another process has become its owner
    Owner(Owner),
    /// Something goes wrong at it: a listener
    Listener(Listener),
    /// It still waits when the limit has passed
    Slow(Slow),
    /// It is still open at the end
    Open(Open),
    /// It ended
    Close(Close),
}

impl Event {
    /// The connection
    pub const fn connection(&self) -> &Connection {
        match self {
            Self::Socket(socket) => socket.connection(),
            Self::Transition(transition) => transition.connection(),
            Self::Accept(accept) => accept.connection(),
            Self::Retransmit(retransmit) => retransmit.connection(),
            Self::Reset(reset) => reset.connection(),
            Self::Owner(owner) => owner.connection(),
            Self::Listener(listener) => listener.connection(),
            Self::Slow(slow) => slow.connection(),
            Self::Open(open) => open.connection(),
            Self::Close(close) => close.connection(),
        }
    }

    /// The states it is about: before and after
    pub const fn states(&self) -> [State; 2] {
        let connection = self.connection();
        [connection.oldstate(), connection.newstate()]
    }
}
