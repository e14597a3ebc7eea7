//! The one writer of standard output, the parent's channel.
//!
//! Lines go through a bounded queue to a thread of their own, so that a parent that does not read never holds
//! the transport up. What is optional (LOG and STATUS) is limited in rate: Arti drops what exceeds a queue of 64,
//! and a flood would push out the lines that matter.

use qnet_pt_ipc::line::{Line, Severity};
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lines that may wait for the parent. The configuration protocol needs fewer than ten.
const QUEUE: usize = 64;
/// Optional lines that may come at once: a quarter of Arti's queue, so that it never overflows.
const BURST: u32 = 16;
/// Time that earns one more optional line.
const REFILL: Duration = Duration::from_secs(1);
/// How long an ending process waits for its last lines to be read.
const FLUSH: Duration = Duration::from_millis(500);

/// A handle on the writer; clones share it.
#[derive(Clone)]
pub struct Output {
    queue: SyncSender<Message>,
    limiter: Arc<Mutex<Limiter>>,
}

enum Message {
    Line(String),
    Flushed(SyncSender<()>),
}

impl Output {
    /// Starts the writer.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        std::thread::Builder::new().name("stdout".to_owned()).spawn(move || write_lines(&messages))?;
        Ok(Self { queue, limiter: Arc::new(Mutex::new(Limiter::new(Instant::now()))) })
    }

    /// A line of the configuration protocol, never left out.
    pub fn line(&self, line: &Line<'_>) {
        self.push(line);
    }

    /// Something for the parent's log, if there is room.
    pub fn log(&self, severity: Severity, message: &str) {
        self.optional(&Line::Log { severity, message });
    }

    /// A transport's state, if there is room.
    pub fn status(&self, pairs: &[(&str, &str)]) {
        self.optional(&Line::Status(pairs));
    }

    /// Waits until the lines so far are written, but not for ever.
    pub fn flush(&self) {
        let (done, flushed) = sync_channel(1);
        if self.queue.try_send(Message::Flushed(done)).is_ok() {
            let _ = flushed.recv_timeout(FLUSH);
        }
    }

    fn optional(&self, line: &Line<'_>) {
        let allowed = self.limiter.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now());
        let Some(left_out) = allowed else { return };
        if left_out > 0 {
            let message = format!("{left_out} messages were left out: too many at once");
            self.push(&Line::Log { severity: Severity::Notice, message: &message });
        }
        self.push(line);
    }

    fn push(&self, line: &Line<'_>) {
        // A full queue is a parent that reads nothing: there is nobody to tell.
        let _ = self.queue.try_send(Message::Line(line.to_string()));
    }
}

fn write_lines(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            // Where the parent is gone, its death is noticed elsewhere.
            Message::Line(line) => {
                let mut stdout = std::io::stdout().lock();
                let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
            }
            Message::Flushed(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// A bucket of tokens.
struct Limiter {
    tokens: u32,
    filled: Instant,
    left_out: u32,
}

impl Limiter {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now, left_out: 0 }
    }

    /// Whether a line may go, and how many could not before it.
    fn allow(&mut self, now: Instant) -> Option<u32> {
        while self.tokens < BURST && now.saturating_duration_since(self.filled) >= REFILL {
            self.tokens += 1;
            self.filled += REFILL;
        }
        if self.tokens == BURST {
            self.filled = now;
        }
        // The line that tells what was left out needs room too.
        let cost = if self.left_out > 0 { 2 } else { 1 };
        if self.tokens < cost {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.tokens -= cost;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_a_while_and_a_count_of_what_was_left_out() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let passed = (0..100).filter(|_| limiter.allow(start).is_some()).count();
        assert_eq!(passed, 16);
        assert_eq!(limiter.allow(start + REFILL), None, "two lines need two tokens");
        assert_eq!(limiter.allow(start + 2 * REFILL), Some(85));
        assert_eq!(limiter.allow(start + 2 * REFILL), None);
        let later = start + 1_000 * REFILL;
        assert_eq!((0..100).filter(|_| limiter.allow(later).is_some()).count(), 15);
    }
}
