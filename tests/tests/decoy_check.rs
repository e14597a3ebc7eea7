//! Which sites the bridge's check takes as decoys, and in which words it refuses the others.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qnet_proto::knock::Field;
use qnet_tests::support::{
    decoy::{Decoy, NAME, Options, Server},
    dns::{NameServer, Says},
    isolate::isolated,
    odd::{OddServer, Quirk},
    process::free_address,
};
use qnet_transport::{
    admission::Admission,
    bridge::{BridgeConfig, Listener},
    connect::{Connect, Upstream},
    decoy::{self, DecoyError, Examined, Idle, Pace, Resolver, Warning},
    tls::Roots,
};
use qnet_wire::key::IdentityKey;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

fn run(test: &str, body: impl Future<Output = Result<()>>) -> Result<()> {
    isolated(test, || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(body)
    })
}

async fn examine(address: SocketAddr, ca: &Path) -> Result<Result<Examined, DecoyError>> {
    Ok(decoy::examine(address, &NAME.parse()?, &Roots::with(Some(ca), None)?, &no_records()?).await)
}

/// A name server that knows of nothing.
fn no_records() -> Result<Resolver> {
    Ok(Resolver::at(vec![NameServer::start(Says::Nothing)?.address()], Connect::default()))
}

async fn idle(address: SocketAddr, ca: &Path) -> Result<Result<Idle, DecoyError>> {
    Ok(decoy::measure_idle(address, &NAME.parse()?, &Roots::with(Some(ca), None)?).await)
}

async fn passes(server: Server, options: Options) -> Result<Examined> {
    let decoy = Decoy::start(server, options)?;
    let examined = examine(decoy.address(), &decoy.certificates().ca).await?;
    let examined = examined.with_context(|| format!("{server:?} is refused"))?;
    ensure!(examined.facts.field == Field::Padding, "{server:?}: {examined:?}");
    ensure!(examined.warnings.is_empty(), "{server:?}: {examined:?}");
    // The page's pictures are larger than a record.
    ensure!((16_000..=16_401).contains(&examined.facts.largest_record), "{server:?}: {examined:?}");
    ensure!(examined.facts.round_trip > Duration::from_micros(50), "{server:?}: {examined:?}");
    Ok(examined)
}

/// The check's words about an nginx with these options.
async fn refusal(options: Options) -> Result<String> {
    let decoy = Decoy::start(Server::Nginx, options.clone())?;
    match examine(decoy.address(), &decoy.certificates().ca).await? {
        Ok(examined) => anyhow::bail!("{options:?} passes: {examined:?}"),
        Err(error) => Ok(error.to_string()),
    }
}

fn extra(lines: &str) -> Options {
    Options { extra: lines.into(), ..Options::default() }
}

#[test]
fn good_sites_pass() -> Result<()> {
    run("good_sites_pass", async {
        let nginx = passes(Server::Nginx, Options::default()).await?.facts;
        ensure!((nginx.requests, nginx.limited) == (1_000, true), "{nginx:?}");
        let nginx = passes(Server::Nginx, Options { requests: 300, ..Options::default() }).await?.facts;
        ensure!((nginx.requests, nginx.limited) == (300, true), "{nginx:?}");
        for server in
            [Server::Apache, Server::Lighttpd, Server::LighttpdGnutls, Server::Haproxy, Server::Rustls]
        {
            let facts = passes(server, Options::default()).await?.facts;
            ensure!((facts.requests, facts.limited) == (1_001, false), "{server:?}: {facts:?}");
        }
        // Its answers are short without a header that not all of them have.
        passes(
            Server::Caddy,
            extra("header /favicon.ico Cache-Control \"public, max-age=604800, immutable\""),
        )
        .await?;
        Ok(())
    })
}

#[test]
fn idle_limits_are_measured() -> Result<()> {
    run("idle_limits_are_measured", async {
        let second = Duration::from_secs(1);
        let mut measured = Vec::new();
        for server in Server::ALL {
            let decoy = Decoy::start(server, Options { idle: 3 * second, ..Options::default() })?;
            measured.push(tokio::spawn(async move {
                let idle = idle(decoy.address(), &decoy.certificates().ca).await?;
                Ok::<_, anyhow::Error>((server, idle?))
            }));
        }
        for idle in measured {
            let (server, idle) = idle.await??;
            // lighttpd looks at its timers once a second.
            ensure!(
                idle.limit >= 3 * second - second / 10 && idle.limit < 5 * second,
                "{server:?}: {idle:?}"
            );
            let as_usual = match server {
                // hyper says GOAWAY with a PING, and once that is answered GOAWAY again.
                Server::Rustls => matches!(idle.records[..], [51, 34, 19]),
                // GOAWAY, then close_notify.
                _ => matches!(idle.records[..], [34..=41, 19]),
            };
            ensure!(as_usual, "{server:?}: {idle:?}");
        }
        Ok(())
    })
}

#[test]
fn a_lifetime_is_measured_where_there_is_one() -> Result<()> {
    run("a_lifetime_is_measured_where_there_is_one", async {
        let second = Duration::from_secs(1);
        let decoy = Decoy::start(Server::Nginx, extra("keepalive_time 8s;"))?;
        let (name, roots) = (NAME.parse()?, Roots::with(Some(&decoy.certificates().ca), None)?);
        let pace = Pace { idle: 75 * second, requests: 1_000 };
        let lifetime = decoy::measure_lifetime(decoy.address(), &name, &roots, pace).await?;
        ensure!(lifetime.ended && (6 * second..=8 * second).contains(&lifetime.lasted), "{lifetime:?}");

        // Another of the site's limits is left alone, and is no lifetime.
        let pace = Pace { idle: 75 * second, requests: 30 };
        let lifetime = decoy::measure_lifetime(decoy.address(), &name, &roots, pace).await?;
        ensure!(!lifetime.ended && lifetime.lasted < 6 * second, "{lifetime:?}");
        let requests = decoy.access_log()?.lines().count();
        ensure!(requests < 70, "{requests} requests");
        Ok(())
    })
}

#[test]
fn settings_that_show_or_hinder_a_carrier_are_refused() -> Result<()> {
    run("settings_that_show_or_hinder_a_carrier_are_refused", async {
        let home = "location = / { return 301 https://other.example/; }";
        let cases = [
            (Options { tls13: false, ..Options::default() }, "speaks no TLS 1.3"),
            (Options { h2: false, ..Options::default() }, "speaks no HTTP/2"),
            (Options { requests: 100, ..Options::default() }, "answers only 100 requests on a connection"),
            (Options { requests: 3, ..Options::default() }, "closes its connection after 2 answers"),
            (
                Options { names: vec!["www.other.example".into()], ..Options::default() },
                "it is for www.other.example",
            ),
            (extra("ssl_ecdh_curve secp384r1;"), "HelloRetryRequest"),
            (extra("add_header Alt-Svc 'h3=\":443\"; ma=86400';"), "(Alt-Svc: h3=\\\":443\\\"; ma=86400)"),
            (extra(home), "redirects to another host"),
            (extra("ssl_verify_client optional_no_ca;"), "asks visitors for a certificate of their own"),
            (extra("ssl_conf_command RecordPadding 64;"), "TLS alerts have 80 bytes instead of 19"),
        ];
        for (options, words) in cases {
            let said = refusal(options.clone()).await?;
            ensure!(said.contains(words), "{options:?} is refused with: {said}");
            ensure!(!said.contains('\n') && said.len() < 250, "not one line: {said}");
        }
        let caddy = Decoy::start(Server::Caddy, Options::default())?;
        let said = examine(caddy.address(), &caddy.certificates().ca).await?;
        ensure!(matches!(said, Err(DecoyError::ShortAnswer(64..80))), "{said:?}");
        Ok(())
    })
}

#[test]
fn odd_servers_are_refused() -> Result<()> {
    run("odd_servers_are_refused", async {
        let cases = [
            (Quirk::ClosesAfterOne, "closes its connection after one answer"),
            (Quirk::GoesAwayAfterOne, "closes its connection after one answer"),
            (Quirk::WantsPriority, "differently from a browser's request: status 400 instead of 200"),
            (Quirk::Chatters, "sends 82 bytes unasked"),
        ];
        for (quirk, words) in cases {
            let server = OddServer::start(quirk, NAME)?;
            let Err(error) = examine(server.address(), &server.certificates().ca).await? else {
                anyhow::bail!("{quirk:?} passes")
            };
            ensure!(error.to_string().contains(words), "{quirk:?}: {error}");
        }
        Ok(())
    })
}

#[test]
fn an_https_record_with_ech_or_h3_is_refused_and_no_answer_a_warning() -> Result<()> {
    run("an_https_record_with_ech_or_h3_is_refused_and_no_answer_a_warning", async {
        let site = OddServer::start(Quirk::None, NAME)?;
        let roots = Roots::with(Some(&site.certificates().ca), None)?;
        let examine = async |servers: &[&NameServer]| {
            let resolver =
                Resolver::at(servers.iter().map(|server| server.address()).collect(), Connect::default());
            let examined = decoy::examine(site.address(), &NAME.parse()?, &roots, &resolver).await;
            let warnings = examined.map(|examined| {
                examined.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            });
            Ok::<_, anyhow::Error>(warnings.map_err(|error| error.to_string()))
        };
        for says in [Says::Nothing, Says::Http2] {
            let warnings = examine(&[&NameServer::start(says)?]).await?;
            ensure!(warnings.as_deref() == Ok(""), "{says:?}: {warnings:?}");
        }
        for (says, words) in [(Says::Ech, "Encrypted Client Hello (ech)"), (Says::Http3, "HTTP/3 (h3)")] {
            let refused = examine(&[&NameServer::start(says)?]).await?;
            ensure!(refused.as_ref().is_err_and(|why| why.contains(words)), "{says:?}: {refused:?}");
        }
        let (silent, failing) = (NameServer::start(Says::Silence)?, NameServer::start(Says::Failure)?);
        for (server, words) in [(&silent, "no answer from a name server"), (&failing, "SERVFAIL")] {
            let begun = Instant::now();
            let warnings = examine(&[server]).await?;
            ensure!(warnings.as_ref().is_ok_and(|all| all.contains(words)), "{server:?}: {warnings:?}");
            ensure!(server.asked() == 3, "asked {} times", server.asked());
            ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
        // Another name server is asked where one fails.
        let refused = examine(&[&failing, &NameServer::start(Says::Ech)?]).await?;
        ensure!(refused.is_err(), "{refused:?}");
        Ok(())
    })
}

#[test]
fn name_servers_are_asked_from_the_address_that_the_parent_wants() -> Result<()> {
    run("name_servers_are_asked_from_the_address_that_the_parent_wants", async {
        let (here, source): (IpAddr, _) = ("192.0.2.1".parse()?, "192.0.2.2".parse()?);
        for address in ["192.0.2.1/32", "192.0.2.2/32"] {
            let added = Command::new("ip").args(["address", "add", address, "dev", "lo"]).status()?;
            ensure!(added.success(), "no address {address}");
        }
        let site = OddServer::start(Quirk::None, NAME)?;
        let server = NameServer::start_at(here, Says::Nothing)?;
        let proxy = Upstream::Socks4a { addr: free_address()?, user: None };
        let connect = Connect { bind_v4: Some(source), upstream: proxy, bind_v6: None };
        let roots = Roots::with(Some(&site.certificates().ca), None)?;
        let resolver = Resolver::at(vec![server.address()], connect);
        let examined = decoy::examine(site.address(), &NAME.parse()?, &roots, &resolver).await?;
        ensure!(examined.warnings.is_empty(), "{examined:?}");
        ensure!(server.asked_from() == Some(source.into()), "{server:?}");
        Ok(())
    })
}

#[test]
fn the_cookie_form_is_found_where_padding_is_refused() -> Result<()> {
    run("the_cookie_form_is_found_where_padding_is_refused", async {
        let plain = OddServer::start(Quirk::None, NAME)?;
        let examined = examine(plain.address(), &plain.certificates().ca).await??;
        ensure!(examined.facts.field == Field::Padding && examined.warnings.is_empty(), "{examined:?}");

        let server = OddServer::start(Quirk::RefusesPadding, NAME)?;
        let examined = examine(server.address(), &server.certificates().ca).await??;
        ensure!(examined.facts.field == Field::Cookie, "{examined:?}");
        ensure!(matches!(examined.warnings[..], [Warning::CookieNeeded { .. }]), "{examined:?}");
        Ok(())
    })
}

#[test]
fn a_long_goodbye_is_heard_in_the_slow_part() -> Result<()> {
    run("a_long_goodbye_is_heard_in_the_slow_part", async {
        let server = OddServer::start(Quirk::EndsLoudly, NAME)?;
        examine(server.address(), &server.certificates().ca).await??;
        let said = idle(server.address(), &server.certificates().ca).await?;
        ensure!(matches!(said, Err(DecoyError::Unasked(71))), "{said:?}");
        Ok(())
    })
}

#[test]
fn an_unknown_authority_is_a_warning_on_this_machine_only() -> Result<()> {
    run("an_unknown_authority_is_a_warning_on_this_machine_only", async {
        let (name, roots, resolver) = (NAME.parse()?, Roots::with(None, None)?, no_records()?);
        let near = Decoy::start(Server::Nginx, Options::default())?;
        let examined = decoy::examine(near.address(), &name, &roots, &resolver).await?;
        ensure!(matches!(examined.warnings[..], [Warning::Untrusted { .. }]), "{examined:?}");
        ensure!(examined.warnings[0].to_string().contains("issuer"), "{}", examined.warnings[0]);
        // The name must be right all the same.
        let other = decoy::examine(near.address(), &"other.example".parse()?, &roots, &resolver).await;
        ensure!(
            matches!(&other, Err(DecoyError::Certificate { why, .. }) if why.contains(NAME)),
            "{other:?}"
        );

        let added = Command::new("ip").args(["address", "add", "192.0.2.1/32", "dev", "lo"]).status()?;
        ensure!(added.success(), "no second address");
        let listen = Some(SocketAddr::from(([192, 0, 2, 1], 8443)));
        let far = Decoy::start(Server::Nginx, Options { listen, ..Options::default() })?;
        let refused = decoy::examine(far.address(), &name, &roots, &resolver).await;
        ensure!(matches!(refused, Err(DecoyError::Untrusted(_))), "{refused:?}");
        examine(far.address(), &far.certificates().ca).await??;

        let nowhere = decoy::examine(free_address()?, &name, &roots, &resolver).await;
        ensure!(matches!(nowhere, Err(DecoyError::Unreachable { .. })), "{nowhere:?}");
        Ok(())
    })
}

#[test]
fn a_bridge_tells_its_carriers_what_was_measured() -> Result<()> {
    run("a_bridge_tells_its_carriers_what_was_measured", async {
        let names = vec![NAME.to_owned(), "www.example.net".to_owned()];
        let options = Options {
            names: names.clone(),
            requests: 400,
            idle: Duration::from_secs(1),
            extra: "keepalive_time 3s;".into(),
            ..Options::default()
        };
        let decoy = Decoy::start(Server::Nginx, options)?;
        let bridge = |names: Vec<String>| {
            Ok::<_, anyhow::Error>(Listener::bind(BridgeConfig {
                listen: "127.0.0.1:0".parse()?,
                identity: IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32])),
                decoy: decoy.address(),
                names: names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
                admission: Admission::Open,
                connect: Connect::default(),
                profile: qnet_transport::Profile::default(),
                sessions: qnet_transport::bridge::Sessions::default(),
            })?)
        };
        let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
        let listener = bridge(names)?;
        ensure!(listener.facts().context("a mirror")?.idle_limit.is_none());
        let slow = listener.examiner().context("a mirror")?.measure_idle(&roots);
        listener.examiner().context("a mirror")?.asking(no_records()?).examine(&roots).await?;
        ensure!(
            listener.facts().context("a mirror")?.max_requests == 400,
            "{:?}",
            listener.facts().context("a mirror")?
        );
        slow.await??;
        let limit = listener.facts().context("a mirror")?.idle_limit.context("not told")?;
        ensure!((900..2_000).contains(&limit.as_millis()), "{limit:?}");
        listener.examiner().context("a mirror")?.measure_lifetime(&roots).await??;
        let lifetime = listener.facts().context("a mirror")?.lifetime.context("not told")?;
        ensure!((2_000..=3_000).contains(&lifetime.as_millis()), "{lifetime:?}");
        ensure!(
            listener.facts().context("a mirror")?.max_requests == 400,
            "{:?}",
            listener.facts().context("a mirror")?
        );
        listener.examiner().context("a mirror")?.asking(no_records()?).examine(&roots).await?;
        ensure!(
            listener.facts().context("a mirror")?.lifetime == Some(lifetime),
            "{:?}",
            listener.facts().context("a mirror")?
        );

        let wrong = bridge(vec![NAME.into(), "www.example.org".into()])?
            .examiner()
            .context("a mirror")?
            .asking(no_records()?);
        let wrong = wrong.examine(&roots).await;
        let said = wrong.err().context("a name that the site does not serve passes")?.to_string();
        ensure!(said.starts_with("www.example.org cannot be the decoy: the site's certificate"), "{said}");
        Ok(())
    })
}
