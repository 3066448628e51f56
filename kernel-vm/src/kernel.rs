//! A kernel that can be booted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::archive::{Archive, Candidate};
use toolchain::workspace;

/// What the tests need of what distributions leave out of the kernel itself. None of them needs one that
/// comes after it by name.
const MODULES: [&str; 4] = ["inet_diag", "sch_netem", "tcp_diag", "veth"];

/// The modules that were looked for in a kernel's packages, whether they have them or not.
const LOOKED_FOR: &str = "modules";

/// A kernel that can be booted.
#[derive(Debug)]
pub struct Kernel {
    /// As in `6.12.107`
    pub version: String,
    /// Uncompressed, which spares the emulated machine the work
    pub vmlinux: PathBuf,
    /// Modules to load
    pub modules: Vec<PathBuf>,
    /// Modules that are no longer to be had
    pub lacks: Vec<&'static str>,
}

impl Kernel {
    /// The newest that `wanted` names and the archive still has.
    pub fn prepare(archive: &Archive, wanted: &str) -> Result<Self> {
        let mut why = Vec::new();
        for candidate in archive.find(wanted) {
            match Self::get(archive, candidate) {
                Ok(kernel) => return Ok(kernel),
                Err(error) => {
                    eprintln!("Linux {} cannot be had: {error:#}", candidate.version);
                    why.push(candidate.version.as_str());
                }
            }
        }
        if why.is_empty() {
            bail!("the archive has no kernel of that version");
        }
        bail!("the archive lists {} but has none", why.join(", "));
    }

    fn get(archive: &Archive, candidate: &Candidate) -> Result<Self> {
        let folder = archive.kernels().join(&candidate.release);
        // One that was got before another module was needed is got anew.
        let wanted = MODULES.join("\n");
        if fs::read_to_string(folder.join(LOOKED_FOR)).ok().as_ref() != Some(&wanted) {
            eprintln!("getting {}...", candidate.packages.join(" and "));
            // Under another name until it is whole.
            let partial = folder.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            let unpacked = partial.join("unpacked");
            archive.unpack(candidate, &unpacked)?;
            decompress_kernel(&find(&unpacked, "vmlinuz")?, &partial.join("vmlinux"))?;
            for module in MODULES {
                match find(&unpacked, &format!("{module}.ko")) {
                    Ok(found) => {
                        decompress_module(&found, &partial.join(format!("{module}.ko")))?;
                    }
                    Err(error) => eprintln!("Linux {}: {error:#}", candidate.version),
                }
            }
            fs::write(partial.join(LOOKED_FOR), wanted)?;
            fs::remove_dir_all(&unpacked)?;
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::rename(&partial, &folder)?;
        }
        let file = |module: &&str| folder.join(format!("{module}.ko"));
        let (there, lacks): (Vec<_>, Vec<_>) = MODULES
            .into_iter()
            .partition(|module| file(module).exists());
        Ok(Self {
            version: candidate.version.clone(),
            vmlinux: folder.join("vmlinux"),
            modules: there.iter().map(file).collect(),
            lacks,
        })
    }
}

/// The file below `folder` whose name begins with `name`.
pub fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(name) {
                return Ok(entry.path());
            }
        }
    }
    bail!("its packages have no {name}")
}

fn decompress_module(module: &Path, to: &Path) -> Result<()> {
    if module
        .extension()
        .is_some_and(|extension| extension == "xz")
    {
        return decompress("xz", module, to);
    }
    fs::copy(module, to)?;
    Ok(())
}

/// Takes the kernel out of its boot image, by the fields that `boot.rst` of the kernel's
/// documentation describes. That of an arm64 is the kernel itself (`booting.rst`).
fn decompress_kernel(image: &Path, to: &Path) -> Result<()> {
    const ARM64_MAGIC: std::ops::Range<usize> = 0x38..0x3c;
    let image = fs::read(image)?;
    if image.get(ARM64_MAGIC) == Some(b"ARM\x64") {
        fs::write(to, image)?;
        return Ok(());
    }
    let payload = payload(&image).context("this is no boot image")?;
    let program = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        _ => bail!("the kernel is compressed in an unknown way"),
    };
    let compressed = to.with_extension("compressed");
    fs::write(&compressed, payload)?;
    decompress(program, &compressed, to)?;
    fs::remove_file(compressed)?;
    Ok(())
}

/// The compressed kernel in a boot image.
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    const SECTOR: usize = 512;
    /// The build appends the uncompressed size.
    const TRAILER: usize = 4;

    let number = |at| {
        let bytes = image.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let setup = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * SECTOR;
    let start = setup + number(PAYLOAD_OFFSET)?;
    image.get(start..start + number(PAYLOAD_LENGTH)?.checked_sub(TRAILER)?)
}

fn decompress(program: &str, from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command
        .args(["--decompress", "--stdout", "--quiet"])
        .arg(from)
        .stdout(File::create(to)?);
    workspace::run(&mut command).map(|_ran| ())
}
