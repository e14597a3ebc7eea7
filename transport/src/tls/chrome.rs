//! Chrome's ClientHello as data, with the version and date it was captured from.
//!
//! Stale imitation is worse than none: the test `fingerprint` captures the installed Chromium again and compares every
//! field. What BoringSSL does by itself (the session id, the key shares, the order of extensions, GREASE values) is
//! not here; what must be asked of it is.
#![forbid(unsafe_code)]

/// What a browser's ClientHello says beyond BoringSSL's defaults.
#[derive(Debug)]
pub struct HelloProfile {
    /// The browser and its version.
    pub browser: &'static str,
    /// The day of the capture, ISO 8601.
    pub captured: &'static str,
    /// Cipher suites below TLS 1.3, in OpenSSL's language. TLS 1.3's are BoringSSL's own.
    pub ciphers: &'static str,
    /// Supported groups in order of preference. The first two get key shares.
    pub groups: &'static str,
    /// Signature algorithms in order (RFC 8446, section 4.2.3, and FIPS 204's ML-DSA).
    pub signature_algorithms: &'static [u16],
    /// Application protocols in order (RFC 7301).
    pub alpn: &'static [&'static str],
    /// The protocol that application settings (ALPS) are offered for, with empty settings, where it is offered itself.
    pub alps: &'static str,
    /// Application protocols of a connection that is opened for a websocket.
    pub websocket_alpn: &'static [&'static str],
    /// Ids of the certificate authorities that the browser trusts (draft-ietf-tls-trust-anchor-ids), in order.
    pub trust_anchors: &'static [&'static [u8]],
    /// JA4 of the hello, for those who print or check it.
    pub ja4: &'static str,
}

/// Chromium 156.0.8078 on Linux, its built-in root store (an updated one may list other trust anchors).
pub static CHROME_156: HelloProfile = HelloProfile {
    browser: "Chromium 156.0.8078.79",
    captured: "2026-11-21",
    ciphers: "ALL:!aPSK:!ECDSA+SHA1:!3DES",
    groups: "X25519MLKEM768:X25519:P-256:P-384",
    signature_algorithms: &[
        0x0904, 0x0905, 0x0906, 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
    ],
    alpn: &["h2", "http/1.1"],
    alps: "h2",
    websocket_alpn: &["http/1.1"],
    trust_anchors: &[
        &[0x82, 0xdf, 0x13, 0x02, 0x01],
        &[0x82, 0xdf, 0x13, 0x02, 0x06],
        &[0x82, 0xdf, 0x13, 0x02, 0x0d],
        &[0x82, 0xdf, 0x13, 0x02, 0x0e],
        &[0x82, 0xdf, 0x13, 0x02, 0x0f],
        &[0x82, 0xdf, 0x13, 0x02, 0x12],
        &[0x82, 0xdf, 0x13, 0x02, 0x13],
        &[0x82, 0xdf, 0x13, 0x02, 0x14],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x07],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x08],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x09],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x0a],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x0b],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x0c],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x0d],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x12],
        &[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01, 0x13],
        &[0xd6, 0x79, 0x09, 0x01],
        &[0xd6, 0x79, 0x09, 0x04],
        &[0xd6, 0x79, 0x09, 0x05],
        &[0xd6, 0x79, 0x09, 0x06],
        &[0xd6, 0x79, 0x09, 0x07],
        &[0xd6, 0x79, 0x09, 0x08],
        &[0xd6, 0x79, 0x09, 0x0a],
        &[0xd6, 0x79, 0x09, 0x0b],
        &[0xd6, 0x79, 0x09, 0x0c],
        &[0xd6, 0x79, 0x09, 0x0d],
        &[0xd6, 0x79, 0x09, 0x0f],
    ],
    ja4: "t13d1517h2_8daaf6152771_cb7bf5808d99",
};
