//! Tor's side of the Extended ORPort, written from its specification.

use super::{accept, read_exact};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

pub const COOKIE: [u8; 32] = *b"0123456789abcdef0123456789abcdef";
const NONCE: [u8; 32] = [42; 32];

pub fn write_cookie(path: &Path) {
    std::fs::write(path, [&b"! Extended ORPort Auth Cookie !\n"[..], &COOKIE].concat()).unwrap();
}

fn hash(label: &[u8], client_nonce: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&COOKIE).unwrap();
    mac.update(&[label, client_nonce, &NONCE].concat());
    mac.finalize().into_bytes().to_vec()
}

/// Offers SAFE_COOKIE among others and proves that it knows the cookie; the client's nonce.
pub fn offer(tcp: &mut TcpStream) -> [u8; 32] {
    tcp.write_all(&[2, 1, 0]).unwrap();
    assert_eq!(read_exact::<1>(tcp), [1], "type 1 is chosen");
    let nonce = read_exact::<32>(tcp);
    tcp.write_all(&hash(b"ExtORPort authentication server-to-client hash", &nonce)).unwrap();
    tcp.write_all(&NONCE).unwrap();
    nonce
}

/// The whole authentication.
pub fn authenticate(tcp: &mut TcpStream) {
    let nonce = offer(tcp);
    let expected = hash(b"ExtORPort authentication client-to-server hash", &nonce);
    assert_eq!(read_exact::<32>(tcp).to_vec(), expected);
    tcp.write_all(&[1]).unwrap();
}

/// Messages up to DONE.
pub fn messages(tcp: &mut TcpStream) -> Vec<(u16, Vec<u8>)> {
    let mut messages = vec![];
    loop {
        let [c0, c1, l0, l1] = read_exact::<4>(tcp);
        let mut body = vec![0; usize::from(u16::from_be_bytes([l0, l1]))];
        tcp.read_exact(&mut body).unwrap();
        let command = u16::from_be_bytes([c0, c1]);
        messages.push((command, body));
        if command == 0 {
            return messages;
        }
    }
}

/// Takes a connection up to DONE; the messages.
pub fn introduced(port: &TcpListener) -> (TcpStream, Vec<(u16, Vec<u8>)>) {
    let mut tcp = accept(port);
    authenticate(&mut tcp);
    let messages = messages(&mut tcp);
    (tcp, messages)
}
