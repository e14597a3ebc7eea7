//! curl through the proxy: every way in, names looked up at the far end, failures with their reason.

mod support;

use std::collections::HashMap;

use anyhow::{Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::process::free_address;
use qnet_tests::support::tunnel::runtime;
use support::exit::{Behind, Exit};
use support::{Proxy, curl, curl_output};

/// A name that only the exit knows.
const NAME: &str = "www.example.com";

fn through(body: impl FnOnce(&Proxy, &Decoy) -> Result<()>) -> Result<()> {
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let exit = Exit::start(&decoy, 1, Behind::Exit(HashMap::from([(NAME, decoy.address())])))?;
    let proxy = Proxy::connected(&decoy.certificates().ca, &[exit.line()], &[])?;
    body(&proxy, &decoy)
}

#[test]
fn a_page_comes_by_socks_and_by_http() -> Result<()> {
    isolated("a_page_comes_by_socks_and_by_http", || {
        through(|proxy, decoy| {
            let page = String::from_utf8(decoy.file("index.html")?)?;
            let ca = decoy.certificates().ca.display().to_string();
            let url = format!("https://{NAME}:{}/", decoy.address().port());
            for way in ["socks5h", "http"] {
                let got = curl(&["--cacert", &ca, "--proxy", &format!("{way}://{}", proxy.listen), &url])?;
                ensure!(got == page, "{way}: {got}");
            }
            // An address, and a login that nobody asked for.
            let by_address = format!("https://{}/", decoy.address());
            let socks = format!("socks5://user:password@{}", proxy.listen);
            ensure!(curl(&["--insecure", "--proxy", &socks, &by_address])? == page);
            let report = proxy.report()?;
            ensure!(report.contains(r#""opened":3,"failed":0"#), "{report}");
            ensure!(!report.contains(NAME) && !report.contains(&decoy.address().to_string()), "{report}");
            let log = proxy.log();
            ensure!(!log.contains(NAME) && !log.contains(&decoy.address().to_string()), "{log}");
            Ok(())
        })
    })
}

#[test]
fn a_failure_has_its_reason() -> Result<()> {
    isolated("a_failure_has_its_reason", || {
        through(|proxy, _| {
            let closed = free_address()?;
            let (socks, http) = (format!("socks5h://{}", proxy.listen), format!("http://{}", proxy.listen));
            for (way, url, words) in [
                (&socks, format!("http://{closed}/"), "(5)"),
                (&socks, "http://nowhere.example/".to_owned(), "(4)"),
                (&http, format!("https://{closed}/"), "response 502"),
                (&http, "https://nowhere.example/".to_owned(), "response 502"),
            ] {
                let output = curl_output(&["--proxy", way, &url])?;
                let said = String::from_utf8(output.stderr)?;
                ensure!(!output.status.success() && said.contains(words), "{way} {url}: {said}");
            }
            let told = curl(&["--proxy", &http, "http://nowhere.example/"])?;
            ensure!(told == "QNet: the exit finds no such host.\n", "{told}");
            let told = curl(&[&format!("http://{}/", proxy.listen)])?;
            ensure!(told.contains("proxy, not a web site"), "{told}");
            ensure!(proxy.report()?.contains(r#""opened":0,"failed":5"#), "{}", proxy.report()?);
            Ok(())
        })
    })
}
