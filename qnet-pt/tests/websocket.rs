//! A bridge behind a web server and its client: what each says, and that they meet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use qnet_tests::support::front::{Front, Options, Server};
use std::net::SocketAddr;
use support::{Launch, Pt, accept, closed_port, listener, talk};

const URL: &str = "https://www.example.com/a7Ge93kd";

fn server(bind: SocketAddr, site: SocketAddr, or_port: SocketAddr) -> Launch {
    let mut launch = Launch::server(or_port);
    launch.env("TOR_PT_SERVER_BINDADDR", format!("qnet-{bind}"));
    launch.env("TOR_PT_SERVER_TRANSPORT_OPTIONS", options(site));
    launch
}

fn options(site: SocketAddr) -> String {
    let escaped = |text: String| text.replace(':', "\\:");
    format!("qnet:url={};qnet:site={}", escaped(URL.to_owned()), escaped(site.to_string()))
}

#[test]
fn a_client_meets_its_bridge_behind_nginx() {
    let (or_port, or_address) = listener();
    let bind = closed_port();
    let front = Front::start(Server::Nginx, Options::new("/a7Ge93kd", bind)).unwrap();
    let mut bridge = server(bind, front.site(), or_address).start();
    let (address, args) = bridge.smethod();
    assert_eq!(address, bind);
    let (key, url) = args.split_once(',').unwrap();
    assert_eq!((key.strip_prefix("key=").unwrap().len(), url), (43, "url=https://www.example.com/a7Ge93kd"));

    let mut client = Launch::client().env("SSL_CERT_FILE", &front.certificates().ca).start();
    let socks = client.cmethod();
    let args = args.replace(',', ";");
    let mut user = support::socks::connect(socks, front.address(), &args).unwrap();
    let mut tor = accept(&or_port);
    talk(&mut user, &mut tor);

    // The wrong path is the site's; the client says so, and names neither site nor address.
    let wrong = args.replace("a7Ge93kd", "elsewhere");
    assert_eq!(support::socks::connect(socks, front.address(), &wrong).err(), Some(4));
    let told = |pt: &mut Pt| pt.line("STATUS TRANSPORT=qnet CONNECT=Failed");
    let line = told(&mut client);
    assert!(line.contains("status 404") && line.contains("is the path right"), "{line}");
    let both = [args, format!("{key};url={URL};sni=www.example.com")];
    assert_eq!(support::socks::connect(socks, front.address(), &both[1]).err(), Some(2));
    let port = front.address().port().to_string();
    assert!(!client.seen.iter().any(|line| line.contains("example.com") || line.contains(&port)));
}

#[test]
fn what_does_not_fit_is_said() {
    let message = |launch: &Launch| {
        let lines = launch.start().configured();
        lines[1].strip_prefix("SMETHOD-ERROR qnet ").unwrap_or_else(|| panic!("{lines:?}")).to_owned()
    };
    let (_site, site) = listener();
    for bind in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let message = message(&server(bind.parse().unwrap(), site, closed_port()));
        assert!(message.contains("ServerTransportListenAddr qnet 127.0.0.1:8081"), "{message}");
    }
    let loopback = "127.0.0.1:0".parse().unwrap();
    let elsewhere = message(&server(loopback, "192.0.2.1:80".parse().unwrap(), closed_port()));
    assert!(elsewhere.contains("not this machine's"), "{elsewhere}");
    for (options, words) in [
        (r"qnet:url=https\://a.example/x", "url= needs site="),
        (r"qnet:site=127.0.0.1\:80", "site= needs url="),
        (r"qnet:url=https\://a.example/;qnet:site=127.0.0.1\:80", "needs a path"),
        (
            r"qnet:url=https\://a.example/x;qnet:site=127.0.0.1\:80;qnet:sni=a.example",
            "a bridge is one of them",
        ),
    ] {
        let mut launch = server(loopback, site, closed_port());
        let message = message(launch.env("TOR_PT_SERVER_TRANSPORT_OPTIONS", options));
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_site_that_is_down_is_warned_of() {
    let mut bridge = server("127.0.0.1:0".parse().unwrap(), closed_port(), closed_port()).start();
    bridge.smethod();
    let lines = bridge.seen.clone();
    assert!(lines.iter().any(|line| line.contains("visitors get no site")), "{lines:?}");
}
