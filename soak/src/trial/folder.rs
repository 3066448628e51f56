//! The folder of a run.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};

use anyhow::Result;

/// For this run's files. What is mounted in it goes with this process.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Self> {
        let folder = env::temp_dir().join(format!("tcptrace-soak-{}", process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for mounted in ["tracing", "tiny"] {
            // It need not have been mounted.
            let _not_there = Command::new("umount")
                .arg("--lazy")
                .arg(self.0.join(mounted))
                .stderr(Stdio::null())
                .status();
            let _not_there = fs::remove_dir(self.0.join(mounted));
        }
        for file in ["stderr", "other-stderr"] {
            let _not_there = fs::remove_file(self.0.join(file));
        }
        // Not with all that is in it: it may still be mounted.
        if let Err(why) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {why}", self.0.display());
        }
    }
}
