//! What goes on inside the machine: each row's tool beside the same load.
//!
//! Everything is one process on one processor, so that nothing waits for anything: the time from the
//! first connection to the last is the work that was done.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use toolchain::process::{bpf, cpu_ns, verified_instructions, wait_until_idle};

/// Where the host has put what to do.
pub(super) const ORDER: &str = "order.json";

/// Lines with this before them are for the host.
pub(super) const RESULT: &str = "## row ";

const PORT: u16 = 7744;

/// A tool that is not ready by then has failed; in the guest's time.
const LIMIT: Duration = Duration::from_mins(2);

/// By then a kernel that has just booted has its best clock, and has done what it put off.
const BOOT: Duration = Duration::from_secs(10);

/// Longer than a socket stays in `TIME_WAIT`.
const TIME_WAIT: Duration = Duration::from_secs(63);

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Connections of one load
    pub(super) connections: u32,
    /// Loads beside each tool
    pub(super) loads: u32,
    pub(super) tools: Vec<Tool>,
}

/// A row: a command, or none at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) command: Vec<String>,
}

/// What has been measured beside one tool, ns of the guest's time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// Why there is nothing
    pub(super) failed: Option<String>,
    /// Each load, without the tool's own process
    pub(super) load_ns: Vec<u64>,
    /// The tool's own process, from when the load begins until it has nothing left to do
    pub(super) agent_ns: Vec<u64>,
    /// Each load while the tool is stopped
    pub(super) stopped_ns: Vec<u64>,
    /// Until it has attached: processor time
    pub(super) start_ns: u64,
    /// What the verifier has looked at, if this kernel says so
    pub(super) verified: u64,
    /// What it said at its end, if its exit status was not 0
    pub(super) complaint: Option<String>,
}

/// All rows of one kernel and one tcptrace.
pub(super) type Rows = Vec<Row>;

/// Does all of the order, and says each row as it is done.
pub(crate) fn run() -> Result<()> {
    let order: Order = serde_json::from_slice(&fs::read(format!("/{ORDER}"))?)?;
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "1000000")?;
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")?;
    thread::sleep(BOOT);
    load(order.connections)?;
    for tool in &order.tools {
        let row = measure(&order, tool).unwrap_or_else(|why| Row {
            failed: Some(format!("{why:#}")),
            ..Row::default()
        });
        let row = Row {
            name: tool.name.clone(),
            ..row
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{RESULT}{}", serde_json::to_string(&row)?)?;
        stdout.flush()?;
    }
    Ok(())
}

fn measure(order: &Order, tool: &Tool) -> Result<Row> {
    let mut row = Row::default();
    // The first load after a pause finds nothing in the kernel's caches.
    load(order.connections / 4)?;
    let mut running = Running::start(tool)?;
    if let Some(running) = &mut running {
        running.wait_until_ready()?;
        row.start_ns = cpu_ns(running.pid())?;
        row.verified = verified_instructions(running.pid())?;
    }
    for _ in 0..order.loads {
        let before = agent_ns(running.as_ref())?;
        let took = load(order.connections)?;
        let meanwhile = agent_ns(running.as_ref())? - before;
        row.load_ns.push(took.saturating_sub(meanwhile));
        if let Some(running) = &running {
            wait_until_idle(running.pid(), LIMIT)?;
            row.agent_ns.push(cpu_ns(running.pid())? - before);
            running.signal(Signal::STOP)?;
            row.stopped_ns.push(load(order.connections)?);
            running.signal(Signal::CONT)?;
            wait_until_idle(running.pid(), LIMIT)?;
        }
    }
    if let Some(running) = running {
        row.complaint = running.end()?;
    }
    thread::sleep(TIME_WAIT);
    Ok(row)
}

fn agent_ns(running: Option<&Running>) -> Result<u64> {
    running.map_or(Ok(0), |running| cpu_ns(running.pid()))
}

/// Connections one after the other, a byte each way; how long that took.
fn load(connections: u32) -> Result<u64> {
    // To an address of its own: the local ports of earlier loads are still in TIME_WAIT.
    static LOADS: AtomicU32 = AtomicU32::new(0);
    let address = Ipv4Addr::LOCALHOST.to_bits() + LOADS.fetch_add(1, Ordering::Relaxed);
    let to = SocketAddr::from((Ipv4Addr::from_bits(address), PORT));
    let listener = TcpListener::bind(to)?;
    let begin = Instant::now();
    for _ in 0..connections {
        let mut client = TcpStream::connect(to).context("connect")?;
        let (mut server, _peer) = listener.accept().context("accept")?;
        client.write_all(b"?")?;
        server.read_exact(&mut [0])?;
        server.write_all(b"!")?;
        client.read_exact(&mut [0])?;
        drop(client);
        drop(server);
    }
    Ok(u64::try_from(begin.elapsed().as_nanos())?)
}

/// A tool's process. Killed when dropped.
struct Running {
    process: Child,
    errors: String,
}

impl Running {
    fn start(tool: &Tool) -> Result<Option<Self>> {
        let Some((program, arguments)) = tool.command.split_first() else {
            return Ok(None);
        };
        let errors = "/tmp/stderr".to_owned();
        let process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        Ok(Some(Self { process, errors }))
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    /// Until its programs are attached and it has nothing left to prepare.
    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !bpf(self.pid())?.attached {
            if let Some(status) = self.process.try_wait()? {
                bail!("it ended ({status}): {}", self.said()?);
            }
            if start.elapsed() > LIMIT {
                bail!("it does not attach");
            }
            thread::sleep(Duration::from_millis(20));
        }
        wait_until_idle(self.pid(), LIMIT)
    }

    /// Ends it as Ctrl-C does; what it had to complain of.
    fn end(mut self) -> Result<Option<String>> {
        self.signal(Signal::INT)?;
        let start = Instant::now();
        loop {
            match self.process.try_wait()? {
                // The floor has no handler for it.
                Some(status) if status.success() || status.code().is_none() => return Ok(None),
                Some(status) => return Ok(Some(format!("{status}: {}", self.said()?))),
                None if start.elapsed() > LIMIT => bail!("it does not end"),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn said(&self) -> Result<String> {
        let said = fs::read(&self.errors)?;
        Ok(String::from_utf8_lossy(&said).trim_end().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.process.kill();
        let _waited = self.process.wait();
    }
}
