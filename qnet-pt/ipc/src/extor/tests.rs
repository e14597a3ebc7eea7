use super::*;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

const SECRET: [u8; 32] = [7; 32];

fn cookie_file() -> Vec<u8> {
    [&COOKIE_HEADER[..], &SECRET].concat()
}

fn client(address: &str) -> Client {
    let cookie = Cookie::parse(&cookie_file()).unwrap();
    Client::new(cookie, Some(address.parse().unwrap()), "qnet", &mut ChaCha20Rng::seed_from_u64(1))
}

/// Tor's side, written from the specification and apart from the code under test.
fn tor_hash(label: &[u8], client_nonce: &[u8], server_nonce: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&SECRET).unwrap();
    mac.update(&[label, client_nonce, server_nonce].concat());
    mac.finalize().into_bytes().to_vec()
}

/// Brings a client to where it has sent its introduction; returns that.
fn introduced(client: &mut Client, cut: usize) -> Vec<u8> {
    let feed = |client: &mut Client, bytes: &[u8]| {
        let mut out = Vec::new();
        for piece in bytes.chunks(cut) {
            assert_eq!(client.on_bytes(piece, &mut out), Ok(Progress::More));
        }
        out
    };
    let out = feed(client, &[3, 1, 0]);
    assert_eq!((out.len(), out[0]), (33, 1));
    let nonce = out[1..].to_vec();
    let theirs = [9; 32];
    let out = feed(client, &[tor_hash(SERVER_LABEL, &nonce, &theirs), theirs.to_vec()].concat());
    assert_eq!(out, tor_hash(CLIENT_LABEL, &nonce, &theirs));
    feed(client, &[1])
}

#[test]
fn the_whole_way() {
    let mut client = client("1.2.3.4:5");
    let introduction = introduced(&mut client, 100);
    let expected = [&[0, 1, 0, 9][..], b"1.2.3.4:5", &[0, 2, 0, 4], b"qnet", &[0, 0, 0, 0]].concat();
    assert_eq!(introduction, expected);
    let mut out = Vec::new();
    // An unknown message, CONTROL with a body, then OKAY, then payload.
    let answer = [&[0x77, 0, 0, 0][..], &[0x10, 2, 0, 3], b"abc", &[0x10, 0, 0, 0], b"payload"].concat();
    assert_eq!(client.on_bytes(&answer, &mut out), Ok(Progress::Ready(b"payload".to_vec())));
    assert_eq!(client.on_bytes(b"x", &mut out), Err(ExtOrError::Spent));
    assert!(out.is_empty());
}

#[test]
fn addresses() {
    let shown = |address| introduced(&mut client(address), 100);
    let has = |bytes: Vec<u8>, text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(has(shown("[2001:db8::1]:5"), "[2001:db8::1]:5"));
    assert!(has(shown("[::ffff:1.2.3.4]:5"), "\0\x091.2.3.4:5"));
    let cookie = Cookie::parse(&cookie_file()).unwrap();
    let mut nobody = Client::new(cookie, None, "qnet", &mut ChaCha20Rng::seed_from_u64(1));
    assert_eq!(introduced(&mut nobody, 100), b"\0\x02\0\x04qnet\0\0\0\0");
}

#[test]
fn refusals() {
    let mut out = Vec::new();
    assert_eq!(client("1.2.3.4:5").on_bytes(&[2, 3, 0], &mut out), Err(ExtOrError::NoSafeCookie));
    assert_eq!(client("1.2.3.4:5").on_bytes(&[0], &mut out), Err(ExtOrError::NoSafeCookie));
    assert_eq!(client("1.2.3.4:5").on_bytes(&[2; 300], &mut out), Err(ExtOrError::NoSafeCookie));
    let mut wrong = client("1.2.3.4:5");
    assert!(out.is_empty());
    assert_eq!(wrong.on_bytes(&[1, 0], &mut out), Ok(Progress::More));
    out.clear();
    assert_eq!(wrong.on_bytes(&[0; 64], &mut out), Err(ExtOrError::ServerHash));
    assert!(out.is_empty(), "our hash is not given to one that does not know the cookie");
    let mut denied = client("1.2.3.4:5");
    introduced(&mut denied, 100);
    assert_eq!(denied.on_bytes(&[0x10, 1, 0, 0], &mut out), Err(ExtOrError::Denied));
}

#[test]
fn a_refused_hash() {
    let mut client = client("1.2.3.4:5");
    let mut out = Vec::new();
    client.on_bytes(&[1, 0], &mut out).unwrap();
    let nonce = out[1..].to_vec();
    client.on_bytes(&[tor_hash(SERVER_LABEL, &nonce, &[9; 32]), vec![9; 32]].concat(), &mut out).unwrap();
    assert_eq!(client.on_bytes(&[0], &mut out), Err(ExtOrError::ClientHash));
}

#[test]
fn cookie_files() {
    assert!(Cookie::parse(&cookie_file()).is_ok());
    assert_eq!(Cookie::parse(&cookie_file()[..63]).unwrap_err(), CookieError::Length);
    assert_eq!(Cookie::parse(&[cookie_file(), vec![0]].concat()).unwrap_err(), CookieError::Length);
    assert_eq!(Cookie::parse(b"").unwrap_err(), CookieError::Length);
    let mut file = cookie_file();
    file[2] ^= 1;
    assert_eq!(Cookie::parse(&file).unwrap_err(), CookieError::Header);
}

proptest! {
    #[test]
    fn split_anywhere(cut in 1usize..80, answer_cut in 1usize..12) {
        let mut client = client("1.2.3.4:5");
        introduced(&mut client, cut);
        let answer = [&[0x10, 2, 0, 3][..], b"abc", &[0x10, 0, 0, 2], b"??payload"].concat();
        let mut payload = Vec::new();
        let mut ready = false;
        for piece in answer.chunks(answer_cut) {
            if ready {
                payload.extend_from_slice(piece);
            } else if let Progress::Ready(early) = client.on_bytes(piece, &mut Vec::new()).unwrap() {
                ready = true;
                payload = early;
            }
        }
        prop_assert_eq!(payload, b"payload");
    }

    #[test]
    fn any_bytes_end_or_wait(bytes in prop::collection::vec(any::<u8>(), 0..400), ahead in any::<bool>()) {
        let mut client = client("1.2.3.4:5");
        if ahead {
            introduced(&mut client, 100);
        }
        let mut out = Vec::new();
        for piece in bytes.chunks(7) {
            if client.on_bytes(piece, &mut out) != Ok(Progress::More) {
                break;
            }
        }
        prop_assert!(client.pending.len() <= 400);
    }
}
