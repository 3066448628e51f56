//! What the virtual machines need of this machine.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use toolchain::{setup, workspace};

use crate::arch::Arch;
use crate::archive::Archive;
use crate::mirror;

/// What is needed besides the eBPF build and [`Arch::tools`]: a program, and the package it is in.
const TOOLS: [(&str, &str); 7] = [
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("tc", "iproute2"),
    ("lz4", "lz4"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// The index of the kernels, with everything installed that is needed to boot them.
pub fn open_archive(arch: Arch) -> Result<Archive> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machines need an x86-64 host");
    }
    ensure_tools(arch)?;
    let folder = workspace::root().join(".tools/vm");
    match arch {
        Arch::Amd64 => Archive::open(&folder, arch),
        Arch::Arm64 => Archive::open(&folder.join("arm64"), arch),
    }
}

fn ensure_tools(arch: Arch) -> Result<()> {
    let mut packages: Vec<_> = arch
        .tools()
        .iter()
        .copied()
        .chain(TOOLS)
        .filter(|(program, _)| !workspace::has_program(program))
        .map(|(_, package)| package)
        .collect();
    if !Path::new(mirror::KEYRING).exists() {
        packages.push("debian-archive-keyring");
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if !workspace::has_program("apt-get") {
        bail!("install these packages first: {}", packages.join(", "));
    }
    eprintln!("installing {} with apt-get...", packages.join(", "));
    setup::apt_install(&packages)
}

/// Where `name` is, in a folder of `PATH` or of those only root has in it.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no program {name}"))
}
