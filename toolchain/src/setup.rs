//! Installs what the eBPF build needs and this machine lacks.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bpf_toolchain::{self, BpfCompiler, CoreSource, LINKER_VAR, Unusable};
use crate::workspace;

/// The version that the project is tested with.
const LINKER_VERSION: &str = "0.10.3";

/// Checks the dependencies, in `lint`.
const DENY_VERSION: &str = "0.20.2";

/// A component download that takes longer than this has got stuck.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// Debian's compiler with targets for the web and BPF, and its `core` for BPF.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Whether `setup` mentions what was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// One line for each piece.
    Shown,
    /// Only what gets installed is shown.
    Hidden,
}

/// Looks for each piece and installs it if it is missing.
pub fn setup(found: Found) -> Result<()> {
    let core = ensure_core()?;
    let linker = ensure_linker()?;
    if found == Found::Shown {
        eprintln!("core for eBPF: {core}");
        eprintln!("bpf-linker: {}", linker.display());
    }
    Ok(())
}

fn ensure_core() -> Result<String> {
    let compiler = match BpfCompiler::find() {
        Err(Unusable::Core) => {
            install_core()?;
            BpfCompiler::find()?
        }
        found => found?,
    };
    let source = match compiler.core {
        CoreSource::RustSrc => "rust-src",
        CoreSource::Prebuilt => "prebuilt",
    };
    Ok(format!("{source} in {}", compiler.sysroot.display()))
}

fn install_core() -> Result<()> {
    let wanted = bpf_toolchain::wanted_core()?;
    if wanted != Some(CoreSource::Prebuilt) && workspace::has_program("rustup") {
        eprintln!(
            "installing rust-src with rustup (at most {} s)...",
            RUSTUP_LIMIT.as_secs()
        );
        let mut rustup = Command::new("rustup");
        match run_for(rustup.args(["component", "add", "rust-src"]), RUSTUP_LIMIT) {
            Ok(()) if BpfCompiler::find().is_ok() => return Ok(()),
            Ok(()) => eprintln!("rustup installed it, but not for the compiler in use"),
            Err(error) => eprintln!("rust-src was not installed: {error:#}"),
        }
    }
    if wanted != Some(CoreSource::RustSrc) && workspace::has_program("apt-get") {
        eprintln!(
            "installing {} with apt-get...",
            DEBIAN_PACKAGES.join(" and ")
        );
        match apt_install(&DEBIAN_PACKAGES) {
            Ok(()) if BpfCompiler::find().is_ok() => return Ok(()),
            Ok(()) => eprintln!("apt-get installed them, but they have no core for eBPF"),
            Err(error) => eprintln!("they were not installed: {error:#}"),
        }
    }
    bail!(
        "the eBPF side needs a Rust core library for its target; install it with either\n  \
         rustup component add rust-src\n  \
         apt-get install {}",
        DEBIAN_PACKAGES.join(" ")
    )
}

/// Installs Debian packages, after refreshing their index if it is empty or too old.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    // Never in exchange for a package that the user installed.
    let mut install = apt_get("install");
    install
        .args(["--yes", "--no-install-recommends", "--no-remove"])
        .args(packages);
    if install.output().is_ok_and(|first| first.status.success()) {
        return Ok(());
    }
    eprintln!("refreshing the index of packages...");
    workspace::run_quietly(&mut apt_get("update"))?;
    workspace::run_quietly(&mut install)
}

/// The kernel tests build networks of their own with iproute2.
pub fn ensure_network_tools() -> Result<()> {
    if ["ip", "tc"].into_iter().all(workspace::has_program) {
        return Ok(());
    }
    if workspace::has_program("apt-get") {
        eprintln!("installing iproute2 with apt-get...");
        return apt_install(&["iproute2"]);
    }
    bail!("the kernel tests need the commands ip and tc: install the package iproute2");
}

fn apt_get(subcommand: &str) -> Command {
    let mut apt = workspace::as_root("env");
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", subcommand]);
    apt
}

fn ensure_linker() -> Result<PathBuf> {
    match bpf_toolchain::find_linker(workspace::root()) {
        Ok(linker) if env::var_os(LINKER_VAR).is_some() => return Ok(linker),
        Ok(linker) if linker_version(&linker).as_deref() == Some(LINKER_VERSION) => {
            return Ok(linker);
        }
        // The one in .tools goes before one of another version on the path.
        Ok(_) | Err(Unusable::Linker) => {}
        Err(error) => return Err(error.into()),
    }
    let tools = workspace::root().join(".tools");
    eprintln!("installing bpf-linker {LINKER_VERSION} into .tools (about a minute)...");
    let mut cargo = workspace::cargo("install");
    cargo
        .args([
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(&tools);
    workspace::run_quietly(&mut cargo)?;

    let linker = bpf_toolchain::find_linker(workspace::root())?;
    let version = linker_version(&linker);
    if version.as_deref() != Some(LINKER_VERSION) {
        bail!(
            "{} does not run as version {LINKER_VERSION}",
            linker.display()
        );
    }
    Ok(linker)
}

/// The `cargo-deny` to use: one that is on the path or in .tools, whatever its version, or else one that
/// is installed there.
pub fn ensure_deny() -> Result<PathBuf> {
    let tools = workspace::root().join(".tools");
    let ours = tools.join("bin/cargo-deny");
    let runs = |program: &Path| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    for program in [ours.as_path(), Path::new("cargo-deny")] {
        if runs(program) {
            return Ok(program.to_owned());
        }
    }
    eprintln!("installing cargo-deny {DENY_VERSION} into .tools (some minutes)...");
    let mut cargo = workspace::cargo("install");
    cargo
        .args([
            "cargo-deny",
            "--version",
            DENY_VERSION,
            "--locked",
            "--root",
        ])
        .arg(&tools);
    workspace::run_quietly(&mut cargo)?;
    Ok(ours)
}

/// The version of a `bpf-linker` that runs.
fn linker_version(linker: &Path) -> Option<String> {
    let output = Command::new(linker).arg("--version").output().ok()?;
    let output = String::from_utf8(output.stdout).ok()?;
    output
        .trim_end()
        .strip_prefix("bpf-linker ")
        .map(str::to_owned)
}

/// Runs `command`, and ends it if it takes longer than `limit`.
fn run_for(command: &mut Command, limit: Duration) -> Result<()> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .context("cannot run it")?;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!("it failed ({status})");
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("it did not end within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
}
