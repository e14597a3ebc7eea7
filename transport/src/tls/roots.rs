//! Whom the client believes about a decoy's certificate, and the BoringSSL context that all its connections share.
//!
//! The context holds the parsed roots (its largest part by far), the browser's settings and the key log callback; a
//! connection adds what one handshake needs and frees it again.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use boring::error::ErrorStack;
use boring::ssl::{
    CertificateCompressionAlgorithm, CertificateCompressor, SslContext, SslContextBuilder, SslMethod,
    SslSessionCacheMode, SslSignatureAlgorithm, SslVerifyMode, SslVersion,
};
use boring::x509::X509;
use boring::x509::store::{X509Store, X509StoreBuilder};

use super::chrome::{CHROME_156, HelloProfile};
use super::error::RootsError;
use super::{ffi, keylog, tickets};

/// Largest certificate file read, bytes. A bundle of all public authorities is under 300 KB.
const MAX_FILE: u64 = 4 << 20;
/// Most files read in one directory. Debian's has under 500, links by hash included.
const MAX_FILES: usize = 4096;

/// The certificate authorities a decoy's certificate may come from. Loading takes some 20 ms and about a megabyte:
/// load once, then share; a clone is one reference more.
#[derive(Clone)]
pub struct Roots {
    pub(super) context: SslContext,
    count: usize,
}

impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roots").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Roots {
    /// Mozilla's authorities, compiled in, and those that the environment variables `SSL_CERT_FILE` (one PEM file) and
    /// `SSL_CERT_DIR` (directories of PEM files, with the separator of `PATH`) add.
    ///
    /// # Errors
    /// A file or directory that is named there but cannot be read, or a file that holds no certificate.
    pub fn load() -> Result<Self, RootsError> {
        let (file, directories) = named();
        Self::with(file.as_deref().map(Path::new), directories.as_deref())
    }

    /// As [`load`](Self::load), with the values of the two variables given.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn with(file: Option<&Path>, directories: Option<&OsStr>) -> Result<Self, RootsError> {
        let found = Found::all(file, directories)?;
        let count = found.seen.len();
        Ok(Self { context: build(&CHROME_156, found.store)?, count })
    }

    /// How many authorities are believed.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// The same authorities as [`Roots::load`]'s, for other connections than to a bridge.
///
/// # Errors
/// As [`Roots::load`].
pub fn authorities() -> Result<X509Store, RootsError> {
    let (file, directories) = named();
    Ok(Found::all(file.as_deref().map(Path::new), directories.as_deref())?.store.build())
}

/// What `SSL_CERT_FILE` and `SSL_CERT_DIR` say.
fn named() -> (Option<OsString>, Option<OsString>) {
    let named = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    (named("SSL_CERT_FILE"), named("SSL_CERT_DIR"))
}

/// Authorities found so far, each once.
struct Found {
    store: X509StoreBuilder,
    seen: HashSet<Vec<u8>>,
}

impl Found {
    fn all(file: Option<&Path>, directories: Option<&OsStr>) -> Result<Self, RootsError> {
        let mut found = Found::new()?;
        for der in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
            found.add(X509::from_der(der)?)?;
        }
        if let Some(path) = file {
            let pem = read(path).map_err(|source| RootsError::Unreadable { path: path.into(), source })?;
            if found.add_pem(&pem)? == 0 {
                return Err(RootsError::NoCertificate { path: path.into() });
            }
        }
        for directory in directories.into_iter().flat_map(env::split_paths) {
            found.add_directory(&directory)?;
        }
        Ok(found)
    }

    fn new() -> Result<Self, ErrorStack> {
        Ok(Self { store: X509StoreBuilder::new()?, seen: HashSet::new() })
    }

    fn add(&mut self, certificate: X509) -> Result<(), ErrorStack> {
        // By digest: BoringSSL's store keeps a second copy of what is added twice.
        let digest = certificate.digest(boring::hash::MessageDigest::sha256())?;
        if self.seen.insert(digest.to_vec()) {
            self.store.add_cert(certificate)?;
        }
        Ok(())
    }

    /// Adds the certificates of a PEM text and returns their number; text between them is skipped.
    fn add_pem(&mut self, pem: &[u8]) -> Result<usize, ErrorStack> {
        let certificates = X509::stack_from_pem(pem).unwrap_or_default();
        let count = certificates.len();
        for certificate in certificates {
            self.add(certificate)?;
        }
        Ok(count)
    }

    /// Adds every certificate in the files of a directory. Files of other kinds are skipped, as OpenSSL does.
    fn add_directory(&mut self, directory: &Path) -> Result<(), RootsError> {
        let unreadable = |source| RootsError::Unreadable { path: directory.into(), source };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(directory).map_err(unreadable)?.take(MAX_FILES) {
            paths.push(entry.map_err(unreadable)?.path());
        }
        for path in paths {
            if path.is_file()
                && let Ok(pem) = read(&path)
            {
                self.add_pem(&pem)?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

fn build(profile: &HelloProfile, roots: X509StoreBuilder) -> Result<SslContext, ErrorStack> {
    // Not `SslConnector`, which brings settings of its own that show in the hello.
    let mut context = SslContextBuilder::new(SslMethod::tls())?;
    context.set_cert_store_builder(roots);
    context.set_verify(SslVerifyMode::PEER);
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?; // offered, as Chrome does; `handshake` refuses it
    context.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    // An HTX hello never resumes; a websocket's does, and its page's connection keeps the ticket (`tickets`).
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    context.set_new_session_callback(tickets::collect);
    context.set_grease_enabled(true);
    context.set_permute_extensions(true);
    context.set_cipher_list(profile.ciphers)?;
    context.set_curves_list(profile.groups)?;
    let algorithms: Vec<_> =
        profile.signature_algorithms.iter().copied().map(SslSignatureAlgorithm::from).collect();
    context.set_verify_algorithm_prefs(&algorithms)?;
    context.set_alpn_protos(&prefixed(profile.alpn.iter().map(|protocol| protocol.as_bytes())))?;
    ffi::request_trust_anchors(&mut context, &prefixed(profile.trust_anchors.iter().copied()))?;
    context.enable_ocsp_stapling();
    context.enable_signed_cert_timestamps();
    context.add_certificate_compression_algorithm(Brotli)?;
    context.set_keylog_callback(keylog::collect);
    Ok(context.build())
}

/// Each item with its length before it, one byte.
pub(super) fn prefixed<'a>(items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut list = Vec::new();
    for item in items {
        // Items are constants of the profile; one too long for its length byte could only spoil the others.
        let Ok(length) = u8::try_from(item.len()) else { continue };
        list.push(length);
        list.extend_from_slice(item);
    }
    list
}

/// Certificate compression (RFC 8879) as Chrome offers it: brotli, downwards only.
struct Brotli;

impl CertificateCompressor for Brotli {
    const ALGORITHM: CertificateCompressionAlgorithm = CertificateCompressionAlgorithm::BROTLI;
    const CAN_COMPRESS: bool = false;
    const CAN_DECOMPRESS: bool = true;

    /// `output` is as long as the peer said the certificates are, which BoringSSL has bounded; more is an error.
    fn decompress<W: Write>(&self, input: &[u8], output: &mut W) -> io::Result<()> {
        brotli_decompressor::BrotliDecompress(&mut &*input, output)
    }
}
