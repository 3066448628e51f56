//! What the agent writes into the read-only data before load. To the verifier these are constants:
//! a branch that they close is gone, and an offset is checked against the kernel's types.

use tcptrace_common::{config::Config, layout::Layout};

/// Where the running kernel keeps its fields. Written by the agent before load.
#[unsafe(no_mangle)]
pub(crate) static LAYOUT: aya_ebpf::Global<Layout> = aya_ebpf::Global::new(Layout::NONE);

/// What the user asked for. Written by the agent before load.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: aya_ebpf::Global<Config> = aya_ebpf::Global::new(Config::DEFAULT);

/// Reads one field of a read-only constant. Only that field: a load of the whole block would
/// copy all of it to the stack.
macro_rules! constant {
    ($name:ident : $ty:ty, $block:ident, $field:ident) => {{
        let block = (&raw const $crate::constants::$block).cast::<$ty>();
        // SAFETY: `Global` is a transparent wrapper of `$ty` that is always initialised; the
        // read is volatile because the agent replaces the bytes before load.
        unsafe { core::ptr::read_volatile(&raw const (*block).$field) }
    }};
}

/// The offset of a kernel field, from [`LAYOUT`].
macro_rules! off {
    ($field:ident) => {
        $crate::constants::constant!(layout: tcptrace_common::layout::Layout, LAYOUT, $field)
    };
}

/// A setting, from [`CONFIG`].
macro_rules! config {
    ($field:ident) => {
        $crate::constants::constant!(config: tcptrace_common::config::Config, CONFIG, $field)
    };
}

pub(crate) use {config, constant, off};
