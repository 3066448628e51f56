//! The agent of tcptrace: what the kernel side records, shown to people and programs.
//!
//! ```text
//! bpf::ring ─> event (decode) ─> trace (select, account) ─> sink ─> output
//!    bpf::counts ─> lost records ──────┘      └─> other consumers, each behind a queue
//! ```
//!
//! * [`cli`], [`settings`], [`quantity`]: what was typed, what is meant;
//! * [`filter`]: which connections are wanted, one filter a file;
//! * [`kernel`]: what the running kernel is and allows;
//! * [`bpf`]: the kernel side, loaded and attached; the only module that names `aya`;
//! * [`event`], [`explain`], [`sink`]: pure, no file, no clock;
//! * [`identity`]: container, pod and unit of an owner;
//! * [`trace`]: the loop, what it counts, and the consumers it hands events to;
//! * [`output`], [`recording`], [`file`](mod@file): where lines and ring bytes go;
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
pub mod inventory;
pub mod kernel;
pub mod output;
pub mod privileges;
pub mod quantity;
pub mod recording;
pub mod service;
pub mod settings;
pub mod sink;
pub mod trace;
