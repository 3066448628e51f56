//! `cargo xtask lint`: everything that is checked by reading it.

use std::env;

use anyhow::Result;

use crate::bpf_toolchain::{BpfCompiler, CoreSource};
use crate::setup::{self, Found};
use crate::workspace;

/// Stops at the first failure.
pub(crate) fn run() -> Result<()> {
    setup::setup(Found::Hidden)?;

    eprintln!("== format");
    workspace::run(workspace::cargo("fmt").args(["--all", "--check"]))?;

    eprintln!("== clippy");
    workspace::run(
        workspace::cargo("clippy")
            .args(["--workspace", "--exclude", "tcptrace-ebpf", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )?;
    clippy_of_ebpf()?;

    eprintln!("== licences, advisories and sources of dependencies");
    if workspace::cargo_has("deny") {
        workspace::run(workspace::cargo("deny").arg("check"))?;
    } else {
        eprintln!("skipped: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
    }
    Ok(())
}

fn clippy_of_ebpf() -> Result<()> {
    eprintln!("== clippy of the eBPF side");
    let compiler = BpfCompiler::find()?;
    if compiler.core == CoreSource::Prebuilt {
        eprintln!("skipped: clippy reads only the core library of its own toolchain (rust-src)");
        return Ok(());
    }
    let mut clippy = compiler.cargo("clippy", env::consts::ARCH, &["-Dwarnings".to_owned()]);
    workspace::run(clippy.current_dir(workspace::root()))
}
