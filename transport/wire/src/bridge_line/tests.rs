use proptest::prelude::*;

use super::*;
use crate::key::IdentityKey;

const FINGERPRINT: &str = "0123456789ABCDEF0123456789ABCDEF01234567";

const INVITE: &str = "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo";

fn key() -> BridgeKey {
    IdentityKey::from_bytes([7; 32]).public()
}

fn invitation(bytes: [u8; 32]) -> Invitation {
    data_encoding::BASE64URL_NOPAD.encode(&bytes).parse().unwrap()
}

fn parse(text: &str) -> Result<BridgeLine, BridgeLineError> {
    text.parse()
}

#[test]
fn every_form_of_a_line_is_understood() {
    let key = key();
    let line = BridgeLine {
        address: "192.0.2.7:443".parse().unwrap(),
        fingerprint: Some(FINGERPRINT.to_owned()),
        key,
        cover: Cover::Mirror(vec!["www.example.com".parse().unwrap()]),
        profile: None,
        invitation: None,
    };
    let text = format!("Bridge qnet 192.0.2.7:443 {FINGERPRINT} key={key} sni=www.example.com");
    assert_eq!(line.to_string(), text);
    let lower = FINGERPRINT.to_lowercase();
    for form in [
        text.clone(),
        text["Bridge ".len()..].to_owned(),
        format!("  bridge\tqnet 192.0.2.7:443   {lower} sni=WWW.example.com key={key}\r\n"),
    ] {
        assert_eq!(parse(&form), Ok(line.clone()), "{form}");
    }
    let bare = format!("qnet [2001:db8::7]:8443 key={key} sni=a.example sni=b.example");
    let parsed = parse(&bare).unwrap();
    assert_eq!(parsed.to_string(), format!("Bridge {bare}"));
    assert_eq!((&parsed.fingerprint, parsed.names().len()), (&None, 2));
    let bare = format!("qnet 192.0.2.7:443 key={key} url=https://cdn.example/path?v=1");
    let parsed = parse(&bare).unwrap();
    assert_eq!(parsed.to_string(), format!("Bridge {bare}"));
    assert_eq!(parsed.cover, Cover::Websocket("https://cdn.example/path?v=1".parse().unwrap()));
    assert_eq!(parsed.profile, None);
    let invited =
        format!("qnet 192.0.2.7:443 {FINGERPRINT} key={key} sni=www.example.com profile=web invite={INVITE}");
    let parsed = parse(&invited).unwrap();
    assert_eq!(parsed.to_string(), format!("Bridge {invited}"));
    assert_eq!(parsed.invitation, Some(INVITE.parse().unwrap()));
    assert_eq!(
        parse(&format!("qnet 192.0.2.7:443 invite={INVITE} key={key} sni=a.b")).unwrap().invitation,
        parsed.invitation
    );
    let named = format!("{bare} profile=break-pad");
    let parsed = parse(&named).unwrap();
    assert_eq!(parsed.to_string(), format!("Bridge {named}"));
    assert_eq!(parsed.profile.as_ref().map(ProfileName::as_str), Some("break-pad"));
}

#[test]
fn each_fault_has_its_own_message() {
    let (key, other) = (key(), IdentityKey::from_bytes([8; 32]).public());
    let long = "a".repeat(60);
    for (text, error) in [
        (String::new(), BridgeLineError::Transport),
        ("Bridge".to_owned(), BridgeLineError::Transport),
        ("Bridge obfs4 192.0.2.7:443".to_owned(), BridgeLineError::Transport),
        (format!("192.0.2.7:443 key={key} sni=a.b"), BridgeLineError::Transport),
        ("qnet".to_owned(), BridgeLineError::Address),
        (format!("qnet 192.0.2.7 key={key} sni=a.b"), BridgeLineError::Address),
        (format!("qnet 192.0.2.7:0 key={key} sni=a.b"), BridgeLineError::Address),
        (format!("qnet example.com:443 key={key} sni=a.b"), BridgeLineError::Address),
        (format!("qnet 192.0.2.7:443 {} key={key} sni=a.b", &FINGERPRINT[1..]), BridgeLineError::Fingerprint),
        (format!("qnet 192.0.2.7:443 {FINGERPRINT}"), BridgeLineError::NoKey),
        (format!("qnet 192.0.2.7:443 key={key}"), BridgeLineError::NoCover),
        (format!("qnet 192.0.2.7:443 key={key} key={other} sni=a.b"), BridgeLineError::TwoKeys),
        (format!("qnet 192.0.2.7:443 key={key}x sni=a.b"), BridgeLineError::Key(KeyError::Length(44))),
        (format!("qnet 192.0.2.7:443 key={key} sni="), BridgeLineError::Name(NameError::Empty)),
        (format!("qnet 192.0.2.7:443 key={key} sni=a,b"), BridgeLineError::Name(NameError::Letter)),
        (format!("qnet 192.0.2.7:443 key={key} sni=a.b url=https://a.b/x"), BridgeLineError::TwoCovers),
        (
            format!("qnet 192.0.2.7:443 key={key} url=https://a.b/x url=https://a.b/x"),
            BridgeLineError::TwoUrls,
        ),
        (format!("qnet 192.0.2.7:443 key={key} url=a.b/x"), BridgeLineError::Url(UrlError::Scheme)),
        (
            format!("qnet 192.0.2.7:443 key={key} sni=a.b profile="),
            BridgeLineError::Profile(ProfileNameError),
        ),
        (
            format!("qnet 192.0.2.7:443 key={key} sni=a.b profile=Web"),
            BridgeLineError::Profile(ProfileNameError),
        ),
        (
            format!("qnet 192.0.2.7:443 key={key} sni=a.b profile={}", "a".repeat(MAX_PROFILE + 1)),
            BridgeLineError::Profile(ProfileNameError),
        ),
        (
            format!("qnet 192.0.2.7:443 key={key} sni=a.b profile=web profile=web"),
            BridgeLineError::TwoProfiles,
        ),
        (format!("qnet 192.0.2.7:443 key={key} sni=a.b iat=0"), BridgeLineError::Unknown("iat".to_owned())),
        (format!("qnet 192.0.2.7:443 key={key} sni=a.b word"), BridgeLineError::Unknown("word".to_owned())),
        (
            format!("qnet 192.0.2.7:443 key={key} sni={long}.a sni={long}.b sni={long}.c"),
            BridgeLineError::TooLong,
        ),
    ] {
        assert_eq!(parse(&text), Err(error), "{text}");
    }
}

#[test]
fn the_length_limit_is_exact_and_holds_for_pt_arguments_too() {
    let start = format!("Bridge qnet 192.0.2.7:443 {FINGERPRINT} key={} sni=", key());
    let room = MAX_LEN - start.len();
    let longest = format!("{start}{}", ["a".repeat(room - 102), "b".repeat(50), "c".repeat(50)].join("."));
    assert_eq!(longest.len(), MAX_LEN);
    assert!(parse(&longest).is_ok(), "{longest}");
    assert_eq!(parse(&format!("{longest}a")), Err(BridgeLineError::TooLong));
    let names = vec![("sni", "a.example"); 100];
    let address = "192.0.2.7:443".parse().unwrap();
    assert_eq!(BridgeLine::from_pt_args(address, names), Err(BridgeLineError::TooLong));
}

#[test]
fn pt_arguments_give_the_line_without_its_fingerprint() {
    let line = parse(&format!("qnet 192.0.2.7:443 {FINGERPRINT} key={} sni=a.b sni=c.d", key())).unwrap();
    let args: Vec<_> = line.pt_args().collect();
    let again = BridgeLine::from_pt_args(line.address, args.iter().map(|(k, v)| (*k, v.as_str())));
    assert_eq!(again, Ok(BridgeLine { fingerprint: None, ..line }));
}

#[test]
fn debug_output_shows_nothing() {
    let line = parse(&format!("qnet 192.0.2.7:443 key={} sni=a.b", key())).unwrap();
    assert_eq!(format!("{line:?}"), "BridgeLine([redacted])");
}

#[test]
fn an_invitation_comes_once_and_whole_and_never_beside_a_url() {
    for (args, error) in [
        (
            format!("sni=a.b invite={}", &INVITE[1..]),
            BridgeLineError::Invitation(InvitationError::Length(42)),
        ),
        (format!("sni=a.b invite={INVITE} invite={INVITE}"), BridgeLineError::TwoInvitations),
        (format!("url=https://a.b/x invite={INVITE}"), BridgeLineError::InvitedByUrl),
        (format!("sni=a.b url=https://a.b/x invite={INVITE}"), BridgeLineError::TwoCovers),
        (format!("invite={INVITE}"), BridgeLineError::NoCover),
    ] {
        assert_eq!(parse(&format!("qnet 192.0.2.7:443 key={} {args}", key())), Err(error), "{args}");
    }
}

#[test]
fn what_a_bridge_announces_invites_nobody() {
    let line = parse(&format!("qnet 192.0.2.7:443 key={} sni=a.b invite={INVITE}", key())).unwrap();
    let args: Vec<_> = line.pt_args().collect();
    assert!(args.iter().all(|(name, value)| *name != "invite" && value != INVITE), "{args:?}");
    let given = args.iter().map(|(name, value)| (*name, value.as_str())).chain([("invite", INVITE)]);
    assert_eq!(BridgeLine::from_pt_args(line.address, given), Ok(line));
}

#[test]
fn an_invited_line_has_room_for_the_longest_address_and_a_usual_name() {
    let address = "[2001:0db8:0000:0000:0000:0000:0000:0007]:65535";
    let text = format!(
        "Bridge qnet {address} {FINGERPRINT} key={} sni={}.org invite={INVITE}",
        key(),
        "a".repeat(40)
    );
    assert!(text.len() <= MAX_LEN, "{}", text.len());
    assert!(parse(&text).is_ok(), "{text}");
}

proptest! {
    #[test]
    fn lines_survive_their_text(
        secret: [u8; 32], ip: std::net::IpAddr, port in 1_u16.., with_fingerprint: bool,
        names in proptest::collection::vec("[a-z]{1,12}\\.example", 1..4), path in "(/[a-zA-Z0-9._~-]{3,9}){0,3}",
        profile in proptest::option::of("[a-z0-9-]{1,24}"), invited in proptest::option::of(any::<[u8; 32]>()),
    ) {
        let cover = if path.is_empty() {
            Cover::Mirror(names.iter().map(|name| name.parse().unwrap()).collect())
        } else {
            Cover::Websocket(format!("https://{}{path}", names[0]).parse().unwrap())
        };
        let line = BridgeLine {
            address: SocketAddr::new(ip, port),
            fingerprint: with_fingerprint.then(|| FINGERPRINT.to_owned()),
            key: IdentityKey::from_bytes(secret).public(),
            cover,
            profile: profile.map(|name| name.parse().unwrap()),
            invitation: invited.filter(|_| path.is_empty()).map(invitation),
        };
        prop_assume!(line.to_string().len() <= MAX_LEN);
        prop_assert_eq!(parse(&line.to_string()), Ok(line));
    }

    #[test]
    fn mutated_lines_never_panic(at in 0_usize..230, with in "\\PC{0,3}", drop in 0_usize..4, cover in 0_usize..3) {
        let cover = [
            "url=https://www.example.com/a/b?c=d".to_owned(),
            "sni=www.example.com".to_owned(),
            format!("sni=www.example.com invite={INVITE}"),
        ][cover].clone();
        let mut text = format!("Bridge qnet 192.0.2.7:443 {FINGERPRINT} key={} {cover}", key());
        let at = at.min(text.len());
        text.replace_range(at..(at + drop).min(text.len()), &with);
        if let Ok(line) = parse(&text) {
            prop_assert_eq!(parse(&line.to_string()), Ok(line));
        }
    }
}

#[test]
fn no_name_or_address_gets_into_an_error() {
    let said = |word: &str| BridgeLineError::Unknown(word.to_owned()).to_string();
    assert!(said("iat-mode").starts_with("`iat-mode` is unknown"));
    for word in ["www.example.com", "192.0.2.7", "2001:db8::7", &"k".repeat(43)] {
        assert!(said(word).starts_with("an argument of the line is unknown"), "{word}");
    }
}
