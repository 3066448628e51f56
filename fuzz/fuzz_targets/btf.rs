#![no_main]

#[path = "../targets/btf.rs"]
mod btf;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| btf::target(bytes));
