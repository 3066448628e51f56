//! `-N`: by network namespace, which is known before there is a record.

use tcptrace_common::config::WANTED_NETNS;

use super::owner::takes_listed;
use crate::constants::config;

/// Whether the connections of a network namespace are wanted.
#[inline(always)]
pub(crate) fn takes(inode: u32) -> bool {
    config!(by_netns) == 0 || takes_listed(WANTED_NETNS, inode, config!(by_netns))
}
