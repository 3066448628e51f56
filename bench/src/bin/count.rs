//! How many transitions there are, independently of whoever traces.
//!
//! `count OBJECT PORT MASK` answers each line of standard input with the number by now, of sockets with a port
//! that is PORT after the mask. It asks tcptrace where a kernel keeps ports, and is apart from `floor` because
//! compiling that takes long.

use std::env;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader};
use tcptrace::kernel::Kernel;

const BTF: &str = "/sys/kernel/btf/vmlinux";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [object, port, mask] = args.as_slice() else {
        bail!("usage: count OBJECT PORT MASK");
    };
    let mut ebpf = load(object, [port.parse()?, mask.parse()?])?;
    let program: &mut BtfTracePoint = ebpf
        .program_mut("count")
        .context("the object has no program count")?
        .try_into()?;
    program.load("inet_sock_set_state", &Btf::from_sys_fs()?)?;
    program.attach()?;
    count(&mut ebpf)
}

/// Loads the object, with none of its programs yet.
fn load(object: &str, [port, mask]: [u32; 2]) -> Result<Ebpf> {
    let kernel = Kernel::look(Path::new(BTF)).map_err(|why| anyhow::anyhow!("{why}"))?;
    let ports = [kernel.layout.inet_sport, kernel.layout.sk_dport, port, mask];
    let words: Vec<u8> = ports.into_iter().flat_map(u32::to_ne_bytes).collect();
    Ok(EbpfLoader::new()
        .override_global("PORTS", words.as_slice(), true)
        .load_file(object)?)
}

/// Says how many transitions there were, when asked.
fn count(ebpf: &mut Ebpf) -> Result<()> {
    let counts: PerCpuArray<MapData, u64> =
        ebpf.take_map("COUNT").context("no count")?.try_into()?;
    for line in io::stdin().lock().lines() {
        let _asked = line?;
        let count: u64 = counts.get(&0, 0)?.iter().sum();
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{count}")?;
        stdout.flush()?;
    }
    Ok(())
}
