//! The memory allocator of QNet's programs, and how it is set.
//!
//! A connection takes large buffers while its page loads, and keeps small things for hours after. glibc's allocator puts both side
//! by side and keeps the pages between, and its threads' caches hold single small pieces of many pages more: a connection at rest
//! cost twice what it held, and a closed one left a third of that behind (docs/decisions/0014-jemalloc.md). jemalloc keeps
//! pieces of one size together and gives pages back by itself, in a thread of its own.
//!
//! A program takes it with `use qnet_allocator as _;`. `BoringSSL`'s pieces come from it as well. Libraries leave the choice to
//! the program they are in.
#![deny(unsafe_code)] // for one symbol that jemalloc looks for

/// Everything that Rust code allocates.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads when it starts (jemalloc(3), "TUNING"). No caches of threads: they pin a page for each small piece, and
/// records are carried without allocating. Free pages go back after half a second, which is longer than the pause between the
/// parts of a page load.
// SAFETY: jemalloc declares this symbol as `const char *`, which a reference to bytes that end in zero is, and only reads it.
#[expect(unsafe_code, reason = "jemalloc finds its settings by the symbol's name")]
#[used]
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 97] =
    b"background_thread:true,max_background_threads:1,tcache:false,dirty_decay_ms:500,muzzy_decay_ms:0\0";
