//! TLS with the decoy after its handshake, over bare record protection: what BoringSSL would do with tickets, key updates and
//! alerts (RFC 8446, section 4.6).

use crate::{
    frame::Handover,
    scan::{self, APPLICATION_DATA},
    tls::{Opener, Sealer},
};

/// Bytes of post-handshake messages kept until whole; a ticket is a few hundred.
const MAX_HANDSHAKE: usize = 16 * 1024;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// A KeyUpdate that asks for none in return.
const KEY_UPDATE_ANSWER: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// What a record of the decoy's says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing for the layer above.
    Nothing,
    /// Application data, in the scratch.
    Data,
    /// An alert: level and description.
    Alert([u8; 2]),
    /// It opened and makes no sense.
    Nonsense,
}

/// The record does not open.
#[derive(Debug, PartialEq, Eq)]
pub struct Unopened;

/// Both directions' protection, and the messages that change it.
pub struct DecoyTls {
    /// To the decoy.
    pub sealer: Sealer,
    /// From the decoy.
    pub opener: Opener,
    handshake: Vec<u8>,
}

impl DecoyTls {
    /// Both directions, as they stand after the handshake or after HANDOVER.
    pub fn new(sealer: Sealer, opener: Opener) -> Self {
        Self { sealer, opener, handshake: Vec::new() }
    }

    /// Opens a whole record of outer type 23 into `scratch`. What it owes in return is appended to `out`.
    ///
    /// # Errors
    /// [`Unopened`]: the record is not one of the decoy's next.
    pub fn read(
        &mut self,
        record: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Said, Unopened> {
        match self.opener.open(record, scratch) {
            Err(_) => Err(Unopened),
            Ok(APPLICATION_DATA) => Ok(Said::Data),
            Ok(scan::HANDSHAKE) => Ok(self.message(scratch, out)),
            Ok(scan::ALERT) => {
                Ok(<[u8; 2]>::try_from(scratch.as_slice()).map_or(Said::Nonsense, Said::Alert))
            }
            Ok(_) => Ok(Said::Nonsense),
        }
    }

    fn message(&mut self, content: &[u8], out: &mut Vec<u8>) -> Said {
        self.handshake.extend_from_slice(content);
        while let [kind, high, middle, low, ..] = *self.handshake {
            let total = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
            if total > MAX_HANDSHAKE {
                return Said::Nonsense;
            }
            if self.handshake.len() < total {
                break;
            }
            let asked = self.handshake.get(4) == Some(&1);
            self.handshake.drain(..total);
            match kind {
                NEW_SESSION_TICKET => {}
                KEY_UPDATE => {
                    self.opener.key_update();
                    if asked {
                        self.sealer.seal(scan::HANDSHAKE, &KEY_UPDATE_ANSWER, out);
                        self.sealer.key_update();
                    }
                }
                _ => return Said::Nonsense,
            }
        }
        Said::Nothing
    }

    /// What the bridge needs to go on with this connection (docs/protocol.md, section 10).
    pub(crate) fn handover(&self, requests: u32) -> Handover {
        let (up, down) = (self.sealer.direction(), self.opener.direction());
        Handover {
            suite: up.suite().into(),
            requests,
            up_first: up.first_index(),
            down_first: down.first_index(),
            up_secret: up.secret().as_bytes().to_vec().into(),
            down_secret: down.secret().as_bytes().to_vec().into(),
        }
    }
}
