//! How many files we may have open: each program, map and link is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Error;

/// What a trace has open at most, with all records asked for.
const NEEDED: u64 = 128;

/// Raises the limit as far as it takes and as we may. Comes first: without a file to open, what is
/// asked afterwards seems to be missing.
pub fn allow() -> Result<(), Error> {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|files| files >= NEEDED);
    if enough(limit.current) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(NEEDED),
        maximum: limit.maximum,
    };
    if enough(limit.maximum) && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    Err(Error::CannotTrace(format!(
        "needs {NEEDED} open files and may have {}: raise the limit with `ulimit -n {NEEDED}`, or \
         with LimitNOFILE= of its service",
        limit.maximum.or(limit.current).unwrap_or(0)
    )))
}
