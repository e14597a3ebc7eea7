//! `check`, `line` and `decoys` against a real web server, a running bridge, and what goes wrong with both.
#![forbid(unsafe_code)]

mod support;
#[path = "support/findings.rs"]
mod support_findings;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    ca::Certificates,
    decoy::{Decoy, NAME, Options, Server},
    isolate::isolated,
    process::free_address,
    tunnel::runtime,
};
use serde_json::Value;
use support::{Bridge, echo, mounted, name_leads_to, program};
use support_findings::{names, outcomes};

/// Runs the program with this authority among its roots.
fn run(args: &[&str], certificates: &Certificates) -> Result<Output> {
    Ok(program().args(args).env("SSL_CERT_FILE", &certificates.ca).output()?)
}

#[test]
fn a_bridge_that_works_and_what_can_be_wrong_with_it() -> Result<()> {
    isolated("a_bridge_that_works_and_what_can_be_wrong_with_it", || {
        let runtime = runtime()?;
        let echo: SocketAddr = runtime.block_on(echo())?;
        let policy = format!("exit-policy = [\"accept *:{}\"]\nallow-special = true", echo.port());
        let mut bridge = Bridge::start(&policy)?;
        let certificates = bridge.decoy.certificates().clone();
        let line = bridge.line.to_string();
        let check = |line: &str, more: &[&str]| {
            outcomes(&run(&[&["check", "--json"], more, &[line]].concat(), &certificates)?)
        };

        // No name server tells of an HTTPS record or an address here.
        let good = [
            ("port", "ok"),
            ("site", "ok"),
            ("site", "warning"),
            ("dns", "warning"),
            ("knock", "ok"),
            ("tunnel", "ok"),
        ];
        let (whole, findings) = check(&line, &[])?;
        ensure!(whole && names(&findings) == good, "{findings:?}");
        let (whole, findings) = check(&line, &["--target", &echo.to_string()])?;
        ensure!(whole && names(&findings)[6..] == [("target", "ok")], "{findings:?}");
        let (whole, findings) = check(&line, &["--target", "127.0.0.1:1"])?;
        ensure!(!whole && findings[6].2.contains("exit policy"), "{findings:?}");

        let other = qnet_wire::key::IdentityKey::from_bytes([9; 32]).public();
        let (whole, findings) = check(&line.replace(&bridge.line.key.to_string(), &other.to_string()), &[])?;
        ensure!(!whole && names(&findings).last() == Some(&("knock", "failed")), "{findings:?}");
        ensure!(
            findings.last().is_some_and(|(.., words)| words.contains("did not prove itself")),
            "{findings:?}"
        );
        let (whole, findings) = check(&line.replace(NAME, "other.example.com"), &[])?;
        ensure!(!whole && findings[1].0 == "site" && findings[1].2.contains(NAME), "{findings:?}");
        // A line with a fingerprint says that tor is behind.
        let with_tor = line.replace(" key=", &format!(" {} key=", "A".repeat(40)));
        let (whole, findings) = check(&with_tor, &[])?;
        ensure!(!whole && names(&findings).last() == Some(&("tor", "failed")), "{findings:?}");

        let plain = run(&["check", &line], &certificates)?;
        let text = String::from_utf8(plain.stdout)?;
        ensure!(text.contains("ok       port") && text.contains("This works; see the warnings."), "{text}");
        let wrong = run(&["check", "Bridge", "qnet", "192.0.2.7:443"], &certificates)?;
        ensure!(wrong.status.code() == Some(1) && String::from_utf8(wrong.stderr)?.contains("no `key=`"));

        bridge.running.stop()?;
        let (whole, findings) = check(&line, &[])?;
        ensure!(!whole && names(&findings) == [("port", "failed")], "{findings:?}");
        Ok(())
    })
}

#[test]
fn where_the_sites_name_leads() -> Result<()> {
    isolated("where_the_sites_name_leads", || {
        let bridge = Bridge::start("exit-policy = [\"reject *:*\"]")?;
        let certificates = bridge.decoy.certificates();
        let line = bridge.line.to_string();
        let config = bridge.folder.path().join("bridge.toml");
        let text = fs::read_to_string(&config)?.replace("127.0.0.1:0", &bridge.line.address.to_string());
        fs::write(&config, text)?;
        let config = config.to_str().context("UTF-8")?;
        let (users, own) = (["check", "--json", &line], ["check", "--json", "--config", config]);
        let given = Command::new("ip").args(["address", "add", "198.51.100.7/32", "dev", "lo"]).status()?;
        ensure!(given.success(), "this machine gets no public address");
        for (ip, args, outcome, words) in [
            ("127.0.0.1", &users[..], "ok", "leads to this bridge"),
            ("127.0.0.9", &users, "ok", "leads to the bridge's own network"),
            ("192.0.2.9", &users, "warning", "leads elsewhere"),
            ("198.51.100.7", &users, "warning", "leads elsewhere"),
            // The bridge itself knows its machine's addresses, but not those that a router has for it.
            ("198.51.100.7", &own, "ok", "leads to this bridge"),
            ("192.0.2.9", &own, "warning", "is there address translation between"),
        ] {
            name_leads_to(ip, bridge.folder.path())?;
            let (whole, findings) = outcomes(&run(args, certificates)?)?;
            let dns: Vec<_> = findings.iter().filter(|(check, ..)| check == "dns").collect();
            let [(_, said, why)] = dns.as_slice() else { anyhow::bail!("{findings:?}") };
            ensure!(whole && said == outcome && why.contains(words), "{ip} {args:?}: {findings:?}");
        }
        Ok(())
    })
}

#[test]
fn the_bridges_own_check_and_line() -> Result<()> {
    isolated("the_bridges_own_check_and_line", || {
        let upstream = free_address()?;
        let bridge = Bridge::start(&format!("upstream = \"{upstream}\""))?;
        let certificates = bridge.decoy.certificates().clone();
        let config = bridge.folder.path().join("bridge.toml");
        // The configuration asks for any port; the bridge's own check needs the one it has.
        let text = fs::read_to_string(&config)?
            .replace("127.0.0.1:0", &format!("0.0.0.0:{}", bridge.line.address.port()));
        fs::write(&config, &text)?;
        let config = config.to_str().context("UTF-8")?;
        let (whole, findings) = outcomes(&run(&["check", "--json", "--config", config], &certificates)?)?;
        ensure!(!whole && names(&findings).last() == Some(&("behind", "failed")), "{findings:?}");
        ensure!(names(&findings)[..2] == [("key", "ok"), ("port", "ok")], "{findings:?}");
        let listener = std::net::TcpListener::bind(upstream)?;
        std::thread::spawn(move || while listener.accept().is_ok() {});
        let (whole, findings) = outcomes(&run(&["check", "--json", "--config", config], &certificates)?)?;
        ensure!(whole && names(&findings).last() == Some(&("behind", "ok")), "{findings:?}");
        ensure!(findings.last().is_some_and(|(.., words)| words.contains("no tor's ORPort")), "{findings:?}");

        let tor = bridge.folder.path().join("tor");
        fs::create_dir(&tor)?;
        let tor_data = tor.to_str().context("UTF-8")?;
        let line = |more: &[&str]| {
            run(&[&["line", "--config", config, "--tor-data", tor_data], more].concat(), &certificates)
        };
        let refused = line(&[])?;
        ensure!(!refused.status.success() && String::from_utf8(refused.stderr)?.contains("--address"));
        let (real, hashed) = ("A1".repeat(20), "B2".repeat(20));
        fs::write(tor.join("fingerprint"), format!("Bridge {real}\n"))?;
        fs::write(tor.join("hashed-fingerprint"), format!("Bridge {hashed}\n"))?;
        no_tor_where_one_should_be(config, &tor, &certificates)?;
        let said = line(&["--address", "192.0.2.7:443", "--qr"])?;
        let text = String::from_utf8(said.stdout)?;
        let expected = format!("Bridge qnet 192.0.2.7:443 {real} key={} sni={NAME}\n", bridge.line.key);
        ensure!(text.starts_with(&expected), "{text}");
        ensure!(text.contains('█') && text.contains(&format!("hashed fingerprint  {hashed}")), "{text}");
        let said: Value = serde_json::from_slice(&line(&["--address", "192.0.2.7:443", "--json"])?.stdout)?;
        assert_eq!((&said["fingerprint"], &said["hashed_fingerprint"]), (&real.into(), &hashed.into()));
        Ok(())
    })
}

/// Where tor should stand behind the bridge, another program there is warned of, by whichever mark tor is expected.
fn no_tor_where_one_should_be(config: &str, tor: &Path, certificates: &Certificates) -> Result<()> {
    let warned = |tor_data: &Path, why: &str| {
        let args = ["check", "--json", "--config", config, "--tor-data", tor_data.to_str().context("UTF-8")?];
        let (whole, findings) = outcomes(&run(&args, certificates)?)?;
        let (check, outcome, words) = findings.last().context("findings")?;
        ensure!(whole && (check.as_str(), outcome.as_str()) == ("behind", "warning"), "{findings:?}");
        ensure!(words.contains("is no tor's ORPort") && words.contains(why), "{words}");
        Ok(())
    };
    warned(tor, "fingerprint")?;
    let part = tor.join("part");
    fs::create_dir(&part)?;
    fs::write(part.join("qnet.torrc"), "BridgeRelay 1\n")?;
    mounted(&part, "/etc/tor")?;
    warned(&tor.join("none"), "/etc/tor/qnet.torrc")
}

#[test]
fn the_lines_that_tor_wrote() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tor = folder.path();
    let line = |more: &[&str]| -> Result<(bool, String)> {
        let none = tor.join("none");
        let mut command = program();
        command.args(["line", "--config"]).arg(&none).arg("--tor-data").arg(tor).args(more);
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
    };
    let (good, said) = line(&[])?;
    ensure!(!good && said.contains("bridgelines") && said.contains("none"), "{said}");
    let key = qnet_wire::key::IdentityKey::from_bytes([9; 32]).public();
    let (real, hashed) = ("A1".repeat(20), "B2".repeat(20));
    let write = |name: &str, text: &str| fs::write(tor.join(name), text);
    write(
        "bridgelines",
        &format!(
            "Bridge obfs4 192.0.2.7:1 {real} cert=a\nBridge qnet 0.0.0.0:443 {real} key={key} sni=www.example.com\n"
        ),
    )?;
    let (good, said) = line(&[])?;
    ensure!(!good && said.contains("--address"), "{said}");
    let (good, said) = line(&["--address", "[2001:db8::7]:443"])?;
    ensure!(good && said.starts_with(&format!("Bridge qnet [2001:db8::7]:443 {real} key=")), "{said}");
    write("fingerprint", &format!("Name {real}\n"))?;
    write("hashed-fingerprint", &format!("Name {hashed}\n"))?;
    write("bridgelines", &format!("Bridge qnet 192.0.2.7:443 {hashed} key={key} sni=www.example.com\n"))?;
    let (good, said) = line(&[])?;
    ensure!(!good && said.contains("hashed fingerprint"), "{said}");
    write("fingerprint", "nothing\n")?;
    let (good, said) = line(&[])?;
    ensure!(!good && said.contains("fingerprint") && said.contains("40 letters"), "{said}");
    Ok(())
}

#[test]
fn sites_are_ranked_and_those_that_cannot_be_decoys_told_why() -> Result<()> {
    isolated("sites_are_ranked_and_those_that_cannot_be_decoys_told_why", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let run = |at: SocketAddr, ca: &Path, names: &[&str]| {
            let mut command = program();
            command.args(["decoys", "--json", "--at", &at.to_string()]).args(names).env("SSL_CERT_FILE", ca);
            command.output()
        };
        let ca = &decoy.certificates().ca;
        let output = run(decoy.address(), ca, &[NAME, "other.example.com"])?;
        ensure!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let [good, bad] = said.as_array().context("a list")?.as_slice() else { anyhow::bail!("{said}") };
        assert_eq!((&good["name"], &good["usable"]), (&NAME.into(), &true.into()));
        ensure!(
            good["load_bytes"].as_u64() > Some(10_000) && good["hybrid_key_exchange"].is_boolean(),
            "{good}"
        );
        ensure!(good["reasons"].to_string().contains("on this machine"), "{good}");
        assert_eq!(bad["usable"], false);
        assert_eq!(bad["hybrid_key_exchange"], Value::Null);
        ensure!(bad["reasons"].to_string().contains("certificate"), "{bad}");
        // Whatever OpenSSL is behind nginx, such a group it has not got here; the other has it in this process.
        let curves = Options { extra: "ssl_ecdh_curve X25519:prime256v1;".to_owned(), ..Options::default() };
        for (server, options, has) in
            [(Server::Nginx, curves, false), (Server::Rustls, Options::default(), true)]
        {
            let site = Decoy::start(server, options)?;
            let output = run(site.address(), &site.certificates().ca, &[NAME])?;
            let said: Value = serde_json::from_slice(&output.stdout)?;
            let judged = &said[0];
            ensure!(judged["usable"] == true && judged["hybrid_key_exchange"] == has, "{server:?}: {said}");
            ensure!(judged["reasons"].to_string().contains("no X25519MLKEM768") != has, "{said}");
        }
        let old = Decoy::start(Server::Nginx, Options { h2: false, ..Options::default() })?;
        let output = run(old.address(), &old.certificates().ca, &[NAME])?;
        ensure!(!output.status.success() && String::from_utf8(output.stdout)?.contains("no HTTP/2"));
        Ok(())
    })
}

#[test]
fn how_long_a_site_keeps_an_idle_connection_is_measured_where_it_is_asked_for() -> Result<()> {
    isolated("how_long_a_site_keeps_an_idle_connection_is_measured_where_it_is_asked_for", || {
        let decoy =
            Decoy::start(Server::Nginx, Options { idle: Duration::from_secs(4), ..Options::default() })?;
        let certificates = decoy.certificates();
        let key = qnet_wire::key::IdentityKey::from_bytes([7; 32]).public();
        let line = format!("qnet {} key={key} sni={NAME}", decoy.address());
        // No bridge: what is said of the site is said before the knock.
        let (_, findings) = outcomes(&run(&["check", "--json", "--idle", &line], certificates)?)?;
        let idle = findings.iter().find(|(check, ..)| check == "idle").context("no idle limit")?;
        ensure!(idle.1 == "ok" && idle.2.contains("kept for 4 s"), "{idle:?}");
        let (_, findings) = outcomes(&run(&["check", "--json", &line], certificates)?)?;
        ensure!(findings.iter().all(|(check, ..)| check != "idle"), "{findings:?}");
        let at = decoy.address().to_string();
        let ranked = |more: &[&str]| -> Result<Value> {
            let output = run(&[&["decoys", "--json", "--at", &at], more, &[NAME]].concat(), certificates)?;
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        let (said, unasked) = (ranked(&["--idle"])?, ranked(&[])?);
        ensure!(said[0]["idle_s"] == 4 && unasked[0]["idle_s"].is_null(), "{said} {unasked}");
        Ok(())
    })
}
