//! The agent of tcptrace: what the kernel side records, shown to people and programs.
//!
//! ```text
//! bpf::ring ─> event (decode) ─> sink::{table,json} ─> output
//!      └─ bpf::counts ─> lost records      all of it driven by pipeline
//! ```
//!
//! * [`cli`], [`settings`]: what was typed, what is meant;
//! * [`kernel`]: what the running kernel is and allows;
//! * [`bpf`]: the kernel side, loaded and attached; the only module that names `aya`;
//! * [`event`], [`explain`], [`sink`], [`filter`]: pure, no file, no clock;
//! * [`pipeline`], [`output`], [`recording`], [`file`](mod@file): the loop and where its lines go;
//! * [`trace`]: all of it together;
//! * [`cmd`]: one command, one file.
#![forbid(unsafe_code)]
// Tests make files, and peers to trace.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod bpf;
pub mod cli;
pub mod cmd;
pub mod error;
pub mod event;
pub mod explain;
pub mod export;
pub mod file;
pub mod filter;
pub mod identity;
pub mod kernel;
pub mod output;
pub mod pipeline;
pub mod quantity;
pub mod recording;
pub mod settings;
pub mod sink;
pub mod trace;
