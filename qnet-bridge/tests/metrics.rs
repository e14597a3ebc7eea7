//! The numbers before real Prometheus, the dashboard's queries over them, and how they go on over an upgrade.
#![forbid(unsafe_code)]

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    isolate::isolated,
    process::{Running, free_address, signal, wait_for},
    tunnel::runtime,
};
use rustix::process::Signal;
use serde_json::Value;
use support::{
    Bridge, ask, echo, echoes,
    installed::{Installed, POLICY},
    round,
};

const LIMIT: Duration = Duration::from_secs(30);

/// Between two samples: a rate needs two.
const INTERVAL: Duration = Duration::from_secs(1);

/// Every query of the dashboard, with its variables filled in.
fn queries() -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/qnet-bridge.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| Ok(target["expr"].as_str().context("expr")?.replace("$instance", ".+"))).collect()
}

#[test]
fn the_dashboards_queries_have_answers() -> Result<()> {
    isolated("the_dashboards_queries_have_answers", || {
        let (metrics, listen) = (free_address()?, free_address()?);
        let bridge = Bridge::start(&format!(
            "allow-special = true\nexit-policy = [\"accept *:*\"]\nmetrics = \"{metrics}\""
        ))?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: {0}s, evaluation_interval: {0}s }}\nscrape_configs:\n- job_name: bridge\n  \
             static_configs: [{{ targets: ['{metrics}'] }}]\n",
            INTERVAL.as_secs()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address={listen}"));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        let log = File::create(folder.path().join("log"))?;
        let _prometheus =
            Running::start("prometheus", command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))?;
        let tunnel = runtime()?;
        tunnel.block_on(async {
            let (stream, _) = ask(&bridge.dial().await?, &echo().await?.to_string()).await?;
            round(stream, b"something to count").await
        })?;
        let query = |expression: &str| -> Result<Option<f64>> {
            let output = Command::new("curl")
                .args(["--silent", "--get", "--data-urlencode", &format!("query={expression}")])
                .arg(format!("http://{listen}/api/v1/query"))
                .output()?;
            let Ok(said) = serde_json::from_slice::<Value>(&output.stdout) else { return Ok(None) };
            ensure!(said["status"] == "success", "{expression}: {said}");
            Ok(said["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()))
        };
        let queries = queries()?;
        ensure!(queries.len() >= 11, "{queries:?}");
        for expression in &queries {
            wait_for(expression, Duration::from_secs(30), || query(expression))?;
        }
        let bytes = wait_for("bytes", Duration::from_secs(10), || query("qnet_bridge_bytes_total"))?;
        ensure!(bytes >= 36.0, "{bytes}");
        let shaped = query("qnet_bridge_shaping_bytes_total{kind=\"data\"}")?;
        ensure!(shaped.is_some_and(|shaped| shaped >= 18.0), "{shaped:?}");
        ensure!(query("no_such_metric")?.is_none());
        Ok(())
    })
}

/// What is told there, by name and labels.
fn numbers(metrics: SocketAddr) -> Result<BTreeMap<String, u64>> {
    let url = format!("http://{metrics}/metrics");
    let output = Command::new("curl").args(["--silent", "--fail", "--max-time", "5", &url]).output()?;
    ensure!(output.status.success(), "nobody tells numbers: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("qnet_bridge_")?.split_once(' '));
    lines.map(|(name, value)| Ok((name.to_owned(), value.parse()?))).collect()
}

/// The same, as soon as it is told: an older process that was not asked before may take its time.
fn soon(metrics: SocketAddr) -> Result<BTreeMap<String, u64>> {
    wait_for("numbers", LIMIT, || Ok(numbers(metrics).ok()))
}

/// The same once there are so many sessions and streams, and so many streams were connected: on a busy machine a process that does
/// not answer in time is told of without its sessions.
fn once(metrics: SocketAddr, wanted: (u64, u64, u64)) -> Result<BTreeMap<String, u64>> {
    let there =
        |numbers: &BTreeMap<String, u64>| (numbers["sessions"], numbers["streams"], numbers[CONNECTED]);
    let told = || Ok(numbers(metrics).ok().filter(|numbers| there(numbers) == wanted));
    wait_for("these numbers", LIMIT, told).with_context(|| format!("{wanted:?}, {:?}", numbers(metrics)))
}

/// Whether nothing that counts up has fallen.
fn none_falls(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Result<()> {
    for (name, value) in before.iter().filter(|(name, _)| name.contains("_total")) {
        ensure!(after.get(name) >= Some(value), "{name} falls: {before:?}, then {after:?}");
    }
    Ok(())
}

const CONNECTED: &str = "streams_total{outcome=\"connected\"}";

#[test]
fn numbers_go_on_over_upgrades() -> Result<()> {
    isolated("numbers_go_on_over_upgrades", || {
        let metrics = free_address()?;
        let bridge = Installed::new(&format!("{POLICY}\nmetrics = \"{metrics}\""))?;
        let mut first = bridge.start()?;
        runtime()?.block_on(async {
            let (echo, dialer, line) = (echo().await?.to_string(), bridge.dialer()?, bridge.line()?);
            let oldest = dialer.dial(&line).await?;
            let (mut stream, _) = ask(&oldest, &echo).await?;
            echoes(&mut stream, &[1; 5_000]).await?;
            let one = once(metrics, (1, 1, 1))?;
            // As Prometheus does, which keeps its connection.
            let mut kept = TcpStream::connect(metrics)?;
            let second = bridge.upgrade(&first)?;
            bridge.logs("takes the connections from now on")?;
            none_falls(&one, &soon(metrics)?)?;
            let two = once(metrics, (1, 1, 1))?;
            // Sooner than a connection without a request is closed by itself.
            kept.set_read_timeout(Some(Duration::from_secs(5)))?;
            let closed = match kept.read(&mut [0]) {
                Ok(count) => count == 0,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            };
            ensure!(closed, "the old process is asked on and on");
            // What the old process counts from here on is told as well, and what the new one does.
            echoes(&mut stream, &[2; 70_000]).await?;
            let newer = dialer.dial(&line).await?;
            let (mut late, _) = ask(&newer, &echo).await?;
            echoes(&mut late, b"late").await?;
            let both = once(metrics, (2, 2, 2))?;
            ensure!(
                both["bytes_total"] >= 150_000 && both["connections_total"] > two["connections_total"],
                "{both:?}"
            );
            // From the third process both are asked.
            signal(second, Signal::USR2)?;
            ensure!(bridge.told()?.starts_with("MAINPID="));
            wait_for("the third", LIMIT, || {
                Ok((bridge.log()?.matches("takes the connections").count() == 2).then_some(()))
            })?;
            none_falls(&both, &soon(metrics)?)?;
            let three = once(metrics, (2, 2, 2))?;
            // One that ends leaves what it counted since somebody asked, too.
            echoes(&mut stream, &[3; 30_000]).await?;
            drop((stream, oldest));
            wait_for("the first process's end", LIMIT, || first.ended())?;
            let left = once(metrics, (1, 1, 2))?;
            ensure!(left["bytes_total"] >= three["bytes_total"] + 60_000, "{three:?}, then {left:?}");
            none_falls(&three, &left)
        })
    })
}

/// Whether every thread of a process was stopped: the signal only begins it.
fn stands_still(pid: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        if !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[test]
fn a_process_that_does_not_answer_is_not_waited_for() -> Result<()> {
    isolated("a_process_that_does_not_answer_is_not_waited_for", || {
        let metrics = free_address()?;
        let bridge = Installed::new(&format!("{POLICY}\nmetrics = \"{metrics}\""))?;
        let mut old = bridge.start()?;
        runtime()?.block_on(async {
            let (echo, dialer) = (echo().await?.to_string(), bridge.dialer()?);
            let tunnel = dialer.dial(&bridge.line()?).await?;
            let (mut stream, _) = ask(&tunnel, &echo).await?;
            echoes(&mut stream, &[1; 5_000]).await?;
            bridge.upgrade(&old)?;
            bridge.logs("takes the connections from now on")?;
            let before = once(metrics, (1, 1, 1))?;
            signal(old.pid(), Signal::STOP)?;
            wait_for("its standstill", LIMIT, || Ok(stands_still(old.pid())?.then_some(())))?;
            for _ in 0..3 {
                let asked = Instant::now();
                let numbers = numbers(metrics)?;
                ensure!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
                none_falls(&before, &numbers)?;
                assert_eq!(numbers["sessions"], 0);
            }
            // Nor does what was counted fall when it is gone without a word.
            signal(old.pid(), Signal::KILL)?;
            wait_for("its end", LIMIT, || old.ended())?;
            let after = once(metrics, (0, 0, 1))?;
            none_falls(&before, &after)
        })
    })
}
