//! Another process of ours, told line by line what to do, and answering line by line.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The process. It ends when its input does, which is when this is dropped.
pub(super) struct Dialogue {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Dialogue {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = process.stdout.take().context("it has no output")?;
        Ok(Self {
            process,
            said: BufReader::new(stdout).lines(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its next line.
    pub(super) fn said(&mut self) -> Result<String> {
        let said = self.said.next().context("a process has ended early")?;
        Ok(said?)
    }

    /// Waits for this line.
    pub(super) fn expect(&mut self, word: &str) -> Result<()> {
        let said = self.said()?;
        if said != word {
            bail!("a process said {said} in place of {word}");
        }
        Ok(())
    }

    /// Gives an order.
    pub(super) fn order(&mut self, order: &str) -> Result<()> {
        let stdin = self.process.stdin.as_mut().context("it has no input")?;
        Ok(writeln!(stdin, "{order}")?)
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // How it ended does not matter any more.
        let _status = self.process.wait();
    }
}
