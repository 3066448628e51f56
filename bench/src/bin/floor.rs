//! The least that a tracer has to do: loads one of the floor's programs, and reads what it says.
//!
//! `floor OBJECT empty|ring|hooks|print|count`: `ring` reads and discards, `print` makes a bare line of
//! each record. `hooks` is `ring`, with empty programs in the other places where tcptrace is attached on a
//! kernel without trampolines and kprobes. `count OBJECT PORT MASK` answers each line of standard input
//! with the number of transitions by now.

use std::env;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, Program, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use tcptrace::kernel::Kernel;

/// How long records may gather, as in the agent.
const TURN: Duration = Duration::from_millis(10);

/// Lines gather up to this before they are written, as in the agent.
const BATCH_BYTES: usize = 128 << 10;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The tracepoint of all transitions.
const STATE: &str = "inet_sock_set_state";

const USAGE: &str = "usage: floor OBJECT empty|ring|hooks|print|count [PORT MASK]";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let &[object, what, ref ports @ ..] = args.as_slice() else {
        bail!("{USAGE}");
    };
    let ports = match ports {
        [] => [0; 2],
        [port, mask] => [port.parse()?, mask.parse()?],
        _ => bail!("{USAGE}"),
    };
    let mut ebpf = load(object, ports)?;
    match what {
        "empty" => {
            attach(&mut ebpf, "empty", STATE)?;
            loop {
                thread::park();
            }
        }
        "ring" | "print" => {
            attach(&mut ebpf, "ring", STATE)?;
            read(&mut ebpf, if what == "print" { print } else { discard })
        }
        "hooks" => {
            attach(&mut ebpf, "ring", STATE)?;
            // In the place of the program that stands in for the first.
            attach(&mut ebpf, "empty", STATE)?;
            attach(&mut ebpf, "empty_timer", "timer_cancel")?;
            attach_to_exit_of(&mut ebpf, "empty_accept", "accept")?;
            attach_to_exit_of(&mut ebpf, "empty_accept4", "accept4")?;
            read(&mut ebpf, discard)
        }
        "count" => {
            attach(&mut ebpf, "count", STATE)?;
            count(&mut ebpf)
        }
        _ => bail!("{USAGE}"),
    }
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

/// Attaches one program to this tracepoint, as long as the object lives.
fn attach(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<()> {
    let program: &mut BtfTracePoint = program(ebpf, name)?.try_into()?;
    program.load(tracepoint, &Btf::from_sys_fs()?)?;
    program.attach()?;
    Ok(())
}

/// Attaches one program to where this system call returns.
fn attach_to_exit_of(ebpf: &mut Ebpf, name: &str, call: &str) -> Result<()> {
    let program: &mut TracePoint = program(ebpf, name)?.try_into()?;
    program.load()?;
    program.attach("syscalls", &format!("sys_exit_{call}"))?;
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program {name}"))
}

fn discard(_record: &[u8], _lines: &mut Vec<u8>) {}

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
