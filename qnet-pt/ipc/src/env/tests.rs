use super::*;
use std::collections::HashMap;

const BASE: &[(&str, &str)] = &[("TOR_PT_MANAGED_TRANSPORT_VER", "1"), ("TOR_PT_STATE_LOCATION", "/state")];
const CLIENT: (&str, &str) = ("TOR_PT_CLIENT_TRANSPORTS", "qnet");
const SERVER: &[(&str, &str)] = &[("TOR_PT_SERVER_TRANSPORTS", "qnet"), ("TOR_PT_ORPORT", "127.0.0.1:9001")];

fn parse_with(more: &[(&str, &str)]) -> Result<Settings, EnvError> {
    let map: HashMap<&str, &str> = BASE.iter().chain(more).copied().collect();
    parse(|name| map.get(name).map(OsString::from))
}

fn client_with(more: &[(&str, &str)]) -> Client {
    let more: Vec<_> = more.iter().chain([&CLIENT]).copied().collect();
    match parse_with(&more).unwrap().role {
        Role::Client(client) => client,
        Role::Server(_) => panic!("a server"),
    }
}

fn server_with(more: &[(&str, &str)]) -> Result<Server, EnvError> {
    let more: Vec<_> = SERVER.iter().chain(more).copied().collect();
    match parse_with(&more)?.role {
        Role::Client(_) => panic!("a client"),
        Role::Server(server) => Ok(server),
    }
}

fn wrong_address<T: std::fmt::Debug>(result: &Result<T, EnvError>, name: &str) {
    assert!(matches!(result, Err(EnvError::Address { variable, .. }) if *variable == name), "{result:?}");
}

#[test]
fn one_role() {
    assert!(matches!(parse_with(&[]), Err(EnvError::Roles(_))));
    let both: Vec<_> = SERVER.iter().chain([&CLIENT]).copied().collect();
    assert!(matches!(parse_with(&both), Err(EnvError::Roles(_))));
}

#[test]
fn versions() {
    for good in ["1", "1,2", "2,1", "3,1,2", "1, 2"] {
        assert!(parse_with(&[CLIENT, ("TOR_PT_MANAGED_TRANSPORT_VER", good)]).is_ok(), "{good}");
    }
    for bad in ["2", "11", "0,2", ",", "1.0"] {
        let result = parse_with(&[CLIENT, ("TOR_PT_MANAGED_TRANSPORT_VER", bad)]);
        assert_eq!(result, Err(EnvError::NoVersion), "{bad}");
    }
    let missing = EnvError::Missing("TOR_PT_MANAGED_TRANSPORT_VER");
    assert_eq!(parse_with(&[CLIENT, ("TOR_PT_MANAGED_TRANSPORT_VER", "")]), Err(missing.clone()));
    assert_eq!(parse(|_| None), Err(missing));
}

#[test]
fn state_folder_is_needed() {
    let result = parse_with(&[CLIENT, ("TOR_PT_STATE_LOCATION", "")]);
    assert_eq!(result, Err(EnvError::Missing("TOR_PT_STATE_LOCATION")));
    assert_eq!(parse_with(&[CLIENT]).unwrap().state, PathBuf::from("/state"));
}

#[test]
fn stdin_matters_only_with_one() {
    for (value, expected) in [("1", true), ("0", false), ("", false), ("yes", false)] {
        let settings = parse_with(&[CLIENT, ("TOR_PT_EXIT_ON_STDIN_CLOSE", value)]).unwrap();
        assert_eq!(settings.exit_on_stdin_close, expected, "{value}");
    }
    assert!(!parse_with(&[CLIENT]).unwrap().exit_on_stdin_close);
}

#[test]
fn transport_names() {
    let client = client_with(&[]);
    assert_eq!(client.transports, ["qnet"]);
    let result = parse_with(&[("TOR_PT_CLIENT_TRANSPORTS", "obfs4,qnet,_x1,qnet")]).unwrap();
    assert!(matches!(result.role, Role::Client(c) if c.transports == ["obfs4", "qnet", "_x1"]));
    for bad in ["", "qnet,", "1qnet", "q-net", "qnet obfs4", "*", "qn\u{e9}t"] {
        let result = parse_with(&[("TOR_PT_CLIENT_TRANSPORTS", bad)]);
        assert!(matches!(result, Err(EnvError::Name { .. })), "{bad}: {result:?}");
    }
}

#[test]
fn upstream_errors_are_kept_for_later() {
    assert_eq!(client_with(&[]).upstream, None);
    assert_eq!(client_with(&[("TOR_PT_PROXY", "")]).upstream, None);
    assert!(matches!(client_with(&[("TOR_PT_PROXY", "http://127.0.0.1:9")]).upstream, Some(Ok(_))));
    assert!(matches!(client_with(&[("TOR_PT_PROXY", "ftp://127.0.0.1:9")]).upstream, Some(Err(_))));
}

#[test]
fn outbound_addresses() {
    const V4: &str = "TOR_PT_OUTBOUND_BIND_ADDRESS_V4";
    const V6: &str = "TOR_PT_OUTBOUND_BIND_ADDRESS_V6";
    let settings = parse_with(&[CLIENT, (V4, "192.0.2.1"), (V6, "[2001:db8::1]")]).unwrap();
    assert_eq!(settings.bind_v4, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(settings.bind_v6, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(parse_with(&[CLIENT, (V6, "::1")]).unwrap().bind_v6, Some(Ipv6Addr::LOCALHOST));
    assert_eq!(parse_with(&[CLIENT, (V4, ""), (V6, "")]).unwrap().bind_v4, None);
    wrong_address(&parse_with(&[CLIENT, (V4, "[192.0.2.1]")]), V4);
    wrong_address(&parse_with(&[CLIENT, (V6, "[2001:db8::1")]), V6);
}

#[test]
fn bind_addresses_belong_to_their_transport() {
    const NAME: &str = "TOR_PT_SERVER_BINDADDR";
    let bound = |list| server_with(&[(NAME, list)]).map(|s| s.transports[0].bind);
    assert_eq!(server_with(&[]).unwrap().transports[0].bind, None);
    assert_eq!(bound("qnet-0.0.0.0:0"), Ok(Some("0.0.0.0:0".parse().unwrap())));
    assert_eq!(bound("obfs4-1.2.3.4:5,qnet-[::]:443"), Ok(Some("[::]:443".parse().unwrap())));
    assert_eq!(bound("qnet-0.0.0.0:0,qnet-0.0.0.0:1"), Err(EnvError::TwoAddresses("qnet".to_owned())));
    for bad in ["qnet", "qnet-", "qnet-0.0.0.0", "qnet-host:1", "qnet-0.0.0.0:0,"] {
        wrong_address(&bound(bad), NAME);
    }
}

#[test]
fn options_belong_to_their_transport() {
    const NAME: &str = "TOR_PT_SERVER_TRANSPORT_OPTIONS";
    let text = r"qnet:decoy=127.0.0.1\:8443;obfs4:iat-mode=1;qnet:sni=a;qnet:sni=b";
    let server = server_with(&[(NAME, text)]).unwrap();
    let options: Vec<_> = server.transports[0].options.iter().collect();
    assert_eq!(options, [("decoy", "127.0.0.1:8443"), ("sni", "a"), ("sni", "b")]);
    assert!(matches!(server_with(&[(NAME, "qnet:decoy")]), Err(EnvError::Options(_))));
}

#[test]
fn or_ports() {
    const EXTENDED: &str = "TOR_PT_EXTENDED_SERVER_PORT";
    let plain = OrPort::Plain("127.0.0.1:9001".parse().unwrap());
    assert_eq!(server_with(&[]).unwrap().or_port, plain);
    assert_eq!(server_with(&[(EXTENDED, "")]).unwrap().or_port, plain);
    assert_eq!(server_with(&[("TOR_PT_ORPORT", "0.0.0.0:9001")]).unwrap().or_port, plain);
    let extended = server_with(&[(EXTENDED, "127.0.0.1:5"), ("TOR_PT_AUTH_COOKIE_FILE", "/c")]);
    let expected = OrPort::Extended { address: "127.0.0.1:5".parse().unwrap(), cookie_file: "/c".into() };
    assert_eq!(extended.unwrap().or_port, expected);
    let no_cookie = server_with(&[(EXTENDED, "127.0.0.1:5")]);
    assert_eq!(no_cookie, Err(EnvError::Missing("TOR_PT_AUTH_COOKIE_FILE")));
    assert_eq!(server_with(&[("TOR_PT_ORPORT", "")]), Err(EnvError::Missing("TOR_PT_ORPORT")));
    wrong_address(&server_with(&[("TOR_PT_ORPORT", "127.0.0.1:0")]), "TOR_PT_ORPORT");
    wrong_address(&server_with(&[("TOR_PT_ORPORT", "localhost:1")]), "TOR_PT_ORPORT");
    wrong_address(&server_with(&[(EXTENDED, "x")]), EXTENDED);
}

#[cfg(unix)]
#[test]
fn what_is_not_text() {
    use std::os::unix::ffi::OsStringExt as _;
    let base: HashMap<&str, OsString> = BASE.iter().chain([&CLIENT]).map(|(k, v)| (*k, v.into())).collect();
    let bad = OsString::from_vec(vec![0xff]);
    let with = |name: &'static str| {
        let (base, bad) = (base.clone(), bad.clone());
        parse(move |asked| if asked == name { Some(bad.clone()) } else { base.get(asked).cloned() })
    };
    for name in ["TOR_PT_CLIENT_TRANSPORTS", "TOR_PT_EXIT_ON_STDIN_CLOSE", "TOR_PT_OUTBOUND_BIND_ADDRESS_V4"]
    {
        assert_eq!(with(name), Err(EnvError::NotText(name)));
    }
    assert!(with("TOR_PT_STATE_LOCATION").is_ok(), "a path may be any bytes");
    assert!(
        matches!(with("TOR_PT_PROXY").unwrap().role, Role::Client(c) if c.upstream == Some(Err(UpstreamError::NotUrl)))
    );
}
