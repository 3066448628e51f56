//! The kernel side of tcptrace.
//!
//! One record per live socket ([`sock`]), written by the hooks ([`hook`]), sent over the ring
//! ([`emit`]) when its four-tuple is whole and the user's filter has decided.
//!
//! Nothing here may loop without bound, wait, or guess: what cannot be proven is left unknown,
//! and each way out of a hook is a record sent, a step deferred, a filter, or a count.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "a call loses the verifier's knowledge of a pointer's type, and costs a hook what it has least of"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "registers are 64 bits wide; a checked conversion is a branch the verifier must follow"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "passed by value, a record would be copied within the 512 bytes of stack"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macros pass contexts by value"
)]

mod accept;
mod atomic;
mod constants;
mod counters;
mod emit;
mod ending;
mod filter;
mod handover;
mod hook;
mod keeper;
mod kernel;
mod listener;
mod maps;
mod overlooked;
mod owner;
mod phase;
mod preempt;
mod process;
mod publish;
mod sock;
mod stale;
mod timewait;
mod tuple;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
