//! The status page: what it says, to whom, in a browser; and settings that change while the proxy runs.

mod support;

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::process::{free_address, signal, wait_for};
use qnet_tests::support::tunnel::runtime;
use rustix::process::Signal;
use support::browser::{Watched, look};
use support::exit::{Behind, Exit};
use support::wire::{Wire, wire};
use support::{CONNECT_LIMIT, Proxy, curl, qnet};
use tempfile::TempDir;

const NAME: &str = "www.example.com";

fn with_exit(body: impl FnOnce(&Exit, &Decoy) -> Result<()>) -> Result<()> {
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let exit = Exit::start(&decoy, 1, Behind::Exit(HashMap::from([(NAME, decoy.address())])))?;
    body(&exit, &decoy)
}

/// Status code and head of an answer.
fn head(arguments: &[&str]) -> Result<String> {
    curl(&[&["--include", "--output", "-"], arguments].concat())
}

#[test]
fn only_this_machine_is_answered_and_only_the_page_may_change_something() -> Result<()> {
    isolated("only_this_machine_is_answered_and_only_the_page_may_change_something", || {
        with_exit(|exit, decoy| {
            let proxy = Proxy::connected(&decoy.certificates().ca, &[exit.line()], &[])?;
            let url = |path: &str| format!("http://{}{path}", proxy.status);
            for path in ["/", "/page.css", "/page.js", "/icon.svg", "/status.json"] {
                let answer = head(&[&url(path)])?;
                ensure!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
                ensure!(
                    answer.contains("\r\ncontent-security-policy: default-src 'none'; "),
                    "{path}: {answer}"
                );
                ensure!(answer.contains("\r\ncache-control: no-store\r\n"), "{path}: {answer}");
                // A name of a stranger's that was pointed here.
                let answer = head(&["--header", "Host: evil.example:8088", &url(path)])?;
                ensure!(
                    answer.starts_with("HTTP/1.1 421 ") && !answer.contains("bridge"),
                    "{path}: {answer}"
                );
                ensure!(head(&["--header", "Host:", "--http1.0", &url(path)])?.contains(" 421 "));
            }
            let report: serde_json::Value = serde_json::from_str(&curl(&[&url("/status.json")])?)?;
            let shaping = &report["bridges"][0]["shaping"];
            // The first probe's request has gone.
            ensure!(shaping["records"].as_u64() > Some(0) && shaping["late"] == 0, "{report}");
            let page = curl(&[&url("/")])?;
            let token =
                page.split("name=\"token\" content=\"").nth(1).and_then(|rest| rest.split('"').next());
            let token = token.context("the page has no token")?;
            let post = |header: &str| head(&["--request", "POST", "--header", header, &url("/reconnect")]);
            for header in ["X-Nothing: 1", "X-Qnet-Token:", "X-Qnet-Token: guessed"] {
                ensure!(post(header)?.starts_with("HTTP/1.1 403 "), "{header}");
            }
            ensure!(!proxy.log().contains("new tunnels"), "{}", proxy.log());
            ensure!(
                head(&["--header", &format!("X-Qnet-Token: {token}"), &url("/reconnect")])?.contains(" 405 ")
            );
            ensure!(post(&format!("X-Qnet-Token: {token}"))?.starts_with("HTTP/1.1 204 "));
            wait_for("a new tunnel", CONNECT_LIMIT, || {
                Ok((proxy.log().matches("connected after").count() == 2).then_some(()))
            })
        })
    })
}

#[test]
fn a_browser_shows_the_state_and_loads_nothing_from_elsewhere() -> Result<()> {
    isolated("a_browser_shows_the_state_and_loads_nothing_from_elsewhere", || {
        with_exit(|exit, decoy| {
            let proxy = Proxy::connected(&decoy.certificates().ca, &[exit.line()], &[])?;
            look("shows", &proxy, &[NAME, &exit.address.to_string()])?;
            for path in ["", "page.css"] {
                let text = curl(&[&format!("http://{}/{path}", proxy.status)])?;
                ensure!(
                    !text.contains("http:") && !text.contains("https:") && !text.contains("//"),
                    "{path}: {text}"
                );
            }
            Ok(())
        })
    })
}

#[test]
fn the_page_is_legible_in_light_and_dark_and_on_a_phone() -> Result<()> {
    isolated("the_page_is_legible_in_light_and_dark_and_on_a_phone", || {
        with_exit(|exit, decoy| {
            // One bridge is connected to, one is not.
            let other = Exit::start(decoy, 2, Behind::Exit(HashMap::new()))?;
            let gone = other.line().replace(&other.address.to_string(), &free_address()?.to_string());
            let ca = &decoy.certificates().ca;
            let pictures = env!("CARGO_TARGET_TMPDIR");
            let proxy = Proxy::connected(ca, &[exit.line(), gone.clone()], &[])?;
            look("legible", &proxy, &[pictures, "Connected", "Bridge 2"])?;
            drop(proxy);
            let proxy = Proxy::start(ca, &[gone], &[])?;
            look("legible", &proxy, &[pictures, "Offline", "Bridge 1"])?;
            drop(proxy);
            let silent = TcpListener::bind("127.0.0.1:0")?;
            let line = exit.line().replace(&exit.address.to_string(), &silent.local_addr()?.to_string());
            let proxy = Proxy::start(ca, &[line], &[])?;
            look("legible", &proxy, &[pictures, "Calibrating", "Bridge 1"])
        })
    })
}

#[test]
fn the_button_connects_anew() -> Result<()> {
    isolated("the_button_connects_anew", || {
        with_exit(|exit, decoy| {
            let proxy = Proxy::connected(&decoy.certificates().ca, &[exit.line()], &[])?;
            look("button", &proxy, &[])?;
            wait_for("a new tunnel", CONNECT_LIMIT, || {
                Ok((proxy.log().matches("connected after").count() == 2).then_some(()))
            })
        })
    })
}

/// A bridge that says nothing, then none, then one again, then no proxy.
#[test]
fn the_page_follows_the_state() -> Result<()> {
    isolated("the_page_follows_the_state", || {
        with_exit(|exit, decoy| {
            let (address, wire) = tokio::runtime::Handle::current().block_on(wire(exit.address))?;
            wire.send_replace(Wire::Silent);
            let proxy = Proxy::start(&decoy.certificates().ca, &[exit.line_by(address)], &[])?;
            let states = [
                "Calibrating|waiting for the bridge to prove itself",
                "Offline|Bridge 1",
                "Connected|round trip",
                "Not running|Is it running?",
            ];
            let mut page = Watched::open(&proxy, &states)?;
            page.says(states[0])?;
            proxy.wait_for(r#""state":"calibrating""#)?;
            for (next, state, words) in
                [(Wire::Cut, "offline", states[1]), (Wire::Whole, "connected", states[2])]
            {
                wire.send_replace(next);
                page.go_on()?;
                page.says(words)?;
                proxy.wait_for(&format!(r#""state":"{state}""#))?;
            }
            drop(proxy);
            page.go_on()?;
            page.says(states[3])
        })
    })
}

/// Writes as editors do: another file in its place.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, path)?)
}

#[test]
fn settings_are_taken_up_when_they_change() -> Result<()> {
    isolated("settings_are_taken_up_when_they_change", || {
        with_exit(|exit, decoy| {
            let folder = TempDir::new()?;
            let path = folder.path().join("qnet.toml");
            let text = format!("bridge = [\"{}\"]\n", exit.line());
            replace(&path, &text)?;
            let config = path.display().to_string();
            let proxy = Proxy::start_with(&decoy.certificates().ca, &["--config", &config])?;
            proxy.wait_for(r#""state":"connected""#)?;
            let logged = |words: &str| {
                let seen = || Ok(proxy.log().contains(words).then_some(()));
                wait_for(words, Duration::from_secs(10), seen).with_context(|| proxy.log())
            };
            // A wrong file changes nothing.
            replace(&path, &text.replace("sni=", "sin="))?;
            logged("qnet.toml:1:11: bridge: `sin` is unknown")?;
            logged("the settings stay as they were")?;
            proxy.wait_for(r#""state":"connected""#)?;
            // A right one is taken up: a forwarded port, and a probe that fails from then on.
            let (port, closed) = (free_address()?, free_address()?);
            let ca = decoy.certificates().ca.display().to_string();
            let host = format!("{NAME}:{}", port.port());
            let more = format!("{text}forward = [\"{port}:{NAME}:443\"]\n");
            replace(&path, &more)?;
            logged("forwarded ports: 1")?;
            let get = || {
                curl(&[
                    "--cacert",
                    &ca,
                    "--resolve",
                    &format!("{host}:127.0.0.1"),
                    &format!("https://{host}/"),
                ])
            };
            ensure!(get()?.into_bytes() == decoy.file("index.html")?);
            ensure!(proxy.log().matches("connected after").count() == 1, "{}", proxy.log());
            // On a signal at once; and what is not there any more stops.
            replace(&path, &format!("{text}probe = \"{closed}\"\n"))?;
            signal(proxy.running.pid(), Signal::HUP)?;
            logged("forwarded ports: 0")?;
            ensure!(get().is_err());
            Ok(())
        })
    })
}

#[test]
fn a_check_says_what_is_wrong_and_touches_nothing() -> Result<()> {
    let run = |arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
        let output = qnet().arg("proxy").args(arguments).stdin(Stdio::null()).output()?;
        Ok((output.status.code(), String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    };
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/qnet.example.toml");
    let (code, out, err) = run(&["--check", "--config", example])?;
    ensure!(
        code == Some(0) && out.starts_with("the settings are right: bridge lines: 1;") && err.is_empty(),
        "{err}"
    );
    let (code, out, err) = run(&["--check", "--bridge", "qnet nowhere", "--listen", "1088"])?;
    let lines: Vec<&str> = err.lines().collect();
    ensure!(code == Some(2) && out.is_empty() && lines.len() == 2, "{err}");
    ensure!(lines[0].starts_with("qnet: --bridge: the bridge line needs an address such as"), "{err}");
    ensure!(
        lines[1].starts_with("qnet: --listen: `1088` is no address; one such as 127.0.0.1:1088"),
        "{err}"
    );
    let (code, _, err) = run(&["--bridges"])?;
    ensure!(code == Some(2) && err.contains("--bridge"), "{err}");
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_named() -> Result<()> {
    isolated("a_port_that_is_taken_is_named", || {
        with_exit(|exit, decoy| {
            let taken = TcpListener::bind("127.0.0.1:0")?;
            let address = taken.local_addr()?.to_string();
            for setting in ["listen", "status"] {
                let mut command = qnet();
                command.args(["proxy", "--bridge", &exit.line(), &format!("--{setting}"), &address]);
                command.args([if setting == "listen" { "--status" } else { "--listen" }, "off"]);
                let output =
                    command.env("SSL_CERT_FILE", &decoy.certificates().ca).stdin(Stdio::null()).output()?;
                let said = String::from_utf8(output.stderr)?;
                let words = format!("qnet: {setting}: cannot listen on {address}: ");
                ensure!(output.status.code() == Some(1) && said.contains(&words), "{said}");
                ensure!(said.contains("another program listens there"), "{said}");
            }
            Ok(())
        })
    })
}

#[test]
fn a_bridge_that_is_added_is_used_and_one_that_is_taken_away_is_not() -> Result<()> {
    isolated("a_bridge_that_is_added_is_used_and_one_that_is_taken_away_is_not", || {
        with_exit(|exit, decoy| {
            let other = Exit::start(decoy, 2, Behind::Exit(HashMap::from([(NAME, decoy.address())])))?;
            let folder = TempDir::new()?;
            let path = folder.path().join("qnet.toml");
            replace(&path, &format!("bridge = [\"{}\"]\n", exit.line()))?;
            let config = path.display().to_string();
            let proxy = Proxy::start_with(&decoy.certificates().ca, &["--config", &config])?;
            proxy.wait_for(r#""state":"connected""#)?;
            replace(&path, &format!("bridge = [\"{}\"]\n", other.line()))?;
            let url = format!("https://{NAME}:{}/", decoy.address().port());
            let way = format!("socks5h://{}", proxy.listen);
            wait_for("the other bridge is used", CONNECT_LIMIT, || {
                curl(&["--insecure", "--proxy", &way, &url])?;
                Ok((other.asked.load(Ordering::Relaxed) > 0).then_some(()))
            })?;
            let before = exit.asked.load(Ordering::Relaxed);
            curl(&["--insecure", "--proxy", &way, &url])?;
            ensure!(exit.asked.load(Ordering::Relaxed) == before);
            Ok(())
        })
    })
}

#[test]
fn completions_and_man_pages_are_written() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let output = qnet().args(["completions", shell]).output()?;
        ensure!(output.status.success() && String::from_utf8(output.stdout)?.contains("stdio"), "{shell}");
    }
    let folder = TempDir::new()?;
    ensure!(qnet().arg("man").arg(folder.path()).status()?.success());
    for page in ["qnet.1", "qnet-proxy.1"] {
        let text = fs::read_to_string(folder.path().join(page))?;
        ensure!(text.contains(".TH"), "{page}");
    }
    ensure!(fs::read_to_string(folder.path().join("qnet-proxy.1"))?.contains("ProxyCommand"));
    Ok(())
}
