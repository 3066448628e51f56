//! What differs between the processors that the virtual machines have.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use toolchain::workspace;

/// Of the kernels, and of all that runs on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// x86-64
    Amd64,
    /// aarch64
    Arm64,
}

impl Arch {
    /// In the names of packages.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What to compile for; nothing where that is this machine.
    pub fn target(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => None,
            Self::Arm64 => Some("aarch64-unknown-linux-musl"),
        }
    }

    /// The program that is such a machine, and the package it is in.
    pub fn emulator(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// The other programs needed for it alone, and the packages they are in.
    pub fn tools(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Amd64 => &[],
            Self::Arm64 => &[("readelf", "binutils")],
        }
    }

    /// Makes QEMU a machine with two serial lines that write to these files.
    pub fn machine(self, qemu: &mut Command, console: &Path, results: &Path) {
        let file = |path: &Path| format!("file:{}", path.display());
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
    }

    /// The part of the kernel's command line that is about the machine: where messages go, and to
    /// `init.sh` where results go.
    pub fn command_line(self) -> &'static str {
        match self {
            Self::Amd64 => "console=ttyS0 TCPTRACE_TEST_TTY=ttyS1 tsc=reliable no_timer_check",
            Self::Arm64 => "console=ttyAMA0 TCPTRACE_TEST_TTY=ttyS0",
        }
    }
}

/// Fails unless the compiler has the standard library for the target; gets it with rustup first.
pub fn ensure_target(target: &str) -> Result<()> {
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
