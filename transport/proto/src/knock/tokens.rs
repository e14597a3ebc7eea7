//! The tokens that knocked.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use sha2::{Digest, Sha256};

use crate::token::Token;

/// How many tokens a bridge remembers (docs/protocol.md, section 4). Each costs about 60 bytes. A repeated hello meets
/// another ServerHello and so another K; this memory is a second wall, not the first.
pub const KNOCKED_TOKENS: usize = 65_536;

/// Bytes of a token's digest that are kept: whoever reads the memory does not get the tokens.
type Seen = [u8; 16];

/// Remembers the last tokens that knocked; the oldest goes first. Grows to its capacity and no further.
pub struct KnockedTokens {
    capacity: usize,
    pub(super) order: VecDeque<Seen>,
    // A tree and not a hash table, whose seed would have to come from a global generator.
    pub(super) seen: BTreeSet<Seen>,
}

impl KnockedTokens {
    /// Remembers up to `capacity` tokens, at least one: [`KNOCKED_TOKENS`] on a bridge.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), order: VecDeque::new(), seen: BTreeSet::new() }
    }

    /// Notes a token; `false` where it was there.
    pub fn insert(&mut self, token: &Token) -> bool {
        let digest: [u8; 32] =
            Sha256::new().chain_update(b"qnet knocked v1").chain_update(token.as_bytes()).finalize().into();
        let mut seen = Seen::default();
        seen.copy_from_slice(&digest[..16]);
        if !self.seen.insert(seen) {
            return false;
        }
        if self.order.len() >= self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(seen);
        true
    }
}

impl fmt::Debug for KnockedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnockedTokens({} of {})", self.order.len(), self.capacity)
    }
}
