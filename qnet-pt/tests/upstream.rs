//! The way out of a client: upstream proxies and source addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::{
    Launch, Tunnel, accept, accept_within, closed_port, in_own_network, listener, read_exact, socks, talk,
};

#[test]
fn row_18_proxies_are_checked_first() {
    for url in ["socks5://127.0.0.1:9", "socks4a://127.0.0.1:9", "http://127.0.0.1:9", "socks5://u:p@[::1]:9"]
    {
        let lines = Launch::client().env("TOR_PT_PROXY", url).start().configured();
        assert_eq!(lines[1], "PROXY DONE", "{url}");
    }
    let lines = Launch::client().env("TOR_PT_PROXY", "https://127.0.0.1:9").fails();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "VERSION 1");
    assert!(
        lines[1].starts_with("PROXY-ERROR ") && lines[1].contains("socks5, socks4a or http"),
        "{lines:?}"
    );
    for unasked in [None, Some("")] {
        let mut launch = Launch::client();
        if let Some(url) = unasked {
            launch.env("TOR_PT_PROXY", url);
        }
        let lines = launch.start().configured();
        assert!(!lines.iter().any(|line| line.starts_with("PROXY")), "{lines:?}");
    }
}

#[test]
fn row_20_urls_that_are_refused() {
    let bad = [
        "socks5://127.0.0.1:9/",
        "socks5://127.0.0.1:9/path",
        "http://127.0.0.1:9?q",
        "http://127.0.0.1:9#f",
        "socks5://proxy.example:9",
        "http://localhost:9",
        "socks5://127.0.0.1",
        "socks5://127.0.0.1:0",
        "socks5://alice:secret@127.0.0.1",
        "http://alice:secret@proxy.example:9",
        "ftp://127.0.0.1:9",
        "127.0.0.1:9",
        "socks5://",
        "http://alice:se\r\nX: cret@127.0.0.1:9",
    ];
    for url in bad {
        let lines = Launch::client().env("TOR_PT_PROXY", url).fails();
        assert!(lines.len() == 2 && lines[1].starts_with("PROXY-ERROR "), "{url}: {lines:?}");
        assert!(!lines[1].contains("alice") && !lines[1].contains("secret"), "{lines:?}");
    }
}

/// A tunnel whose client has an upstream proxy.
fn behind(scheme_and_login: &str) -> (TcpListener, Tunnel) {
    let (proxy, address) = listener();
    let url = format!("{scheme_and_login}{address}");
    let tunnel = Tunnel::with(|client| _ = client.env("TOR_PT_PROXY", url), |_| {});
    (proxy, tunnel)
}

/// Asks for a tunnel and plays the proxy with `script`, which answers and returns the target asked for.
fn through(proxy: &TcpListener, tunnel: &Tunnel, script: impl FnOnce(&mut TcpStream) -> SocketAddr) {
    let (socks, bridge, args) = (tunnel.socks, tunnel.bridge, tunnel.args.clone());
    let user = std::thread::spawn(move || socks::connect(socks, bridge, &args));
    let mut near = accept(proxy);
    assert_eq!(script(&mut near), tunnel.bridge);
    let far = TcpStream::connect(tunnel.bridge).unwrap();
    for (from, to) in [(&near, &far), (&far, &near)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    }
    let mut user = user.join().unwrap().unwrap();
    talk(&mut user, &mut accept(&tunnel.or_port));
}

fn v4(bytes: [u8; 6]) -> SocketAddr {
    let [a, b, c, d, p, q] = bytes;
    SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p, q])))
}

/// The rest of a SOCKS5 dialogue, from the request on.
fn socks5_request(tcp: &mut TcpStream) -> SocketAddr {
    assert_eq!(read_exact::<4>(tcp), [5, 1, 0, 1]);
    let target = v4(read_exact(tcp));
    tcp.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    target
}

#[test]
fn row_19_socks5() {
    let (proxy, tunnel) = behind("socks5://");
    through(&proxy, &tunnel, |tcp| {
        let [version, count] = read_exact(tcp);
        assert_eq!(version, 5);
        let mut methods = vec![0; count.into()];
        tcp.read_exact(&mut methods).unwrap();
        assert!(methods.contains(&0));
        tcp.write_all(&[5, 0]).unwrap();
        socks5_request(tcp)
    });
}

#[test]
fn row_20_a_login_is_sent_as_it_came() {
    let (proxy, tunnel) = behind("socks5://us:er:p@ss@");
    through(&proxy, &tunnel, |tcp| {
        let [_, count] = read_exact(tcp);
        let mut methods = vec![0; count.into()];
        tcp.read_exact(&mut methods).unwrap();
        assert!(methods.contains(&2));
        tcp.write_all(&[5, 2]).unwrap();
        assert_eq!(&read_exact::<12>(tcp), b"\x01\x02us\x07er:p@ss");
        tcp.write_all(&[1, 0]).unwrap();
        socks5_request(tcp)
    });
}

#[test]
fn row_19_socks4a() {
    let (proxy, tunnel) = behind("socks4a://me@");
    through(&proxy, &tunnel, |tcp| {
        assert_eq!(read_exact::<2>(tcp), [4, 1]);
        let [p, q, a, b, c, d] = read_exact(tcp);
        assert_eq!(&read_exact::<3>(tcp), b"me\0");
        tcp.write_all(&[0, 90, 0, 0, 0, 0, 0, 0]).unwrap();
        v4([a, b, c, d, p, q])
    });
}

#[test]
fn row_19_http() {
    let (proxy, tunnel) = behind("http://user:pass@");
    through(&proxy, &tunnel, |tcp| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(read_exact::<1>(tcp));
        }
        let head = String::from_utf8(head).unwrap();
        let target =
            head.strip_prefix("CONNECT ").and_then(|rest| rest.split_once(" HTTP/1.1\r\n")).unwrap().0;
        // base64 of user:pass
        assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic "), "{head}");
        assert!(head.contains("dXNlcjpwYXNz"), "{head}");
        tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        target.parse().unwrap()
    });
}

#[test]
fn row_21_never_around_the_proxy() {
    let (bridge, bridge_address) = listener();
    let args = format!("key={}A;sni=www.example.com", "CQ".to_owned() + &"A".repeat(40));
    for scheme in ["socks5://", "socks4a://", "http://"] {
        // A proxy that is not there, and one that closes.
        for proxy in [None, Some(listener())] {
            let address = proxy.as_ref().map_or_else(closed_port, |proxy| proxy.1);
            let launch_env = format!("{scheme}{address}");
            let mut launch = Launch::client();
            let mut pt = launch.env("TOR_PT_PROXY", launch_env).start();
            let socks = pt.cmethod();
            if let Some((proxy, _)) = proxy {
                std::thread::spawn(move || drop(accept(&proxy)));
            }
            socks::connect(socks, bridge_address, &args).unwrap_err();
            let reason = pt.line("LOG SEVERITY=warning");
            assert!(reason.contains("proxy"), "{reason}");
        }
    }
    assert!(accept_within(&bridge, Duration::from_millis(100)).is_none(), "something dialled directly");
}

#[test]
fn row_21_names_are_never_looked_up() {
    let (proxy, address) = listener();
    let mut launch = Launch::client();
    let mut pt = launch.env("TOR_PT_PROXY", format!("socks5://{address}")).start();
    let mut tcp = socks::dial(pt.cmethod());
    socks::log_in(&mut tcp, b"key=x", &[0]);
    tcp.write_all(&[&[5, 1, 0, 3, 9][..], b"localhost", &[0, 9]].concat()).unwrap();
    assert_eq!(socks::reply(tcp).unwrap_err(), 8);
    assert!(accept_within(&proxy, Duration::from_millis(100)).is_none());
}

#[test]
fn row_14_source_addresses() {
    let setup = "ip address add 198.51.100.1/32 dev lo && ip address add 198.51.100.77/32 dev lo";
    if !in_own_network("row_14_source_addresses", setup) {
        return;
    }
    // Towards loopback the source address does not count: it could not work.
    let outbound = |client: &mut Launch| {
        client.env("TOR_PT_OUTBOUND_BIND_ADDRESS_V4", "192.0.2.77");
        client.env("TOR_PT_OUTBOUND_BIND_ADDRESS_V6", "[2001:db8::77]");
    };
    let tunnel = Tunnel::with(outbound, |_| {});
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);

    // Elsewhere it does.
    let away = TcpListener::bind("198.51.100.1:0").unwrap();
    let mut launch = Launch::client();
    let mut pt = launch.env("TOR_PT_OUTBOUND_BIND_ADDRESS_V4", "198.51.100.77").start();
    let mut user = socks::dial(pt.cmethod());
    socks::log_in(&mut user, tunnel.args.as_bytes(), &[0]);
    user.write_all(&socks::request(away.local_addr().unwrap())).unwrap();
    assert_eq!(accept(&away).peer_addr().unwrap().ip().to_string(), "198.51.100.77");

    // One that is not this machine's is an error, and the words say which.
    let mut launch = Launch::client();
    outbound(&mut launch);
    let mut pt = launch.start();
    let socks = pt.cmethod();
    socks::connect(socks, "198.51.100.2:9".parse().unwrap(), &tunnel.args).unwrap_err();
    assert!(pt.line("LOG SEVERITY=warning").contains("the IPv4 address set for outgoing"));
    socks::connect(socks, "[2001:db8::1]:9".parse().unwrap(), &tunnel.args).unwrap_err();
    assert!(pt.line("LOG SEVERITY=warning").contains("the IPv6 address set for outgoing"));
}
