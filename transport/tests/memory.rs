//! What a finished handshake leaves in memory, in a process of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's own helpers and figures")]

mod support;

use qnet_proto::token;
use qnet_transport::tls::{Roots, aes_hardware, handshake};
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use support::{NAME, Site};
use tokio::net::TcpStream;

/// Most bytes resident for each finished handshake: what it returns is under 5 KB, and an idle client has 64 KB in all.
const MOST: usize = 8 * 1024;
const HANDSHAKES: usize = 400;

/// Bytes of this process that are resident and its own.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
}

#[tokio::test]
async fn a_finished_handshake_keeps_only_what_it_returns() {
    let site = Site::ordinary();
    let server = site.nginx("");
    let start = resident();
    let roots = Roots::with(Some(&site.ca()), None).unwrap();
    let loaded = resident();
    let name: ServerName = NAME.parse().unwrap();
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let key = IdentityKey::generate(&mut rng).public();
    let mut kept = Vec::with_capacity(2 * HANDSHAKES);
    let mut before = 0;
    for round in 0..2 * HANDSHAKES {
        if round == HANDSHAKES {
            before = resident(); // the first half warmed the allocator and BoringSSL's caches
        }
        let offer = token::offer(&mut rng, &key, &name, aes_hardware());
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        kept.push(handshake(&mut tcp, &offer, &name, &roots).await.unwrap());
    }
    let each = resident().saturating_sub(before) / HANDSHAKES;
    println!("roots: {} bytes; each handshake: {each} bytes", loaded - start);
    assert!(each < MOST, "{each} bytes");
    assert!(loaded - start < 8 << 20, "{} bytes of roots", loaded - start);
}
