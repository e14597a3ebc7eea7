//! The traffic secrets, collected from BoringSSL's key log callback into memory that is wiped.
//!
//! The callback belongs to the context, which all connections share; each connection's collector hangs on its `Ssl`.
#![forbid(unsafe_code)]

use std::sync::{Mutex, OnceLock, PoisonError};

use boring::error::ErrorStack;
use boring::ex_data::Index;
use boring::ssl::{Ssl, SslRef};
use zeroize::Zeroizing;

/// Longest secret: SHA-384's.
const MAX_SECRET: usize = 48;

/// Both application traffic secrets of one connection, once BoringSSL has derived them.
#[derive(Default)]
pub(super) struct TrafficSecrets {
    pub(super) client: Option<Zeroizing<Vec<u8>>>,
    pub(super) server: Option<Zeroizing<Vec<u8>>>,
}

type Slot = Mutex<TrafficSecrets>;

fn index() -> Result<Index<Ssl, Slot>, ErrorStack> {
    // BoringSSL never gives an index back, so one serves the whole process.
    static INDEX: OnceLock<Index<Ssl, Slot>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    let new = Ssl::new_ex_index()?;
    Ok(*INDEX.get_or_init(|| new))
}

/// Hangs an empty collector on `ssl`.
pub(super) fn attach(ssl: &mut Ssl) -> Result<(), ErrorStack> {
    ssl.set_ex_data(index()?, Slot::default());
    Ok(())
}

/// Takes what the collector of `ssl` has.
pub(super) fn take(ssl: &SslRef) -> TrafficSecrets {
    let slot = index().ok().and_then(|index| ssl.ex_data(index));
    slot.map(|slot| std::mem::take(&mut *slot.lock().unwrap_or_else(PoisonError::into_inner)))
        .unwrap_or_default()
}

/// The key log callback: a line is `LABEL client_random secret`, the latter two in hexadecimal.
pub(super) fn collect(ssl: &SslRef, line: &str) {
    let mut words = line.split(' ');
    let (Some(label), Some(_random), Some(secret)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let Some(slot) = index().ok().and_then(|index| ssl.ex_data(index)) else { return };
    let mut secrets = slot.lock().unwrap_or_else(PoisonError::into_inner);
    match label {
        "CLIENT_TRAFFIC_SECRET_0" => secrets.client = decode(secret),
        "SERVER_TRAFFIC_SECRET_0" => secrets.server = decode(secret),
        _ => {} // handshake and exporter secrets: not needed
    }
}

fn decode(hex: &str) -> Option<Zeroizing<Vec<u8>>> {
    if !hex.len().is_multiple_of(2) || hex.len() > 2 * MAX_SECRET {
        return None;
    }
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_SECRET)); // never moved by growing, so nothing is left behind
    for pair in hex.as_bytes().as_chunks::<2>().0 {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        secret.push(u8::try_from(high? << 4 | low?).ok()?);
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_decoded_or_refused() {
        assert_eq!(decode("00ff1A").map(|s| s.to_vec()), Some(vec![0, 0xff, 0x1a]));
        assert_eq!(decode("0"), None);
        assert_eq!(decode("0g"), None);
        assert_eq!(decode(&"00".repeat(48)).map(|s| s.len()), Some(48));
        assert_eq!(decode(&"00".repeat(49)), None);
    }
}
