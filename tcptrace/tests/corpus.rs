//! Every input in `fuzz/corpus`, through the body of its fuzz target: what fuzzing has found once
//! stays mended. `cargo xtask fuzz` looks for more.
#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, and says where"
)]
#![expect(clippy::print_stdout, reason = "shown if a test fails")]

use std::{fs, path::Path};

#[path = "../../fuzz/targets/btf.rs"]
mod btf;
#[path = "../../fuzz/targets/options.rs"]
mod options;
#[path = "../../fuzz/targets/procfs.rs"]
mod procfs;
#[path = "../../fuzz/targets/records.rs"]
mod records;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        target(&fs::read(&path).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{} has lost its inputs", folder.display());
}

#[test]
fn ring_bytes() {
    replay("records", records::target);
}

#[test]
fn command_lines() {
    replay("options", options::target);
}

#[test]
fn type_descriptions() {
    replay("btf", btf::target);
}

#[test]
fn files_of_the_kernel() {
    replay("procfs", procfs::target);
}

/// The seeds lead past the first checks: what is real is read as such.
#[test]
fn a_real_description_has_every_field() {
    let bytes = fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fuzz/corpus/btf/kernel"
    ))
    .unwrap();
    let btf = tcptrace::kernel::btf::Btf::parse(&bytes).unwrap();
    let (_layout, lacking) = tcptrace::kernel::layout::resolve(&btf).unwrap();
    assert!(lacking.is_empty(), "{lacking:?}");
    assert_eq!(btf.tracepoint_args("tcp_send_reset"), Ok(3));
    assert!(!btf.enumerators("sk_rst_reason").unwrap().is_empty());
}
