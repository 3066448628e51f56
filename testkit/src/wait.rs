//! Waiting with a deadline, for what cannot be waited for otherwise.

use std::time::{Duration, Instant};

/// Asks again until there is an answer; [`None`] when the time is over.
pub fn poll<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
