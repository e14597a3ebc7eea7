//! HTX records inside a websocket's messages (docs/protocol.md, section 17), and the keys until Noise's are there.
//!
//! TLS ends at the web server or CDN in between, so records stand there in the clear. Their headers are masked as QUIC masks
//! its own (RFC 9001, section 5.4): who does not know the bridge's key, host and path sees random bytes.

use qnet_wire::key::BridgeKey;
use qnet_wire::url::WebsocketUrl;
use rand_core::Rng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::buffer::Inbox;
use crate::frame::Frame;
use crate::kdf;
use crate::mux::Role;
use crate::noise;
use crate::record::{Cipher, DirectionSecret, MAX_CONTENT, RecordOpener, RecordSealer};
use crate::scan::{HEADER_LEN, Head, protected_head};
use crate::session::SharedSession;
use crate::sizes::below;
use crate::tunnel::{NOISE, Tunnel};

/// Random bytes before the first record up.
pub(super) const NONCE_LEN: usize = 32;
/// What every hash here begins with.
const LABEL: &[u8] = b"qnet htx ws v1";
/// Bytes of a record after its header that its mask is made of: every record has as many, its tag alone.
const SAMPLE_LEN: usize = 16;
/// The inner type byte and the tag.
const OVERHEAD: usize = 17;
/// A message shorter than this is padded by up to as much again, so that a lone control frame has no length of its own.
const SHORT: usize = 160;
/// A record of a PADDING frame alone.
const LEAST_PADDING: usize = 4 + OVERHEAD;

/// What both sides hash in before message 1.
pub(super) fn prologue(url: &WebsocketUrl, nonce: &[u8; NONCE_LEN]) -> Vec<u8> {
    let mut out = LABEL.to_vec();
    for part in [url.host().as_str(), url.path()] {
        // A bridge line's parts are far shorter than that.
        out.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(nonce);
    out
}

/// Hides the headers of one direction's records.
struct Veil(Zeroizing<[u8; 32]>);

impl Veil {
    fn mask(&self, sample: &[u8]) -> [u8; HEADER_LEN] {
        let mac = kdf::mac(&self.0, &[sample]);
        *mac.first_chunk().unwrap_or(&[0; HEADER_LEN])
    }

    /// Masks or unmasks the header at the front; nothing where too little of the record is there.
    fn turn(&self, record: &mut [u8]) {
        let Some((header, rest)) = record.split_at_mut_checked(HEADER_LEN) else { return };
        let Some(sample) = rest.get(..SAMPLE_LEN) else { return };
        for (byte, mask) in header.iter_mut().zip(self.mask(sample)) {
            *byte ^= mask;
        }
    }

    /// Masks the headers of whole records.
    fn cover(&self, mut records: &mut [u8]) {
        while let Head::Record { total, .. } = protected_head(records) {
            let Some((record, rest)) = records.split_at_mut_checked(total) else { return };
            self.turn(record);
            records = rest;
        }
    }
}

/// What comes from the peer, record by record.
pub(super) struct Incoming {
    inbox: Inbox,
    veil: Veil,
    /// The header at the front is unmasked.
    bare: bool,
}

/// What came is no record, by its header.
pub(super) struct Strange;

impl Incoming {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.inbox.extend(bytes);
    }

    /// The length of the whole record at the front, if it is there.
    pub(super) fn whole(&mut self) -> Result<Option<usize>, Strange> {
        if self.inbox.len() < HEADER_LEN + SAMPLE_LEN {
            return Ok(None);
        }
        if !std::mem::replace(&mut self.bare, true) {
            self.veil.turn(self.inbox.data_mut());
        }
        match protected_head(self.inbox.data()) {
            Head::More => Ok(None),
            Head::Foreign => Err(Strange),
            Head::Record { total, .. } => Ok((self.inbox.len() >= total).then_some(total)),
        }
    }

    /// The record of which [`Incoming::whole`] told.
    pub(super) fn record(&mut self, total: usize) -> &mut [u8] {
        self.inbox.data_mut().get_mut(..total).unwrap_or_default()
    }

    pub(super) fn consume(&mut self, total: usize) {
        self.inbox.consume(total);
        self.bare = false;
    }

    pub(super) fn allocated(&self) -> usize {
        self.inbox.allocated()
    }

    pub(super) fn shrink(&mut self) {
        self.inbox.shrink();
    }
}

/// What goes to the peer, until it is made a message of.
pub(super) struct Outgoing {
    veil: Veil,
    sealed: Vec<u8>,
}

impl Outgoing {
    /// Seals a Noise message as one record of no constant length.
    pub(super) fn noise(&mut self, tunnel: &mut Tunnel, message: &[u8], rng: &mut impl Rng) {
        let framed = noise::framed(message);
        let start = tunnel.sealer.begin(&mut self.sealed);
        self.sealed.extend_from_slice(&framed);
        let length = framed.len() + OVERHEAD + below(rng, framed.len() / 4 + 64);
        tunnel.sealer.finish(&mut self.sealed, start, NOISE, Some(length));
    }

    /// Where records are sealed.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.sealed
    }

    /// Whether what was sealed is too short to be a message by itself.
    pub(super) fn is_short(&self) -> bool {
        self.sealed.len() < SHORT
    }

    /// What was sealed, as one message's content, until it is [taken](Self::taken); nothing where nothing was.
    pub(super) fn message(&mut self, tunnel: &mut Tunnel, rng: &mut impl Rng) -> Option<&[u8]> {
        if self.sealed.is_empty() {
            return None;
        }
        if self.is_short() {
            let length = LEAST_PADDING + below(rng, SHORT);
            tunnel.seal_frames(&[Frame::Padding], Some(length), &mut self.sealed);
        }
        self.veil.cover(&mut self.sealed);
        Some(&self.sealed)
    }

    /// The message was taken.
    pub(super) fn taken(&mut self) {
        self.sealed.clear();
    }

    pub(super) fn allocated(&self) -> usize {
        self.sealed.capacity()
    }

    pub(super) fn shrink(&mut self) {
        self.sealed = Vec::new();
    }
}

/// Both directions and the tunnel in them, shaped by `seed`, under the keys that hold until Noise's are there.
pub(super) fn begin(
    role: Role,
    session: SharedSession,
    bridge: &BridgeKey,
    url: &WebsocketUrl,
    nonce: &[u8; NONCE_LEN],
    seed: [u8; 32],
) -> (Tunnel, Incoming, Outgoing) {
    let salt = Sha256::new().chain_update(LABEL).chain_update(url.host().as_str()).chain_update(url.path());
    let prk = kdf::extract(&salt.finalize().into(), &[&bridge.0[..], nonce].concat());
    let derive = |info: &[u8]| {
        let mut secret = Zeroizing::new([0; 32]);
        kdf::expand::<Sha256>(&*prk, &[info], &mut *secret);
        secret
    };
    let keys = |info: &[u8]| DirectionSecret::new(derive(info)).keys();
    let veil = |info: &[u8]| Veil(derive(info));
    let (send, receive, send_veil, receive_veil) = match role {
        Role::Client => (keys(b"up"), keys(b"down"), veil(b"up header"), veil(b"down header")),
        Role::Bridge => (keys(b"down"), keys(b"up"), veil(b"down header"), veil(b"up header")),
    };
    let chacha = Cipher::ChaCha20Poly1305;
    let sealer = RecordSealer::new(chacha, &send.key, send.iv, 0);
    let opener = RecordOpener::new(chacha, &receive.key, receive.iv, 0);
    let tunnel = Tunnel::new(session, sealer, opener, MAX_CONTENT, (role, seed));
    let incoming = Incoming { inbox: Inbox::default(), veil: receive_veil, bare: false };
    (tunnel, incoming, Outgoing { veil: send_veil, sealed: Vec::new() })
}
