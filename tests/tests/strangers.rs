//! What strangers see at a bridge's address is what they see of its decoy: certificate, page, protocol.

mod product;

use std::time::Duration;

use anyhow::{Result, ensure};
use product::Bridge;
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Editor, Link, Rule, Way, Which};
use qnet_tests::support::site;
use qnet_tests::support::strangers::{Sight, Visited};

#[test]
fn curl_sees_every_decoys_page() -> Result<()> {
    isolated("curl_sees_every_decoys_page", || {
        Server::ALL.into_iter().try_for_each(|server| {
            let decoy = Decoy::start(server, Options::default())?;
            let seen = visited(&decoy).curl()?;
            ensure!(seen.alpn == "h2" && seen.version == "TLSv1.3", "{server:?}: {seen:?}");
            ensure!(seen.certificate == decoy.certificates().der, "{server:?}: another certificate");
            ensure!(seen.page.as_bytes() == decoy.file("index.html")?, "{server:?}: {}", seen.page);
            Ok(())
        })
    })
}

#[test]
fn strangers_see_the_decoy_through_a_bridge() -> Result<()> {
    isolated("strangers_see_the_decoy_through_a_bridge", || {
        for server in [Server::Nginx, Server::LighttpdGnutls] {
            let decoy = Decoy::start(server, Options::default())?;
            let bridge = Bridge::start(&decoy)?;
            let through = Visited { address: bridge.address(), ..visited(&decoy) };
            for (who, visit) in STRANGERS {
                let (direct, seen) = (visit(visited(&decoy))?, visit(through)?);
                ensure!(direct == seen, "{who} sees {seen:?}, not {direct:?}");
                ensure!(seen.certificate == decoy.certificates().der, "{who} sees another certificate");
                ensure!(seen.page.contains(site::HEADLINE), "{who} sees the page {}", seen.page);
            }
            let chromium = through.chromium()?;
            ensure!(chromium.alpn == "h2" && chromium.page.contains("data-tours=\"300\""), "{chromium:?}");
            ensure!(
                bridge.counts().connections >= 4 && bridge.counts().streams == 0,
                "{:?}",
                bridge.counts()
            );
            // The same address, to one who has its line.
            bridge.client(&decoy, true)?(bridge.address(), Duration::from_secs(5));
            ensure!(bridge.counts().streams == 1, "{:?}", bridge.counts());
        }
        Ok(())
    })
}

/// The negative control: what is not the decoy's is seen as such.
#[test]
fn strangers_notice_a_changed_record() -> Result<()> {
    isolated("strangers_notice_a_changed_record", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let forwarder = Link::start(decoy.address(), Duration::ZERO)?;
        let spoil = Editor::new(|record| {
            if let Some(last) = record.last_mut() {
                *last ^= 1;
            }
        });
        forwarder.set_rules(vec![Rule::new(Way::Down, Which::NthData(1), Act::Edit(spoil))]);
        let through = Visited { address: forwarder.address(), ..visited(&decoy) };
        for (who, visit) in STRANGERS {
            let seen = visit(through);
            ensure!(seen.is_err(), "{who} did not notice: {seen:?}");
        }
        Ok(())
    })
}

type Visit = for<'a> fn(Visited<'a>) -> Result<Sight>;

const STRANGERS: [(&str, Visit); 3] =
    [("curl", |at| at.curl()), ("openssl", |at| at.openssl()), ("Chromium", |at| at.chromium())];

fn visited(decoy: &Decoy) -> Visited<'_> {
    Visited { address: decoy.address(), name: decoy.name(), certificates: decoy.certificates() }
}
