//! `tcptrace schema`: what a record may hold, for programs.

use std::process::ExitCode;

use crate::error::Error;

/// Prints the JSON Schema of the records; `tests/replay.rs` keeps it true.
pub(super) fn run() -> Result<ExitCode, Error> {
    super::print(include_bytes!("../../../docs/events.schema.json"))?;
    Ok(ExitCode::SUCCESS)
}
