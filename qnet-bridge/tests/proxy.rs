//! The whole way without tor: curl, the proxy on the user's machine, the bridge, the web.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs::File,
    net::SocketAddr,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    isolate::isolated,
    local_http::FileServer,
    process::{Running, free_address, wait_for},
    pt::built,
};
use sha2::{Digest as _, Sha256};
use support::Bridge;

fn curl(proxy: &str, url: &str) -> Result<Output> {
    let mut command = Command::new("curl");
    Ok(command
        .args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "", "--proxy", proxy, url])
        .output()?)
}

/// The sum of a metric's samples, by its name and labels' beginning.
fn metric(address: SocketAddr, name: &str) -> Result<f64> {
    let output =
        Command::new("curl").args(["--silent", "--fail", &format!("http://{address}/metrics")]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let values =
        text.lines().filter_map(|line| line.strip_prefix(name)?.split(' ').next_back()?.parse::<f64>().ok());
    values.reduce(|a, b| a + b).with_context(|| format!("no {name} in {text}"))
}

#[test]
fn curl_reaches_the_web_through_proxy_and_bridge() -> Result<()> {
    // Before there is no network to ask, though nothing is downloaded.
    let qnet = built("qnet")?;
    isolated("curl_reaches_the_web_through_proxy_and_bridge", || {
        let web = FileServer::start(3_000_000)?;
        let (metrics, port) = (free_address()?, web.address().port());
        let policy =
            format!("allow-special = true\nexit-policy = [\"accept *:{port}\"]\nmetrics = \"{metrics}\"");
        let bridge = Bridge::start(&policy)?;
        let (listen, status) = (free_address()?, free_address()?);
        let mut command = Command::new(&qnet);
        command.args(["proxy", "--bridge", &bridge.line.to_string(), "--listen", &listen.to_string()]);
        command.args(["--status", &status.to_string()]).env("SSL_CERT_FILE", &bridge.decoy.certificates().ca);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(bridge.folder.path().join("proxy"))?);
        let _proxy = Running::start("qnet", &mut command)?;
        wait_for("the proxy is connected", Duration::from_secs(40), || {
            let report =
                Command::new("curl").args(["--silent", &format!("http://{status}/status.json")]).output()?;
            Ok(String::from_utf8_lossy(&report.stdout).contains(r#""state":"connected""#).then_some(()))
        })?;
        for proxy in [format!("socks5h://{listen}"), format!("http://{listen}")] {
            for host in ["127.0.0.1", "localhost"] {
                let output = curl(&proxy, &format!("http://{host}:{port}/"))?;
                ensure!(output.status.success(), "{proxy}: {output:?}");
                ensure!(<[u8; 32]>::from(Sha256::digest(&output.stdout)) == web.sha256(), "{proxy}");
            }
            let refused = curl(&proxy, "http://127.0.0.1:1/")?;
            ensure!(
                !refused.stdout.ends_with(b"web")
                    && metric(metrics, "qnet_bridge_streams_total{outcome=\"refused\"}")? > 0.0
            );
        }
        ensure!(metric(metrics, "qnet_bridge_streams_total{outcome=\"connected\"}")? >= 4.0);
        ensure!(metric(metrics, "qnet_bridge_bytes_total")? > 12_000_000.0);
        ensure!(
            metric(metrics, "qnet_bridge_decoy_up")? > 0.0 && metric(metrics, "qnet_bridge_sessions")? > 0.0
        );
        let text =
            Command::new("curl").args(["--silent", &format!("http://{metrics}/metrics")]).output()?.stdout;
        let text = String::from_utf8(text)?;
        ensure!(!text.contains("127.0.0.1") && !text.contains("example"), "{text}");
        Ok(())
    })
}
