//! Who may use a bridge (docs/protocol.md, sections 3 and 4).

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use qnet_wire::key::IdentityKey;
use zeroize::Zeroizing;

use crate::knock::KnockKey;
use crate::token::Token;

/// Who may use a bridge.
#[derive(Clone, PartialEq, Eq)]
pub enum Admission {
    /// Whoever has its line.
    Open,
    /// The clients with these static public keys: nobody, where there is none. Each costs a key derivation for every hello with a
    /// token, so that who lists them bounds their number.
    Invited(Vec<[u8; 32]>),
}

/// Whom a bridge serves is nothing for logs.
impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Invited(clients) => write!(f, "Invited({} clients)", clients.len()),
        }
    }
}

/// A bridge's [`Admission`], which may change while carriers come and go.
pub struct Door(RwLock<Arc<Guests>>);

enum Guests {
    Open,
    Invited(Vec<Guest>),
}

/// An invited client, with what costs an X25519 and is the same for each of its hellos.
struct Guest {
    client: [u8; 32],
    /// X25519(client static, bridge static).
    shared: Zeroizing<[u8; 32]>,
}

/// A key that a knock may have been made with.
pub(crate) struct Candidate {
    pub(crate) key: KnockKey,
    /// The static key message 3 must show, on a bridge by invitation.
    pub(crate) client: Option<[u8; 32]>,
}

impl Door {
    /// The door of the bridge with this key.
    #[must_use]
    pub fn new(identity: &IdentityKey, admission: &Admission) -> Self {
        Self(RwLock::new(Arc::new(Guests::new(identity, admission))))
    }

    /// Admits other clients from now on. `identity`: the bridge's key. Who has been admitted before and is not now may still have a
    /// session: see [`Sessions::cut`](crate::session::Sessions::cut), to be called after this.
    pub fn set(&self, identity: &IdentityKey, admission: &Admission) {
        let guests = Arc::new(Guests::new(identity, admission));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = guests;
    }

    /// Whether the client with this static key may use the bridge.
    #[must_use]
    pub fn admits(&self, client: &[u8; 32]) -> bool {
        match &*self.guests() {
            Guests::Open => true,
            Guests::Invited(guests) => guests.iter().any(|guest| guest.client == *client),
        }
    }

    /// The clients that are invited; `None` on an open bridge.
    #[must_use]
    pub fn clients(&self) -> Option<Vec<[u8; 32]>> {
        match &*self.guests() {
            Guests::Open => None,
            Guests::Invited(guests) => Some(guests.iter().map(|guest| guest.client).collect()),
        }
    }

    /// The keys that a knock on this connection may have been made with.
    pub(crate) fn candidates(&self, token: &Token, salt: [u8; 32]) -> Vec<Candidate> {
        match &*self.guests() {
            Guests::Open => vec![Candidate { key: KnockKey::with_salt(token, None, salt), client: None }],
            Guests::Invited(guests) => guests
                .iter()
                .map(|Guest { client, shared }| Candidate {
                    key: KnockKey::with_salt(token, Some(shared), salt),
                    client: Some(*client),
                })
                .collect(),
        }
    }

    fn guests(&self) -> Arc<Guests> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Guests {
    fn new(identity: &IdentityKey, admission: &Admission) -> Self {
        match admission {
            Admission::Open => Self::Open,
            // A point of low order is nobody's key.
            Admission::Invited(clients) => Self::Invited(
                clients
                    .iter()
                    .filter_map(|client| {
                        Some(Guest { client: *client, shared: identity.diffie_hellman(client)? })
                    })
                    .collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    const LOW_ORDER: [u8; 32] = [0; 32];

    fn identity(seed: u8) -> IdentityKey {
        IdentityKey::from_bytes([seed; 32])
    }

    fn token() -> Token {
        Token::generate(&mut ChaCha20Rng::from_seed([1; 32]))
    }

    #[test]
    fn nobody_is_invited_by_an_empty_list() {
        let (bridge, client) = (identity(1), identity(2).public().0);
        let open = Door::new(&bridge, &Admission::Open);
        assert!(open.admits(&client));
        assert_eq!(open.candidates(&token(), [0; 32]).len(), 1);
        for nobody in [vec![], vec![LOW_ORDER]] {
            let door = Door::new(&bridge, &Admission::Invited(nobody));
            assert!(!door.admits(&client) && !door.admits(&LOW_ORDER));
            assert!(door.candidates(&token(), [0; 32]).is_empty());
        }
    }

    #[test]
    fn what_is_set_holds_from_then_on() {
        let (bridge, one, other) = (identity(1), identity(2), identity(3));
        let clients =
            |keys: &[&IdentityKey]| Admission::Invited(keys.iter().map(|key| key.public().0).collect());
        let door = Door::new(&bridge, &clients(&[&one, &other]));
        let found = door.candidates(&token(), [0; 32]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].client, Some(other.public().0));
        door.set(&bridge, &clients(&[&other]));
        assert!(!door.admits(&one.public().0) && door.admits(&other.public().0));
        assert_eq!(door.candidates(&token(), [0; 32]).len(), 1);
    }

    #[test]
    fn debug_output_shows_nobody() {
        assert_eq!(format!("{:?}", Admission::Invited(vec![[7; 32]])), "Invited(1 clients)");
    }
}
