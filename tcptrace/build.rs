//! Compiles the eBPF side into `OUT_DIR/tcptrace.bpf.o`, which the agent embeds.
#![expect(clippy::print_stderr, reason = "the compiler's messages are passed on")]

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use bpf_toolchain::{BpfCompiler, CORE_VAR, LINKER_VAR, RUSTC_VAR, TARGET, Unusable};

#[expect(
    unreachable_pub,
    reason = "public in the crate that the file belongs to"
)]
#[path = "../toolchain/src/bpf_toolchain.rs"]
mod bpf_toolchain;

/// A compiled object to embed, for packagers who compile the two sides apart.
const OBJECT_VAR: &str = "TCPTRACE_BPF_OBJECT";

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let inputs = match run() {
        Ok(inputs) => inputs,
        Err(error) => return report(&*error),
    };
    // Said last: after a failure cargo runs this again anyway, and would list them in its report.
    for input in inputs {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    for variable in [OBJECT_VAR, CORE_VAR, RUSTC_VAR, LINKER_VAR] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    ExitCode::SUCCESS
}

fn report(error: &(dyn Error + 'static)) -> ExitCode {
    if let Some(CompilerFailed { messages }) = error.downcast_ref() {
        eprint!("{messages}");
        println!("cargo::error=the eBPF side did not compile; the compiler's messages are below");
        return ExitCode::FAILURE;
    }
    println!("cargo::error={error}");
    if let Some(Unusable::Core | Unusable::Linker) = error.downcast_ref() {
        println!("cargo::error=run `cargo xtask setup`, which installs it");
    }
    // The lines above fail the build. A failing status would add nothing but noise to them.
    ExitCode::SUCCESS
}

/// Leaves the object in `OUT_DIR`, and returns what it was made of.
fn run() -> Result<Vec<PathBuf>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let object = out.join("tcptrace.bpf.o");
    if let Some(compiled) = env::var_os(OBJECT_VAR) {
        let compiled = PathBuf::from(compiled);
        fs::copy(&compiled, &object)
            .map_err(|error| format!("{OBJECT_VAR}={}: {error}", compiled.display()))?;
        return Ok(vec![compiled]);
    }

    // Where it is now, not where this script was compiled: a copied target folder has it compiled.
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .join("..")
        .canonicalize()?;
    let compiler = BpfCompiler::find()?;
    let linker = bpf_toolchain::find_linker(&workspace)?.canonicalize()?;
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let link_flags = [format!("-Clinker={}", linker.display())];
    let target_dir = out.join("ebpf");
    let output = compiler
        .cargo("build", &arch, &link_flags)
        // Without progress, what is left on stderr are warnings and errors.
        .args(["--quiet", "--bin", "tcptrace"])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(&workspace)
        .env("LD_LIBRARY_PATH", bpf_toolchain::linker_libraries(&compiler, &out)?)
        .output()?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(CompilerFailed { messages }.into());
    }
    for line in messages.lines().filter(|line| !line.is_empty()) {
        println!("cargo::warning={line}");
    }
    fs::copy(target_dir.join(TARGET).join("release/tcptrace"), &object)?;

    let sources = [
        "Cargo.lock",
        "Cargo.toml",
        "tcptrace-common/Cargo.toml",
        "tcptrace-common/src",
        "tcptrace-ebpf/Cargo.toml",
        "tcptrace-ebpf/src",
    ];
    Ok(sources
        .into_iter()
        .map(|source| workspace.join(source))
        .chain([linker])
        .collect())
}

/// The compiler ran and was not content.
#[derive(Debug)]
struct CompilerFailed {
    messages: String,
}

impl std::fmt::Display for CompilerFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the eBPF side did not compile")
    }
}

impl Error for CompilerFailed {}
