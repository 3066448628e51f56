//! `-4`, `-6`, `-L`, `-D`, `--port`: by what stands in the four-tuple.

use tcptrace_common::config::{
    FAMILY_V4, FAMILY_V6, PORT_WORDS, PORTS_ANY, PORTS_LOCAL, PORTS_NONE, PORTS_REMOTE,
};

use super::address;
use crate::{constants::config, maps::PORTS, tuple::Tuple};

#[inline(always)]
fn is_in(row: u32, port: u16) -> bool {
    let port = u32::from(port);
    match PORTS.get(row * PORT_WORDS + port / 64) {
        Some(word) => word >> (port % 64) & 1 != 0,
        None => false,
    }
}

/// Whether a connection with these ends is wanted.
#[inline(always)]
pub(crate) fn takes(tuple: &Tuple) -> bool {
    let family = if tuple.family == 4 {
        FAMILY_V4
    } else {
        FAMILY_V6
    };
    if config!(families) & family == 0 {
        return false;
    }
    if config!(by_lport) != 0 && !is_in(PORTS_LOCAL, tuple.lport) {
        return false;
    }
    if config!(by_rport) != 0 && (tuple.rport == 0 || !is_in(PORTS_REMOTE, tuple.rport)) {
        return false;
    }
    if config!(by_port) != 0 {
        let at_either_end =
            |row| is_in(row, tuple.lport) || (tuple.rport != 0 && is_in(row, tuple.rport));
        if !at_either_end(PORTS_ANY) || at_either_end(PORTS_NONE) {
            return false;
        }
    }
    address::takes(tuple)
}
