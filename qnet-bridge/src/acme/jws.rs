//! Signed requests (RFC 8555, section 6.2): flattened JWS (RFC 7515) by ES256 (RFC 7518, section 3.4).

use anyhow::{Result, ensure};
use boring::{
    bn::{BigNum, BigNumContext},
    ec::EcKey,
    ecdsa::EcdsaSig,
    pkey::{PKey, Private},
    sha::sha256,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// Bytes of a coordinate and of each half of a signature, on P-256.
const FIELD: usize = 32;
/// Longest token taken: Let's Encrypt's has 43 letters.
const MAX_TOKEN: usize = 256;

/// base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// An account's key and, once the authority has said it, its address there.
pub(super) struct Account {
    key: EcKey<Private>,
    id: Option<String>,
}

impl Account {
    /// The account of this key, which is on P-256.
    pub(super) fn new(key: &PKey<Private>) -> Result<Self> {
        let key = key.ec_key()?;
        ensure!(
            key.group().curve_name() == Some(boring::nid::Nid::X9_62_PRIME256V1),
            "the account's key is not on P-256"
        );
        Ok(Self { key, id: None })
    }

    pub(super) fn registered(&mut self, id: String) {
        self.id = Some(id);
    }

    /// The public key (RFC 7517); serde's maps are sorted, as its thumbprint wants it.
    fn jwk(&self) -> Result<Value> {
        let (mut x, mut y, mut context) = (BigNum::new()?, BigNum::new()?, BigNumContext::new()?);
        self.key.public_key().affine_coordinates_gfp(self.key.group(), &mut x, &mut y, &mut context)?;
        let coordinate = |number: &BigNum| -> Result<String> { Ok(encode(&number.to_vec_padded(FIELD)?)) };
        Ok(json!({ "crv": "P-256", "kty": "EC", "x": coordinate(&x)?, "y": coordinate(&y)? }))
    }

    /// What proves that this account asked (RFC 8555, section 8.1): the token and the key's thumbprint (RFC 7638).
    pub(super) fn key_authorization(&self, token: &str) -> Result<String> {
        let good = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        ensure!(
            good && !token.is_empty() && token.len() <= MAX_TOKEN,
            "the challenge's token is not base64url"
        );
        Ok(format!("{token}.{}", encode(&sha256(self.jwk()?.to_string().as_bytes()))))
    }

    /// A request to `url`; an empty payload is a question (RFC 8555, section 6.3).
    pub(super) fn sign(&self, url: &str, nonce: &str, payload: &str) -> Result<String> {
        let mut head = json!({ "alg": "ES256", "nonce": nonce, "url": url });
        match &self.id {
            Some(id) => head["kid"] = id.as_str().into(),
            None => head["jwk"] = self.jwk()?,
        }
        let (head, payload) = (encode(head.to_string().as_bytes()), encode(payload.as_bytes()));
        let signature = EcdsaSig::sign(&sha256(format!("{head}.{payload}").as_bytes()), &self.key)?;
        let halves = [signature.r().to_vec_padded(FIELD)?, signature.s().to_vec_padded(FIELD)?].concat();
        Ok(json!({ "protected": head, "payload": payload, "signature": encode(&halves) }).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account::new(&super::super::made::key().unwrap()).unwrap()
    }

    #[test]
    fn a_thumbprint_is_that_of_the_keys_members_in_order() {
        let account = account();
        let jwk = account.jwk().unwrap();
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
        let expected = format!("token.{}", encode(&sha256(text.as_bytes())));
        assert_eq!(account.key_authorization("token").unwrap(), expected);
        assert_eq!(jwk["x"].as_str().unwrap().len(), 43);
    }

    #[test]
    fn a_token_that_is_none_is_refused() {
        for token in ["", "a.b", "a/b", "a b", &"a".repeat(MAX_TOKEN + 1)] {
            assert!(account().key_authorization(token).is_err(), "{token}");
        }
    }

    #[test]
    fn the_signature_is_that_of_what_is_sent() {
        let mut account = account();
        for id in [None, Some("https://ca.example/1".to_owned())] {
            account.id = id;
            let sent: Value =
                serde_json::from_str(&account.sign("https://ca.example/x", "n", "{}").unwrap()).unwrap();
            let part = |name: &str| sent[name].as_str().unwrap().to_owned();
            let head: Value =
                serde_json::from_slice(&BASE64URL_NOPAD.decode(part("protected").as_bytes()).unwrap())
                    .unwrap();
            assert_eq!((&head["nonce"], &head["url"]), (&"n".into(), &"https://ca.example/x".into()));
            assert_eq!(head["kid"].is_string(), account.id.is_some());
            assert_eq!(head["jwk"].is_object(), account.id.is_none());
            let halves = BASE64URL_NOPAD.decode(part("signature").as_bytes()).unwrap();
            let number = |bytes: &[u8]| BigNum::from_slice(bytes).unwrap();
            let signature =
                EcdsaSig::from_private_components(number(&halves[..FIELD]), number(&halves[FIELD..]))
                    .unwrap();
            let digest = sha256(format!("{}.{}", part("protected"), part("payload")).as_bytes());
            assert!(signature.verify(&digest, &account.key).unwrap());
        }
    }
}
