//! 1. Fully encrypted traffic: the first packet looks like nothing at all.

use anyhow::Result;

use crate::detector::{About, Detector, Judgement, Threshold, Verdict, each_capture, usual_role};
use crate::load::Load;
use crate::stage::Field;
use crate::transport::Kind;

const SOURCE: &str = "Wu et al., How the Great Firewall of China Detects and Blocks Fully Encrypted Traffic, USENIX Security 2023, section 4";

/// Fewer bits set in a byte on average: not random.
const FEW_BITS: f64 = 3.4;
/// More bits set: not random.
const MANY_BITS: f64 = 4.6;
/// So many printable bytes at the beginning are a protocol in words.
const PRINTABLE_START: usize = 6;
/// More than this part printable, and it is text.
const PRINTABLE_PART: f64 = 0.5;
/// More than so many printable bytes in a row are words.
const PRINTABLE_RUN: usize = 20;

/// The detector.
#[derive(Debug)]
pub struct FullyEncrypted;

impl Detector for FullyEncrypted {
    fn about(&self) -> About {
        let threshold = |what, value: &str| Threshold { what, value: value.to_owned(), source: SOURCE };
        About {
            number: 1,
            name: "fully encrypted traffic",
            source: SOURCE,
            rule: "A connection is blocked unless its first packet with payload is exempt: by its number of set bits, by \
                   printable bytes at its beginning, in most of it or in one long run, or because it begins as TLS or HTTP do.",
            thresholds: vec![
                threshold("bits set a byte", "exempt at 3.4 or less, and at 4.6 or more"),
                threshold("printable bytes at the beginning", "exempt if the first 6 are"),
                threshold("part of printable bytes", "exempt above one half"),
                threshold("printable bytes in a row", "exempt above 20"),
                threshold(
                    "protocol",
                    "exempt if it begins as TLS (16 or 17, 03, 00 to 09) or with an HTTP method",
                ),
            ],
            gate: true,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let positive = |transport| usual_role(transport, Kind::Obfs4);
        Ok(each_capture(
            field,
            |capture| {
                (capture.load != Load::Tor || capture.transport != Kind::Plain)
                    .then(|| positive(capture.transport))
            },
            |capture| {
                let blocked = capture.connections.iter().filter(|connection| {
                    let first = connection.first.get(..connection.first_packet).unwrap_or(&connection.first);
                    exemption(first).is_none()
                });
                let (blocked, all) = (blocked.count(), capture.connections.len());
                Judgement { flagged: blocked > 0, ..Judgement::default() }
                    .figure("connections blocked", blocked as f64)
                    .figure("connections", all as f64)
            },
        ))
    }
}

/// Why a first packet is let pass, or `None`.
fn exemption(packet: &[u8]) -> Option<&'static str> {
    let bits: u32 = packet.iter().map(|byte| byte.count_ones()).sum();
    let bits = f64::from(bits) / packet.len().max(1) as f64;
    let printable = |byte: &u8| (0x20..=0x7e).contains(byte);
    let part = packet.iter().filter(|byte| printable(byte)).count() as f64 / packet.len().max(1) as f64;
    let run = packet.split(|byte| !printable(byte)).map(<[u8]>::len).max().unwrap_or(0);
    if bits <= FEW_BITS || bits >= MANY_BITS {
        Some("bits")
    } else if packet.len() >= PRINTABLE_START && packet.iter().take(PRINTABLE_START).all(printable) {
        Some("printable beginning")
    } else if part > PRINTABLE_PART {
        Some("mostly printable")
    } else if run > PRINTABLE_RUN {
        Some("printable run")
    } else if is_tls_or_http(packet) {
        Some("protocol")
    } else {
        None
    }
}

fn is_tls_or_http(packet: &[u8]) -> bool {
    let http = ["GET ", "PUT ", "POST ", "HEAD "].iter().any(|method| packet.starts_with(method.as_bytes()));
    http || matches!(packet, [0x16 | 0x17, 3, 0..=9, ..])
}

#[cfg(test)]
mod tests {
    use super::exemption;

    /// Four bits set in each byte, and no printable run: what the rule is after.
    fn random_like(length: usize) -> Vec<u8> {
        [0x0f, 0xf0, 0x1e, 0xe1, 0x55, 0xaa, 0x0f, 0x99].iter().copied().cycle().take(length).collect()
    }

    #[test]
    fn each_exemption_exempts_alone() {
        assert_eq!(exemption(&random_like(400)), None);
        let with = |bytes: &[u8]| [bytes, &random_like(400)].concat();
        assert_eq!(exemption(&with(b"\x16\x03\x01")), Some("protocol"));
        assert_eq!(exemption(&with(b"SSH-2.")), Some("printable beginning"));
        assert_eq!(exemption(&with(b"SSH-2")), None);
        assert_eq!(exemption(&with(&[b"\xf0".as_slice(), &[b'V'; 21]].concat())), Some("printable run"));
        assert_eq!(exemption(&with(&[b"\xf0".as_slice(), &[b'V'; 20]].concat())), None);
        assert_eq!(exemption(&[0x11; 100]), Some("bits"));
        assert_eq!(exemption(&[0xff; 100]), Some("bits"));
        let text = [0xf0, b'V', b'V', b'V', 0xf0].repeat(40);
        assert_eq!(exemption(&text), Some("mostly printable"));
    }
}
