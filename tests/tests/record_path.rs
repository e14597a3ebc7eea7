//! What a record costs on its way from one socket to another: what is asked of the allocator between two moments of a transfer that has
//! been under way for a while, by the client's relay and carrier and by the bridge's, all in this process.
//!
//! # Copies
//!
//! Besides what the kernel and the ciphers do, a byte is copied twice at each end: at the sender's from the relay's buffer into
//! the stream's queue, and from there into the record that is sealed in place; at the receiver's from the opened record into the
//! stream's queue, and from there into the relay's buffer. The sender copies it once more, into the session's log, where it is
//! kept until it is acknowledged.

#![allow(clippy::disallowed_methods, reason = "a test owns its clock, and blocks only threads of its own")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::tunnel::{dialer, listener_before, runtime};
use qnet_transport::relay::relay;
use tokio::net::TcpStream;

/// What is carried before anything is counted: buffers have grown, windows opened, the page load is over.
const WARM_UP: u64 = 24 << 20;

/// What is carried while it is counted: before the carrier has had enough, at 64 MiB or more, and another one loads a page.
const COUNTED: u64 = 32 << 20;

/// The source's pause between two pieces of 64 KiB. Streams whose readers lag by more than the spare memory that a session keeps take
/// more of it, which is no matter of records: this build's would, at the speed of loopback.
const PACE: Duration = Duration::from_millis(2);

/// A full record's content, bytes. What goes up is cut by the client's shape, what goes down by the decoy's records, no shorter.
const RECORD: u64 = 16_384;

/// Allocations a thousand records may need; 300 to 350 were measured in this build on a busy machine, 5,900 when queues gave their
/// memory back whenever they fell empty. None is a record's own buffer: a queue that swings further than the spare memory that its
/// session keeps takes a segment for each quarter of a record, and how far it swings is the scheduler's choice.
const MOST: u64 = 1_000;

/// How many allocations are told of with where they came from.
const TOLD: usize = 12;

struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
static WHERE: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    /// This thread looks where an allocation came from, which allocates.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// Counts one, of all threads.
fn count(size: usize) {
    if !COUNTS.load(Ordering::Relaxed) || LOOKS.replace(true) {
        return;
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    // Each further one is more likely a steady one than the first.
    if number.is_power_of_two() {
        let mut told = WHERE.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD {
            told.push(format!("number {number}, {size} bytes:\n{}", own(&Backtrace::force_capture())));
        }
    }
    LOOKS.set(false);
}

/// The part of a backtrace that lies in this project.
fn own(trace: &Backtrace) -> String {
    let text = trace.to_string();
    let lines = text.lines().map(str::trim).filter(|line| line.contains("/transport/"));
    lines.take(8).collect::<Vec<_>>().join("\n")
}

// SAFETY: everything is handed to the system's allocator as it came; only calls are counted on the way.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps this trait's contract, and it is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

// One test: another's allocations would be counted too.
#[test]
fn a_record_allocates_next_to_nothing() -> Result<()> {
    isolated("a_record_allocates_next_to_nothing", || {
        for down in [true, false] {
            let (count, told) = runtime()?.block_on(carried(down))?;
            let records = COUNTED / RECORD;
            let way = if down { "down" } else { "up" };
            let which = told.join("\n");
            ensure!(
                count * 1_000 <= MOST * records,
                "{way}: {count} allocations for {records} records, among them\n{which}"
            );
        }
        Ok(())
    })
}

/// How many allocations there were while [`COUNTED`] bytes went one way, and where some of them were.
async fn carried(down: bool) -> Result<(u64, Vec<String>)> {
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let (mut listener, line) = listener_before(decoy.address(), decoy.name())?;
    let far = StdListener::bind("127.0.0.1:0")?;
    let near = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (target, entrance) = (far.local_addr()?, near.local_addr()?);
    tokio::spawn(async move {
        while let Some(mut incoming) = listener.accept().await {
            let mut socket = TcpStream::connect(target).await?;
            tokio::spawn(async move { relay(&mut incoming.stream, &mut socket, |_, _| {}).await });
        }
        anyhow::Ok(())
    });
    let tunnel = dialer(&decoy)?.dial(&line).await?;
    let source_and_sink = thread::spawn(move || {
        let mut one = StdStream::connect(entrance)?;
        // A stream is told of with its first byte.
        one.write_all(b"x")?;
        let (mut other, _) = far.accept()?;
        other.read_exact(&mut [0])?;
        let (source, sink) = if down { (other, one) } else { (one, other) };
        move_and_count(source, sink)
    });
    let (mut socket, _) = near.accept().await?;
    let mut stream = tunnel.open()?;
    // It ends as the sink ends, and so does the stream then.
    relay(&mut socket, &mut stream, |_, _| {}).await.ok();
    drop((socket, stream));
    let moved = tokio::task::spawn_blocking(move || source_and_sink.join());
    moved.await?.ok().context("the far ends panicked")?
}

/// Two threads without any allocation of their own.
fn move_and_count(mut source: StdStream, mut sink: StdStream) -> Result<(u64, Vec<String>)> {
    let (mut given, mut taken) = (vec![7; 1 << 16], vec![0; 1 << 16]);
    sink.set_read_timeout(Some(Duration::from_secs(60)))?;
    let gives = thread::spawn(move || {
        // Ends when the sink does.
        while source.write_all(&given).is_ok() {
            thread::sleep(PACE);
        }
        given.clear();
    });
    let mut take = |bytes: u64| -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let count = sink.read(&mut taken)? as u64;
            ensure!(count > 0, "it ended");
            left = left.saturating_sub(count);
        }
        Ok(())
    };
    take(WARM_UP)?;
    COUNT.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::Relaxed);
    let outcome = take(COUNTED);
    COUNTS.store(false, Ordering::Relaxed);
    outcome?;
    sink.shutdown(Shutdown::Both)?;
    drop(sink);
    gives.join().ok().context("the source panicked")?;
    let told = std::mem::take(&mut *WHERE.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((COUNT.load(Ordering::Relaxed), told))
}
