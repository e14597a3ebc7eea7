//! A certificate authority that lives as long as a test, and what it signs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use boring::asn1::Asn1Time;
use boring::bn::{BigNum, MsbOption};
use boring::hash::MessageDigest;
use boring::pkey::{PKey, Private};
use boring::rsa::Rsa;
use boring::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use boring::x509::{X509, X509Builder, X509Name};

/// RSA, since its signatures have one length: with ECDSA a handshake's lengths differ from one to the next, which would
/// blur what a probe compares.
const KEY_BITS: u32 = 2_048;

/// Within what browsers accept of a server's certificate.
const VALID_DAYS: u32 = 90;

/// A CA and the certificate it gave to one site, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The CA's certificate: for `SSL_CERT_FILE`, `curl --cacert` and the like.
    pub ca: PathBuf,
    /// The site's certificate; there are none between it and the CA's.
    pub certificate: PathBuf,
    /// The site's private key.
    pub key: PathBuf,
    /// Key and certificate in one file, as some servers want them.
    pub both: PathBuf,
    /// The site's certificate, DER.
    pub der: Vec<u8>,
    /// SHA-256 of the site's public key (SubjectPublicKeyInfo, DER).
    pub spki_sha256: [u8; 32],
}

impl Certificates {
    /// Makes a CA and a certificate for `names` in `folder`.
    ///
    /// # Errors
    /// BoringSSL's, or the folder cannot be written.
    pub fn make(folder: &Path, names: &[&str]) -> Result<Self> {
        let (ca_key, site_key) = (new_key()?, new_key()?);
        let ca_name = name("Test CA")?;
        let ca = certificate(&Plan {
            subject: &ca_name,
            key: &ca_key,
            issuer: &ca_name,
            signer: &ca_key,
            names: None,
        })?;
        let subject = name(names.first().copied().unwrap_or_default())?;
        let site = certificate(&Plan {
            subject: &subject,
            key: &site_key,
            issuer: &ca_name,
            signer: &ca_key,
            names: Some(names),
        })?;
        let at = |file: &str| folder.join(file);
        let made = Self {
            ca: at("ca.pem"),
            certificate: at("site.pem"),
            key: at("site.key"),
            both: at("both.pem"),
            der: site.to_der()?,
            spki_sha256: boring::sha::sha256(&site.public_key()?.public_key_to_der()?),
        };
        let (site, key) = (site.to_pem()?, site_key.private_key_to_pem_pkcs8()?);
        fs::write(&made.ca, ca.to_pem()?)?;
        fs::write(&made.certificate, &site)?;
        fs::write(&made.key, &key)?;
        fs::write(&made.both, [key, site].concat())?;
        Ok(made)
    }
}

struct Plan<'a> {
    subject: &'a X509Name,
    key: &'a PKey<Private>,
    issuer: &'a X509Name,
    signer: &'a PKey<Private>,
    /// A site's names; without them it is a CA.
    names: Option<&'a [&'a str]>,
}

fn certificate(plan: &Plan<'_>) -> Result<X509> {
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(plan.subject)?;
    builder.set_issuer_name(plan.issuer)?;
    builder.set_pubkey(plan.key)?;
    let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(VALID_DAYS)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    if let Some(names) = plan.names {
        let mut alternative = SubjectAlternativeName::new();
        for name in names {
            alternative.dns(name);
        }
        let alternative = alternative.build(&builder.x509v3_context(None, None))?;
        builder.append_extension(&alternative)?;
        let (usage, server) = (
            KeyUsage::new().critical().digital_signature().build()?,
            ExtendedKeyUsage::new().server_auth().build()?,
        );
        builder.append_extension(&usage)?;
        builder.append_extension(&server)?;
    } else {
        let (constraints, usage) = (
            BasicConstraints::new().critical().ca().build()?,
            KeyUsage::new().critical().key_cert_sign().build()?,
        );
        builder.append_extension(&constraints)?;
        builder.append_extension(&usage)?;
    }
    builder.sign(plan.signer, MessageDigest::sha256())?;
    Ok(builder.build())
}

fn new_key() -> Result<PKey<Private>> {
    Ok(PKey::from_rsa(Rsa::generate(KEY_BITS)?)?)
}

fn name(common: &str) -> Result<X509Name> {
    let mut builder = X509Name::builder()?;
    builder.append_entry_by_text("CN", common)?;
    Ok(builder.build())
}
