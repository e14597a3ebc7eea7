//! What is made for an authority: keys, a request for a certificate, and the certificate that answers its challenge.

use anyhow::Result;
use boring::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    sha::sha256,
    stack::Stack,
    x509::{X509, X509Extension, X509Name, X509Req, extension::SubjectAlternativeName},
};

use crate::site::tls::Pair;

/// The extension that holds a key authorization's hash (RFC 8737, section 6.1).
const IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";
/// How long a challenge's certificate holds, days. The authority does not look.
const CHALLENGE_DAYS: u32 = 7;

/// A fresh key on P-256, for an account or a certificate.
pub(super) fn key() -> Result<PKey<Private>> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&group)?)?)
}

/// A request for a certificate for `name` (RFC 2986), DER. The name is where it belongs, in the extension alone.
pub(super) fn request(key: &PKey<Private>, name: &str) -> Result<Vec<u8>> {
    let mut builder = X509Req::builder()?;
    builder.set_version(0)?;
    builder.set_subject_name(&X509Name::builder()?.build())?;
    builder.set_pubkey(key)?;
    let names = SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None))?;
    let mut extensions = Stack::new()?;
    extensions.push(names)?;
    builder.add_extensions(&extensions)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build().to_der()?)
}

/// The certificate that answers a challenge (RFC 8737, section 3): self-signed, for the one name, with the hash of the key
/// authorization in a critical extension.
pub(super) fn challenge(name: &str, key_authorization: &str) -> Result<Pair> {
    let key = key()?;
    let mut subject = X509Name::builder()?;
    subject.append_entry_by_text("CN", "challenge")?;
    let subject = subject.build();
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(&subject)?;
    builder.set_pubkey(&key)?;
    let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(CHALLENGE_DAYS)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    let names = SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None))?;
    builder.append_extension(&names)?;
    let hash: String =
        sha256(key_authorization.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    // An OCTET STRING of 32 bytes; the value is ours, letters of hexadecimal.
    let identifier = X509Extension::new(None, None, IDENTIFIER, &format!("critical,DER:0420{hash}"))?;
    builder.append_extension(&identifier)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(Pair { chain: vec![builder.build()], key })
}
