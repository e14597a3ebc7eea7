use super::*;

fn settings(text: &str) -> Settings {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}"))
}

const WHOLE: &str = r#"
listen = "192.0.2.7:443"
state = "/var/lib/bridge"
decoy = "127.0.0.1:8443"
sni = ["www.example.com", "example.com"]
third-party-decoy = false
exit-policy = ["accept *:22", "reject *:*"]
allow-special = false
udp = true
max-streams = 100
max-streams-per-client = 10
stream-rate-per-client = 0
bandwidth = 1000000
bandwidth-per-client = 100000
drain = 5
upgrade-drain = 60
proxy-protocol = ["192.0.2.1", "2001:db8::1"]
"#;

#[test]
fn a_whole_file() {
    let plan = settings(WHOLE).plan().unwrap();
    assert_eq!(plan.listen, "192.0.2.7:443".parse().unwrap());
    assert_eq!(plan.names.len(), 2);
    let Destination::Anywhere(allowed) = &plan.destination else { panic!("{plan:?}") };
    assert!(allowed.udp && !allowed.special);
    assert_eq!(allowed.policy.to_string(), "accept *:22, reject *:*");
    let limits = Limits {
        streams: 100,
        streams_per_client: 10,
        rate_per_client: None,
        bandwidth: NonZeroU32::new(1_000_000),
        bandwidth_per_client: NonZeroU32::new(100_000),
    };
    assert_eq!(plan.limits, limits);
    assert_eq!((plan.drain, plan.upgrade_drain), (Duration::from_secs(5), Duration::from_secs(60)));
    assert_eq!(plan.balancers, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
}

#[test]
fn little_is_needed() {
    let plan = settings("decoy = \"www.example.com:8443\"").plan().unwrap();
    assert_eq!(plan.listen.port(), 443);
    assert_eq!(plan.names[0].as_str(), "www.example.com");
    assert_eq!(plan.destination, Destination::Anywhere(Allowed::default()));
    assert_eq!(plan.limits, Limits::default());
}

const BEHIND: &str = "url = \"https://a.example/x7\"\norigin = \"127.0.0.1:8080\"\n";
const SITE: &str = "site = \"/s\"\ndomain = \"a.example\"\nacme-terms-agreed = true\n";

#[test]
fn behind_a_web_server_and_beside_the_built_in_site() {
    let plan = settings(BEHIND).plan().unwrap();
    assert_eq!((plan.listen, plan.names.len()), (BEHIND_LISTEN, 0));
    let url: WebsocketUrl = "https://a.example/x7".parse().unwrap();
    let front = Front { url: url.clone(), origin: "127.0.0.1:8080".parse().unwrap(), forwarded: false };
    assert_eq!(plan.decoy, Decoy::Front(front));
    let forwarded = settings(&format!("{BEHIND}forwarded-for = true")).plan().unwrap();
    assert!(matches!(forwarded.decoy, Decoy::Front(Front { forwarded: true, .. })));
    let beside = settings(&format!("{SITE}url = \"https://a.example/x7\"")).plan().unwrap();
    assert_eq!((beside.decoy.url(), beside.listen.port()), (Some(&url), 443));
    assert_eq!(settings(SITE).plan().unwrap().decoy.url(), None);
}

#[test]
fn a_flag_for_what_answers_strangers_replaces_what_the_file_says_of_it() {
    let over = |flags: &str, file: &str| settings(flags).over(settings(file)).plan().unwrap().decoy;
    let decoy = "decoy = \"a.example:1\"\n";
    assert!(matches!(over(decoy, BEHIND), Decoy::Server { .. }));
    assert!(matches!(over(decoy, SITE), Decoy::Server { .. }));
    assert!(matches!(over(SITE, decoy), Decoy::Site { .. }));
    assert!(matches!(over(SITE, BEHIND), Decoy::Site { url: Some(_), .. }));
    assert!(matches!(over(BEHIND, decoy), Decoy::Front(_)));
    assert!(
        matches!(over("origin = \"127.0.0.1:81\"", BEHIND), Decoy::Front(front) if front.origin.port() == 81)
    );
}

#[test]
fn the_websockets_address_may_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    std::fs::write(&path, "https://b.example/y8\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = format!("url-file = \"{}\"\n", path.display());
    let behind = format!("{file}origin = \"127.0.0.1:8080\"\n");
    let url = |settings: Settings| settings.plan().unwrap().decoy.url().map(ToString::to_string);
    assert_eq!(url(settings(&behind)).unwrap(), "https://b.example/y8");
    // One of the command line goes before one of the file, whichever way it is given.
    assert_eq!(url(settings(&file).over(settings(BEHIND))).unwrap(), "https://b.example/y8");
    let flag = settings("url = \"https://a.example/x7\"");
    assert_eq!(url(flag.over(settings(&behind))).unwrap(), "https://a.example/x7");
    assert_eq!(url(settings("decoy = \"a.example:1\"").over(settings(&behind))), None);
    let both = settings(&format!("{BEHIND}{file}")).plan().unwrap_err().to_string();
    assert!(both.contains("url and url-file"), "{both}");
    std::fs::remove_file(&path).unwrap();
    assert!(settings(&behind).plan().is_err());
}

#[test]
fn flags_go_before_the_file() {
    let flags = settings("drain = 1\nsni = [\"a.example\"]\nbandwidth = 7");
    let plan = flags.over(settings(WHOLE)).plan().unwrap();
    assert_eq!((plan.drain, plan.limits.bandwidth), (Duration::from_secs(1), NonZeroU32::new(7)));
    assert_eq!(plan.names[0].as_str(), "a.example");
    assert_eq!(plan.limits.streams, 100);
    let upstream = settings("upstream = \"127.0.0.1:22\"").over(settings(WHOLE)).plan().unwrap();
    assert_eq!(upstream.destination, Destination::Upstream("127.0.0.1:22".parse().unwrap()));
    let policy = settings("exit-policy = [\"accept *:25\"]");
    let file = settings("decoy = \"a.example:1\"\nupstream = \"127.0.0.1:22\"");
    assert!(matches!(policy.over(file).plan().unwrap().destination, Destination::Anywhere(_)));
}

#[test]
fn a_wrong_value_names_itself_its_place_and_what_was_expected() {
    for (text, said) in [
        ("listen = \"443\"", &["line 1", "listen", "443", "socket address"][..]),
        ("\ndecoy = \"localhost\"", &["line 2", "decoy", "`localhost`", "HOST:PORT"]),
        ("\nsni = [\"a.example\", \"-b\"]", &["line 2", "sni", "`-b`"]),
        ("max-streams = \"many\"", &["line 1", "max-streams", "invalid type", "many"]),
        ("max-streams = -1", &["line 1", "max-streams", "-1"]),
        ("proxy-protocol = [\"10.0.0.0/8\"]", &["line 1", "proxy-protocol", "`10.0.0.0/8`"]),
        ("url = \"https://a.example/\"", &["line 1", "url", "needs a path"]),
        ("origin = \"a.example:80\"", &["line 1", "origin", "`a.example:80`"]),
        ("\nacme-contact = \"me\"", &["line 2", "acme-contact", "`me`", "mailto:you@example.com"]),
        ("acme-directory = \"http://a.example/\"", &["line 1", "acme-directory", "`http://a", "https URL"]),
        ("udp = \"yes\"", &["line 1", "udp", "boolean"]),
        ("decoi = \"127.0.0.1:1\"", &["line 1", "decoi", "expected", "`decoy`"]),
        ("listen", &["line 1"]),
    ] {
        let error = toml::from_str::<Settings>(text).unwrap_err().to_string();
        assert!(said.iter().all(|word| error.contains(word)), "{text}: {error}");
    }
    let decoy = "decoy = \"a.example:1\"\n";
    for (text, said) in [
        ("", "no decoy is set"),
        ("decoy = \"127.0.0.1:1\"", "sni"),
        ("site = \"/s\"", "site and domain belong together"),
        ("site = \"/s\"\ndomain = \"a.example\"", "acme-terms-agreed = true"),
        ("site = \"/s\"\ndomain = \"a.example\"\ncertificate = \"/c\"", "certificate-key belong together"),
        (
            "site = \"/s\"\ndomain = \"a.example\"\nacme-terms-agreed = true\nsni = [\"a.example\"]",
            "remove one or the other",
        ),
        ("url = \"https://a.example/x7\"", "url (or url-file) and origin belong together"),
        ("origin = \"127.0.0.1:8080\"", "url (or url-file) and origin belong together"),
        (&format!("{BEHIND}{decoy}"), "for one behind it: remove one or the other"),
        (&format!("{BEHIND}sni = [\"a.example\"]"), "for one behind it: remove one or the other"),
        (&format!("{BEHIND}invited = \"/i\""), "invited would do nothing"),
        (&format!("{BEHIND}listen = \"0.0.0.0:8081\""), "listen is 0.0.0.0:8081"),
        (&format!("{BEHIND}acme-terms-agreed = true"), "a web server has its own"),
        (
            &BEHIND.replace("127.0.0.1:8080", "192.0.2.1:80"),
            "origin is 192.0.2.1:80, which is not this machine's",
        ),
        (&BEHIND.replace("127.0.0.1:8080", "127.0.0.1:0"), "origin is 127.0.0.1:0"),
        (&format!("{SITE}url = \"https://b.example/x7\""), "url is at b.example"),
        (&format!("{SITE}origin = \"127.0.0.1:8080\""), "origin would do nothing"),
        (&format!("{decoy}forwarded-for = true"), "forwarded-for is for a bridge behind"),
        (&format!("{decoy}metrics = \"0.0.0.0:9435\""), "metrics is 0.0.0.0:9435"),
        (&format!("{decoy}acme-terms-agreed = true"), "a web server has its own"),
        (
            &format!("{decoy}exit-policy = [\"accept *:80\", \"allow *:81\"]"),
            "exit-policy: `allow *:81`: a rule begins with",
        ),
        (&format!("{decoy}max-streams = 0"), "max-streams is 0"),
        (&format!("{decoy}max-streams-per-client = 0"), "max-streams-per-client is 0"),
        (&format!("{decoy}drain = 86401"), "drain is 86401"),
        (&format!("{decoy}upgrade-drain = 86401"), "upgrade-drain is 86401"),
        (&format!("{decoy}upstream = \"127.0.0.1:1\"\nudp = true"), "upstream"),
    ] {
        let error = format!("{:#}", settings(text).plan().unwrap_err());
        assert!(error.contains(said), "{text}: {error}");
    }
}
