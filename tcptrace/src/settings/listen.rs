//! What `listen` is to show.

use std::time::Duration;

use super::view::View;
use crate::{
    cli::{Format, KernelArgs, ListenArgs},
    error::Error,
    filter::Filters,
    quantity::parse_duration,
};

/// Which listeners, and how.
#[derive(Debug)]
pub struct ListenSettings {
    /// Which listeners
    pub filters: Filters,
    /// How rows look
    pub view: View,
    /// With titles
    pub header: bool,
    /// How often to look
    pub interval: Option<Duration>,
    /// When to stop looking
    pub duration: Option<Duration>,
    /// What of the kernel may be used
    pub kernel: KernelArgs,
}

impl ListenSettings {
    /// Checks what was typed.
    pub fn new(args: ListenArgs) -> Result<Self, Error> {
        let duration = |option: &str, text: Option<String>| {
            text.map(|text| parse_duration(option, &text)).transpose()
        };
        let view = View::new(&args.view)?;
        if !matches!(view.format, Format::Table | Format::Json) {
            return Err(Error::usage(
                "--format: listeners come as a table or as json; the other formats are a trace's",
            ));
        }
        Ok(Self {
            filters: Filters::parse(args.filter)?,
            view,
            header: !args.no_header && !args.diagnostic.quiet,
            interval: duration("--interval", args.interval)?,
            duration: duration("-d", args.duration)?,
            kernel: args.kernel,
        })
    }
}
