//! Tools that take turns beside one load.
//!
//! Two loads of the same kind differ by several per cent, by how their threads and sockets happen to lie.
//! Beside one load, each tool has a turn on the way there and one on the way back, so that neither that
//! nor a machine that grows slower speaks for one of them.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::dialogue::Dialogue;
use super::load::{Plan, Progress};
use super::tool::{Programs, Tool, Tracer};
use super::trial::start_load;
use toolchain::process::cpu_ns;

/// How long a turn is measured.
const TURN: Duration = Duration::from_millis(600);

/// Until a tool has attached the rest, and the load runs as it will.
const SETTLE: Duration = Duration::from_millis(500);

/// What one tool's turns beside a load came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    connections: u64,
    elapsed_ns: u64,
    load_ns: u64,
    agent_ns: u64,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no number here is anywhere near 2^53"
)]
impl Turns {
    /// Connections each second
    pub(super) fn throughput(self) -> f64 {
        self.connections as f64 / (self.elapsed_ns as f64 / 1e9)
    }

    /// Client and server, µs for each connection
    pub(super) fn load_us(self) -> f64 {
        self.load_ns as f64 / 1e3 / self.connections as f64
    }

    /// The tool, µs for each connection
    pub(super) fn agent_us(self) -> f64 {
        self.agent_ns as f64 / 1e3 / self.connections as f64
    }
}

/// Starts a load, and lets each of `tools` have its turns beside it, in an order that `round` gives.
pub(super) fn measure(tools: &[Tool], programs: &Programs, round: usize) -> Result<Vec<Turns>> {
    let mut load = start_load(Plan {
        endless: true,
        ..Plan::default()
    })?;
    load.order("go")?;
    let mut turns = vec![Turns::default(); tools.len()];
    // Who begins in one round ends in another.
    let there = (0..tools.len()).map(|place| (place + round) % tools.len());
    for at in there.clone().chain(there.rev()) {
        let turn = turn(tools[at], programs, &mut load)
            .with_context(|| format!("the turn of {}", tools[at].name))?;
        let sum = &mut turns[at];
        sum.connections += turn.connections;
        sum.elapsed_ns += turn.elapsed_ns;
        sum.load_ns += turn.load_ns;
        sum.agent_ns += turn.agent_ns;
    }
    load.order("end")?;
    Ok(turns)
}

fn turn(tool: Tool, programs: &Programs, load: &mut Dialogue) -> Result<Turns> {
    let mut tracer = tool.spawn(programs, Stdio::null())?;
    if let Some(tracer) = &mut tracer {
        tracer.wait_until_attached()?;
    }
    thread::sleep(SETTLE);
    let agent_ns = || tracer.as_ref().map_or(Ok(0), |tracer| cpu_ns(tracer.pid()));
    let (begin, agent_begin) = (ask(load)?, agent_ns()?);
    thread::sleep(TURN);
    let (end, agent_end) = (ask(load)?, agent_ns()?);
    tracer.map(Tracer::interrupt).transpose()?;
    Ok(Turns {
        connections: end.connections - begin.connections,
        elapsed_ns: end.elapsed_ns - begin.elapsed_ns,
        load_ns: end.cpu_ns - begin.cpu_ns,
        agent_ns: agent_end - agent_begin,
    })
}

fn ask(load: &mut Dialogue) -> Result<Progress> {
    load.order("count")?;
    Ok(serde_json::from_str(&load.said()?)?)
}
