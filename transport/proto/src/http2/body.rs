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
