//! The numbers before real Prometheus, and the dashboard's queries over them.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    isolate::isolated,
    process::{Running, free_address, wait_for},
    tunnel::runtime,
};
use serde_json::Value;
use support::{Bridge, ask, echo, round};

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
