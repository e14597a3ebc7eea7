use ml_kem::array::Array;
use ml_kem::kem::{Decapsulate, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768, Seed};
use qnet_wire::key::{BridgeKey, IdentityKey};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, Zeroizing};

use super::crypto::Resolver;
use super::{
    DH_LEN, KEM_CIPHERTEXT_LEN, KEM_KEY_LEN, MAX_EARLY, MESSAGE1_MAX, MESSAGE1_MIN, MESSAGE2_LEN,
    MESSAGE3_LEN, NoiseError, TAG_LEN,
};
use crate::kdf;
use crate::record::{Cipher, DirectionSecret};

const PATTERN: &str = "Noise_XKpsk2_25519_ChaChaPoly_SHA256";
/// Where `psk2` puts its key.
const PSK_PLACE: usize = 2;

/// What a finished handshake gives.
pub struct Established {
    /// Traffic secret of client to bridge.
    pub up: DirectionSecret,
    /// Traffic secret of bridge to client.
    pub down: DirectionSecret,
    /// The cipher under these secrets, by the client's choice.
    pub cipher: Cipher,
    /// The peer's static public key: on the client the bridge's, on the bridge the client's.
    pub peer_static: [u8; 32],
    /// Noise's handshake hash (Noise, section 11.2): the same on both sides, and of this handshake alone.
    pub handshake_hash: [u8; 32],
}

/// The client, before message 1.
pub struct Initiator {
    bridge: BridgeKey,
    static_key: IdentityKey,
    prologue: Vec<u8>,
    ephemeral: Zeroizing<[u8; 32]>,
    kem_seed: Zeroizing<[u8; 64]>,
}

impl Initiator {
    /// Draws what the handshake needs: 32 bytes of ephemeral key, then 64 of ML-KEM seed.
    ///
    /// `static_key` is fresh for each session, unless the bridge is by invitation; `prologue` is
    /// [`prologue`](super::prologue)'s.
    pub fn new(
        rng: &mut impl CryptoRng,
        bridge: &BridgeKey,
        static_key: &IdentityKey,
        prologue: &[u8],
    ) -> Self {
        let mut ephemeral = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *ephemeral);
        let mut kem_seed = Zeroizing::new([0; 64]);
        rng.fill_bytes(&mut *kem_seed);
        Self {
            bridge: *bridge,
            static_key: static_key.clone(),
            prologue: prologue.to_vec(),
            ephemeral,
            kem_seed,
        }
    }

    /// Writes message 1.
    ///
    /// `early` are frames, at most [`MAX_EARLY`] bytes; they are **neither forward secret nor post-quantum**: whoever
    /// later learns the bridge's key, or breaks X25519, reads them. Nor does the bridge know who sent them.
    ///
    /// # Errors
    /// [`NoiseError::EarlyData`] if that is too much, [`NoiseError::LowOrder`] if the bridge's key is no key.
    pub fn message1(self, cipher: Cipher, early: &[u8]) -> Result<(Vec<u8>, AwaitMessage2), NoiseError> {
        if early.len() > MAX_EARLY {
            return Err(NoiseError::EarlyData(early.len()));
        }
        let mut seed = Seed::from(*self.kem_seed);
        let kem = DecapsulationKey768::from_seed(seed);
        seed.as_mut_slice().zeroize();
        let kem_key = kem.encapsulation_key().to_bytes();
        let mut noise = builder(self.ephemeral)?
            .local_private_key(self.static_key.expose())?
            .remote_public_key(&self.bridge.0)?
            .prologue(&self.prologue)?
            .build_initiator()?;
        let payload = Zeroizing::new([&[cipher.to_wire()], &kem_key[..], early].concat());
        let message = write(&mut noise, &payload)?;
        Ok((message, AwaitMessage2 { noise, kem, cipher }))
    }
}

/// The client, between message 1 and message 2.
pub struct AwaitMessage2 {
    noise: HandshakeState,
    kem: DecapsulationKey768,
    cipher: Cipher,
}

impl AwaitMessage2 {
    /// Reads message 2 and writes message 3, with which the client is done.
    ///
    /// # Errors
    /// [`NoiseError::Length`], [`NoiseError::Authentication`], [`NoiseError::LowOrder`].
    pub fn read(mut self, message2: &[u8]) -> Result<(Vec<u8>, Established), NoiseError> {
        if message2.len() != MESSAGE2_LEN {
            return Err(NoiseError::Length(message2.len()));
        }
        let (ciphertext, message) =
            message2.split_first_chunk::<KEM_CIPHERTEXT_LEN>().ok_or(NoiseError::Length(message2.len()))?;
        let secret = Zeroizing::new(<[u8; 32]>::from(self.kem.decapsulate(&Array::from(*ciphertext))));
        let kem_key = self.kem.encapsulation_key().to_bytes();
        self.noise.set_psk(PSK_PLACE, &*psk(&kem_key, ciphertext, &secret))?;
        read(&mut self.noise, message)?;
        let message3 = write(&mut self.noise, &[])?;
        Ok((message3, established(self.noise, self.cipher)?))
    }
}

/// The bridge, before message 1.
pub struct Responder {
    identity: IdentityKey,
    prologue: Vec<u8>,
    ephemeral: Zeroizing<[u8; 32]>,
    kem_random: Zeroizing<[u8; 32]>,
}

impl Responder {
    /// Draws what the handshake needs: 32 bytes of ephemeral key, then 32 for the encapsulation.
    pub fn new(rng: &mut impl CryptoRng, identity: &IdentityKey, prologue: &[u8]) -> Self {
        let mut ephemeral = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *ephemeral);
        let mut kem_random = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *kem_random);
        Self { identity: identity.clone(), prologue: prologue.to_vec(), ephemeral, kem_random }
    }

    /// Reads message 1.
    ///
    /// # Errors
    /// [`NoiseError::Length`], [`NoiseError::Authentication`], [`NoiseError::LowOrder`], [`NoiseError::Cipher`],
    /// [`NoiseError::KemKey`].
    pub fn read1(self, message1: &[u8]) -> Result<(Message1, SendMessage2), NoiseError> {
        if !(MESSAGE1_MIN..=MESSAGE1_MAX).contains(&message1.len()) {
            return Err(NoiseError::Length(message1.len()));
        }
        let mut noise = builder(self.ephemeral)?
            .local_private_key(self.identity.expose())?
            .prologue(&self.prologue)?
            .build_responder()?;
        let payload = read(&mut noise, message1)?;
        let length = NoiseError::Length(message1.len());
        let Some((&[cipher], rest)) = payload.split_first_chunk() else { return Err(length) };
        let Some((kem_key, early)) = rest.split_first_chunk::<KEM_KEY_LEN>() else { return Err(length) };
        let cipher = Cipher::from_wire(cipher).ok_or(NoiseError::Cipher(cipher))?;
        let kem = EncapsulationKey768::new(&Array::from(*kem_key)).map_err(|_| NoiseError::KemKey)?;
        let next = SendMessage2 { noise, kem, kem_random: self.kem_random, cipher };
        Ok((Message1 { cipher, early: early.to_vec() }, next))
    }
}

/// What message 1 tells the bridge.
pub struct Message1 {
    /// The cipher of the transport keys.
    pub cipher: Cipher,
    /// Early data: frames, unchecked, at most [`MAX_EARLY`] bytes, from a client that is not yet known.
    pub early: Vec<u8>,
}

/// The bridge, between message 1 and message 2.
pub struct SendMessage2 {
    noise: HandshakeState,
    kem: EncapsulationKey768,
    kem_random: Zeroizing<[u8; 32]>,
    cipher: Cipher,
}

impl SendMessage2 {
    /// Writes message 2, the KEM ciphertext before it.
    ///
    /// # Errors
    /// [`NoiseError::LowOrder`] is refused in message 1 already; what remains is [`NoiseError::Library`].
    pub fn write(mut self) -> Result<(Vec<u8>, AwaitMessage3), NoiseError> {
        let mut random = Array::from(*self.kem_random);
        let (ciphertext, mut shared) = self.kem.encapsulate_deterministic(&random);
        random.as_mut_slice().zeroize();
        let secret = Zeroizing::new(<[u8; 32]>::from(shared));
        shared.as_mut_slice().zeroize();
        self.noise.set_psk(PSK_PLACE, &*psk(&self.kem.to_bytes(), &ciphertext, &secret))?;
        let mut message2 = ciphertext.to_vec();
        message2.extend_from_slice(&write(&mut self.noise, &[])?);
        Ok((message2, AwaitMessage3 { noise: self.noise, cipher: self.cipher }))
    }
}

/// The bridge, between message 2 and message 3.
pub struct AwaitMessage3 {
    noise: HandshakeState,
    cipher: Cipher,
}

impl AwaitMessage3 {
    /// Reads message 3, with which the bridge is done.
    ///
    /// # Errors
    /// [`NoiseError::Length`], [`NoiseError::Authentication`], [`NoiseError::LowOrder`].
    pub fn read(mut self, message3: &[u8]) -> Result<Established, NoiseError> {
        if message3.len() != MESSAGE3_LEN {
            return Err(NoiseError::Length(message3.len()));
        }
        read(&mut self.noise, message3)?;
        established(self.noise, self.cipher)
    }
}

fn builder<'a>(ephemeral: Zeroizing<[u8; 32]>) -> Result<Builder<'a>, NoiseError> {
    let params = PATTERN.parse().map_err(NoiseError::Library)?;
    Ok(Builder::with_resolver(params, Box::new(Resolver { ephemeral })))
}

fn write(noise: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, NoiseError> {
    // The most a message of this pattern adds: a key, the key's tag, the payload's.
    let mut message = vec![0; payload.len() + DH_LEN + 2 * TAG_LEN];
    let length = noise.write_message(payload, &mut message)?;
    message.truncate(length);
    Ok(message)
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
    let mut payload = Zeroizing::new(vec![0; message.len()]);
    let length = noise.read_message(message, &mut payload)?;
    payload.truncate(length);
    Ok(payload)
}

/// The key that makes the handshake hybrid: `HKDF(KEM secret, SHA-256(key ‖ ciphertext), "qnet psk v1")`.
fn psk(kem_key: &[u8], ciphertext: &[u8], secret: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let salt = Sha256::new().chain_update(kem_key).chain_update(ciphertext).finalize();
    let prk = kdf::extract(&salt.into(), secret);
    let mut psk = Zeroizing::new([0; 32]);
    kdf::expand::<Sha256>(&*prk, &[b"qnet psk v1"], &mut *psk);
    psk
}

fn established(mut noise: HandshakeState, cipher: Cipher) -> Result<Established, NoiseError> {
    let missing = || NoiseError::Library(snow::Error::Input);
    let peer_static = *noise.get_remote_static().and_then(<[u8]>::first_chunk).ok_or_else(missing)?;
    let handshake_hash = *noise.get_handshake_hash().first_chunk().ok_or_else(missing)?;
    let (up, down) = noise.dangerously_get_raw_split();
    Ok(Established {
        up: DirectionSecret::new(Zeroizing::new(up)),
        down: DirectionSecret::new(Zeroizing::new(down)),
        cipher,
        peer_static,
        handshake_hash,
    })
}
