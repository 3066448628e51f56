//! QEMU: the system's, or one unpacked into `.tools`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::archive::Archive;
use toolchain::setup;
use toolchain::workspace;

/// The libraries and firmware of an unpacked QEMU, below its folder. `/lib` and `/lib64` are links into
/// `/usr` on an installed system.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];
const LOADER: &str = "ld-linux-x86-64.so.2";

/// How QEMU is called.
#[derive(Debug)]
pub struct Emulator {
    program: PathBuf,
    /// What comes before its own arguments
    first: Vec<OsString>,
    /// Where its modules are, unless it knows
    modules: Option<PathBuf>,
}

impl Emulator {
    /// The one on the path, else the one that apt can install. Where apt refuses, because it would have
    /// to remove another package, the package is unpacked beside the kernels.
    pub fn find(arch: Arch, archive: &Archive) -> Result<Self> {
        let (program, package) = arch.emulator();
        if !workspace::has_program(program) && !archive.has_programs(package) {
            eprintln!("installing {package} with apt-get...");
            if let Err(why) = setup::apt_install(&[package]) {
                eprintln!("{package} is unpacked into .tools instead: {why:#}");
            }
        }
        if workspace::has_program(program) {
            return Ok(Self {
                program: program.into(),
                first: Vec::new(),
                modules: None,
            });
        }
        Self::unpacked(program, &archive.programs(package, &[package])?)
    }

    fn unpacked(program: &str, root: &Path) -> Result<Self> {
        let exists = |path: &PathBuf| path.exists();
        let program = root.join("usr/bin").join(program);
        let libraries = LIBRARIES.map(|folder| root.join(folder));
        let loader = libraries
            .iter()
            .map(|folder| folder.join(LOADER))
            .find(exists)
            .context("its packages have no loader")?;
        if !program.exists() {
            bail!("its packages have no {}", program.display());
        }
        let mut first = vec![
            "--library-path".into(),
            env::join_paths(libraries.iter().filter(|path| exists(path)))?,
            program.into(),
        ];
        for firmware in FIRMWARE.map(|folder| root.join(folder)) {
            first.extend(["-L".into(), firmware.into()]);
        }
        let modules = libraries.map(|folder| folder.join("qemu"));
        Ok(Self {
            program: loader,
            first,
            modules: modules.into_iter().find(exists),
        })
    }

    /// QEMU, without any argument of the caller's.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.first);
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }
}
