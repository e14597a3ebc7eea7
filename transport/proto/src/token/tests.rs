use std::collections::BTreeSet;

use hpke::{OpModeS, Serializable};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::hello::vectors;

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn identity() -> IdentityKey {
    IdentityKey::from_bytes(vectors::tokens().0)
}

/// What the fields of a hello's ECH are; tests change one at a time.
#[derive(Clone)]
struct Recipe {
    key: BridgeKey,
    sni: String,
    public_name: ServerName,
    kdf: u16,
    aead: u16,
    maximum_name_length: u8,
    payload: usize,
    inner_name: Vec<u8>,
    info: &'static [u8],
}

impl Recipe {
    fn new(identity: &IdentityKey, token: &Token) -> Self {
        Self {
            key: identity.public(),
            sni: "www.example.com".to_owned(),
            public_name: name("www.example.com"),
            kdf: KDF,
            aead: AES_128_GCM,
            maximum_name_length: 27,
            payload: 144,
            inner_name: token.inner_name().into_bytes(),
            info: b"tls ech\0",
        }
    }

    /// Seals a hello with the `hpke` crate as sender, by the standard and not by this module's code.
    fn hello(&self) -> ClientHello {
        match self.aead {
            CHACHA20_POLY1305 => self.seal::<ChaCha20Poly1305>(),
            _ => self.seal::<AesGcm128>(),
        }
    }

    fn seal<A: Aead>(&self) -> ClientHello {
        let id = 0x5a;
        let public_name = self.public_name.as_str().as_bytes();
        let suite = [self.kdf.to_be_bytes(), self.aead.to_be_bytes()].concat();
        let contents = [
            &[id, 0, 0x20, 0, 32][..],
            &self.key.0,
            &[0, 4],
            &suite,
            &[self.maximum_name_length, u8::try_from(public_name.len()).unwrap()],
            public_name,
            &[0, 0],
        ]
        .concat();
        let info = [self.info, &[0xfe, 0x0d], &vec16(&contents)].concat();

        let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.key.0).unwrap();
        let (enc, mut context) = hpke::setup_sender_with_rng::<A, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &recipient,
            &info,
            &mut rng(7),
        )
        .unwrap();
        let ech = [&[0], &suite[..], &[id], &vec16(&enc.to_bytes())].concat();
        let zeroed = self.outer(&ech, &vec![0; self.payload]);
        let payload = context.seal(&self.inner(), &zeroed[4..]).unwrap();
        ClientHello::parse(self.outer(&ech, &payload)).unwrap()
    }

    fn outer(&self, ech: &[u8], payload: &[u8]) -> Vec<u8> {
        let sni = sni(self.sni.as_bytes());
        let ech = [ech, &vec16(payload)].concat();
        let extensions = [&[0, 0], &vec16(&sni)[..], &[0xfe, 0x0d], &vec16(&ech), &[0, 23, 0, 0]].concat();
        let body = [&hello_start(&[9; 32])[..], &vec16(&extensions)].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1, length[1], length[2], length[3]], &body[..]].concat()
    }

    fn inner(&self) -> Vec<u8> {
        let extensions = [&[0, 0], &vec16(&sni(&self.inner_name))[..], &[0xfe, 0x0d, 0, 1, 1]].concat();
        let mut inner = [&hello_start(&[])[..], &vec16(&extensions)].concat();
        inner.resize(self.payload - 16, 0);
        inner
    }
}

fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    vec16(&[&[0], &vec16(name)[..]].concat())
}

fn hello_start(session_id: &[u8]) -> Vec<u8> {
    let id_length = u8::try_from(session_id.len()).unwrap();
    [&[3, 3][..], &[7; 32], &[id_length], session_id, &vec16(&[0x13, 1]), &[1, 0]].concat()
}

#[test]
fn captured_hellos_open() {
    let (identity, hellos) = vectors::tokens();
    let identity = IdentityKey::from_bytes(identity);
    let names = [name("other.example"), name("www.example.com")];
    let mut classes = BTreeSet::new();
    for (token, flight) in &hellos {
        let hello = vectors::hello(flight);
        assert_eq!(open(&identity, &names, &hello).unwrap().as_bytes(), &token[..]);
        let ech = hello.ech().unwrap();
        classes.insert((ech.suite, ech.payload.len()));
    }
    assert_eq!((hellos.len(), classes.len()), (8, 8));
}

#[test]
fn a_captured_hello_with_any_byte_changed_does_not_open() {
    let (_, hellos) = vectors::tokens();
    let (identity, names) = (identity(), [name("www.example.com")]);
    let raw = vectors::message(&hellos[0].1);
    for at in 0..raw.len() {
        let mut changed = raw.clone();
        changed[at] ^= 1 << (at % 8);
        let token = ClientHello::parse(changed).and_then(|hello| open(&identity, &names, &hello));
        assert_eq!(token, None, "byte {at}");
    }
}

#[test]
fn only_this_bridges_key_and_names_open() {
    let (_, hellos) = vectors::tokens();
    let hello = vectors::hello(&hellos[0].1);
    let ours = name("www.example.com");
    assert!(open(&identity(), std::slice::from_ref(&ours), &hello).is_some());
    assert_eq!(open(&IdentityKey::from_bytes([9; 32]), &[ours], &hello), None);
    for names in [vec![], vec![name("example.com")], vec![name("www.example.org"), name("a.www.example.com")]]
    {
        assert!(Sealed::find(&names, &hello).is_none());
    }
}

#[test]
fn hellos_sealed_by_the_standard_open() {
    let (identity, token) = (identity(), Token::generate(&mut rng(1)));
    let names = [name("www.example.com"), name("b.example")];
    for aead in [AES_128_GCM, CHACHA20_POLY1305] {
        for (payload, maximum_name_length) in [(144, 27), (176, 59), (208, 91), (240, 123)] {
            for public_name in names.clone() {
                let sni = public_name.as_str().to_owned();
                let good = Recipe::new(&identity, &token);
                let recipe = Recipe { aead, payload, maximum_name_length, sni, public_name, ..good };
                assert_eq!(open(&identity, &names, &recipe.hello()), Some(token.clone()));
            }
        }
    }
}

#[test]
fn each_field_of_the_config_is_bound() {
    let (identity, token) = (identity(), Token::generate(&mut rng(1)));
    let names = [name("www.example.com"), name("b.example")];
    let good = Recipe::new(&identity, &token);
    let text = |text: &str| text.as_bytes().to_vec();
    for (what, recipe) in [
        ("a key", Recipe { key: IdentityKey::from_bytes([1; 32]).public(), ..good.clone() }),
        ("a server name in capitals", Recipe { sni: "WWW.example.com".to_owned(), ..good.clone() }),
        ("another name than the config's", Recipe { sni: "b.example".to_owned(), ..good.clone() }),
        ("a config's name", Recipe { public_name: name("b.example"), ..good.clone() }),
        ("another KDF", Recipe { kdf: 2, ..good.clone() }),
        ("AES-256", Recipe { aead: 2, ..good.clone() }),
        ("another maximum_name_length", Recipe { maximum_name_length: 28, ..good.clone() }),
        ("a payload of another class", Recipe { payload: 176, ..good.clone() }),
        ("a payload of no class", Recipe { payload: 145, ..good.clone() }),
        ("another label", Recipe { info: b"tls ech\x01", ..good.clone() }),
        ("a host name inside", Recipe { inner_name: text("www.example.com"), ..good.clone() }),
        ("27 letters of another version", Recipe { inner_name: text(&"A".repeat(27)), ..good.clone() }),
    ] {
        assert_eq!(open(&identity, &names, &recipe.hello()), None, "{what}");
    }
    assert_eq!(open(&identity, &names, &good.hello()), Some(token));
}

#[test]
fn what_cannot_be_ours_costs_no_cryptography() {
    let (identity, token) = (identity(), Token::generate(&mut rng(1)));
    let names = [name("www.example.com")];
    let good = Recipe::new(&identity, &token);
    assert!(Sealed::find(&names, &good.hello()).is_some());
    for recipe in [
        Recipe { kdf: 2, ..good.clone() },
        Recipe { aead: 2, ..good.clone() },
        Recipe { payload: 145, ..good.clone() },
        Recipe { sni: "www.example.org".to_owned(), ..good },
    ] {
        assert!(Sealed::find(&names, &recipe.hello()).is_none());
    }
}

/// An encapsulated key of low order makes every exchange known; HPKE refuses it (RFC 9180, section 7.1.4).
#[test]
fn an_encapsulated_key_of_low_order_or_another_length_does_not_open() {
    let (identity, token) = (identity(), Token::generate(&mut rng(1)));
    let names = [name("www.example.com")];
    let recipe = Recipe::new(&identity, &token);
    for enc in [vec![0; 32], [vec![1], vec![0; 31]].concat(), vec![9; 31], vec![9; 33], vec![]] {
        let ech = [&[0, 0, 1, 0, 1, 0x5a][..], &vec16(&enc)].concat();
        let hello = ClientHello::parse(recipe.outer(&ech, &[5; 144])).unwrap();
        assert_eq!(Sealed::find(&names, &hello).unwrap().open(&identity), None);
    }
}

#[test]
fn an_offer_is_one_config_of_the_drawn_class() {
    let key = identity().public();
    let public_name = name("www.example.com");
    let mut rng = rng(3);
    let (mut classes, mut ids) = ([0; 4], BTreeSet::new());
    for _ in 0..4000 {
        let list = offer(&mut rng, &key, &public_name, true).config_list;
        let length = u16::from_be_bytes([list[0], list[1]]);
        assert_eq!(usize::from(length) + 2, list.len());
        let (id, maximum) = (list[6], list[49]);
        assert_eq!(list[2..], ech_config(id, &key, AES_128_GCM, maximum, &public_name));
        classes[CLASSES.iter().position(|(_, class)| *class == maximum).unwrap()] += 1;
        ids.insert(id);
    }
    // 1,000 each are expected; 150 is more than five standard deviations.
    assert!(classes.iter().all(|count| (850..1150).contains(count)), "{classes:?}");
    assert_eq!(ids.len(), 256);
    let longest = name(&format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61)));
    let list = offer(&mut rng, &key, &longest, false).config_list;
    assert_eq!((list.len(), list[50]), (2 + 4 + 1 + 2 + 34 + 6 + 1 + 254 + 2, 253));
}

#[test]
fn tokens_have_one_name_and_stay_out_of_debug_output() {
    let token = Token::generate(&mut rng(5));
    let text = token.inner_name();
    assert_eq!(text.len(), INNER_NAME_LEN);
    assert_eq!(Token::from_inner_name(&text), Some(token.clone()));
    assert_eq!(format!("{token:?}"), "Token([redacted])");
    let mut other = *token.as_bytes();
    other[19] ^= 1;
    assert_ne!(token, Token(other));
    for wrong in
        [&text[1..], &format!("{text}A"), &format!("{}=", &text[..26]), &format!("{}.", &text[..26]), ""]
    {
        assert_eq!(Token::from_inner_name(wrong), None);
    }
    for first in 0..=255_u8 {
        let bytes = [[first].as_slice(), &[0; 19]].concat();
        let found = Token::from_inner_name(&BASE64URL_NOPAD.encode(&bytes));
        assert_eq!(found.is_some(), first >> 4 == 1);
    }
    // The last letter carries four bits: the other two must be zero, or a token would have four names.
    let spellings = (0..=127_u8).filter(|last| {
        let text = format!("{}{}", &text[..26], char::from(*last));
        Token::from_inner_name(&text).is_some()
    });
    assert_eq!(spellings.count(), 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tokens_survive_their_names(seed: u64) {
        let token = Token::generate(&mut rng(seed));
        prop_assert_eq!(token.as_bytes()[0] >> 4, VERSION);
        let text = token.inner_name();
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        prop_assert_eq!(Token::from_inner_name(&text), Some(token));
    }

    #[test]
    fn mutated_hellos_neither_panic_nor_open(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..5), which in 0_usize..8,
    ) {
        let mut raw = vectors::message(&vectors::tokens().1[which].1);
        let before = raw.clone();
        for (at, change) in edits {
            let at = at.index(raw.len());
            raw[at] ^= change;
        }
        prop_assume!(raw != before);
        if let Some(hello) = ClientHello::parse(raw) {
            prop_assert_eq!(open(&identity(), &[name("www.example.com")], &hello), None);
        }
    }

    #[test]
    fn random_payloads_never_panic(seed: u64, class in 0_usize..4, chacha: bool) {
        let mut rng = rng(seed);
        let (mut enc, mut payload) = ([0; 32], vec![0; CLASSES[class].0]);
        rng.fill_bytes(&mut enc);
        rng.fill_bytes(&mut payload);
        let aead = if chacha { 3 } else { 1 };
        let ech = [&[0, 0, 1, 0, aead, 1][..], &vec16(&enc)].concat();
        let recipe = Recipe::new(&identity(), &Token::generate(&mut rng));
        let hello = ClientHello::parse(recipe.outer(&ech, &payload)).unwrap();
        prop_assert_eq!(open(&identity(), &[name("www.example.com")], &hello), None);
    }
}
