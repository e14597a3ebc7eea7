//! Test vectors: sections parted by empty lines, lines of `name = hexadecimal`, comments after `#`.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;

use super::{Assembler, ClientHello, Progress};

const TOKEN: &str = include_str!("../../tests/vectors/token.txt");
const KNOCK: &str = include_str!("../../tests/vectors/knock.txt");

type Section = BTreeMap<&'static str, Vec<u8>>;
/// A token's bytes and the first flight that carries it.
type Captured = (Vec<u8>, Vec<u8>);

fn sections(text: &'static str) -> Vec<Section> {
    let field = |line: &'static str| {
        let (name, value) = line.split_once('=').unwrap();
        (name.trim(), HEXLOWER.decode(value.trim().as_bytes()).unwrap())
    };
    let section =
        |text: &'static str| text.lines().filter(|line| !line.starts_with('#')).map(field).collect();
    text.split("\n\n").map(section).filter(|section: &Section| !section.is_empty()).collect()
}

/// The vectors of `knock.txt`.
pub(crate) fn knocks() -> Vec<Section> {
    sections(KNOCK)
}

/// The identity of `token.txt`, and for each hello the token and the client's first flight.
pub(crate) fn tokens() -> ([u8; 32], Vec<Captured>) {
    let mut sections = sections(TOKEN).into_iter();
    let identity = sections.next().unwrap()["identity"].clone().try_into().unwrap();
    (identity, sections.map(|section| (section["token"].clone(), section["flight"].clone())).collect())
}

/// The handshake message of a whole first flight.
pub(crate) fn message(flight: &[u8]) -> Vec<u8> {
    let Progress::Message { raw, .. } = Assembler::client().push(flight) else { panic!("no hello") };
    raw
}

/// The hello of a whole first flight.
pub(crate) fn hello(flight: &[u8]) -> ClientHello {
    ClientHello::parse(message(flight)).unwrap()
}
