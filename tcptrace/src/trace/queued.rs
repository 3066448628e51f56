//! A consumer on a thread of its own, behind a bounded queue: it slows neither the loop nor another
//! consumer. What finds no room is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{Consumer, Flow};
use crate::{
    error::Error,
    event::{Connection, Event, Transition},
    sink::{End, Lost, Start},
};

/// Events that one message carries at most: each message may wake the thread.
const MESSAGE_EVENTS: usize = 512;

/// A call of the consumer. Many wait where it is slow: most of them are transitions in mid-life, and take a
/// fifth of what other events may take.
enum Item {
    Start(Box<Start>),
    Batch(i64),
    Transition(Connection),
    Event(Box<Event>),
    Lost(Lost),
    End(End),
}

impl Item {
    fn of(event: &Event) -> Self {
        match event {
            Event::Transition(step) if step.close().is_none() => {
                Self::Transition(*step.connection())
            }
            event => Self::Event(Box::new(*event)),
        }
    }
}

/// What both sides count.
#[derive(Default)]
struct Shared {
    /// Events in the queue
    waiting: AtomicUsize,
    /// Events that the consumer took and could not deliver
    undelivered: AtomicU64,
}

/// A consumer on a thread of its own.
pub struct Queued {
    name: &'static str,
    /// None once it is finished
    messages: Option<Sender<Vec<Item>>>,
    /// The clock as it was read last, unless the consumer has it or a message carries it
    clock: Option<i64>,
    /// What the next message carries
    gathered: Vec<Item>,
    gathered_events: usize,
    shared: Arc<Shared>,
    /// Events that the queue has room for
    capacity: usize,
    dropped: u64,
    done: Receiver<()>,
}

impl Queued {
    /// Starts the thread. `capacity`: how many events may wait.
    pub fn new(consumer: Box<dyn Consumer>, capacity: usize) -> Result<Self, Error> {
        let name = consumer.name();
        let (messages, received) = channel();
        let (finished, done) = channel();
        let shared = Arc::<Shared>::default();
        let taken = Arc::clone(&shared);
        thread::Builder::new()
            .name(format!("tcptrace-{name}"))
            .spawn(move || {
                consume(consumer, &received, &taken);
                // Nobody waits any more only when the process is about to end.
                let _unheard = finished.send(());
            })
            .with_context(|| format!("cannot start the thread of {name}"))?;
        Ok(Self {
            name,
            messages: Some(messages),
            clock: None,
            gathered: Vec::new(),
            gathered_events: 0,
            shared,
            capacity,
            dropped: 0,
            done,
        })
    }

    /// Sends what has gathered. Where the queue is full, events are dropped, and what else there is waits
    /// here for room: a `Start`, an `End`, and a `Lost` for each cause.
    fn send(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let waiting = self.shared.waiting.load(Ordering::Acquire);
        let room = self.capacity.saturating_sub(waiting);
        if room == 0 || self.gathered_events > room {
            self.dropped += std::mem::take(&mut self.gathered_events) as u64;
            let newest = self.gathered.iter().rev().find_map(|item| match item {
                Item::Batch(clock) => Some(*clock),
                _ => None,
            });
            self.clock = self.clock.or(newest);
            self.gathered
                .retain(|item| matches!(item, Item::Start(_) | Item::Lost(_) | Item::End(_)));
            return;
        }
        self.send_all();
    }

    /// Adds to the next message. The clock comes before what it is for: alone it tells the consumer nothing.
    fn gather(&mut self, item: Item) {
        self.gathered.extend(self.clock.take().map(Item::Batch));
        self.gathered.push(item);
    }

    fn send_all(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let items = std::mem::take(&mut self.gathered);
        let events = std::mem::take(&mut self.gathered_events);
        self.shared.waiting.fetch_add(events, Ordering::AcqRel);
        let sent = self
            .messages
            .as_ref()
            .is_some_and(|messages| messages.send(items).is_ok());
        if !sent {
            // The consumer has failed, and said so.
            self.shared.waiting.fetch_sub(events, Ordering::AcqRel);
            self.dropped += events as u64;
        }
    }
}

/// The thread: until the loop is finished, or the consumer fails.
fn consume(mut consumer: Box<dyn Consumer>, received: &Receiver<Vec<Item>>, shared: &Shared) {
    loop {
        let items = match receive(received, consumer.due()) {
            Ok(items) => items,
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut events = 0;
        for item in items {
            match item {
                Item::Start(start) => consumer.start(&start),
                Item::Batch(wall_minus_mono_ns) => consumer.begin_batch(wall_minus_mono_ns),
                Item::Transition(connection) => {
                    events += 1;
                    consumer.event(&Event::Transition(Transition::in_mid_life(connection)));
                }
                Item::Event(event) => {
                    events += 1;
                    consumer.event(&event);
                }
                Item::Lost(lost) => consumer.lost(&lost),
                Item::End(end) => consumer.end(&end),
            }
        }
        let flow = consumer.flush();
        shared.count_undelivered(consumer.take_dropped());
        shared.waiting.fetch_sub(events, Ordering::AcqRel);
        match flow {
            Ok(Flow::Open) => {}
            Ok(Flow::Closed) => return,
            Err(why) => {
                log::warn!("{}: {why}", consumer.name());
                return;
            }
        }
    }
    shared.count_undelivered(consumer.finish(Duration::MAX));
}

impl Shared {
    fn count_undelivered(&self, events: u64) {
        self.undelivered.fetch_add(events, Ordering::AcqRel);
    }
}

/// The next message, until the consumer wants to be called.
fn receive(
    received: &Receiver<Vec<Item>>,
    due: Option<Instant>,
) -> Result<Vec<Item>, RecvTimeoutError> {
    match due {
        Some(due) => received.recv_timeout(due.saturating_duration_since(Instant::now())),
        None => received.recv().map_err(Into::into),
    }
}

impl Consumer for Queued {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&mut self, start: &Start) {
        self.gather(Item::Start(Box::new(start.clone())));
    }

    fn begin_batch(&mut self, wall_minus_mono_ns: i64) {
        self.clock = Some(wall_minus_mono_ns);
    }

    fn event(&mut self, event: &Event) -> bool {
        self.gather(Item::of(event));
        self.gathered_events += 1;
        if self.gathered_events == MESSAGE_EVENTS {
            self.send();
        }
        true
    }

    fn lost(&mut self, lost: &Lost) {
        let earlier = self.gathered.iter_mut().find_map(|item| match item {
            Item::Lost(earlier) if earlier.cause == lost.cause => Some(earlier),
            _ => None,
        });
        match earlier {
            Some(earlier) => earlier.add(lost),
            None => self.gather(Item::Lost(*lost)),
        }
    }

    fn end(&mut self, end: &End) {
        self.gather(Item::End(*end));
    }

    fn flush(&mut self) -> Result<Flow, Error> {
        self.send();
        Ok(Flow::Open)
    }

    fn take_dropped(&mut self) -> u64 {
        let undelivered = self.shared.undelivered.swap(0, Ordering::AcqRel);
        std::mem::take(&mut self.dropped) + undelivered
    }

    fn finish_by(&mut self, _deadline: Instant) {
        self.send();
        self.send_all();
        // The thread ends behind the last message.
        self.messages = None;
    }

    fn finish(&mut self, within: Duration) -> u64 {
        self.send();
        self.send_all();
        // The thread ends behind the last message.
        self.messages = None;
        // Whether it ended or the time was up, the counter says what is left.
        let _ended = self.done.recv_timeout(within);
        self.shared.waiting.load(Ordering::Acquire) as u64 + self.take_dropped()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc::sync_channel};

    use tcptrace_common::record::{KIND_TRANSITION, Record};
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::event::LossCause;

    fn event() -> Event {
        let record = Record {
            kind: KIND_TRANSITION,
            ..Record::EMPTY
        };
        let mut decoded = None;
        Event::decode(record.as_bytes(), |event| {
            decoded = Some(*event);
            true
        })
        .unwrap();
        decoded.unwrap()
    }

    /// Counts its calls; waits at each flush until it may go on.
    struct Counter {
        calls: Arc<Mutex<(u64, Vec<&'static str>)>>,
        gate: Receiver<()>,
    }

    impl Consumer for Counter {
        fn name(&self) -> &'static str {
            "counter"
        }
        fn start(&mut self, _start: &Start) {
            self.calls.lock().unwrap().1.push("start");
        }
        fn begin_batch(&mut self, _wall_minus_mono_ns: i64) {}
        fn event(&mut self, _event: &Event) -> bool {
            self.calls.lock().unwrap().0 += 1;
            true
        }
        fn lost(&mut self, _lost: &Lost) {
            self.calls.lock().unwrap().1.push("lost");
        }
        fn end(&mut self, _end: &End) {
            self.calls.lock().unwrap().1.push("end");
        }
        fn flush(&mut self) -> Result<Flow, Error> {
            let _closed = self.gate.recv();
            Ok(Flow::Open)
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_nobody_waits() {
        let calls = Arc::new(Mutex::new((0, Vec::new())));
        let (open, gate) = sync_channel(100);
        let counter = Counter {
            calls: Arc::clone(&calls),
            gate,
        };
        let mut queued = Queued::new(Box::new(counter), 10).unwrap();
        let event = event();
        let mut dropped = 0;
        // The consumer is stuck: ten may wait, whether it has taken them or not.
        for _ in 0..25 {
            queued.event(&event);
            assert_eq!(queued.flush().unwrap(), Flow::Open);
            dropped += queued.take_dropped();
        }
        assert_eq!(dropped, 15);
        queued.end(&End::default());
        queued.flush().unwrap();
        for _ in 0..100 {
            open.send(()).unwrap();
        }
        drop(open);
        assert_eq!(queued.finish(Duration::from_mins(1)), 0);
        assert_eq!(*calls.lock().unwrap(), (10, vec!["end"]));
    }

    /// However long the consumer is stuck.
    #[test]
    fn what_waits_beside_events_is_bounded() {
        let calls = Arc::new(Mutex::new((0, Vec::new())));
        let (open, gate) = sync_channel(100);
        let counter = Counter {
            calls: Arc::clone(&calls),
            gate,
        };
        let mut queued = Queued::new(Box::new(counter), 10).unwrap();
        for turn in 0..1000 {
            queued.begin_batch(turn);
            queued.event(&event());
            if turn > 10 {
                queued.lost(&Lost::new(LossCause::SinkFull, 1, 1));
            }
            assert_eq!(queued.flush().unwrap(), Flow::Open);
            assert!(queued.gathered.len() <= 1);
        }
        for _ in 0..100 {
            open.send(()).unwrap();
        }
        drop(open);
        queued.finish(Duration::from_mins(1));
        assert_eq!(*calls.lock().unwrap(), (10, vec!["lost"]));
    }

    #[test]
    fn what_is_not_delivered_in_time_is_counted() {
        let calls = Arc::default();
        let (_open, gate) = sync_channel(0);
        let counter = Counter { calls, gate };
        let mut queued = Queued::new(Box::new(counter), 10).unwrap();
        queued.event(&event());
        assert_eq!(queued.finish(Duration::from_millis(1)), 1);
    }
}
