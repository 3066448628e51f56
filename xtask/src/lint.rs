//! `cargo xtask lint`: everything that is checked by reading it.

use std::env;

use anyhow::Result;

use crate::bpf_toolchain::{BpfCompiler, CoreSource};
use crate::setup::{self, Found};
use crate::workspace::{self, Outcome};

/// Runs all checks, also after some have failed.
pub(crate) fn run() -> Result<()> {
    setup::setup(Found::Hidden)?;
    workspace::summarize(vec![
        ("format", format()),
        ("clippy", clippy()),
        ("clippy of the eBPF side", clippy_of_ebpf()),
        ("dependencies", dependencies()),
    ])
}

fn format() -> Result<Outcome> {
    eprintln!("== format");
    workspace::run(workspace::cargo("fmt").args(["--all", "--check"]))
}

fn clippy() -> Result<Outcome> {
    eprintln!("== clippy");
    workspace::run(
        workspace::cargo("clippy")
            .args([
                "--workspace",
                "--exclude",
                "tcptrace-ebpf",
                "--all-targets",
                "--all-features",
            ])
            .args(["--", "-D", "warnings"]),
    )
}

fn clippy_of_ebpf() -> Result<Outcome> {
    eprintln!("== clippy of the eBPF side");
    let compiler = BpfCompiler::find()?;
    if compiler.core == CoreSource::Prebuilt {
        return Ok(Outcome::Skipped(
            "clippy needs its own toolchain's core library (rust-src)".to_owned(),
        ));
    }
    let mut clippy = compiler.cargo("clippy", env::consts::ARCH, &["-Dwarnings".to_owned()]);
    workspace::run(clippy.arg("--bins").current_dir(workspace::root()))
}

fn dependencies() -> Result<Outcome> {
    eprintln!("== licences, advisories and sources of dependencies");
    if !workspace::cargo_has("deny") {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed (`cargo install cargo-deny --locked`)".to_owned(),
        ));
    }
    workspace::run(workspace::cargo("deny").arg("check"))
}
