#![no_main]

#[path = "../targets/procfs.rs"]
mod procfs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| procfs::target(bytes));
