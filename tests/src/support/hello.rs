//! What the ClientHellos of one browser have in common.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a hello that lacks what browsers send fails the test"
)]

use std::collections::BTreeSet;

use crate::ja4::{Hello, extension, is_grease};

/// All GREASE values as one, so that lists compare.
pub fn plain(list: impl IntoIterator<Item = u16>) -> Vec<u16> {
    list.into_iter().map(|number| if is_grease(number) { 0x0a0a } else { number }).collect()
}

/// What must be equal in every hello of a browser, in words that a failing test prints.
pub fn constants(hello: &Hello) -> Vec<(&'static str, String)> {
    let ech = hello.ech().expect("an outer ECH");
    let bodies: BTreeSet<_> = hello
        .extensions
        .iter()
        .filter(|(kind, _)| !is_grease(*kind))
        .map(|(kind, body)| match *kind {
            // Random, or with GREASE inside; looked at one by one below.
            extension::ECH
            | extension::KEY_SHARE
            | extension::PRE_SHARED_KEY
            | extension::SIGNATURE_ALGORITHMS
            | extension::SUPPORTED_GROUPS
            | extension::SUPPORTED_VERSIONS => (*kind, None),
            _ => (*kind, Some(body.clone())),
        })
        .collect();
    let kinds = plain(hello.extensions.iter().map(|(kind, _)| *kind));
    let grease: Vec<_> = (kinds.iter().zip(&hello.extensions).enumerate())
        .filter(|(_, (kind, _))| **kind == 0x0a0a)
        .map(|(at, (_, (_, body)))| (at, body.clone()))
        .collect();
    let shares = hello.key_shares().unwrap();
    vec![
        ("record version", format!("{:04x}", hello.record_version)),
        ("legacy version", format!("{:04x}", hello.legacy_version)),
        ("session id length", hello.session_id.len().to_string()),
        ("ciphers", format!("{:04x?}", plain(hello.ciphers.clone()))),
        ("compression methods", format!("{:?}", hello.compression)),
        ("extensions and their bodies", format!("{bodies:02x?}")),
        ("number of extensions", kinds.len().to_string()),
        ("places and bodies of GREASE extensions", format!("{grease:?}")),
        ("groups", format!("{:04x?}", plain(hello.groups().unwrap()))),
        ("key shares", format!("{:04x?}", plain(shares.iter().map(|(group, _)| *group)))),
        ("key share lengths", format!("{:?}", shares.iter().map(|(_, length)| *length).collect::<Vec<_>>())),
        ("versions", format!("{:04x?}", plain(hello.versions().unwrap()))),
        ("signature algorithms", format!("{:04x?}", plain(hello.signature_algorithms().unwrap()))),
        ("server name", format!("{:?}", hello.server_name())),
        ("protocols", format!("{:?}", hello.protocols().map(|list| list.concat()))),
        ("ECH suite", format!("{:04x} {:04x}", ech.kdf, ech.aead)),
        ("ECH enc length", ech.enc.to_string()),
        ("length without the ECH payload", (hello.length - ech.payload).to_string()),
        ("trust anchors length", format!("{:?}", hello.extension(extension::TRUST_ANCHORS).map(<[u8]>::len))),
        ("GREASE group and share agree", (hello.groups().unwrap()[0] == shares[0].0).to_string()),
        ("GREASE extensions differ", {
            let (first, last) = (hello.extensions.first(), hello.extensions.last());
            (first.map(|(kind, _)| kind) != last.map(|(kind, _)| kind)).to_string()
        }),
        ("JA4", hello.ja4()),
    ]
}
