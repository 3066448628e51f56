//! `cargo xtask bench --vm`: what a connection costs, in the virtual time of a machine in which every
//! instruction takes a nanosecond.
//!
//! Such a time does not depend on the host: the same programs give the same figures, to a fraction of a
//! per cent. It counts instructions alone, no caches and no waiting.

mod guest;
mod report;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use kernel_vm::arch::Arch;
use kernel_vm::archive::Archive;
use kernel_vm::emulator::Emulator;
use kernel_vm::guest::{Clock, Machine};
use kernel_vm::host;
use kernel_vm::initramfs::Initramfs;
use kernel_vm::kernel::Kernel;
use toolchain::build::{self, Profile, Progress};
use toolchain::setup::{self, Found};

use crate::{page, programs};
use guest::{ORDER, Order, RESULT, Rows, Tool};

pub(crate) use guest::run as guest;

/// The oldest, the one that most hosts run, and the newest.
const KERNELS: [&str; 3] = ["5.10", "6.12", "newest"];

/// A nanosecond for each instruction, and the same random numbers each time.
const CLOCK: Clock = Clock {
    shift: 0,
    seed: Some(1),
};

/// What is measured in virtual machines.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// In virtual time, on these kernels: a series as in 6.12, or newest [default: 5.10 6.12 newest]
    #[arg(long, value_name = "VERSION", num_args = 0..)]
    vm: Option<Vec<String>>,
    /// With --vm: this tcptrace, in place of the one of this tree
    #[arg(long, value_name = "FILE", requires = "vm")]
    binary: Option<PathBuf>,
    /// With --vm: this tcptrace as well, and fail if the other costs more than 1 % more in any row
    #[arg(long, value_name = "FILE", requires = "vm")]
    before: Option<PathBuf>,
    /// With --vm: only rows with one of these in their names
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "vm")]
    rows: Vec<String>,
    /// With --vm: connections of each load
    #[arg(long, value_name = "N", default_value_t = 500, requires = "vm")]
    connections: u32,
    /// With --vm: loads beside each tool, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 3, requires = "vm")]
    loads: u32,
}

impl Choice {
    pub(crate) fn is_wanted(&self) -> bool {
        self.vm.is_some()
    }

    fn tools(&self) -> Vec<Tool> {
        let tool = |name: &str, command: &[&str]| Tool {
            name: name.to_owned(),
            command: command.iter().map(ToString::to_string).collect(),
        };
        let mut tools = vec![
            tool("none", &[]),
            tool("empty program", &["floor", "/floor.o", "empty"]),
            tool("discard-only ring", &["floor", "/floor.o", "ring"]),
        ];
        let tcptrace = |name: &str, options: &[&str]| {
            let command = [&["tcptrace", "--json"], options].concat();
            tool(name, &command)
        };
        tools.extend([
            tcptrace("tcptrace, fentry", &["--hooks", "fentry"]),
            tcptrace("tcptrace, kprobe", &["--hooks", "kprobe"]),
            tcptrace("tcptrace, tracepoint", &["--hooks", "tracepoint"]),
            // Process 1 of the guest only waits.
            tcptrace("tcptrace -p IDLE", &["-p", "1"]),
            tcptrace("tcptrace --lport OTHER", &["--lport", "1"]),
        ]);
        let named = |tool: &Tool| self.rows.iter().any(|name| tool.name.contains(name));
        tools.retain(|tool| self.rows.is_empty() || tool.command.is_empty() || named(tool));
        tools
    }
}

/// Boots each kernel, measures, and says it all as tables.
pub(crate) fn run(choice: &Choice, write_docs: bool) -> Result<()> {
    let start = Instant::now();
    setup::setup(Found::Hidden)?;
    let tcptrace = match &choice.binary {
        Some(binary) => binary.clone(),
        None => build::build(Profile::Release, None, Progress::Shown)?.tcptrace,
    };
    let folder = programs::folder()?;
    let guest = Programs {
        floor: programs::build_floor()?,
        object: programs::build_object(&folder)?,
        folder,
    };
    let archive = host::open_archive(Arch::Amd64)?;
    let emulator = Emulator::find(Arch::Amd64, &archive)?;
    let wanted = choice.vm.as_deref().unwrap_or_default();
    let versions: Vec<&str> = if wanted.is_empty() {
        KERNELS.to_vec()
    } else {
        wanted.iter().map(String::as_str).collect()
    };
    let mut text = String::new();
    let mut dearer = Vec::new();
    for version in versions {
        let bench = Bench {
            choice,
            programs: &guest,
            emulator: &emulator,
            kernel: &kernel(&archive, version)?,
        };
        let rows = bench.measure(&tcptrace, "now")?;
        let before = match &choice.before {
            None => None,
            Some(before) => Some(bench.measure(before, "before")?),
        };
        let table = report::table(
            &bench.kernel.version,
            &rows,
            before.as_ref(),
            choice.connections,
        );
        eprintln!("\n{table}");
        text += &table;
        dearer.extend(before.iter().flat_map(|before| {
            report::dearer(&bench.kernel.version, &rows, before, choice.connections)
        }));
    }
    eprintln!("{} s in all", start.elapsed().as_secs());
    if write_docs {
        page::write_docs(page::Section::Vm, &text)?;
    }
    if !dearer.is_empty() {
        bail!("dearer by more than 1 %: {}", dearer.join(", "));
    }
    Ok(())
}

fn kernel(archive: &Archive, version: &str) -> Result<Kernel> {
    Kernel::prepare(archive, version).with_context(|| format!("Linux {version}"))
}

/// What runs in the guest beside tcptrace.
struct Programs {
    /// The floor's loader
    floor: PathBuf,
    /// Its compiled eBPF side
    object: PathBuf,
    /// For files of this run
    folder: PathBuf,
}

struct Bench<'run> {
    choice: &'run Choice,
    programs: &'run Programs,
    emulator: &'run Emulator,
    kernel: &'run Kernel,
}

impl Bench<'_> {
    /// Boots the kernel once, for all rows.
    fn measure(&self, tcptrace: &Path, which: &str) -> Result<Rows> {
        let start = Instant::now();
        let machine = Machine {
            arch: Arch::Amd64,
            kernel: self.kernel,
            cpus: 1,
            hooks: None,
            boot: None,
        };
        let folder = self.programs.folder.join(format!("vm-{machine}-{which}"));
        fs::create_dir_all(&folder)?;
        let image = folder.join("initramfs.cpio");
        self.initramfs(tcptrace)?.write(&image)?;
        let said = machine.run_with(self.emulator, &image, &folder, CLOCK)?;
        fs::remove_file(&image)?;
        if let Some(why) = said.cut_short {
            bail!("Linux {machine}: {why}; log in {}", folder.display());
        }
        let rows: serde_json::Result<Rows> = said
            .results
            .lines()
            .filter_map(|line| line.strip_prefix(RESULT))
            .map(serde_json::from_str)
            .collect();
        eprintln!(
            "Linux {machine}, {which}: measured in {} s",
            start.elapsed().as_secs()
        );
        Ok(rows?)
    }

    fn initramfs(&self, tcptrace: &Path) -> Result<Initramfs> {
        let order = Order {
            connections: self.choice.connections,
            loads: self.choice.loads,
            tools: self.choice.tools(),
        };
        let mut initramfs = Initramfs::default();
        let programs = BTreeMap::from([
            ("bin/busybox", host::program("busybox")?),
            ("bin/bench", env::current_exe()?),
            ("bin/floor", self.programs.floor.clone()),
            ("bin/tcptrace", tcptrace.to_owned()),
        ]);
        for (path, program) in programs {
            initramfs.program(path, &program)?;
        }
        initramfs.file("floor.o", fs::read(&self.programs.object)?, 0o644);
        initramfs.file(ORDER, serde_json::to_vec(&order)?, 0o644);
        initramfs.file("init", include_bytes!("init.sh").to_vec(), 0o755);
        Ok(initramfs)
    }
}
