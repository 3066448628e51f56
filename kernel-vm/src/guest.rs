//! A virtual machine, emulated in software: hardware virtualization need not be there.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::emulator::Emulator;
use crate::kernel::Kernel;

/// A guest that says nothing for longer than this hangs. Each test has a shorter limit, of the
/// guest's own time.
const SILENCE: Duration = Duration::from_mins(10);

/// And one that says something all the time does not come to an end.
const LIMIT: Duration = Duration::from_mins(90);

const MEMORY_MIB: &str = "1024";

/// Quiet, since emulated serial lines are slow; without what slows an emulated machine down or
/// makes it wait; ended by a crash.
const COMMAND_LINE: &str = "quiet panic=-1 oops=panic mitigations=off nokaslr random.trust_cpu=on";

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'kernel> {
    /// What its processors are
    pub arch: Arch,
    /// The kernel
    pub kernel: &'kernel Kernel,
    /// How many processors
    pub cpus: u8,
    /// The only kind of accept hook to use
    pub hooks: Option<&'kernel str>,
    /// What else to tell the kernel
    pub boot: Option<&'kernel str>,
}

/// How the time of a machine with one processor passes.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// An instruction takes two to the power of this, ns
    pub shift: u8,
    /// What QEMU takes its random numbers from, so that the guest does the same each time
    pub seed: Option<u32>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            shift: 1,
            seed: None,
        }
    }
}

/// What came out of it.
#[derive(Debug)]
pub struct Said {
    /// What `init.sh` wrote
    pub results: String,
    /// Why it did not come to its end
    pub cut_short: Option<String>,
    /// How long each test took on the host, in the order in which they ended
    pub took: Vec<Duration>,
}

impl Said {
    /// Whether it got as far as the first test.
    pub fn reached_tests(&self) -> bool {
        self.results.contains("## begin ")
    }
}

impl fmt::Display for Machine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kernel.version)?;
        if self.arch != Arch::Amd64 {
            write!(f, "-{}", self.arch.debian())?;
        }
        if self.cpus > 1 {
            write!(f, "-{}cpu", self.cpus)?;
        }
        if let Some(hooks) = self.hooks {
            write!(f, "-{hooks}")?;
        }
        if let Some(boot) = self.boot {
            write!(f, "-{}", boot.replace(['/', ' '], "-"))?;
        }
        Ok(())
    }
}

impl Machine<'_> {
    /// Boots, and waits until it is switched off. The files of serial lines go into `folder`.
    pub fn run(self, emulator: &Emulator, initramfs: &Path, folder: &Path) -> Result<Said> {
        self.run_with(emulator, initramfs, folder, Clock::default())
    }

    /// The same, where time is to pass in another way.
    pub fn run_with(
        self,
        emulator: &Emulator,
        initramfs: &Path,
        folder: &Path,
        clock: Clock,
    ) -> Result<Said> {
        let console = folder.join("serial.log");
        let results = folder.join("results.log");
        for log in [&console, &results] {
            fs::write(log, "")?;
        }
        let mut qemu = emulator.command();
        self.arch.machine(&mut qemu, &console, &results);
        // One thread: emulated atomic instructions of several are not always atomic.
        qemu.args(["-accel", "tcg,thread=single"])
            .args(["-m", MEMORY_MIB])
            .args(["-smp", &self.cpus.to_string()])
            .arg("-kernel")
            .arg(&self.kernel.vmlinux)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            .arg(self.command_line())
            .stdin(Stdio::null());
        if self.cpus == 1 {
            // The guest's time is skipped while there is nothing to do: a minute of TIME_WAIT takes a
            // second, and a loaded host makes no test late. (`shift=auto` keeps up with the host's time,
            // load and all.)
            let count = format!("shift={},sleep=off", clock.shift);
            qemu.args(["-icount", &count]);
        }
        if let Some(seed) = clock.seed {
            qemu.args(["-seed", &seed.to_string()]);
        }
        let mut qemu = qemu
            .spawn()
            .with_context(|| format!("cannot run {}", self.arch.emulator().0))?;
        let mut took = Vec::new();
        let ended = wait(&mut qemu, &console, &results, &mut took);
        if ended.is_err() {
            qemu.kill()?;
            qemu.wait()?;
        }
        let results = String::from_utf8_lossy(&fs::read(results)?).replace('\r', "");
        let cut_short = match ended {
            Err(error) => Some(error.to_string()),
            Ok(()) if results.ends_with("## done\n") => None,
            Ok(()) => Some(last_words(&console)?),
        };
        Ok(Said {
            results,
            cut_short,
            took,
        })
    }

    /// What the kernel does not know becomes the environment of its first process.
    fn command_line(self) -> String {
        let hooks = self
            .hooks
            .map(|hooks| format!(" TCPTRACE_TEST_HOOKS={hooks}"));
        let boot = self.boot.map(|boot| format!(" {boot}"));
        format!(
            "{COMMAND_LINE} {}{}{}",
            self.arch.command_line(),
            boot.unwrap_or_default(),
            hooks.unwrap_or_default()
        )
    }
}

/// Until it is switched off; `took` gets how long each test took.
fn wait(qemu: &mut Child, console: &Path, results: &Path, took: &mut Vec<Duration>) -> Result<()> {
    let mut last_size = 0;
    let start = Instant::now();
    let mut last_news = start;
    let mut last_end = start;
    loop {
        if let Some(status) = qemu.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!("QEMU failed ({status})");
        }
        let size: u64 = [console, results]
            .iter()
            .map(|log| fs::metadata(log).map_or(0, |log| log.len()))
            .sum();
        if size != last_size {
            last_size = size;
            last_news = Instant::now();
            // The boot is no test's time.
            let said = String::from_utf8_lossy(&fs::read(results)?).into_owned();
            if took.is_empty() && !said.contains("\n## end ") {
                last_end = last_news;
            }
            let ended = said.matches("\n## end ").count();
            while took.len() < ended {
                took.push(last_news - last_end);
                last_end = last_news;
            }
        }
        if last_news.elapsed() > SILENCE {
            bail!("the guest said nothing for {} s", SILENCE.as_secs());
        }
        if start.elapsed() > LIMIT {
            bail!("the guest did not end within {} s", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A kernel that crashes says why.
fn last_words(console: &Path) -> Result<String> {
    const WORDS: [&str; 4] = ["BUG:", "Oops", "Kernel panic", "general protection"];
    let console = fs::read(console)?;
    let console = String::from_utf8_lossy(&console);
    let crash = console
        .lines()
        .find(|line| WORDS.iter().any(|word| line.contains(word)));
    Ok(match crash {
        Some(line) => format!("the guest crashed: {}", line.trim()),
        None => "the guest ended early".to_owned(),
    })
}
