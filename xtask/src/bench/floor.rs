//! The least that a tracer has to do: loads one of the floor's programs, and reads what it says.
//!
//! `floor OBJECT empty|ring|print|count`: `ring` reads and discards, `print` makes a bare line of each
//! record. `count OBJECT PORT MASK` answers each line of standard input with the number of
//! transitions by now.

use std::env;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader};
use tcptrace::kernel::Kernel;

/// How long records may gather, as in the agent.
const TURN: Duration = Duration::from_millis(10);

/// Lines gather up to this before they are written, as in the agent.
const BATCH_BYTES: usize = 128 << 10;

const BTF: &str = "/sys/kernel/btf/vmlinux";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [object, "empty"] => {
            let _attached = attach(object, "empty", [0; 2])?;
            loop {
                thread::park();
            }
        }
        [object, "ring"] => read(&mut attach(object, "ring", [0; 2])?, |_record, _lines| {}),
        [object, "print"] => read(&mut attach(object, "ring", [0; 2])?, print),
        [object, "count", port, mask] => {
            let ports = [port.parse()?, mask.parse()?];
            count(&mut attach(object, "count", ports)?)
        }
        _ => bail!("usage: floor OBJECT empty|ring|print|count [PORT MASK]"),
    }
}

/// Attaches one program of the object.
fn attach(object: &str, program: &str, [port, mask]: [u32; 2]) -> Result<Ebpf> {
    let kernel = Kernel::look(Path::new(BTF)).map_err(|why| anyhow::anyhow!("{why}"))?;
    let ports = [kernel.layout.inet_sport, kernel.layout.sk_dport, port, mask];
    let words: Vec<u8> = ports.into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut ebpf = EbpfLoader::new()
        .override_global("PORTS", words.as_slice(), true)
        .load_file(object)?;
    let btf = Btf::from_sys_fs()?;
    let program: &mut BtfTracePoint = ebpf
        .program_mut(program)
        .context("the object has no such program")?
        .try_into()?;
    program.load("inet_sock_set_state", &btf)?;
    program.attach()?;
    Ok(ebpf)
}

/// Reads the ring until killed.
fn read(ebpf: &mut Ebpf, each: fn(&[u8], &mut Vec<u8>)) -> Result<()> {
    let mut ring: RingBuf<MapData> = ebpf.take_map("EVENTS").context("no ring")?.try_into()?;
    let mut lines = Vec::with_capacity(2 * BATCH_BYTES);
    let mut stdout = io::stdout().lock();
    loop {
        while let Some(record) = ring.next() {
            each(&record, &mut lines);
            if lines.len() >= BATCH_BYTES {
                stdout.write_all(&lines)?;
                lines.clear();
            }
        }
        stdout.write_all(&lines)?;
        stdout.flush()?;
        lines.clear();
        thread::sleep(TURN);
    }
}

/// Time, socket, thread group and thread, states: as numbers, by the standard library.
fn print(record: &[u8], lines: &mut Vec<u8>) {
    let (words, _) = record.as_chunks::<8>();
    let [mono_ns, skaddr, pid_tgid, states, ..] = words else {
        return;
    };
    let [mono_ns, skaddr, pid_tgid, states] =
        [mono_ns, skaddr, pid_tgid, states].map(|word| u64::from_ne_bytes(*word));
    let (pid, tgid) = (pid_tgid & 0xffff_ffff, pid_tgid >> 32);
    let (old, new) = (states & 0xffff_ffff, states >> 32);
    // Writing to memory does not fail.
    let _infallible = writeln!(lines, "{mono_ns} {skaddr:x} {tgid} {pid} {old} {new}");
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
