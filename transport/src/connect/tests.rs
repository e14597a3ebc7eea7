//! Every way to fail, against scripted proxies; real ones are in `tests/proxies.rs`.

use proptest::prelude::*;
use qnet_wire::error::{Kind, Retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const TO: &str = "192.0.2.7:443";
const TO_V6: &str = "[2001:db8::7]:443";

/// What a proxy does: once it has read so many bytes, it answers so.
type Script = Vec<(usize, Vec<u8>)>;

/// Plays a script and returns all that was asked. The proxy then closes, or waits for the client to.
async fn play(script: Script, close: bool) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    play_in_pieces(script, close, 1).await
}

/// Answers may come in any pieces.
async fn play_in_pieces(script: Script, close: bool, piece: usize) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        for (count, answer) in script {
            let mut asked = vec![0; count];
            tcp.read_exact(&mut asked).await.unwrap();
            all.extend_from_slice(&asked);
            for part in answer.chunks(piece) {
                let _ = tcp.write_all(part).await; // the client may have seen enough before the last
                tokio::task::yield_now().await;
            }
        }
        if !close {
            let _ = tcp.read_to_end(&mut all).await;
        }
        all
    });
    (address, task)
}

async fn ask(
    upstream: impl Fn(SocketAddr) -> Upstream,
    to: &str,
    script: Script,
    close: bool,
) -> (Result<(), ConnectError>, Vec<u8>) {
    let (address, task) = play(script, close).await;
    let connect = Connect { upstream: upstream(address), ..Connect::default() };
    let result = connect.connect_within(to.parse().unwrap(), Duration::from_secs(10)).await;
    (result.map(drop), task.await.unwrap())
}

fn login() -> Option<Login> {
    Some(Login::new("us:er", "p@ss").unwrap())
}

fn socks5(login: Option<Login>) -> impl Fn(SocketAddr) -> Upstream {
    move |addr| Upstream::Socks5 { addr, login: login.clone() }
}

fn socks4(user: Option<&str>) -> impl Fn(SocketAddr) -> Upstream {
    let user = user.map(|user| Zeroizing::new(user.to_owned()));
    move |addr| Upstream::Socks4a { addr, user: user.clone() }
}

fn http(login: Option<Login>) -> impl Fn(SocketAddr) -> Upstream {
    move |addr| Upstream::Http { addr, login: login.clone() }
}

fn granted() -> Vec<u8> {
    vec![5, 0, 0, 1, 10, 0, 0, 1, 0x12, 0x34]
}

#[tokio::test]
async fn socks5_without_login() {
    let script = vec![(3, vec![5, 0]), (10, granted())];
    let (result, asked) = ask(socks5(None), TO, script, false).await;
    result.unwrap();
    assert_eq!(asked, [5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 7, 1, 187]);
}

#[tokio::test]
async fn socks5_with_login_and_a_name_in_the_answer() {
    let mut answer = vec![5, 0, 0, 3, 255];
    answer.extend([b'a'; 255]);
    answer.extend([0, 80]);
    let script = vec![(4, vec![5, 2]), (12, vec![1, 0]), (22, answer)];
    let (result, asked) = ask(socks5(login()), TO_V6, script, false).await;
    result.unwrap();
    assert_eq!(asked[..16], *b"\x05\x02\x00\x02\x01\x05us:er\x04p@ss");
    assert_eq!(asked[16..20], [5, 1, 0, 4]);
}

#[tokio::test]
async fn socks5_does_not_show_its_login_unasked() {
    let script = vec![(4, vec![5, 0]), (10, granted())];
    let (result, asked) = ask(socks5(login()), TO, script, false).await;
    result.unwrap();
    assert!(!asked.windows(4).any(|bytes| bytes == b"p@ss"));
}

#[tokio::test]
async fn socks5_reads_to_the_byte() {
    let mut answer = granted();
    answer.extend(b"the bridge's first bytes");
    let (address, _task) = play(vec![(3, vec![5, 0]), (10, answer)], true).await;
    let connect = Connect { upstream: socks5(None)(address), ..Connect::default() };
    let mut tcp = connect.connect(TO.parse().unwrap()).await.unwrap();
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    assert_eq!(rest, b"the bridge's first bytes");
}

#[tokio::test]
async fn socks5_failures_are_distinct() {
    for (reply, wanted) in [
        (1, "the upstream proxy could not connect to the bridge (SOCKS5 reply 1)"),
        (2, "the upstream proxy's rules do not allow"),
        (3, "no route to its network"),
        (4, "no route to the host"),
        (5, "refused the connection"),
        (6, "did not answer in time"),
        (7, "outgoing connections"),
        (8, "addresses of the bridge's family"),
        (77, "SOCKS5 reply 77"),
    ] {
        let script = vec![(3, vec![5, 0]), (10, vec![5, reply, 0, 1])];
        let error = ask(socks5(None), TO, script, false).await.0.unwrap_err();
        assert!(error.to_string().contains(wanted), "{reply}: {error}");
    }
    let error = ask(socks5(None), TO, vec![(3, vec![5, 0xff])], false).await.0.unwrap_err();
    assert!(matches!(error, ConnectError::ProxyWantsLogin), "{error}");
    assert_eq!((error.kind(), error.retry()), (Kind::Misuse, Retry::Never));
    let error = ask(socks5(login()), TO, vec![(4, vec![5, 2]), (12, vec![1, 1])], false).await.0.unwrap_err();
    assert!(matches!(error, ConnectError::ProxyLoginRefused), "{error}");
    for script in [
        vec![(3, b"HTTP".to_vec())],
        vec![(3, vec![5, 2])],
        vec![(3, vec![5, 0]), (10, vec![4, 0, 0, 1])],
        vec![(3, vec![5, 0]), (10, vec![5, 0, 0, 9])],
    ] {
        let error = ask(socks5(None), TO, script, false).await.0.unwrap_err();
        assert!(matches!(error, ConnectError::ProxyMisbehaved(_)), "{error}");
    }
}

#[tokio::test]
async fn socks4_by_address_and_4a_by_name() {
    let granted = vec![0, 90, 0, 0, 0, 0, 0, 0];
    let (result, asked) = ask(socks4(None), TO, vec![(9, granted.clone())], false).await;
    result.unwrap();
    assert_eq!(asked, [4, 1, 1, 187, 192, 0, 2, 7, 0]);
    let (result, asked) = ask(socks4(Some("me")), TO_V6, vec![(11 + 12, granted)], false).await;
    result.unwrap();
    assert_eq!(asked, *b"\x04\x01\x01\xbb\x00\x00\x00\x01me\x002001:db8::7\x00");
}

#[tokio::test]
async fn socks4_failures_are_distinct() {
    for (answer, wanted) in [
        (vec![0, 91, 0, 0, 0, 0, 0, 0], "SOCKS4 reply 91"),
        (vec![0, 93, 0, 0, 0, 0, 0, 0], "did not accept"),
        (b"HTTP/1.1".to_vec(), "no SOCKS4 answer"),
    ] {
        let error = ask(socks4(None), TO, vec![(9, answer)], false).await.0.unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    for user in ["a\0b", &"a".repeat(256)] {
        let error = ask(socks4(Some(user)), TO, vec![], false).await.0.unwrap_err();
        assert!(matches!(error, ConnectError::BadLogin(_)), "{error}");
    }
}

const CONNECT_LINE: &[u8] = b"CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: 192.0.2.7:443\r\n";

#[tokio::test]
async fn http_with_and_without_login() {
    let ok = b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n".to_vec();
    let length = CONNECT_LINE.len() + 2;
    let (result, asked) = ask(http(None), TO, vec![(length, ok.clone())], false).await;
    result.unwrap();
    assert_eq!(asked, [CONNECT_LINE, b"\r\n"].concat());
    // "us:er" cannot be told from user "us", password "er:p@ss".
    let error = ask(http(login()), TO, vec![], false).await.0.unwrap_err();
    assert!(matches!(error, ConnectError::BadLogin(_)), "{error}");
    let login = Some(Login::new("user", "p:ss").unwrap());
    let head = b"Proxy-Authorization: Basic dXNlcjpwOnNz\r\n\r\n";
    let (result, asked) = ask(http(login), TO, vec![(CONNECT_LINE.len() + head.len(), ok)], false).await;
    result.unwrap();
    assert_eq!(asked, [CONNECT_LINE, head].concat());
    let request = b"CONNECT [2001:db8::7]:443 HTTP/1.1\r\n";
    let (_, asked) = ask(http(None), TO_V6, vec![(request.len(), b"x".to_vec())], false).await;
    assert_eq!(asked[..request.len()], *request);
}

#[tokio::test]
async fn http_failures_are_distinct() {
    let error = async |answer: &[u8]| {
        let script = vec![(CONNECT_LINE.len() + 2, answer.to_vec())];
        ask(http(None), TO, script, true).await.0.unwrap_err()
    };
    for (answer, wanted) in [
        (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], "none is configured"),
        (b"HTTP/1.1 403 Forbidden\r\nA: b\r\n\r\n<html>", "do not allow"),
        (b"HTTP/1.1 405 No\r\n\r\n", "the CONNECT method"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP status 502"),
        (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "did not answer in time"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "HTTP status 302"),
        (b"HTTP/1.1 999 ?\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 20\r\n\r\n", "no HTTP answer"),
        (b"SSH-2.0-x\r\n", "no HTTP answer"),
        (b"\x05\x00", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"", "closed the connection"),
    ] {
        let error = error(answer).await;
        assert!(error.to_string().contains(wanted), "{}: {error}", answer.escape_ascii());
    }
    let early = vec![(1, b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec())];
    let (address, _task) = play_in_pieces(early, false, 100).await;
    let early = Connect { upstream: http(None)(address), ..Connect::default() };
    let early = early.connect(TO.parse().unwrap()).await.unwrap_err();
    assert!(matches!(early, ConnectError::ProxyMisbehaved("bytes after its answer to CONNECT")), "{early}");
    let mut endless = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
    endless.resize(20_000, b'a');
    let endless = error(&endless).await;
    assert!(endless.to_string().contains("over 8 KiB"), "{endless}");
    let script = vec![(1, b"HTTP/1.1 407 No\r\n\r\n".to_vec())];
    let refused = ask(http(Some(Login::new("a", "").unwrap())), TO, script, false).await.0.unwrap_err();
    assert!(matches!(refused, ConnectError::ProxyLoginRefused), "{refused}");
}

#[tokio::test]
async fn a_silent_proxy_is_given_up() {
    let (address, _task) = play(vec![(3, vec![])], false).await;
    let connect = Connect { upstream: socks5(None)(address), ..Connect::default() };
    let error = connect.connect_within(TO.parse().unwrap(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { hop: Hop::BeyondProxy }), "{error}");
    assert_eq!((error.kind(), error.retry()), (Kind::Network, Retry::Later));
}

#[tokio::test]
async fn a_dead_proxy_is_not_gone_around() {
    let bridge = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for upstream in [socks5(None)(dead), socks4(None)(dead), http(None)(dead)] {
        let connect = Connect { upstream, ..Connect::default() };
        let error = connect.connect(bridge.local_addr().unwrap()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { hop: Hop::Proxy }), "{error}");
    }
    assert!(timeout(Duration::from_millis(100), bridge.accept()).await.is_err());
}

#[tokio::test]
async fn direct_has_chromes_socket_options() {
    let bridge = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = Connect::default().connect(bridge.local_addr().unwrap()).await.unwrap();
    assert!(tcp.nodelay().unwrap());
    let socket = SockRef::from(&tcp);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE);
}

#[tokio::test]
async fn direct_failures_are_distinct() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Connect::default().connect(nobody).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { hop: Hop::Bridge }), "{error}");
    assert_eq!(error.to_string(), "the bridge refused the connection: nothing listens on that port");
}

#[test]
fn the_source_address_is_not_used_towards_loopback() {
    let connect = Connect {
        bind_v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        bind_v6: Some("2001:db8::1".parse().unwrap()),
        ..Connect::default()
    };
    let source = |to: &str| connect.source(to.parse().unwrap()).map(|source| source.to_string());
    assert_eq!(source("127.0.0.1"), None);
    assert_eq!(source("127.9.9.9"), None);
    assert_eq!(source("::1"), None);
    assert_eq!(source("::ffff:127.0.0.1"), None);
    assert_eq!(source("198.51.100.1").as_deref(), Some("192.0.2.1"));
    assert_eq!(source("2001:db8::2").as_deref(), Some("2001:db8::1"));
    assert_eq!(source("::ffff:198.51.100.1").as_deref(), Some("::ffff:192.0.2.1"));
}

#[tokio::test]
async fn a_foreign_source_address_is_an_error_of_its_own() {
    let bind_v4 = Some(Ipv4Addr::new(192, 0, 2, 1));
    let error = Connect { bind_v4, ..Connect::default() }.connect(TO.parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Bind { .. }), "{error}");
    assert!(error.to_string().contains("the IPv4 address set"), "{error}");
    assert!(!format!("{error} {error:?}").contains("192.0.2.1"), "{error:?}");
    assert_eq!((error.kind(), error.retry()), (Kind::Misuse, Retry::Later));
    // A loopback proxy is reached all the same; it is the proxy's own address that the bridge sees.
    let (addr, task) = play(vec![(3, vec![5, 0]), (10, granted())], false).await;
    let connect = Connect { upstream: socks5(None)(addr), bind_v4, bind_v6: None };
    drop(connect.connect(TO.parse().unwrap()).await.unwrap());
    task.await.unwrap();
}

#[test]
fn logins_are_bounded_and_never_shown() {
    assert_eq!(Login::new("", "x"), Err(LoginError::NoUser));
    assert_eq!(Login::new("x".repeat(256), ""), Err(LoginError::TooLong));
    assert_eq!(Login::new("x", "x".repeat(256)), Err(LoginError::TooLong));
    let longest = Login::new("x".repeat(255), "y".repeat(255)).unwrap();
    assert_eq!((longest.user().len(), longest.password().len()), (255, 255));
    let addr = "127.0.0.1:9".parse().unwrap();
    let shown = format!("{:?} {:?} {:?}", login(), socks5(login())(addr), socks4(Some("secret"))(addr));
    assert!(!shown.contains("p@ss") && !shown.contains("secret"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_proxy_may_say_anything(bytes in proptest::collection::vec(any::<u8>(), 0..400), which in 0..3) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (result, _) = runtime.block_on(async {
            let upstream = |addr| match which {
                0 => socks5(login())(addr),
                1 => socks4(None)(addr),
                _ => http(None)(addr),
            };
            ask(upstream, TO, vec![(1, bytes)], true).await
        });
        if let Err(error) = result {
            prop_assert!(!matches!(error, ConnectError::TimedOut { hop: Hop::Proxy }), "{}", error);
        }
    }
}
