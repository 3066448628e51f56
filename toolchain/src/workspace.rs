//! Where the project is, and running other programs in it.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a folder of the workspace")
}

/// `cargo SUBCOMMAND`, of the toolchain this program was compiled by.
pub fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(subcommand).current_dir(root());
    cargo
}

/// Makes cargo compile for another machine, with the linker that comes with Rust.
pub fn compile_for(cargo: &mut Command, target: Option<&str>) {
    let Some(target) = target else { return };
    let linker = format!(
        "CARGO_TARGET_{}_LINKER",
        target.replace('-', "_").to_uppercase()
    );
    cargo.args(["--target", target]).env(linker, "rust-lld");
}

/// The target of this machine, as rustc names it.
pub fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "host-tuple"])
        .output()
        .context("cannot run rustc")?;
    let host = String::from_utf8(output.stdout)?.trim_end().to_owned();
    anyhow::ensure!(!host.is_empty(), "rustc named no host");
    Ok(host)
}

/// `program`, through `sudo` if this process is not root.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("--").arg(program);
    sudo
}

/// Whether this process is root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whether `program` is in a folder of `PATH`, or of those only root has in it.
pub fn has_program(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Waits for `command`; anything but success is an error that shows it.
pub fn run(command: &mut Command) -> Result<Outcome> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(Outcome::Passed)
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name();
    let words: Vec<_> = program
        .into_iter()
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    format!("`{}`", words.join(" "))
}

/// What cargo reports in JSON while `command` runs; its messages for people are shown as ever.
pub fn cargo_messages(command: &mut Command) -> Result<Vec<Value>> {
    command
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", shown(command), output.status);
    }
    let messages: Result<_, _> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect();
    messages.context("reading cargo's messages")
}

/// Like [`run`], but what `command` writes is shown only if it fails.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("{} failed ({})", shown(command), output.status);
    }
    Ok(())
}

/// How a step ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Passed,
    /// It could not be run on this machine; this is why.
    Skipped(String),
}

/// Says how the named steps ended, and fails if any did.
pub fn summarize<Name: Display>(steps: Vec<(Name, Result<Outcome>)>) -> Result<()> {
    eprintln!();
    let mut failed = 0;
    for (name, result) in steps {
        match result {
            Ok(Outcome::Passed) => eprintln!("{name}: ok"),
            Ok(Outcome::Skipped(why)) => eprintln!("{name}: SKIPPED: {why}"),
            Err(error) => {
                failed += 1;
                eprintln!("{name}: FAILED: {error:#}");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}

/// Says what went wrong, if anything did; a task's exit status.
pub fn conclude(done: &Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
