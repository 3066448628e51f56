//! `--laddr`, `--raddr`, `--addr`: by address.

use aya_ebpf::maps::lpm_trie::Key;
use tcptrace_common::config::{LISTED_REST, NETWORKS_ANY, NETWORKS_LOCAL, NETWORKS_REMOTE};

use crate::{constants::config, maps::NETWORKS, tuple::Tuple};

/// Bits of a whole address, and of what stands before it in a key.
const ADDRESS_BITS: u32 = 128;
const HEAD_BITS: u32 = 32;

/// What the longest prefix says: whether it is wanted; none if there is none.
#[inline(always)]
fn listed(list: u32, family: u8, address: [u64; 2]) -> Option<bool> {
    let words = [
        list << 8 | u32::from(family),
        address[0] as u32,
        (address[0] >> 32) as u32,
        address[1] as u32,
        (address[1] >> 32) as u32,
    ];
    NETWORKS
        .get(Key::new(HEAD_BITS + ADDRESS_BITS, words))
        .map(|wanted| *wanted != 0)
}

/// Whether the addresses of a connection are wanted. A listener has no remote one.
#[inline(always)]
pub(crate) fn takes(tuple: &Tuple) -> bool {
    let local = |list| listed(list, tuple.family, tuple.laddr);
    let remote = |list| {
        if tuple.rport == 0 {
            None
        } else {
            listed(list, tuple.family, tuple.raddr)
        }
    };
    if config!(by_laddr) != 0 && !local(NETWORKS_LOCAL).unwrap_or(config!(by_laddr) == LISTED_REST)
    {
        return false;
    }
    if config!(by_raddr) != 0
        && !remote(NETWORKS_REMOTE).unwrap_or(config!(by_raddr) == LISTED_REST && tuple.rport != 0)
    {
        return false;
    }
    if config!(by_addr) != 0 {
        let ends = (local(NETWORKS_ANY), remote(NETWORKS_ANY));
        return match ends {
            (Some(false), _) | (_, Some(false)) => false,
            (Some(true), _) | (_, Some(true)) => true,
            (None, None) => config!(by_addr) == LISTED_REST,
        };
    }
    true
}
