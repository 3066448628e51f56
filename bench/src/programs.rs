//! What is measured and what measures, compiled.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use toolchain::bpf_toolchain::{self, BpfCompiler};
use toolchain::build::{self, Profile, Progress};
use toolchain::{setup, workspace};

use super::tool::Programs;

/// Compiles all that is measured or measures.
pub(super) fn build() -> Result<Programs> {
    let folder = folder()?;
    Ok(Programs {
        tcptrace: build::build(Profile::Release, None, Progress::Shown)?.tcptrace,
        floor: build_floor()?,
        counter: build::executable("bench", "count", &["--release", "--features", "count"])?,
        object: build_object(&folder)?,
        folder,
    })
}

pub(super) fn build_floor() -> Result<PathBuf> {
    build::executable("bench", "floor", &["--release", "--features", "floor"])
}

/// Where this program puts files.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = workspace::root().join("target/bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Compiles the floor's eBPF side, as `tcptrace/build.rs` does tcptrace's.
pub(super) fn build_object(folder: &Path) -> Result<PathBuf> {
    let compiler = BpfCompiler::find()?;
    let linker = bpf_toolchain::find_linker(workspace::root())?.canonicalize()?;
    let libraries = bpf_toolchain::linker_libraries(&compiler, folder)
        .map_err(|why| anyhow::anyhow!("{why}"))?;
    let flags = [format!("-Clinker={}", linker.display())];
    let target = folder.join("ebpf");
    let mut cargo = compiler.cargo("build", env::consts::ARCH, &flags);
    cargo
        .args(["--bin", "floor", "--quiet", "--target-dir"])
        .arg(&target)
        .current_dir(workspace::root())
        .env("LD_LIBRARY_PATH", libraries);
    workspace::run(&mut cargo)?;
    Ok(target.join(bpf_toolchain::TARGET).join("release/floor"))
}

/// A peer that cannot be had is left out, and the report says so.
pub(super) fn ensure_peer(program: &str, package: &str) {
    if workspace::has_program(program) || !workspace::has_program("apt-get") {
        return;
    }
    eprintln!("installing {package} with apt-get...");
    if let Err(why) = setup::apt_install(&[package]) {
        eprintln!("{program} is left out: {why:#}");
    }
}
