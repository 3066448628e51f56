//! The load: short connections between two processes, in a network namespace of their own.
//!
//! The client is given its orders line by line and answers each, so that nothing of it happens
//! before the tracer is ready: `ready`; `open` for the connections that stay, `opened`; `go`, the
//! numbers as JSON; then it keeps the namespace, and the sockets in `TIME_WAIT`, until it is let go.
//! Of an endless load it says with each `count` what it has done by then, until `end`.

use std::env;
use std::fs;
use std::io::{self, BufRead, Lines, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::dialogue::Dialogue;
use toolchain::process;
use toolchain::workspace;

/// Ports of servers: a multiple of 64, and the 63 after it.
pub(super) const PORT: u16 = 7744;
/// The bits that those ports have in common.
pub(super) const PORT_MASK: u16 = !63;

/// Threads on either side.
pub(super) const THREADS: u16 = 4;

/// Connections of an endless load to one address: fewer than there are local ports.
const PORTS_USED: u32 = 20_000;

/// So many clients in one namespace have ports for their servers.
const MOST_PARTS: u64 = 15;

/// Open files that a process needs besides its connections.
const OTHER_FILES: u64 = 100;

/// What to do, of each kind as many as said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Plan {
    /// Short connections
    #[arg(long, default_value_t = 0)]
    pub(super) connections: u32,
    /// Of those, how many each second; 0: as many as can be
    #[arg(long, default_value_t = 0)]
    pub(super) rate: u32,
    /// Connections that stay open
    #[arg(long, default_value_t = 0)]
    pub(super) hold: u32,
    /// Short connections without end, as many as can be
    #[arg(long)]
    pub(super) endless: bool,
    /// Which of several clients in one namespace it is for
    #[arg(long, default_value_t = 0)]
    pub(super) part: u16,
}

impl Plan {
    /// The command line that says so.
    pub(super) fn args(self) -> Vec<String> {
        let of = |name: &str, number: u32| [format!("--{name}"), number.to_string()];
        let mut args = [
            of("connections", self.connections),
            of("rate", self.rate),
            of("hold", self.hold),
            of("part", self.part.into()),
        ]
        .concat();
        args.extend(self.endless.then(|| "--endless".to_owned()));
        args
    }

    /// The port for those of one thread's connections that stay.
    pub(super) fn hold_port(self, thread: u16) -> u16 {
        PORT + (1 + self.part) * THREADS + thread
    }

    /// Splits what one process may not have open into several plans.
    fn parts(self) -> Result<Vec<Self>> {
        let limit = allow_files()?.saturating_sub(OTHER_FILES).max(1);
        let parts = u64::from(self.hold).div_ceil(limit).max(1);
        if parts > MOST_PARTS {
            bail!("each process may open only {limit} files: too few for this load");
        }
        let parts = u16::try_from(parts)?;
        let hold = self.hold / u32::from(parts);
        Ok((0..parts)
            .map(|part| Self {
                connections: if part == 0 { self.connections } else { 0 },
                hold: if part == 0 {
                    self.hold - hold * u32::from(parts - 1)
                } else {
                    hold
                },
                part,
                ..self
            })
            .collect())
    }

    /// Of `number`, how many are the business of one thread.
    pub(super) fn share(number: u32, thread: u16) -> u32 {
        let threads = u32::from(THREADS);
        number / threads + u32::from(u32::from(thread) < number % threads)
    }
}

/// The client, and parent of the server, and of more clients where a process may not open so many
/// files.
pub(super) fn client(plan: Plan) -> Result<()> {
    let parts = match plan.part {
        0 => {
            prepare_namespace()?;
            plan.parts()?
        }
        _ => vec![plan],
    };
    let plan = parts[0];
    allow_files()?;
    let mut server = start("server", plan)?;
    let others: Result<Vec<_>> = parts[1..]
        .iter()
        .map(|part| start("client", *part))
        .collect();
    let mut others = others?;
    let mut orders = io::stdin().lock().lines();

    if plan.endless {
        return go_on(orders, &server);
    }
    expect(&mut orders, "open", "ready")?;
    let held = hold(plan)?;
    for other in &mut others {
        other.order("open")?;
        other.expect("opened")?;
    }
    expect(&mut orders, "go", "opened")?;

    let before = process::cpu_ns(server.pid())?;
    let begin = Instant::now();
    let mut measured = if plan.connections > 0 {
        connect(plan)?
    } else {
        for other in &mut others {
            other.order("go")?;
        }
        let cpu_ns = close(held)?;
        for _ in 0..plan.hold.min(THREADS.into()) {
            server.expect("closed")?;
        }
        Measured {
            cpu_ns,
            ..Measured::default()
        }
    };
    if plan.connections == 0 {
        for other in &mut others {
            let result: Value = serde_json::from_str(&other.said()?)?;
            measured.cpu_ns += result["cpu_ns"].as_u64().unwrap_or(0);
        }
    }
    let elapsed = begin.elapsed();
    let after = process::cpu_ns(server.pid())?;
    measured.connects_ns.sort_unstable();
    let connects_ns = &measured.connects_ns;
    let percentile = |part: usize| connects_ns.get(connects_ns.len() * part / 100);
    let result = json!({
        "elapsed_ns": u64::try_from(elapsed.as_nanos())?,
        "cpu_ns": measured.cpu_ns + (after - before),
        "p50_ns": percentile(50),
        "p99_ns": percentile(99),
    });
    expect(&mut orders, "end", &result.to_string())?;
    for other in &mut others {
        if plan.connections > 0 {
            other.order("go")?;
            other.said()?;
        }
        other.order("end")?;
    }
    Ok(())
}

/// Connects without end, and says how far it is whenever it is asked.
fn go_on(mut orders: Lines<impl BufRead>, server: &Dialogue) -> Result<()> {
    static DONE: AtomicU64 = AtomicU64::new(0);
    expect(&mut orders, "go", "ready")?;
    let begin = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            thread::spawn(move || -> Result<()> {
                for number in 0.. {
                    let place = u32::from(thread) + number / PORTS_USED * u32::from(THREADS);
                    ask(&TcpStream::connect((address(place), PORT)).context("connect")?)?;
                    DONE.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for order in orders {
        if order? != "count" || threads.iter().any(JoinHandle::is_finished) {
            break;
        }
        let cpu_ns = process::cpu_ns(std::process::id())? + process::cpu_ns(server.pid())?;
        let progress = Progress {
            connections: DONE.load(Ordering::Relaxed),
            elapsed_ns: u64::try_from(begin.elapsed().as_nanos())?,
            cpu_ns,
        };
        say(&serde_json::to_string(&progress)?)?;
    }
    Ok(())
}

/// Says `answer`, and waits for the next order, which has to be this one.
fn expect(orders: &mut Lines<impl BufRead>, order: &str, answer: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{answer}")?;
    stdout.flush()?;
    match orders.next().transpose()? {
        Some(line) if line == order => Ok(()),
        other => bail!("{other:?} in place of {order}"),
    }
}

/// Makes a new network namespace fit for many short connections to its loopback device.
fn prepare_namespace() -> Result<()> {
    workspace::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    for (name, value) in [
        ("ip_local_port_range", "10000 65535"),
        ("tcp_max_tw_buckets", "1000000"),
    ] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value)
            .with_context(|| format!("cannot set net.ipv4.{name}"))?;
    }
    Ok(())
}

/// Raises the limit of open files as far as this process may, and returns it.
pub(super) fn allow_files() -> Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Another process of the load.
fn start(what: &str, plan: Plan) -> Result<Dialogue> {
    let mut process = Dialogue::start(
        Command::new(env::current_exe()?)
            .arg(what)
            .args(plan.args()),
    )?;
    process.expect("ready")?;
    Ok(process)
}

/// How far an endless load is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) connections: u64,
    pub(super) elapsed_ns: u64,
    /// Client and server together
    pub(super) cpu_ns: u64,
}

/// What the client's threads have measured.
#[derive(Default)]
struct Measured {
    connects_ns: Vec<u64>,
    cpu_ns: u64,
}

pub(super) fn say(word: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{word}")?;
    stdout.flush()
}

/// Runs a thread for each share, and puts together what they return.
fn on_threads<T: Send + 'static>(
    work: impl Fn(u16) -> Result<T> + Clone + Send + 'static,
) -> Result<Vec<T>> {
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let work = work.clone();
            thread::spawn(move || work(thread))
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().expect("a thread of the load panicked"))
        .collect()
}

/// An address of the server's, each with all local ports to itself.
fn address(place: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + place)
}

/// Makes the short connections.
fn connect(plan: Plan) -> Result<Measured> {
    let all = on_threads(move |thread| connect_one_by_one(plan, thread))?;
    let mut sum = Measured::default();
    for mut measured in all {
        sum.connects_ns.append(&mut measured.connects_ns);
        sum.cpu_ns += measured.cpu_ns;
    }
    Ok(sum)
}

fn connect_one_by_one(plan: Plan, thread: u16) -> Result<Measured> {
    let number = Plan::share(plan.connections, thread);
    let to = (address(thread.into()), PORT);
    let mut connects_ns = Vec::with_capacity(number.try_into()?);
    let pause = Duration::from_secs(u64::from(THREADS))
        .checked_div(plan.rate)
        .unwrap_or_default();
    // Threads take turns within a pause.
    let mut next = Instant::now() + pause / u32::from(THREADS) * u32::from(thread);
    for _ in 0..number {
        if plan.rate != 0 {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pause;
        }
        let start = Instant::now();
        let stream = TcpStream::connect(to).context("connect")?;
        connects_ns.push(u64::try_from(start.elapsed().as_nanos())?);
        ask(&stream)?;
    }
    Ok(Measured {
        connects_ns,
        cpu_ns: process::thread_cpu_ns()?,
    })
}

fn ask(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(b"?").context("send")?;
    stream.read_exact(&mut [0]).context("receive")
}

/// Opens connections that stay.
fn hold(plan: Plan) -> Result<Vec<Vec<TcpStream>>> {
    on_threads(move |thread| {
        let to = (address(thread.into()), plan.hold_port(thread));
        (0..Plan::share(plan.hold, thread))
            .map(|_| {
                let stream = TcpStream::connect(to).context("connect")?;
                ask(&stream)?;
                Ok(stream)
            })
            .collect()
    })
}

/// Closes them as fast as can be.
fn close(held: Vec<Vec<TcpStream>>) -> Result<u64> {
    let threads: Vec<_> = held
        .into_iter()
        .map(|streams| {
            thread::spawn(move || {
                drop(streams);
                process::thread_cpu_ns()
            })
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().expect("a thread of the load panicked"))
        .sum()
}
