//! The output that people and programs read: events as lines, in a file or on standard output.

use super::{Consumer, Flow};
use crate::{
    error::Error,
    event::Event,
    output::{Output, Written},
    sink::{End, Lost, Sink, Start},
};

/// Lines gather up to this before they are written.
const BATCH_BYTES: usize = 128 << 10;

/// Renders events through a sink and writes the lines. It may block.
pub struct LineOutput<S> {
    sink: S,
    output: Output,
    lines: Vec<u8>,
}

impl<S: Sink> LineOutput<S> {
    /// Nothing is written yet.
    pub fn new(sink: S, output: Output) -> Self {
        Self {
            sink,
            output,
            lines: Vec::with_capacity(2 * BATCH_BYTES),
        }
    }
}

impl<S: Sink + Send> Consumer for LineOutput<S> {
    fn name(&self) -> &'static str {
        "output"
    }

    fn start(&mut self, start: &Start) {
        self.sink.start(start, &mut self.lines);
    }

    fn begin_batch(&mut self, wall_minus_mono_ns: i64) {
        self.sink.set_clock(wall_minus_mono_ns);
        self.sink.set_width(self.output.columns(), &mut self.lines);
    }

    fn event(&mut self, event: &Event) -> bool {
        self.sink.event(event, &mut self.lines);
        self.lines.len() < BATCH_BYTES
    }

    fn lost(&mut self, lost: &Lost) {
        self.sink.lost(lost, &mut self.lines);
    }

    fn end(&mut self, end: &End) {
        self.sink.end(end, &mut self.lines);
    }

    fn flush(&mut self) -> Result<Flow, Error> {
        if self.lines.is_empty() {
            return Ok(Flow::Open);
        }
        let written = self.output.write(&self.lines)?;
        self.lines.clear();
        Ok(match written {
            Written::Whole => Flow::Open,
            Written::Closed => Flow::Closed,
        })
    }

    fn reopen(&mut self) -> Result<(), Error> {
        match self.output.reopen() {
            Ok(true) => self.sink.header(&mut self.lines),
            Ok(false) => {}
            // The file that was open is there still: no line is lost for want of a new one.
            Err(why) => log::warn!("cannot reopen the output: {why:#}; the old file is written on"),
        }
        Ok(())
    }
}
