//! Which sites the bridge's check takes as decoys, and in which words it refuses the others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qnet_tests::support::{
    decoy::{Decoy, Options, Server},
    isolate::isolated,
};
use qnet_transport::{
    decoy::{self, DecoyError, Examined},
    tls::Roots,
};

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn examine(decoy: &Decoy) -> Result<Result<Examined, DecoyError>> {
    let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
    Ok(decoy::examine(decoy.address(), &decoy.name().parse()?, &roots).await)
}

#[test]
fn explore() -> Result<()> {
    isolated("explore", || {
        runtime()?.block_on(async {
            for server in Server::ALL {
                let decoy = Decoy::start(server, Options { idle: Duration::from_secs(2), ..Options::default() })?;
                let begun = Instant::now();
                let examined = examine(&decoy).await?;
                println!("{server:?} {:?} {examined:?} {}", begun.elapsed(), examined.as_ref().err().map(|e| e.to_string()).unwrap_or_default());
                let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
                let idle = decoy::measure_idle(decoy.address(), &decoy.name().parse()?, &roots).await;
                println!("{server:?} {idle:?}");
            }
            anyhow::bail!("x")
        })
    })
}
