//! What the kernel programs and the agent both see: the only contract between them.
//!
//! * [`record`]: the records that cross the ring, byte for byte;
//! * [`tcp`]: the kernel's TCP states;
//! * [`layout`]: where the running kernel keeps each field we read, filled in before load;
//! * [`live`]: what another tcptrace may read of a tracer that runs;
//! * [`config`]: what the user asked for, filled in before load;
//! * [`holder`]: what the iterator over files writes;
//! * [`map_index`]: indices into maps that both sides use;
//! * [`kfunc`]: kernel functions that are put in the place of calls before load;
//! * [`proto`]: protocols between programs, as pure functions;
//! * [`count`]: the per-CPU counters, first of all those of what was lost.
//!
//! Both sides are built together and the object is embedded in the agent, so there is one
//! version of this contract in any binary; [`record::ABI_VERSION`] travels in recordings of ring
//! bytes, which outlive a binary.
#![no_std]

pub mod config;
pub mod count;
pub mod holder;
pub mod kfunc;
pub mod layout;
pub mod live;
pub mod map_index;
pub mod proto;
pub mod record;
pub mod tcp;
