//! The guest's only file system: a cpio archive that the kernel unpacks into memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// Files by their path, without a leading slash.
#[derive(Debug)]
pub struct Initramfs {
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Default for Initramfs {
    /// With the places that `init.sh` mounts file systems on.
    fn default() -> Self {
        let mut initramfs = Self {
            files: BTreeMap::new(),
        };
        for folder in ["dev", "etc", "proc", "run", "sys", "tmp"] {
            initramfs.folder(folder);
        }
        // The tests name the user and group of processes.
        initramfs.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n".to_vec(), 0o644);
        initramfs.file("etc/group", b"root:x:0:\n".to_vec(), 0o644);
        initramfs
    }
}

impl Initramfs {
    fn folder(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.files
            .insert(path.to_owned(), (FOLDER | 0o755, Vec::new()));
    }

    /// Adds a file and the folders it is in.
    pub fn file(&mut self, path: &str, content: Vec<u8>, mode: u32) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.files.insert(path.to_owned(), (FILE | mode, content));
    }

    /// Adds a program of this machine, with the libraries it needs.
    pub fn program(&mut self, path: &str, program: &Path) -> Result<()> {
        self.copy(path, program)?;
        let output = Command::new("ldd")
            .arg(program)
            .output()
            .context("cannot run ldd")?;
        // It says nothing here of a program that needs none.
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            self.copy(library.trim_start_matches('/'), Path::new(library))?;
        }
        Ok(())
    }

    /// Adds a file of this machine that can be executed.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.file(path, content, 0o755);
        Ok(())
    }

    /// Writes the archive.
    pub fn write(&self, to: &Path) -> Result<()> {
        let mut archive = io::BufWriter::new(fs::File::create(to)?);
        for (number, (path, (mode, content))) in (1..).zip(&self.files) {
            entry(&mut archive, number, path, *mode, content)?;
        }
        entry(&mut archive, 0, "TRAILER!!!", 0, &[])?;
        archive.flush()?;
        Ok(())
    }
}

/// The paths in what `ldd` prints: `name => /path (address)`, or `/path (address)` for the
/// loader.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

/// One file of the format `newc`, which `early-userspace/buffer-format.rst` of the kernel's
/// documentation describes.
fn entry(to: &mut impl Write, number: u32, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let (user, group, links, time, device) = (0, 0, 1, 0, 0);
    let fields = [
        number,
        mode,
        user,
        group,
        links,
        time,
        u32::try_from(content.len())?,
        device,
        device,
        device,
        device,
        u32::try_from(path.len() + 1)?,
        0,
    ];
    let fields = fields.map(|field| format!("{field:08x}"));
    let head = format!("070701{}{path}\0", fields.concat());
    for part in [head.as_bytes(), content] {
        to.write_all(part)?;
        to.write_all(&[0; 3][..part.len().next_multiple_of(4) - part.len()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let ldd = "\
\tlinux-vdso.so.1 (0x00007fde5da91000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fde5d708000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007fde5da93000)
";
        assert_eq!(
            libraries(ldd).collect::<Vec<_>>(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn parts_of_an_entry_are_aligned() {
        let mut archive = Vec::new();
        entry(&mut archive, 1, "init", FILE | 0o755, b"#!").unwrap();
        assert_eq!(archive.len(), 116 + 4);
        assert_eq!(&archive[110..], b"init\0\0#!\0\0");
    }
}
