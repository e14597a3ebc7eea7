use super::*;

const LINE: &str = "qnet 192.0.2.7:443 key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8 sni=www.example.com";

fn flags() -> Proxy {
    Proxy { config: Some("qnet.toml".into()), ..Proxy::default() }
}

fn wrong(flags: &Proxy, text: &str) -> Vec<String> {
    match Settings::from(flags, text) {
        Ok(_) => panic!("this is right: {text}"),
        Err(Wrong(lines)) => lines,
    }
}

#[test]
fn a_bridge_is_enough() {
    let settings = Settings::from(&Proxy { bridge: vec![LINE.to_owned()], ..Proxy::default() }, "").unwrap();
    assert_eq!(settings.listen, Some("127.0.0.1:1088".parse().unwrap()));
    assert_eq!(settings.status, Some("127.0.0.1:8088".parse().unwrap()));
    assert!(settings.bridges.len() == 1 && settings.forwards.is_empty() && settings.probe.is_none());
    assert!(settings.upstream == Upstream::Direct && settings.log_level == LevelFilter::INFO);
}

#[test]
fn flags_go_before_the_file() {
    let text = format!(
        "bridge = ['{LINE}', '{LINE}']\nlisten = '127.0.0.1:1'\nstatus = 'off'\nlog-level = 'warn'\n"
    );
    let given = Proxy { listen: Some("[::1]:9".to_owned()), bridge: vec![LINE.to_owned()], ..flags() };
    let settings = Settings::from(&given, &text).unwrap();
    assert_eq!((settings.bridges.len(), settings.listen), (1, Some("[::1]:9".parse().unwrap())));
    assert_eq!((settings.status, settings.log_level), (None, LevelFilter::WARN));
    assert_eq!(Settings::from(&flags(), &text).unwrap().bridges.len(), 2);
}

#[test]
fn a_profile_goes_before_the_lines() {
    let given = |profile: &str| Proxy {
        bridge: vec![format!("{LINE} profile=web"), LINE.to_owned()],
        profile: Some(profile.to_owned()),
        ..Proxy::default()
    };
    let settings = Settings::from(&given("none"), "").unwrap();
    let names = settings.bridges.iter().map(|line| line.profile.as_ref().map(ProfileName::as_str));
    assert!(names.eq([Some("none"), Some("none")]));
    for wrong_one in ["", "nothing", "None", "web, none"] {
        let lines = wrong(&given(wrong_one), "");
        assert!(lines[0].contains("is no traffic profile; one of ") && lines[0].contains("web"), "{lines:?}");
    }
}

#[test]
fn the_example_names_every_key_and_is_right() {
    let example = include_str!("../../qnet.example.toml");
    let bare: String = example
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    let settings = Settings::from(&flags(), &bare).unwrap();
    assert!(settings.bridges.len() == 1 && !settings.forwards.is_empty() && settings.probe.is_some());
    let command = <crate::cli::Cli as clap::CommandFactory>::command();
    let proxy = command.find_subcommand("proxy").unwrap();
    for flag in proxy.get_arguments().filter_map(clap::Arg::get_long) {
        let of_a_call = ["config", "check", "stdio"].contains(&flag);
        let named = bare.lines().any(|line| line.starts_with(&format!("{flag} = ")));
        assert!(named != of_a_call, "{flag}");
    }
}

#[test]
fn every_wrong_value_is_named_with_its_place_and_what_was_expected() {
    let text = format!(
        "bridge = [\n  '{LINE}',\n  'obfs4 192.0.2.7:443',\n]\nlisten = '0.0.0.0:1088'\nlog-level = \"loud\"\nforward = ['80']\n"
    );
    let lines = wrong(&flags(), &text);
    let starts = [
        "qnet.toml:3:3: bridge: this is not a qnet bridge line: it must begin with `Bridge qnet`",
        "qnet.toml:5:10: listen: 0.0.0.0:1088 is not of this machine alone; a loopback address",
        "qnet.toml:7:12: forward: `80`: it has too few parts; [ADDRESS:]PORT:HOST:PORT is expected",
        "qnet.toml:6:13: log-level: `loud` is no level; error, warn, info, debug or trace is expected",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    let given = Proxy { bridge: vec![LINE.to_owned(), "x\u{1b}[2J".to_owned()], ..flags() };
    assert!(wrong(&given, "")[0].starts_with("--bridge, number 2: this is not a qnet bridge line"));
}

#[test]
fn what_toml_itself_refuses_has_a_place_too() {
    for (text, start, words) in [
        ("bridge = 'x'", "qnet.toml:1:10: ", "expected a sequence"),
        ("\nlisten = 1", "qnet.toml:2:10: ", "expected a string"),
        ("bridges = []", "qnet.toml:1:1: ", "unknown field `bridges`, expected one of `bridge`, `listen`"),
        ("listen = ", "qnet.toml:1:10: ", ""),
    ] {
        let lines = wrong(&flags(), text);
        assert!(lines.len() == 1 && lines[0].starts_with(start) && lines[0].contains(words), "{lines:?}");
    }
    assert!(wrong(&flags(), "")[0].starts_with("bridge: there is none"));
    let missing = Proxy { config: Some("/nowhere/qnet.toml".into()), ..flags() };
    let Err(Wrong(lines)) = Settings::read(&missing) else { panic!("it is not there") };
    assert!(lines[0].starts_with("/nowhere/qnet.toml: No such file"), "{lines:?}");
}

#[test]
fn forwards_are_sshs() {
    for (text, listen, to) in [
        ("8022:server.example:22", "127.0.0.1:8022", "server.example:22"),
        ("127.0.0.2:8022:192.0.2.7:22", "127.0.0.2:8022", "192.0.2.7:22"),
        ("8022:[2001:db8::7]:22", "127.0.0.1:8022", "[2001:db8::7]:22"),
        ("[::1]:8022:[2001:db8::7]:22", "[::1]:8022", "[2001:db8::7]:22"),
    ] {
        let forward = forward(text).unwrap();
        assert_eq!((forward.listen.to_string(), forward.target.to_string()), (listen.into(), to.into()));
    }
    for text in [
        "",
        ":",
        "::",
        "22",
        "a:22",
        "8022:a:b",
        "8022:a:0",
        "192.0.2.1:8022:a:22",
        "]:1",
        "8022:a]:1",
        "[:1",
        "[]:1",
    ] {
        assert!(forward(text).is_err(), "{text:?}");
    }
}

#[test]
fn what_a_terminal_would_obey_is_not_shown() {
    assert_eq!(shown("a\u{1b}[2J"), "a\\u{1b}[2J");
    assert_eq!(shown(&"x".repeat(100)), "x".repeat(60) + "…");
}

#[cfg(unix)]
#[test]
fn an_invitation_in_a_file_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qnet.toml");
    let read = |text: &str, mode: u32, bridge: &[String]| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Settings::read(&Proxy { config: Some(path.clone()), bridge: bridge.to_vec(), ..Proxy::default() })
    };
    let (plain, invited) =
        (format!("bridge = ['{LINE}']"), format!("bridge = ['{LINE} invite={}']", "A".repeat(43)));
    assert!(read(&plain, 0o644, &[]).is_ok() && read(&invited, 0o600, &[]).is_ok());
    for mode in [0o640, 0o604] {
        let Err(Wrong(lines)) = read(&invited, mode, &[]) else { panic!("{mode:o} is right") };
        assert!(lines.len() == 1 && lines[0].contains("chmod 600") && !lines[0].contains("AAA"), "{lines:?}");
    }
    // Nothing of the file's is used then.
    assert!(read(&invited, 0o644, &[LINE.to_owned()]).is_ok());
}
