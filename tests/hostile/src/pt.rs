//! What programs read: bridge lines, a pluggable transport's environment, its parent's SOCKS, the Extended ORPort, the head of
//! a stream that goes to no tor, a balancer's header.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use qnet_pt_ipc::args::{Args, parse_transport_options};
use qnet_pt_ipc::upstream::Upstream;
use qnet_pt_ipc::{env as pt_env, extor, socks as pt_socks};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::invitation::{InvitedError, InvitedList, MAX_INVITED, MAX_LIST};
use qnet_wire::key::IdentityKey;
use qnet_wire::proxy::{self, MAX_HEADER, Progress};
use qnet_wire::target::{ANSWER, Answer, Datagram, MAX_FRAME, MAX_REQUEST, Request, Target};

use crate::{pieces, rng};

/// What a user pastes, and a key file's text.
pub fn bridge_line(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = IdentityKey::parse_file_text(text);
    if let Ok(line) = text.parse::<BridgeLine>() {
        let again = line.to_string().parse::<BridgeLine>().expect("what is written can be read");
        assert_eq!(again.to_string(), line.to_string());
        let args: Vec<_> = line.pt_args().collect();
        assert!(args.iter().all(|(key, _)| *key != "invite"), "what is announced invites nobody");
        let args = args.iter().map(|(key, value)| (*key, value.as_str()));
        let again = BridgeLine::from_pt_args(line.address, args).expect("its arguments are enough");
        assert_eq!((again.address, again.key, &again.cover), (line.address, line.key, &line.cover));
        if let Some(invitation) = &line.invitation {
            let secret = invitation.expose_text();
            assert!(
                secret.parse() == Ok(invitation.clone()) && !format!("{line:?}").contains(secret.as_str())
            );
        }
    }
}

/// What may have become of a bridge's list of invited clients.
pub fn invited_list(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match InvitedList::parse_file_text(&text) {
        Ok(list) => {
            let written = list.to_file_text();
            assert!(list.clients().len() <= MAX_INVITED && written.len() <= MAX_LIST);
            // CR before LF is all that is read and not written.
            assert!(written == text.replace("\r\n", "\n"));
            assert!(InvitedList::parse_file_text(&written) == Ok(list));
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("line") || error == InvitedError::Full);
            assert!(said.len() < 400, "what was wrong is not repeated at length");
        }
    }
}

/// Arguments from a SOCKS login, and a bridge's options.
pub fn args(data: &[u8]) {
    if let Ok(args) = Args::parse_client(data) {
        let again = Args::parse_client(args.to_client().as_bytes()).expect("what is written can be read");
        assert!(again == args);
        assert!(args.to_smethod().len() <= 2 * data.len() + 1);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = parse_transport_options(text);
    let _ = text.parse::<Upstream>();
}

/// The variables' values, each a line of `data`, in the order in which they are asked for.
pub fn env(data: &[u8]) {
    let values = RefCell::new(data.split(|byte| *byte == b'\n'));
    let known = RefCell::new(std::collections::BTreeMap::new());
    let _ = pt_env::parse(|name| {
        let next = || values.borrow_mut().next().filter(|value| !value.is_empty());
        let mut known = known.borrow_mut();
        known.entry(name).or_insert_with(|| next().map(|value| OsString::from_vec(value.to_vec()))).clone()
    });
}

/// A parent's, or a local stranger's, bytes at the SOCKS port.
pub fn socks(data: &[u8]) {
    socks_at(pt_socks::Server::new(), data);
    socks_at(pt_socks::Server::with_udp(), data);
}

fn socks_at(mut server: pt_socks::Server, data: &[u8]) {
    let (mut given, mut sent) = (Vec::new(), Vec::new());
    let mut ended = false;
    for piece in pieces(data) {
        given.extend_from_slice(piece);
        match server.on_bytes(piece, &mut sent) {
            pt_socks::Progress::More => assert!(!ended),
            pt_socks::Progress::Request(request) => {
                assert!(!ended && request.args.len() <= 510 && given.ends_with(&request.early));
                ended = true;
            }
            pt_socks::Progress::Failed(_) => ended = true,
        }
    }
    // A method, a login's status, an answer: no input draws more than that.
    assert!(sent.len() <= 2 + 2 + 10);
}

/// Bytes from what listens at the Extended ORPort's address.
pub fn ext_or(data: &[u8]) {
    let file = [b"! Extended ORPort Auth Cookie !\x0a".as_slice(), &[6; 32]].concat();
    let Ok(cookie) = extor::Cookie::parse(&file) else { panic!("a cookie file") };
    let _ = extor::Cookie::parse(data);
    let mut client = extor::Client::new(cookie, "192.0.2.1:5".parse().ok(), "qnet", &mut rng());
    let mut sent = Vec::new();
    for piece in pieces(data) {
        match client.on_bytes(piece, &mut sent) {
            Ok(extor::Progress::More) => {}
            Ok(extor::Progress::Ready(_)) => panic!("tor cannot be imitated without the cookie"),
            Err(_) => break,
        }
    }
    assert!(sent.len() <= 1 + 32 + 32);
}

/// A client's bytes at a bridge without tor, a bridge's at such a client, and what a user writes for either.
pub fn target(data: &[u8]) {
    match Request::read(data) {
        Ok(Some((request, length))) => {
            let mut again = Vec::new();
            request.write(&mut again);
            assert!(length <= MAX_REQUEST && again.eq_ignore_ascii_case(&data[..length]));
        }
        Ok(None) => assert!(data.len() < MAX_REQUEST),
        Err(_) => {}
    }
    if let Ok(None) = Answer::read(data) {
        assert!(data.len() < ANSWER);
    }
    let mut rest = data;
    while let Ok(Some((datagram, length))) = Datagram::read(rest) {
        let mut again = Vec::new();
        datagram.write(&mut again).expect("what was read can be written");
        let head = length - datagram.payload.len();
        assert!(length <= MAX_FRAME && again[..head].eq_ignore_ascii_case(&rest[..head]));
        assert_eq!(again[head..], rest[head..length]);
        rest = &rest[length..];
    }
    if let Some(target) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<Target>().ok()) {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
}

/// A balancer's header, read as it says; whoever reaches the port may send it.
pub fn proxy(data: &[u8]) {
    let mut taken = 0;
    loop {
        let Some(bytes) = data.get(..taken) else { return };
        match proxy::read(bytes) {
            Ok(Progress::Missing(count)) => {
                assert!(count > 0 && taken + count <= MAX_HEADER, "more is wanted than a header has");
                taken += count;
            }
            Ok(Progress::Whole(_)) | Err(_) => return,
        }
    }
}
