//! Gives memory back to the system.
//!
//! Buffers are taken when data comes and freed when it stops, between small things that stay as long as their connection.
//! glibc keeps such gaps until it is asked for them.
#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "glibc's own call has no safe wrapper"))]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long after data moved or a connection ended the gaps are given back. Longer than the transport holds its buffers.
const PAUSE: Duration = Duration::from_secs(2);
/// At most so many pauses pass without giving back, however much moves.
const PATIENCE: u32 = 5;

static USED: AtomicBool = AtomicBool::new(false);

/// Notes that memory was in use just now.
pub fn used() {
    USED.store(true, Ordering::Relaxed);
}

/// Gives memory back whenever the process has come to rest after some use, and now and then while it has not.
pub async fn give_back_when_idle() {
    let mut waited = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let used = USED.swap(false, Ordering::Relaxed);
        if used && waited < PATIENCE {
            waited += 1;
        } else if used || waited > 0 {
            waited = 0;
            give_back();
        }
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: malloc_trim(3) takes no pointers, may be called from any thread at any time, and moves nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do it by themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}
