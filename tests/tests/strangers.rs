//! What strangers see of a decoy: curl, openssl and Chromium.

use std::process::Command;

use anyhow::{Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;

#[test]
fn every_decoy_serves_its_page_over_h2() -> Result<()> {
    isolated("every_decoy_serves_its_page_over_h2", || {
        for server in Server::ALL {
            let decoy = Decoy::start(server, Options::default())?;
            let at = format!("{}:{}", decoy.name(), decoy.address().port());
            let output = Command::new("curl")
                .args(["-sS", "--http2", "--tlsv1.3", "--resolve", &format!("{at}:127.0.0.1"), "--cacert"])
                .arg(&decoy.certificates().ca)
                .args(["-w", "\n%{http_version}", &format!("https://{at}/")])
                .output()?;
            ensure!(output.status.success(), "{server:?}: {}", String::from_utf8_lossy(&output.stderr));
            let expected = [decoy.file("index.html")?, b"\n2".to_vec()].concat();
            ensure!(output.stdout == expected, "{server:?}: {}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(())
    })
}
