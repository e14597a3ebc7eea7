//! Sealing and opening records allocate nothing once the buffers have grown.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use qnet_proto::record::{Cipher, MAX_CONTENT, RecordOpener, RecordSealer};
use qnet_proto::tls::{Opener, Sealer, Secret, Suite};

/// The system's allocator, with a count of what it is asked for. What BoringSSL takes from `malloc` is not seen: it
/// does so when a key is set, never for a record.
struct Counting;

thread_local! {
    /// Of this thread alone: the test runner's own allocate when they like.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn allocations() -> usize {
    ALLOCATIONS.get()
}

// SAFETY: every method passes its arguments on to `System` unchanged, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps this function's contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECORDS: usize = 1_000;

/// Sizes from the smallest to the largest, the largest first, so that buffers grow once.
fn size(turn: usize) -> usize {
    MAX_CONTENT - turn * 4_099 % (MAX_CONTENT + 1)
}

fn htx(cipher: Cipher, content: &[u8], out: &mut Vec<u8>, scratch: &mut Vec<u8>) -> usize {
    let mut sealer = RecordSealer::new(cipher, &[1; 32], [2; 12], 0);
    let mut opener = RecordOpener::new(cipher, &[1; 32], [2; 12], 0);
    let mut in_place = RecordOpener::new(cipher, &[1; 32], [2; 12], 0);
    let before = allocations();
    for turn in 0..RECORDS {
        out.clear();
        let start = sealer.begin(out);
        out.extend_from_slice(&content[..size(turn)]);
        sealer.finish(out, start, 23, Some(1_400));
        assert!(opener.open(out, scratch).is_ok());
        assert!(in_place.open_in_place(out).is_ok());
    }
    allocations() - before
}

fn tls(suite: Suite, content: &[u8], out: &mut Vec<u8>, scratch: &mut Vec<u8>) -> usize {
    let secret = Secret::new(suite, &[3; 48][..suite.secret_len()]).unwrap();
    let mut sealer = Sealer::new(suite, secret.clone(), 0, 0);
    let mut opener = Opener::new(suite, secret, 0, 0);
    let before = allocations();
    for turn in 0..RECORDS {
        out.clear();
        sealer.seal(23, &content[..size(turn)], out);
        assert!(opener.open(out, scratch).is_ok());
    }
    allocations() - before
}

// One test: another thread's allocations would be counted too.
#[test]
fn records_allocate_nothing() {
    let content = vec![7; MAX_CONTENT];
    let room = || Vec::with_capacity(MAX_CONTENT + 64);
    let (mut out, mut scratch) = (room(), room());
    assert!(allocations() > 2, "the count counts");
    for cipher in [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm] {
        assert_eq!(htx(cipher, &content, &mut out, &mut scratch), 0);
    }
    for suite in [Suite::Aes128GcmSha256, Suite::Aes256GcmSha384, Suite::ChaCha20Poly1305Sha256] {
        assert_eq!(tls(suite, &content, &mut out, &mut scratch), 0);
    }
}
