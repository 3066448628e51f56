//! `--role`: clients, servers, listeners.

use crate::constants::config;

/// Whether connections in this role are wanted.
#[inline(always)]
pub(crate) fn takes(role: u8) -> bool {
    config!(roles) >> (role & 7) & 1 != 0
}
