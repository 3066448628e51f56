//! What differs between the processors that the virtual machines have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::emulator::Emulator;
use super::kernel::find;
use toolchain::workspace;

/// Of the kernels, and of all that runs on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Arch {
    /// x86-64
    Amd64,
    /// aarch64
    Arm64,
}

impl Arch {
    /// In the names of packages.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What to compile for; nothing where that is this machine.
    pub(super) fn target(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => None,
            Self::Arm64 => Some("aarch64-unknown-linux-musl"),
        }
    }

    /// The program that is such a machine, and the package it is in.
    pub(super) fn emulator(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// The other programs needed for it alone, and the packages they are in.
    pub(super) fn tools(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Amd64 => &[],
            Self::Arm64 => &[("readelf", "binutils")],
        }
    }

    /// A machine with two serial lines that write to these files.
    pub(super) fn machine(self, emulator: &Emulator, console: &Path, results: &Path) -> Command {
        let file = |path: &Path| format!("file:{}", path.display());
        let mut qemu = emulator.command();
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(["-serial", &file(console)]);
        match self {
            Self::Amd64 => qemu
                .args(["-serial", &file(results)])
                .args(["-cpu", "qemu64"]),
            Self::Arm64 => qemu
                .args(["-machine", "virt", "-cpu", "cortex-a57"])
                .arg("-chardev")
                .arg(format!("file,id=results,path={}", results.display()))
                .args(["-device", "pci-serial,chardev=results"]),
        };
        qemu
    }

    /// The part of the kernel's command line that is about the machine: where messages go, and to
    /// `init.sh` where results go.
    pub(super) fn command_line(self) -> &'static str {
        match self {
            Self::Amd64 => "console=ttyS0 TCPTRACE_TEST_TTY=ttyS1 tsc=reliable no_timer_check",
            Self::Arm64 => "console=ttyAMA0 TCPTRACE_TEST_TTY=ttyS0",
        }
    }
}

/// Fails unless the compiler has the standard library for the target; gets it with rustup first.
pub(super) fn ensure_target(target: &str) -> Result<()> {
    if has_target(target) {
        return Ok(());
    }
    if workspace::has_program("rustup") {
        eprintln!("installing the standard library for {target} with rustup...");
        workspace::run_quietly(Command::new("rustup").args(["target", "add", target]))?;
    }
    if !has_target(target) {
        bail!("the compiler has no standard library for {target}");
    }
    Ok(())
}

fn has_target(target: &str) -> bool {
    let libraries = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output();
    libraries.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&folder).is_dir()
    })
}

/// The libraries a program needs, and those they need, with the files below `root` that they are in.
pub(super) fn libraries(program: &Path, root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut open = vec![program.to_owned()];
    while let Some(file) = open.pop() {
        let output = Command::new("readelf")
            .args(["--wide", "--dynamic"])
            .arg(&file)
            .output()
            .context("cannot run readelf")?;
        for name in needed(&String::from_utf8_lossy(&output.stdout)) {
            if !found.contains_key(name) {
                let path = find(root, name)?;
                found.insert(name.to_owned(), path.clone());
                open.push(path);
            }
        }
    }
    Ok(found)
}

/// The names in `(NEEDED) Shared library: [libc.so.6]`.
fn needed(readelf: &str) -> impl Iterator<Item = &str> {
    readelf
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split_once(']'))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_are_read_from_readelf() {
        let readelf = "\
Dynamic section at offset 0x9d8f8 contains 31 entries:
  Tag        Type                         Name/Value
 0x0000000000000001 (NEEDED)             Shared library: [libmnl.so.0]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000e (SONAME)             Library soname: [libbpf.so.1]
";
        assert_eq!(
            needed(readelf).collect::<Vec<_>>(),
            ["libmnl.so.0", "libc.so.6"]
        );
    }
}
