//! What the program can do: one command, one file.

mod check;
mod completions;
mod list;
mod listen;
mod man;
mod schema;
mod trace;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use crate::{
    cli::{Cli, Command},
    error::Error,
    settings::{Settings, list::ListSettings, listen::ListenSettings},
    trace::child,
};

/// Does what the command line asks for; the status to exit with.
pub fn run(cli: Cli) -> Result<ExitCode, Error> {
    match cli.command {
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Listen(args)) => listen::run(&ListenSettings::new(*args)?),
        Some(Command::List(args)) => list::run(&ListSettings::new(*args)?),
        Some(Command::Completions { shell }) => completions::run(shell),
        Some(Command::Man) => man::run(),
        Some(Command::Schema) => schema::run(),
        Some(Command::Exec { gate, command }) => child::become_command(gate, &command),
        None => trace::run(Settings::new(cli.trace)?),
    }
}

/// Writes to standard output. A reader that has gone is no error.
fn print(text: &[u8]) -> Result<(), Error> {
    match io::stdout().write_all(text) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(anyhow::Error::new(why).into()),
        _ => Ok(()),
    }
}
