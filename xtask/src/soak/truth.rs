//! How many changes of state there were, as the kernel's own ftrace counts them.
//!
//! A private instance with small buffers. What is overwritten in them is counted as well as what
//! is in them, so the sum is exact however much there was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result};

use crate::workspace;

const NAME_PREFIX: &str = "tcptrace-soak-";

/// Room for what a processor writes while an interrupt keeps it from ending a record.
const BUFFER_KIB: &str = "256";

/// A running count.
#[derive(Debug)]
pub(super) struct Truth {
    instance: PathBuf,
}

impl Truth {
    /// Mounts tracefs at `folder`, seen by this process and its children alone, and begins.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        workspace::run(
            Command::new("mount")
                .args(["-t", "tracefs", "tracefs"])
                .arg(folder),
        )?;
        let instances = folder.join("instances");
        clear_away(&instances)?;
        let instance = instances.join(format!("{NAME_PREFIX}{}", process::id()));
        fs::create_dir(&instance).context("cannot make an instance of ftrace")?;
        let truth = Self { instance };
        for (file, text) in [
            ("buffer_size_kb", BUFFER_KIB),
            ("events/sock/inet_sock_set_state/filter", "protocol == 6"),
            ("events/sock/inet_sock_set_state/enable", "1"),
        ] {
            let path = truth.instance.join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(truth)
    }

    /// All changes of state of TCP sockets since the beginning.
    pub(super) fn count(&self) -> Result<u64> {
        const COUNTED: [&str; 4] = ["entries", "overrun", "commit overrun", "dropped events"];
        let mut sum = 0;
        for cpu in fs::read_dir(self.instance.join("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            for line in stats.lines() {
                if let Some((name, count)) = line.split_once(": ")
                    && COUNTED.contains(&name)
                {
                    sum += count.trim().parse::<u64>()?;
                }
            }
        }
        Ok(sum)
    }
}

impl Drop for Truth {
    fn drop(&mut self) {
        if let Err(why) = fs::remove_dir(&self.instance) {
            eprintln!("{} stays: {why}", self.instance.display());
        }
    }
}

/// Removes what runs that were killed have left.
fn clear_away(instances: &Path) -> Result<()> {
    for entry in fs::read_dir(instances)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if let Some(pid) = name.strip_prefix(NAME_PREFIX)
            && !Path::new("/proc").join(pid).exists()
        {
            fs::remove_dir(instances.join(&*name))?;
        }
    }
    Ok(())
}
