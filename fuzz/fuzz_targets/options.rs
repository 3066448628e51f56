#![no_main]

#[path = "../targets/options.rs"]
mod options;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| options::target(bytes));
