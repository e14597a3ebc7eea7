//! Which carriers a session has, and how a carrier proves that it may carry it.

use std::fmt;
use std::time::{Duration, Instant};

use qnet_wire::error::{Kind, Retry};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{MAX_STRIPES, Need, Profile, SessionId};
use crate::frame::{Join, SESSION_ID_LEN};
use crate::kdf;
use crate::mux::Role;
use crate::record::DirectionSecret;

/// How long an older carrier is heard after it was gently replaced, if what it still had to bring does not come: longer than
/// TCP takes to repeat a lost segment three times.
const DRAIN: Duration = Duration::from_secs(10);

/// A carrier's number in its session: the first is 0, each further one's above all before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CarrierNumber(pub u32);

/// What a carrier is to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarrierState {
    /// It has asked to join.
    Joining,
    /// It carries.
    Active,
    /// It was replaced gently: what is on its way still counts, nothing is sent.
    Draining,
    /// Not a carrier of this session, or no more.
    Retired,
}

/// How a carrier joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Older carriers are retired at once.
    Replace,
    /// What is on its way on older carriers still counts.
    Gently,
    /// As many carriers as this carry the session, 2 to [`MAX_STRIPES`]; the oldest beyond is retired.
    Striped(u8),
}

impl Mode {
    pub(super) fn to_wire(self) -> u8 {
        match self {
            Self::Replace => 0,
            Self::Gently => 1,
            Self::Striped(count) => count,
        }
    }

    pub(super) fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Replace),
            1 => Some(Self::Gently),
            2..=MAX_STRIPES => Some(Self::Striped(byte)),
            _ => None,
        }
    }
}

/// Both sides' static public keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Statics {
    /// The client's, the same on all carriers of a session.
    pub client: [u8; 32],
    /// The bridge's.
    pub bridge: [u8; 32],
}

/// Keys are nothing for logs.
impl fmt::Debug for Statics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Statics")
    }
}

/// Why a JOIN is not accepted. The peer is told none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// No such session, or no such positions or mode in it.
    #[error("a carrier asks to join a session that is not known")]
    Unknown,
    /// The proof or the static key is not the session's.
    #[error("a carrier asks to join a session that is not its own")]
    Forged,
    /// Its number is not above every earlier one.
    #[error("a carrier asks to join under a number that was used")]
    Number,
}

impl JoinError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Unknown | Self::Forged | Self::Number => Kind::PeerMisbehaved,
        }
    }

    /// Whether another JOIN can help.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            Self::Unknown | Self::Forged | Self::Number => Retry::Never,
        }
    }
}

/// What proves that a carrier belongs to a session.
pub(super) struct Secret {
    id: SessionId,
    secret: Zeroizing<[u8; 32]>,
    statics: Statics,
}

impl Secret {
    /// From the first carrier's split (docs/protocol.md, section 16).
    pub(super) fn derive(up: &DirectionSecret, down: &DirectionSecret, statics: Statics) -> Self {
        let mut both = Zeroizing::new([0; 64]);
        for (to, from) in both.iter_mut().zip(up.expose().iter().chain(down.expose())) {
            *to = *from;
        }
        let prk = kdf::extract(&[0; 32], &*both);
        let mut secret = Zeroizing::new([0; 32]);
        kdf::expand::<Sha256>(&*prk, &[b"qnet session v1"], &mut *secret);
        let mut id = [0; SESSION_ID_LEN];
        kdf::expand::<Sha256>(&*prk, &[b"qnet session id v1"], &mut id);
        Self { id: SessionId(id), secret, statics }
    }

    pub(super) fn client(&self) -> [u8; 32] {
        self.statics.client
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// The proof in a JOIN that `role` sends.
    pub(super) fn mac(&self, role: Role, join: &Join, handshake_hash: &[u8; 32]) -> [u8; 32] {
        let mut fields = vec![match role {
            Role::Client => 0,
            Role::Bridge => 1,
        }];
        join.encode_fields(&mut fields);
        kdf::mac(&self.secret, &[&fields, &self.statics.client, &self.statics.bridge, handshake_hash])
    }

    /// Checks a JOIN that `role` sent; `client`: the static key of its carrier's handshake.
    pub(super) fn check(
        &self,
        role: Role,
        join: &Join,
        handshake_hash: &[u8; 32],
        client: Option<&[u8; 32]>,
    ) -> Result<(), JoinError> {
        let right = self.mac(role, join, handshake_hash).ct_eq(&join.mac)
            & join.id.ct_eq(&self.id.0)
            & client.unwrap_or(&self.statics.client).ct_eq(&self.statics.client);
        if right.into() { Ok(()) } else { Err(JoinError::Forged) }
    }

    /// A carrier's own limits, drawn by the secret.
    pub(super) fn limits(&self, number: u32, profile: &Profile) -> Limits {
        let mut drawn = [0; 16];
        kdf::expand::<Sha256>(&*self.secret, &[b"limits", &number.to_be_bytes()], &mut drawn);
        let (mut age, mut volume) = ([0; 8], [0; 8]);
        age.copy_from_slice(drawn.split_at(8).0);
        volume.copy_from_slice(drawn.split_at(8).1);
        let pick = |low: u64, high: u64, draw: [u8; 8]| {
            low + u64::from_be_bytes(draw) % high.saturating_sub(low).saturating_add(1).max(1)
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2);
        Limits {
            age: Duration::from_millis(pick(millis(*profile.age.start()), millis(*profile.age.end()), age)),
            volume: pick(*profile.volume.start(), *profile.volume.end(), volume),
        }
    }
}

/// How long, and for how many bytes of both directions, a carrier is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    age: Duration,
    volume: u64,
}

#[derive(Debug)]
struct Slot {
    number: CarrierNumber,
    state: CarrierState,
    mode: Mode,
    since: Instant,
    limits: Option<Limits>,
    carried: u64,
    /// Why another should take its place.
    spent: Option<Need>,
    /// Where the first bytes stood that it brought.
    first: Option<u64>,
    /// The end of what was sent on it.
    sent_until: u64,
    /// Client: the position that its JOIN says is expected.
    told: u64,
}

/// The carriers of a session.
#[derive(Debug)]
pub(super) struct Carriers {
    slots: Vec<Slot>,
    /// The lowest number a new one may have.
    next: u32,
    detached: Option<Instant>,
    drained_by: Option<Instant>,
}

impl Carriers {
    pub(super) fn new(now: Instant) -> Self {
        Self { slots: Vec::new(), next: 0, detached: Some(now), drained_by: None }
    }

    fn enter(&mut self, number: CarrierNumber, state: CarrierState, mode: Mode, now: Instant) {
        self.next = number.0.saturating_add(1);
        self.slots.push(Slot {
            number,
            state,
            mode,
            since: now,
            limits: None,
            carried: 0,
            spent: None,
            first: None,
            sent_until: 0,
            told: 0,
        });
    }

    fn slot(&mut self, number: CarrierNumber) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.number == number)
    }

    pub(super) fn first(&mut self, limits: Limits, now: Instant) -> CarrierNumber {
        let number = CarrierNumber(self.next);
        self.enter(number, CarrierState::Active, Mode::Replace, now);
        if let Some(slot) = self.slot(number) {
            slot.limits = Some(limits);
        }
        self.detached = None;
        number
    }

    /// Client: a number for one that asks, and says that `next` is expected.
    pub(super) fn ask(&mut self, mode: Mode, next: u64, now: Instant) -> CarrierNumber {
        let number = CarrierNumber(self.next);
        self.enter(number, CarrierState::Joining, mode, now);
        if let Some(slot) = self.slot(number) {
            slot.told = next;
        }
        number
    }

    /// Client: how the carrier of this number asked, and what it said.
    pub(super) fn asked(&self, number: CarrierNumber) -> Option<(Mode, u64)> {
        let asks = |slot: &&Slot| slot.number == number && slot.state == CarrierState::Joining;
        self.slots.iter().find(asks).map(|slot| (slot.mode, slot.told))
    }

    pub(super) fn asking(&self) -> bool {
        self.slots.iter().any(|slot| slot.state == CarrierState::Joining)
    }

    pub(super) fn accepted(&mut self, number: CarrierNumber, mode: Mode, limits: Limits, now: Instant) {
        if let Some(slot) = self.slot(number) {
            (slot.state, slot.since, slot.limits) = (CarrierState::Active, now, Some(limits));
        }
        self.make_way(number, mode, now);
    }

    /// Bridge: one that may join.
    pub(super) fn admit(&mut self, number: CarrierNumber, mode: Mode, now: Instant) -> Result<(), JoinError> {
        if number.0 < self.next {
            return Err(JoinError::Number);
        }
        self.enter(number, CarrierState::Active, mode, now);
        self.make_way(number, mode, now);
        Ok(())
    }

    fn make_way(&mut self, number: CarrierNumber, mode: Mode, now: Instant) {
        self.detached = None;
        if mode == Mode::Gently {
            for slot in self.slots.iter_mut().filter(|slot| slot.number != number) {
                slot.state = CarrierState::Draining;
            }
            self.drained_by = Some(now + DRAIN).filter(|_| self.slots.len() > 1);
        }
    }

    pub(super) fn retire_all_but(&mut self, number: CarrierNumber) {
        self.slots.retain(|slot| slot.number == number);
        self.drained_by = None;
    }

    /// Retires the oldest beyond `count`; whether there was one.
    pub(super) fn keep_newest(&mut self, count: u8) -> bool {
        let active = |slot: &Slot| slot.state == CarrierState::Active;
        let extra = self.slots.iter().filter(|slot| active(slot)).count().saturating_sub(usize::from(count));
        for _ in 0..extra {
            if let Some(at) = self.slots.iter().position(active) {
                self.slots.remove(at);
            }
        }
        extra > 0
    }

    /// Returns the end of what was sent on it.
    pub(super) fn remove(&mut self, number: CarrierNumber, now: Instant) -> u64 {
        let sent_until = self.slot(number).map_or(0, |slot| slot.sent_until);
        self.slots.retain(|slot| slot.number != number);
        if self.detached.is_none() && !self.any_active() {
            self.detached = Some(now);
        }
        sent_until
    }

    pub(super) fn state_of(&self, number: CarrierNumber) -> CarrierState {
        let slot = self.slots.iter().find(|slot| slot.number == number);
        slot.map_or(CarrierState::Retired, |slot| slot.state)
    }

    pub(super) fn any_active(&self) -> bool {
        self.slots.iter().any(|slot| slot.state == CarrierState::Active)
    }

    pub(super) fn detached(&self) -> Option<Instant> {
        self.detached
    }

    pub(super) fn going_away(&mut self, number: CarrierNumber) {
        if let Some(slot) = self.slot(number) {
            slot.spent = Some(Need::GoingAway);
        }
    }

    /// It carried bytes, in either direction. Only then is its age looked at: a carrier that nobody uses is left alone.
    pub(super) fn carried(&mut self, number: CarrierNumber, bytes: usize, now: Instant) {
        let Some(slot) = self.slot(number) else { return };
        slot.carried = slot.carried.saturating_add(bytes as u64);
        let Some(limits) = &slot.limits else { return };
        if slot.carried >= limits.volume {
            slot.spent.get_or_insert(Need::Volume);
        } else if now.saturating_duration_since(slot.since) >= limits.age {
            slot.spent.get_or_insert(Need::Age);
        }
    }

    /// Session bytes up to `until` were given to it.
    pub(super) fn sent(&mut self, number: CarrierNumber, until: u64) {
        if let Some(slot) = self.slot(number) {
            slot.sent_until = slot.sent_until.max(until);
        }
    }

    /// Bytes at `position` came.
    pub(super) fn heard(&mut self, number: CarrierNumber, position: u64) {
        if let Some(slot) = self.slot(number)
            && slot.state == CarrierState::Active
        {
            slot.first.get_or_insert(position);
        }
    }

    /// Lets go of the older carriers once they have nothing to bring: what a newer one began with is expected now, so that
    /// they have brought all they had, and the peer has acknowledged all that was given to them.
    pub(super) fn settle(&mut self, expected: u64, acknowledged: u64) {
        if self.drained_by.is_none() {
            return;
        }
        let in_state = |state| self.slots.iter().filter(move |slot| slot.state == state);
        let brought = in_state(CarrierState::Active).find_map(|slot| slot.first);
        let unsure = in_state(CarrierState::Draining).any(|slot| slot.sent_until > acknowledged);
        if !unsure && brought.is_some_and(|first| first <= expected) {
            self.end_draining();
        }
    }

    /// Returns the end of what was sent on those that are let go.
    fn end_draining(&mut self) -> u64 {
        let drained = self.slots.iter().filter(|slot| slot.state == CarrierState::Draining);
        let sent_until = drained.map(|slot| slot.sent_until).max().unwrap_or_default();
        self.slots.retain(|slot| slot.state != CarrierState::Draining);
        self.drained_by = None;
        sent_until
    }

    pub(super) fn drained_by(&self) -> Option<Instant> {
        self.drained_by
    }

    /// Returns the end of what was sent on carriers whose time is over, 0 if there is none.
    pub(super) fn on_timer(&mut self, now: Instant) -> u64 {
        if self.drained_by.is_some_and(|at| at <= now) { self.end_draining() } else { 0 }
    }

    /// Why the oldest of the active ones that are spent should be replaced, and since when it is there.
    pub(super) fn replace_at(&self) -> Option<(Need, Instant)> {
        let mut active = self.slots.iter().filter(|slot| slot.state == CarrierState::Active);
        active.find_map(|slot| slot.spent.map(|need| (need, slot.since)))
    }

    /// Whether fewer carry than should.
    pub(super) fn wants_more(&self, stripes: u8) -> Option<(Need, Instant)> {
        let active = || self.slots.iter().filter(|slot| slot.state == CarrierState::Active);
        let since = active().map(|slot| slot.since).max()?;
        (active().count() < usize::from(stripes.min(MAX_STRIPES))).then_some((Need::Stripe, since))
    }
}
