//! What compiles and links the eBPF side, and whether this machine has it.
//!
//! `tcptrace/build.rs` includes this file by its path, so that a plain `cargo build` and
//! `cargo xtask` always agree. It therefore uses nothing but the standard library.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target the eBPF side is compiled for.
pub const TARGET: &str = "bpfel-unknown-none";

/// `rust-src` or `prebuilt`: use only this kind of core library.
pub const CORE_VAR: &str = "TCPTRACE_BPF_CORE";

/// The compiler to use for the eBPF side, instead of looking for one.
pub const RUSTC_VAR: &str = "TCPTRACE_BPF_RUSTC";

/// The `bpf-linker` to use, instead of looking for one.
pub const LINKER_VAR: &str = "BPF_LINKER";

/// Where the eBPF side's `core` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreSource {
    /// The compiler's own library source, compiled along with the eBPF side.
    RustSrc,
    /// Compiled already, by a distribution.
    Prebuilt,
}

/// A compiler that has a `core` library for the eBPF target.
#[derive(Debug)]
pub struct BpfCompiler {
    /// The compiler itself.
    pub rustc: PathBuf,
    /// Where its libraries are.
    pub sysroot: PathBuf,
    /// Where its `core` for the eBPF target comes from.
    pub core: CoreSource,
}

/// A piece that is not installed, or a setting that names something unusable.
#[derive(Debug)]
pub enum Unusable {
    /// No compiler has a `core` library for the eBPF target.
    Core,
    /// There is no `bpf-linker`.
    Linker,
    /// An environment variable names something that does not serve.
    Setting {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: OsString,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core => f.write_str("no Rust core library for the eBPF target is installed"),
            Self::Linker => f.write_str("bpf-linker is not installed"),
            Self::Setting {
                name,
                value,
                problem,
            } => {
                write!(f, "{name}={}: {problem}", value.display())
            }
        }
    }
}

impl Error for Unusable {}

impl BpfCompiler {
    /// The compiler to use: the active one with its `rust-src` component if that is installed,
    /// else any one that came with a `core` for the eBPF target.
    pub fn find() -> Result<Self, Unusable> {
        let wanted = wanted_core()?;
        let is_wanted = |core| wanted.is_none_or(|wanted| wanted == core);

        if let Some(rustc) = env::var_os(RUSTC_VAR) {
            return [CoreSource::RustSrc, CoreSource::Prebuilt]
                .into_iter()
                .filter(|&core| is_wanted(core))
                .find_map(|core| Self::with_core(Path::new(&rustc), core))
                .ok_or(Unusable::Setting {
                    name: RUSTC_VAR,
                    value: rustc,
                    problem: "this compiler has no core library for the eBPF target",
                });
        }

        let active = active_rustc();
        if is_wanted(CoreSource::RustSrc)
            && let Some(found) = Self::with_core(&active, CoreSource::RustSrc)
        {
            return Ok(found);
        }
        if !is_wanted(CoreSource::Prebuilt) {
            return Err(Unusable::Core);
        }
        [active, PathBuf::from("/usr/bin/rustc")]
            .into_iter()
            .chain(on_path("rustc"))
            .find_map(|rustc| Self::with_core(&rustc, CoreSource::Prebuilt))
            .ok_or(Unusable::Core)
    }

    /// `rustc`, if its `core` for the eBPF target can come from `core`.
    fn with_core(rustc: &Path, core: CoreSource) -> Option<Self> {
        let sysroot = sysroot(rustc)?;
        let has_core = match core {
            CoreSource::RustSrc => sysroot
                .join("lib/rustlib/src/rust/library/core/src/lib.rs")
                .is_file(),
            CoreSource::Prebuilt => has_prebuilt_core(&sysroot),
        };
        // Not the rustup proxy: it would pick a toolchain again, by the folder it is run in.
        let own = sysroot.join("bin/rustc");
        let rustc = if own.is_file() { own } else { rustc.to_owned() };
        has_core.then_some(Self {
            rustc,
            sysroot,
            core,
        })
    }

    /// `cargo SUBCOMMAND` on the eBPF side, for a kernel on `arch` (as in `CARGO_CFG_TARGET_ARCH`).
    pub fn cargo(&self, subcommand: &str, arch: &str, codegen: &[String]) -> Command {
        let mut flags = vec![
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=0".to_owned(),
        ];
        flags.extend_from_slice(codegen);

        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args([subcommand, "--package", "tcptrace-ebpf"])
            .args(["--release", "--target", TARGET])
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("RUSTC", &self.rustc)
            // The eBPF target's unstable features are needed on a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1");
        // Set for the agent by the cargo, clippy or coverage run that this one is inside.
        for inherited in [
            "CARGO_BUILD_RUSTC",
            "CARGO_BUILD_RUSTC_WRAPPER",
            "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
            "CARGO_BUILD_TARGET",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
        ] {
            cargo.env_remove(inherited);
        }
        if self.core == CoreSource::RustSrc {
            cargo.arg("-Zbuild-std=core");
        }
        cargo
    }
}

/// The `bpf-linker` to use: of `LINKER_VAR`, of the project's tools folder, of `PATH`.
pub fn find_linker(workspace: &Path) -> Result<PathBuf, Unusable> {
    if let Some(linker) = env::var_os(LINKER_VAR) {
        if Path::new(&linker).is_file() {
            return Ok(linker.into());
        }
        return Err(Unusable::Setting {
            name: LINKER_VAR,
            value: linker,
            problem: "no such file",
        });
    }
    let own = workspace.join(".tools/bin/bpf-linker");
    if own.is_file() {
        return Ok(own);
    }
    on_path("bpf-linker").next().ok_or(Unusable::Linker)
}

/// The library path for `bpf-linker`, with the compiler's own LLVM first.
///
/// The linker loads the first file named `libLLVM*` of the library path. A distribution may have
/// several versions in one folder, and older ones cannot read the compiler's output, so the right
/// one is linked into a folder of its own.
pub fn linker_libraries(compiler: &BpfCompiler, out: &Path) -> Result<OsString, Box<dyn Error>> {
    let version = Command::new(&compiler.rustc).arg("-vV").output()?;
    let version = String::from_utf8(version.stdout)?;
    let major = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next())
        .ok_or_else(|| format!("{} does not say its LLVM version", compiler.rustc.display()))?;
    let llvm = find_llvm(&compiler.sysroot, major).ok_or_else(|| {
        format!(
            "no LLVM {major} library under {}/lib",
            compiler.sysroot.display()
        )
    })?;

    let folder = out.join("llvm");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir(&folder)?,
    }
    symlink(&llvm, folder.join(llvm.file_name().unwrap_or_default()))?;
    let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    Ok(env::join_paths(
        [folder].into_iter().chain(env::split_paths(&inherited)),
    )?)
}

fn find_llvm(sysroot: &Path, major: &str) -> Option<PathBuf> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    let prefixes = [format!("libLLVM.so.{major}"), format!("libLLVM-{major}")];
    ["lib", "lib64", &multiarch]
        .into_iter()
        .filter_map(|folder| fs::read_dir(sysroot.join(folder)).ok())
        .flat_map(Iterator::flatten)
        .filter(|entry| {
            let name = entry.file_name();
            prefixes
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
        })
        .filter_map(|entry| entry.path().canonicalize().ok())
        .find(|path| is_elf(path))
}

/// rustup's toolchains have a text file, for the host's linker, beside the library.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

/// The only kind of core library to use, if the user said so.
pub fn wanted_core() -> Result<Option<CoreSource>, Unusable> {
    match env::var_os(CORE_VAR) {
        None => Ok(None),
        Some(value) if value == "rust-src" => Ok(Some(CoreSource::RustSrc)),
        Some(value) if value == "prebuilt" => Ok(Some(CoreSource::Prebuilt)),
        Some(value) => Err(Unusable::Setting {
            name: CORE_VAR,
            value,
            problem: "must be rust-src or prebuilt",
        }),
    }
}

fn active_rustc() -> PathBuf {
    env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from)
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(sysroot.trim_end()))
}

fn has_prebuilt_core(sysroot: &Path) -> bool {
    let Ok(libraries) = fs::read_dir(sysroot.join("lib/rustlib").join(TARGET).join("lib")) else {
        return false;
    };
    libraries.flatten().any(|library| {
        let name = library.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn on_path(program: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .filter(|program| program.is_file())
        .collect::<Vec<_>>()
        .into_iter()
}
