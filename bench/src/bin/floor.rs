//! The least that a tracer has to do: loads one of the floor's programs, and reads what it says.
//!
//! `floor OBJECT empty|ring|hooks|print`: `ring` reads and discards, `print` makes a bare line of
//! each record. `hooks` is `ring`, with empty programs in the other places where tcptrace is attached on a
//! kernel without trampolines and kprobes.

use std::env;
use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, RingBuf};
use aya::programs::{BtfTracePoint, Program, TracePoint};
use aya::{Btf, Ebpf};

/// How long records may gather, as in the agent.
const TURN: Duration = Duration::from_millis(10);

/// Lines gather up to this before they are written, as in the agent.
const BATCH_BYTES: usize = 128 << 10;

/// The tracepoint of all transitions.
const STATE: &str = "inet_sock_set_state";

const USAGE: &str = "usage: floor OBJECT empty|ring|hooks|print";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let &[object, what] = args.as_slice() else {
        bail!("{USAGE}");
    };
    let mut ebpf = Ebpf::load_file(object)?;
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
        _ => bail!("{USAGE}"),
    }
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
