//! What really happened: `sock:inet_sock_set_state` as the kernel's own ftrace recorded it.
//!
//! The tracer has no part in this: a private instance of ftrace has buffers of its own.

mod instance;
mod life;
mod raw;

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use instance::{Instance, stats, time_wait_handler};
pub use instance::{clean_up, prepare, see_lockdown, tells_reset_reason};
pub use life::{Life, Step, lives, lives_in, state};
use raw::{Fields, PageLayout, id_of};

/// As short as it takes the buffers to fill, and as long as it takes to cost nothing.
const DRAINED_EVERY: Duration = Duration::from_millis(50);

/// A running recording. A thread reads what the buffers hold as it comes.
#[derive(Debug)]
pub struct Oracle {
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<Vec<Step>>>,
    instance: Instance,
    kib_per_cpu: usize,
}

impl Oracle {
    /// With buffers for about 50,000 state changes on each CPU, all at once.
    pub fn record() -> Self {
        Self::with_buffer(4 << 10)
    }

    /// With buffers of so many KiB for each CPU.
    pub fn with_buffer(kib_per_cpu: usize) -> Self {
        let instance = Instance::idle();
        instance.write("options/overwrite", "0");
        instance.write("buffer_size_kb", &kib_per_cpu.to_string());
        instance.write("events/sock/inet_sock_set_state/filter", "protocol == 6");
        instance.write("events/sock/inet_sock_set_state/enable", "1");
        let filter = format!("function == {:#x}", time_wait_handler());
        instance.write("events/timer/timer_start/filter", &filter);
        instance.write("events/timer/timer_start/enable", "1");
        let over = Arc::new(AtomicBool::new(false));
        let reader = Reader::of(&instance, Arc::clone(&over));
        instance.write("tracing_on", "1");
        Self {
            over,
            reader: Some(thread::spawn(|| reader.read())),
            instance,
            kib_per_cpu,
        }
    }

    /// What happens from now on is not in it.
    pub fn pause(&self) {
        self.instance.write("tracing_on", "0");
    }

    /// Ends the recording. Everything is in it, or the test fails: what was not recorded is not checked.
    pub fn stop(mut self) -> Vec<Step> {
        self.instance.write("tracing_on", "0");
        self.over.store(true, Ordering::Release);
        let reader = self.reader.take().unwrap();
        reader.thread().unpark();
        let mut steps = reader.join().expect("not checked: nobody reads ftrace");
        for cpu in self.instance.cpus() {
            for (name, count) in stats(&cpu) {
                let is_loss = matches!(
                    name.as_str(),
                    "overrun" | "commit overrun" | "dropped events"
                );
                assert!(
                    !is_loss || count == 0,
                    "not checked: ftrace itself lost {count} events ({name}), with buffers of {} KiB",
                    self.kib_per_cpu
                );
            }
        }
        steps.sort_by_key(|step| step.at_ns);
        steps
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            reader.thread().unpark();
            // The test has failed already.
            let _failed_too = reader.join();
        }
    }
}

/// Where the records of an instance come from.
struct Reader {
    over: Arc<AtomicBool>,
    fields: Fields,
    timer_start: u16,
    layout: PageLayout,
    cpus: Vec<Cpu>,
}

/// More than the kernel needs from a time-wait socket's timer to the end of the socket in its place, with
/// what may come between.
const ARMED_FOR_NS: u64 = 10_000_000;

struct Cpu {
    path: PathBuf,
    pipe: File,
    /// When timers of time-wait sockets were started, of which the end of the socket has not come yet
    armed: Vec<u64>,
}

impl Reader {
    fn of(instance: &Instance, over: Arc<AtomicBool>) -> Self {
        let open = |path: PathBuf| {
            let pipe = File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path.join("trace_pipe_raw"))
                .unwrap();
            let armed = Vec::new();
            Cpu { path, pipe, armed }
        };
        Self {
            over,
            fields: Fields::parse(&instance.text("events/sock/inet_sock_set_state/format")),
            timer_start: id_of(&instance.text("events/timer/timer_start/format")),
            layout: PageLayout::parse(&instance.text("../../events/header_page")),
            cpus: instance.cpus().into_iter().map(open).collect(),
        }
    }

    fn read(mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            // Looked at first: what was recorded before that is read.
            let over = self.over.load(Ordering::Acquire);
            let mut cpus = std::mem::take(&mut self.cpus);
            for cpu in &mut cpus {
                self.drain(cpu, &mut steps);
            }
            self.cpus = cpus;
            if over {
                return steps;
            }
            thread::park_timeout(DRAINED_EVERY);
        }
    }

    fn drain(&self, cpu: &mut Cpu, steps: &mut Vec<Step>) {
        let mut page = vec![0; self.layout.size];
        loop {
            match cpu.pipe.read(&mut page) {
                Ok(0) => return,
                Ok(_) => self.layout.decode(&page, |at_ns, record| {
                    if record[..2] == self.timer_start.to_ne_bytes() {
                        cpu.armed.push(at_ns);
                    } else if let Some(mut step) = self.fields.decode(at_ns, record) {
                        // The kernel makes the time-wait socket, starts its timer and closes
                        // the full one on one CPU. In between it lets softirqs in
                        // (`local_bh_enable` in `tcp_time_wait`), which may do the same for
                        // others, from beginning to end. A timer that was set anew has no step.
                        cpu.armed
                            .retain(|armed_ns| at_ns.saturating_sub(*armed_ns) < ARMED_FOR_NS);
                        let left = matches!(step.old, "FIN_WAIT2" | "CLOSING");
                        step.time_wait = left && step.new == "CLOSE" && cpu.armed.pop().is_some();
                        steps.push(step);
                    }
                }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{}: {error}", cpu.path.display()),
            }
        }
    }
}

/// How many state changes there are, of more than can be kept.
#[derive(Debug)]
pub struct Tally(Instance);

impl Tally {
    /// `filter`: in the language of ftrace, besides that it is TCP.
    pub fn begin(filter: &str) -> Self {
        let instance = Instance::idle();
        instance.write("options/overwrite", "1");
        instance.write("buffer_size_kb", "64");
        let filter = format!("protocol == 6 && ({filter})");
        instance.write("events/sock/inet_sock_set_state/filter", &filter);
        instance.write("events/sock/inet_sock_set_state/enable", "1");
        instance.write("tracing_on", "1");
        Self(instance)
    }

    /// Those that are in the buffers, and those that have given way to them.
    pub fn stop(self) -> u64 {
        self.0.write("tracing_on", "0");
        let mut sum = 0;
        for (name, count) in self.0.cpus().iter().flat_map(|cpu| stats(cpu)) {
            match name.as_str() {
                "entries" | "overrun" => sum += count,
                "commit overrun" | "dropped events" => {
                    assert_eq!(count, 0, "not checked: ftrace itself lost events ({name})");
                }
                _ => {}
            }
        }
        sum
    }
}
