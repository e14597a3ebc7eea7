//! Decoding a page's body (RFC 9110, section 8.4), with bounded output.

use std::io::Read;

/// The coded or decoded page that is kept, in bytes: many times what a page has. What is beyond it is not looked at.
pub(crate) const MAX_BODY: usize = 2 * 1024 * 1024;
/// The largest window a zstd body may ask for: what browsers allow (RFC 9659, section 3).
const MAX_ZSTD_WINDOW: u64 = 8 * 1024 * 1024;

/// Undoes the codings named in `content-encoding`, the last one first. A body that is cut or damaged gives what could
/// be decoded before; an unknown coding gives nothing.
pub(crate) fn decode(body: Vec<u8>, codings: &str) -> Vec<u8> {
    // Chrome accepts several codings, servers send one; more than two are taken for an attack.
    let names: Vec<&str> = codings.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.len() > 2 {
        return Vec::new();
    }
    names.iter().rev().fold(body, |body, name| undo(&body, name))
}

fn undo(body: &[u8], coding: &str) -> Vec<u8> {
    match coding.to_ascii_lowercase().as_str() {
        "identity" => body.to_vec(),
        "gzip" | "x-gzip" => read(flate2::read::MultiGzDecoder::new(body)),
        // RFC 9110 means zlib's format, but browsers also take bare DEFLATE.
        "deflate" if body.first().is_some_and(|first| first & 0x0f == 8) => {
            read(flate2::read::ZlibDecoder::new(body))
        }
        "deflate" => read(flate2::read::DeflateDecoder::new(body)),
        "br" => read(brotli_decompressor::Decompressor::new(body, 4096)),
        "zstd" => ruzstd::decoding::StreamingDecoder::new_with_max_window_size(body, MAX_ZSTD_WINDOW)
            .map_or_else(|_| Vec::new(), read),
        _ => Vec::new(),
    }
}

/// Reads to the end, to the bound or to the first error.
fn read(mut from: impl Read) -> Vec<u8> {
    let (mut out, mut piece) = (Vec::new(), [0; 4096]);
    while out.len() < MAX_BODY {
        match from.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(got) => out.extend_from_slice(piece.get(..got).unwrap_or_default()),
        }
    }
    out.truncate(MAX_BODY);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TEXT: &[u8] = b"<link rel=stylesheet href=style.css><img src=a.png>";

    /// [`TEXT`] by the reference implementations of both codings.
    const BROTLI: &str =
        "1b3200e88dd461adb33546a8f49c43f36997b031333091030918be94227f0dfc64d31556af47746cfc8852a08b01";
    const ZSTD: &str = "28b52ffd20339901003c6c696e6b2072656c3d7374796c65736865657420687265663d7374796c652e6373733e3c696d67207372633d612e706e673e";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    }

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn each_coding_chrome_asks_for() {
        assert_eq!(decode(TEXT.to_vec(), ""), TEXT);
        assert_eq!(decode(gzip(TEXT), "gzip"), TEXT);
        assert_eq!(decode(zlib(TEXT), "deflate"), TEXT);
        let bare = zlib(TEXT);
        assert_eq!(decode(bare[2..bare.len() - 4].to_vec(), "Deflate"), TEXT);
        assert_eq!(decode(hex(BROTLI), "br"), TEXT);
        assert_eq!(decode(hex(ZSTD), "zstd"), TEXT);
        assert_eq!(decode(gzip(&gzip(TEXT)), "gzip, gzip"), TEXT);
    }

    #[test]
    fn what_is_cut_or_unknown() {
        let whole = gzip(&TEXT.repeat(1000));
        let part = decode(whole[..whole.len() / 2].to_vec(), "gzip");
        assert!(TEXT.repeat(1000).starts_with(&part) && !part.is_empty());
        assert_eq!(decode(TEXT.to_vec(), "dcb"), b"");
        assert_eq!(decode(TEXT.to_vec(), "gzip"), b"");
        assert_eq!(decode(TEXT.to_vec(), "br"), b"");
        assert_eq!(decode(TEXT.to_vec(), "zstd"), b"");
        assert_eq!(decode(TEXT.to_vec(), "identity, identity, identity"), b"");
    }

    #[test]
    fn a_bomb_is_bounded() {
        let bomb = gzip(&vec![0; 40 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(decode(bomb, "gzip").len(), MAX_BODY);
    }
}
