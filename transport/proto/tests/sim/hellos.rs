//! What goes over the wire before both cores begin: a captured ClientHello with a token, and a handshake made up around it.

use data_encoding::HEXLOWER;
use qnet_proto::tls::{Secret, Suite};
use qnet_proto::token::Token;
use qnet_wire::key::IdentityKey;

const VECTORS: &str = include_str!("../vectors/token.txt");

/// Records of outer type 23 in the decoy's first flight.
pub(crate) const DOWN_RECORDS: u64 = 3;
/// The same of the client's second.
pub(crate) const UP_RECORDS: u64 = 1;

/// One captured first flight.
pub(crate) struct Hello {
    pub(crate) token: Token,
    pub(crate) flight: Vec<u8>,
}

impl Hello {
    /// The handshake message in the flight.
    pub(crate) fn message(&self) -> &[u8] {
        &self.flight[5..]
    }
}

fn fields(name: &str) -> Vec<Vec<u8>> {
    let lines = VECTORS.lines().filter_map(|line| line.split_once(" = "));
    lines.filter(|(n, _)| *n == name).map(|(_, v)| HEXLOWER.decode(v.as_bytes()).unwrap()).collect()
}

/// The bridge's key to which the hellos are sealed.
pub(crate) fn identity() -> IdentityKey {
    IdentityKey::from_bytes(fields("identity")[0].clone().try_into().unwrap())
}

/// The client's own key, where it is not invited.
pub(crate) fn client_key() -> IdentityKey {
    IdentityKey::from_bytes([0x5e; 32])
}

/// The hello of this number, of the eight there are.
pub(crate) fn hello(number: usize) -> Hello {
    let (tokens, flights) = (fields("token"), fields("flight"));
    let at = number % tokens.len();
    let name = data_encoding::BASE64URL_NOPAD.encode(&tokens[at]);
    Hello { token: Token::from_inner_name(&name).unwrap(), flight: flights[at].clone() }
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3, length[0], length[1]], content].concat()
}

/// A ServerHello with this random (that of a HelloRetryRequest is one of them), as a handshake message.
pub(crate) fn server_hello(random: [u8; 32], suite: Suite) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random);
    body.push(0);
    body.extend(u16::from(suite).to_be_bytes());
    body.push(0);
    let extensions = [0, 43, 0, 2, 3, 4];
    body.extend([0, 6]);
    body.extend(extensions);
    [&[2, 0, 0, u8::try_from(body.len()).unwrap()], &body[..]].concat()
}

/// SHA-256 of "HelloRetryRequest".
pub(crate) fn hello_retry_random() -> [u8; 32] {
    let hex = b"cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c";
    HEXLOWER.decode(hex).unwrap().try_into().unwrap()
}

/// The decoy's first flight around a ServerHello: that, ChangeCipherSpec, and protected records nobody opens.
pub(crate) fn server_flight(server_hello: &[u8]) -> Vec<u8> {
    let mut flight = record(22, server_hello);
    flight.extend(record(20, &[1]));
    for length in [48, 2_400, 280] {
        flight.extend(record(23, &vec![0xe5; length]));
    }
    flight
}

/// The client's second flight: ChangeCipherSpec and Finished.
pub(crate) fn client_flight() -> Vec<u8> {
    [record(20, &[1]), record(23, &[0xf1; 53])].concat()
}

/// Records of so many bytes in all, 0 or at least 6, that the decoy passes over.
pub(crate) fn filling(mut bytes: usize) -> Vec<u8> {
    let mut filling = Vec::new();
    while bytes > 0 {
        let length = if bytes < 2_000 { bytes } else { 1_000 };
        filling.extend(record(20, &vec![1; length - 5]));
        bytes -= length;
    }
    filling
}

/// An application traffic secret for one direction.
pub(crate) fn secret(suite: Suite, fill: u8) -> Secret {
    Secret::new(suite, &vec![fill; suite.secret_len()]).unwrap()
}
