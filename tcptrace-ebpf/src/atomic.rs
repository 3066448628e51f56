//! Exchanging a word with other CPUs. `core` offers no atomics for this target.
//!
//! Programs with these instructions load from 5.12 on (on arm64 from 5.18): they are reached only with
//! `exchanges` set, and the agent replaces them where it is not. Both are full barriers
//! (Documentation/bpf/standardization/instruction-set.rst, "Atomic operations"). Without them, a word is read
//! and then written, and what another CPU writes in between is overwritten.

use core::ptr::{read_volatile, write_volatile};

use crate::constants::config;

/// Puts `new` into the word if `expected` is in it. Returns what was in it.
///
/// # Safety
///
/// `word` is an aligned word of a live map value.
#[inline(always)]
pub(crate) unsafe fn exchange_if(word: *mut u64, expected: u64, new: u64) -> u64 {
    if config!(exchanges) != 0 {
        let before;
        // SAFETY: the caller's; the instruction reads and writes nothing else.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) word,
                new = in(reg) new,
                inout("r0") expected => before,
            );
        }
        return before;
    }
    // SAFETY: the caller's.
    let before = unsafe { read_volatile(word) };
    if before == expected {
        // SAFETY: the caller's.
        unsafe { write_volatile(word, new) };
    }
    before
}

/// Puts `new` into the word. Returns what was in it.
///
/// # Safety
///
/// `word` is an aligned word of a live map value.
#[inline(always)]
pub(crate) unsafe fn exchange(word: *mut u64, new: u64) -> u64 {
    let before;
    if config!(exchanges) != 0 {
        // SAFETY: the caller's; the instruction reads and writes nothing else.
        unsafe {
            core::arch::asm!(
                "{value} = xchg_64({word} + 0, {value})",
                word = in(reg) word,
                value = inout(reg) new => before,
            );
        }
        return before;
    }
    // SAFETY: the caller's.
    before = unsafe { read_volatile(word) };
    // SAFETY: the caller's.
    unsafe { write_volatile(word, new) };
    before
}
