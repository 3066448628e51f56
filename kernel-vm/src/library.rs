//! The libraries that a program of another machine needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::kernel::find;

/// The libraries a program needs, and those they need, with the files below `root` that they are in.
pub fn libraries(program: &Path, root: &Path) -> Result<BTreeMap<String, PathBuf>> {
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
