//! A websocket server such as a site's pages talk to: whatever is said to it, it answers with random bytes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tungstenite::{Error, Message, WebSocket};

/// An answer's least length, and how much longer answers are at most: news of a moment, or a picture, bytes.
const LEAST: usize = 60;
const MORE: [usize; 3] = [800, 4_000, 30_000];

/// The server, without TLS: a web server stands in front. It takes no connections any more when this is dropped.
#[derive(Debug)]
pub struct TalkServer {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TalkServer {
    /// Starts it at `address`.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let closed = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&closed);
        let thread = thread::spawn(move || {
            for (seed, tcp) in listener.incoming().flatten().enumerate() {
                if theirs.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever leaves without a word ends the conversation as well.
                thread::spawn(move || talk(tcp, seed as u64));
            }
        });
        Ok(Self { address, closed, thread: Some(thread) })
    }
}

impl Drop for TalkServer {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the listener, so that its port is free again.
        TcpStream::connect(self.address).ok();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn talk(tcp: TcpStream, seed: u64) -> Result<()> {
    tcp.set_nodelay(true)?;
    let socket = tungstenite::accept(tcp);
    let mut socket: WebSocket<TcpStream> = socket.map_err(|error| anyhow!("no websocket: {error}"))?;
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    loop {
        match socket.read() {
            Ok(Message::Binary(_) | Message::Text(_)) => {
                let more = MORE.get(rng.next_u32() as usize % MORE.len()).copied().unwrap_or(LEAST);
                let mut answer = vec![0; LEAST + rng.next_u32() as usize % more];
                rng.fill_bytes(&mut answer);
                socket.send(Message::binary(answer))?;
            }
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
