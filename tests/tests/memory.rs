//! What an idle tunnel keeps of memory, both ends of it together, and what is left of one that was closed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::tunnel::{dialer, echo_bridge, runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Tunnels at once.
const TUNNELS: i64 = 50;
/// Bytes an idle tunnel may keep, client and bridge together. 16.3 KiB were measured.
const IDLE: i64 = 17 * 1024;
/// Bytes that the echo behind the bridge keeps for it: tokio's buffer for a copy, which is no part of a tunnel.
const ECHO: i64 = 8 * 1024;
/// Bytes a closed one may leave, for tables that grew. None were measured beyond noise.
const LEFT: i64 = 1024;
/// Longer than buffers are held after the last byte.
const REST: Duration = Duration::from_secs(3);

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: everything is handed to the system's allocator as it came; only sizes are counted on the way.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(i64::try_from(layout.size()).unwrap_or(0), Ordering::Relaxed);
        // SAFETY: the caller keeps this trait's contract, and it is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(i64::try_from(layout.size()).unwrap_or(0), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn an_idle_tunnel_keeps_little_and_a_closed_one_nothing() -> Result<()> {
    isolated("an_idle_tunnel_keeps_little_and_a_closed_one_nothing", || runtime()?.block_on(measure()))
}

async fn measure() -> Result<()> {
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let (_, line) = echo_bridge(&decoy).await?;
    let dialer = dialer(&decoy)?;
    let mut baseline = 0;
    for round in 0..2 {
        let mut streams = Vec::new();
        for _ in 0..TUNNELS {
            let mut stream = dialer.dial(&line).await?.open()?;
            stream.write_all(b"hello").await?;
            stream.read_exact(&mut [0; 5]).await?;
            streams.push(stream);
        }
        tokio::time::sleep(REST).await;
        let idle = LIVE.load(Ordering::Relaxed);
        drop(streams);
        tokio::time::sleep(REST).await;
        let closed = LIVE.load(Ordering::Relaxed);
        // The first round is for what is allocated once.
        if round == 1 {
            let (kept, left) = ((idle - closed) / TUNNELS - ECHO, (closed - baseline) / TUNNELS);
            ensure!(kept <= IDLE, "an idle tunnel keeps {kept} bytes");
            ensure!(left <= LEFT, "a closed tunnel leaves {left} bytes");
        }
        baseline = closed;
    }
    Ok(())
}
