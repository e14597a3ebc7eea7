//! A connection with TLS, while somebody waits for each step.

use qnet_proto::Ended;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::DialError;
use crate::tls::{Connected, HandshakeError, Tls};

/// How much is asked of the socket at once: one record of the largest size.
const READ_SIZE: usize = 16_384 + 256 + 5;

/// A socket and TLS over it.
pub(super) struct Link {
    pub(super) tcp: TcpStream,
    pub(super) tls: Tls,
    /// Bytes of the socket not yet given to TLS.
    unread: Vec<u8>,
}

impl Link {
    pub(super) fn new(tcp: TcpStream, connected: Connected) -> Self {
        Self { tcp, tls: connected.tls, unread: connected.unread }
    }

    /// Sends `content` as one record.
    pub(super) async fn send(&mut self, content: &[u8]) -> Result<(), DialError> {
        let mut out = Vec::new();
        self.tls.write(content, &mut out).map_err(explain)?;
        self.tcp.write_all(&out).await.map_err(|_| DialError::Tunnel(Ended::Reset))
    }

    /// Waits for bytes and gives what was in them, perhaps nothing. Dropping the future loses nothing.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, DialError> {
        if self.unread.is_empty() {
            self.unread.reserve(READ_SIZE);
            let read = self.tcp.read_buf(&mut self.unread).await;
            if read.map_err(|_| DialError::Tunnel(Ended::Reset))? == 0 {
                return Err(DialError::Tunnel(Ended::PeerClosed));
            }
        }
        let (mut content, mut out) = (Vec::new(), Vec::new());
        let unread = std::mem::take(&mut self.unread);
        let outcome = self.tls.read(&unread, &mut content, &mut out);
        if !out.is_empty() {
            // Short: an alert, or the answer to a key update. Why it was written says more than that it could not be sent.
            let _ = self.tcp.try_write(&out);
        }
        outcome.map(|()| content).map_err(explain)
    }
}

fn explain(end: Option<HandshakeError>) -> DialError {
    end.map_or(DialError::Tunnel(Ended::PeerClosed), DialError::Handshake)
}
