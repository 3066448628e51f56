//! `cargo xtask fuzz`: any bytes for everything that the agent parses.
//!
//! The targets are `cargo fuzz`'s too, but neither it nor a nightly compiler is needed: coverage comes
//! from LLVM's own pass, and libFuzzer is compiled by its crate, with a C++ compiler.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use toolchain::build::{self, Profile, Progress};
use toolchain::setup::{self, Found};
use toolchain::workspace::{self, Outcome};

/// What rustc is told, as `cargo fuzz` does.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// A single input may take this long, in seconds, and this much memory, in MiB.
const TIME_LIMIT: &str = "-timeout=5";
const MEMORY_LIMIT: &str = "-rss_limit_mb=1024";

/// What `cargo xtask fuzz` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this target, a folder of fuzz/corpus
    target: Option<String>,
    /// How long to run each target
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1440))]
    minutes: u32,
    /// Do not run, but add to fuzz/corpus what earlier runs have found to lead further
    #[arg(long, conflicts_with = "minutes")]
    merge: bool,
}

/// Builds the targets and runs them one after another, also after one has failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let targets = targets()?;
    let chosen: Vec<_> = match &args.target {
        Some(name) if targets.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target {name}; there are {}", targets.join(", ")),
        None => targets,
    };
    if !["c++", "g++", "clang++"]
        .into_iter()
        .any(workspace::has_program)
    {
        bail!("libFuzzer needs a C++ compiler: install the package g++");
    }
    setup::setup(Found::Hidden)?;
    let folder = compile()?;
    let runs = chosen.into_iter().map(|target| {
        eprintln!("\n== {target}");
        let ran = fuzz(&folder, &target, args);
        (target, ran)
    });
    workspace::summarize(runs.collect())
}

/// The names of the targets, sorted.
fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    let mut names = fs::read_dir(&folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .filter_map(|path| match path {
                    Ok(path) => Some(Ok(path.file_stem()?.to_str()?.to_owned())),
                    Err(why) => Some(Err(why)),
                })
                .collect::<std::io::Result<Vec<_>>>()
        })
        .with_context(|| format!("cannot read {}", folder.display()))?;
    names.sort();
    Ok(names)
}

/// Compiles all targets, with coverage, debug assertions and overflow checks; returns where they are.
fn compile() -> Result<PathBuf> {
    let built = build::build(Profile::Release, None, Progress::Hidden)?;
    let host = workspace::host()?;
    let folder = workspace::root().join("target/fuzz");
    let mut cargo = workspace::cargo("build");
    cargo
        .args(["--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"])
        // With a target the flags are not for build scripts.
        .args(["--target", &host, "--target-dir"])
        .arg(&folder)
        .env("TCPTRACE_BPF_OBJECT", &built.bpf_object)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    workspace::run(&mut cargo)?;
    Ok(folder.join(host).join("release"))
}

fn fuzz(programs: &Path, target: &str, args: &Args) -> Result<Outcome> {
    let folder = |kind: &str| -> Result<PathBuf> {
        let folder = workspace::root()
            .join("target/fuzz")
            .join(kind)
            .join(target);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    };
    let (found, artifacts) = (folder("corpus")?, folder("artifacts")?);
    let seeds = workspace::root().join("fuzz/corpus").join(target);
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(artifacts.join(""));
    let mut fuzzer = Command::new(programs.join(target));
    fuzzer.arg(prefix).args([TIME_LIMIT, MEMORY_LIMIT]);
    if args.merge {
        fuzzer.arg("-merge=1").args([seeds, found]);
    } else {
        // New inputs go to the first folder.
        let seconds = format!("-max_total_time={}", args.minutes * 60);
        fuzzer.args([&seconds, "-print_final_stats=1"]);
        fuzzer.args([found, seeds]);
    }
    workspace::run(&mut fuzzer).with_context(|| {
        format!(
            "the input is in {}; with a telling name in fuzz/corpus/{target} it is a test",
            artifacts.display()
        )
    })
}
