//! The kernel side of tcptrace.
//!
//! One record per live socket ([`sock`]), written by the hooks ([`hook`]), sent over the ring
//! ([`emit`]) when its four-tuple is whole and the user's filter has decided.
//!
//! Nothing here may loop without bound, wait, or guess: what cannot be proven is left unknown,
//! and each way out of a hook is a record sent, a record held, a filter, or a count.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod filter;
mod hook;
mod kernel;
mod maps;
mod owner;
mod publish;
mod sock;
mod tuple;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
