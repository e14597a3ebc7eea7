use super::*;
use proptest::prelude::*;

const CONNECT: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 7, 1, 187];

fn login(user: &[u8], password: &[u8]) -> Vec<u8> {
    let length = |half: &[u8]| u8::try_from(half.len()).unwrap();
    [&[1, length(user)], user, &[length(password)], password].concat()
}

fn run(input: &[u8]) -> (Progress, Vec<u8>) {
    let (mut server, mut out) = (Server::new(), Vec::new());
    let progress = server.on_bytes(input, &mut out);
    (progress, out)
}

fn request(input: &[u8]) -> Request {
    match run(input).0 {
        Progress::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_login() {
    let input = [&[5, 2, 0, 2][..], &login(b"key=a;", b"sni=b"), CONNECT, b"early"].concat();
    let (progress, out) = run(&input);
    assert_eq!(out, [5, 2, 1, 0]);
    let expected = Request {
        command: Command::Connect,
        target: Target::Address("192.0.2.7:443".parse().unwrap()),
        args: Zeroizing::new(b"key=a;sni=b".to_vec()),
        early: b"early".to_vec(),
    };
    assert_eq!(progress, Progress::Request(expected));
}

#[test]
fn an_association_is_for_those_who_may() {
    let associate = [5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    let (progress, out) = run(&associate);
    assert_eq!(progress, Progress::Failed(SocksError::Command(3)));
    assert_eq!(out, [5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0]);
    let (mut server, mut out) = (Server::with_udp(), Vec::new());
    let progress = server.on_bytes(&associate, &mut out);
    assert!(matches!(progress, Progress::Request(r) if r.command == Command::Udp), "{out:?}");
    out.clear();
    Reply::Succeeded.write_bound("127.0.0.1:258".parse().unwrap(), &mut out);
    assert_eq!(out, [5, 0, 0, 1, 127, 0, 0, 1, 1, 2]);
    out.clear();
    Reply::Succeeded.write_bound("[::1]:258".parse().unwrap(), &mut out);
    assert_eq!(out[..4], [5, 0, 0, 4]);
    assert_eq!((out.len(), &out[19..]), (22, [1, 1, 2].as_slice()));
}

#[test]
fn without_login() {
    let (progress, out) = run(&[&[5, 1, 0][..], CONNECT].concat());
    assert_eq!(out, [5, 0]);
    assert!(matches!(progress, Progress::Request(r) if r.args.is_empty()));
}

#[test]
fn a_password_of_one_nul_is_none() {
    let input = [&[5, 1, 2][..], &login(b"a=b", &[0]), CONNECT].concat();
    assert_eq!(*request(&input).args, b"a=b");
    let input = [&[5, 1, 2][..], &login(b"a=b", &[0, 0]), CONNECT].concat();
    assert_eq!(*request(&input).args, b"a=b\0\0");
    let input = [&[5, 1, 2][..], &login(b"", b""), CONNECT].concat();
    assert!(request(&input).args.is_empty());
}

#[test]
fn both_halves_full() {
    let input = [&[5, 1, 2][..], &login(&[b'u'; 255], &[b'p'; 255]), CONNECT].concat();
    assert_eq!(request(&input).args.len(), 510);
}

#[test]
fn targets() {
    let v6 = [&[5, 1, 0, 5, 1, 0, 4][..], &[0; 15], &[1, 0, 9]].concat();
    assert_eq!(request(&v6).target, Target::Address("[::1]:9".parse().unwrap()));
    let name = [&[5, 1, 0, 5, 1, 0, 3, 4][..], b"host", &[0, 9]].concat();
    assert_eq!(request(&name).target, Target::Name("host".to_owned(), 9));
}

#[test]
fn refusals() {
    let refused = |code: u8| vec![5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    let cases: [(&[u8], SocksError, Vec<u8>); 8] = [
        (&[4, 1], SocksError::Version(4), vec![]),
        (b"GET / HTTP/1.1", SocksError::Version(b'G'), vec![]),
        (&[5, 1, 1], SocksError::NoMethod, vec![5, 0xff]),
        (&[5, 0], SocksError::NoMethod, vec![5, 0xff]),
        (&[5, 1, 2, 5], SocksError::LoginVersion(5), vec![5, 2, 1, 1]),
        (&[5, 1, 0, 5, 2, 0, 1], SocksError::Command(2), refused(7)),
        (&[5, 1, 0, 5, 1, 0, 9], SocksError::AddressType(9), refused(8)),
        (&[5, 1, 0, 5, 1, 0, 3, 1, 0xff, 0, 1], SocksError::Name, refused(8)),
    ];
    for (input, error, expected) in cases {
        assert_eq!(run(input), (Progress::Failed(error), expected), "{input:?}");
    }
}

#[test]
fn memory_is_bounded_and_a_spent_one_stays_spent() {
    let mut server = Server::new();
    let mut out = Vec::new();
    assert_eq!(server.on_bytes(&[5; MAX_PENDING + 1], &mut out), Progress::Failed(SocksError::TooMuch));
    assert_eq!(server.on_bytes(&[5], &mut out), Progress::Failed(SocksError::Spent));
    assert!(out.is_empty());
}

#[test]
fn replies() {
    let mut out = Vec::new();
    Reply::TtlExpired.write(&mut out);
    assert_eq!(out, [5, 6, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn debug_shows_no_secret() {
    let input = [&[5, 1, 2][..], &login(b"key=hidden", b"x"), CONNECT].concat();
    let shown = format!("{:?}", request(&input));
    assert!(!shown.contains("192") && !shown.contains("104"), "{shown}");
}

proptest! {
    #[test]
    fn any_split_gives_the_same(cut in 1usize..40, user in "[a-z=;]{0,40}", password in "[a-z=;]{1,40}") {
        let input = [&[5, 2, 0, 2][..], &login(user.as_bytes(), password.as_bytes()), CONNECT].concat();
        let whole = run(&input);
        let (mut server, mut out) = (Server::new(), Vec::new());
        let mut last = Progress::More;
        for piece in input.chunks(cut) {
            prop_assert_eq!(&last, &Progress::More);
            last = server.on_bytes(piece, &mut out);
        }
        prop_assert_eq!((last, out), whole);
    }

    #[test]
    fn any_bytes_end_or_wait(head in 0usize..3, bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let start: &[u8] = [&[][..], &[5, 1, 2], &[5, 1, 0, 5, 1, 0]][head];
        let (mut server, mut out) = (Server::new(), Vec::new());
        server.on_bytes(start, &mut out);
        server.on_bytes(&bytes, &mut out);
        prop_assert!(out.len() <= 16);
    }
}
