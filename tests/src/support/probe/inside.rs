//! Plays a script inside TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use boring::ssl::{ShutdownState, SslStream};

use super::{Observation, Seen, Step};
use crate::support::flow::End;
use crate::support::visitor::Visitor;

/// The least time that is waited for bytes: none at all would be for ever.
const MOMENT: Duration = Duration::from_millis(1);

/// A connection, and what was seen of it.
struct Player {
    tls: SslStream<TcpStream>,
    started: Instant,
    plain: Vec<u8>,
    first: Option<Duration>,
    last: Option<Duration>,
    end: Option<(End, Duration)>,
}

/// The handshake is the visitor's own; then the steps, and then listening until it ends or `limit` is over.
///
/// # Errors
/// The connection or its handshake fails.
pub(super) fn play(
    visitor: &Visitor,
    steps: &[Step],
    address: SocketAddr,
    limit: Duration,
) -> Result<Observation> {
    let started = Instant::now();
    let tls = visitor.connect(address, limit)?;
    tls.get_ref().set_write_timeout(Some(limit))?;
    let mut player = Player { tls, started, plain: Vec::new(), first: None, last: None, end: None };
    for step in steps {
        match step {
            Step::Send(bytes) => player.send(bytes),
            Step::Drip(bytes, piece, pause) => {
                for piece in bytes.chunks((*piece).max(1)) {
                    player.listen(Instant::now() + *pause)?;
                    player.send(piece);
                }
            }
            Step::Wait(time) => player.listen(Instant::now() + *time)?,
            Step::HalfClose => {
                // Whoever is gone needs no word.
                player.tls.shutdown().ok();
                player.tls.get_ref().shutdown(Shutdown::Write).ok();
            }
        }
    }
    player.listen(started + limit)?;
    Ok(player.observation())
}

impl Player {
    /// What cannot be sent shows in what comes, or in that nothing does.
    fn send(&mut self, bytes: &[u8]) {
        if self.end.is_none() {
            self.tls.write_all(bytes).ok();
        }
    }

    fn listen(&mut self, until: Instant) -> Result<()> {
        let mut piece = [0; 16_384];
        while self.end.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.tls.get_ref().set_read_timeout(Some(left.max(MOMENT)))?;
            let outcome = self.tls.read(&mut piece);
            let at = self.started.elapsed();
            match outcome {
                Ok(count) if count > 0 => {
                    self.plain.extend(piece.get(..count).unwrap_or_default());
                    self.first.get_or_insert(at);
                    self.last = Some(at);
                }
                Err(error) if is_waiting(&error) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.end = Some((End::Rst, at));
                }
                // TLS is over, and TCP at once or later.
                _ => return self.tcp_end(until),
            }
        }
        Ok(())
    }

    fn tcp_end(&mut self, until: Instant) -> Result<()> {
        let mut tcp = self.tls.get_ref();
        let left = until.saturating_duration_since(Instant::now());
        tcp.set_read_timeout(Some(left.max(MOMENT)))?;
        let end = match tcp.read(&mut [0; 1]) {
            Ok(0) => End::Fin,
            Err(error) if is_waiting(&error) => return Ok(()),
            // An alert left what was to come unread, or it was reset.
            Ok(_) | Err(_) => End::Rst,
        };
        self.end = Some((end, self.started.elapsed()));
        Ok(())
    }

    fn observation(mut self) -> Observation {
        let notified = self.tls.get_shutdown().contains(ShutdownState::RECEIVED);
        let notice = Seen { kind: 21, version: 0x0303, length: 2, whole: true, alert: Some((1, 0)) };
        Observation {
            records: if notified { vec![notice] } else { Vec::new() },
            plain: self.plain,
            end: self.end.map(|(end, _)| end),
            ended_at: self.end.map(|(_, at)| at),
            first_at: self.first,
            last_at: self.last,
            then_resets: None,
        }
    }
}

fn is_waiting(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
