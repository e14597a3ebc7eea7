//! The product, driven from blocking tests: a bridge before a decoy, and its client as a probe's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use qnet_tests::support::decoy::Decoy;
use qnet_tests::support::probe::Client;
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Counts, Listener};
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::connect::Connect;
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::{BridgeLine, Cover};
use qnet_wire::key::{BridgeKey, IdentityKey};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

/// A bridge, until it is dropped. Nobody takes the streams that clients open.
pub(crate) struct Bridge {
    listener: Listener,
    runtime: Arc<Runtime>,
    key: BridgeKey,
}

impl Bridge {
    pub(crate) fn start(decoy: &Decoy) -> Result<Self> {
        let runtime = Arc::new(Builder::new_multi_thread().worker_threads(2).enable_all().build()?);
        let identity = identity(7);
        let key = identity.public();
        let config = BridgeConfig {
            listen: "127.0.0.1:0".parse()?,
            identity,
            decoy: decoy.address(),
            names: vec![decoy.name().parse()?],
            admission: Admission::Open,
            connect: Connect::default(),
            profile: qnet_transport::Profile::default(),
            sessions: qnet_transport::bridge::Sessions::default(),
        };
        let listener = runtime.block_on(async { Listener::bind(config) })?;
        Ok(Self { listener, runtime, key })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.listener.counts()
    }

    /// A client that has this bridge's line, the address aside, or one with another bridge's key.
    pub(crate) fn client(&self, decoy: &Decoy, right_key: bool) -> Result<Client> {
        let key = if right_key { self.key } else { identity(8).public() };
        let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
        let dialer = Dialer::new(DialerConfig::new(roots));
        let (runtime, name) = (Arc::clone(&self.runtime), decoy.name().parse()?);
        let line = BridgeLine {
            address: self.address(),
            fingerprint: None,
            key,
            cover: Cover::Mirror(vec![name]),
            profile: None,
            invitation: None,
        };
        Ok(Arc::new(move |address, limit| {
            let line = BridgeLine { address, ..line.clone() };
            runtime.block_on(async {
                let begun = tokio::time::Instant::now();
                // A tunnel lives as long as its stream; without a proof the connection idles by itself.
                let stream = tokio::time::timeout(limit, async {
                    let mut stream = dialer.dial(&line).await.ok()?.open().ok()?;
                    stream.write_all(b"?").await.ok().map(|()| stream)
                });
                let stream = stream.await;
                tokio::time::sleep_until(begun + limit + Duration::from_millis(100)).await;
                drop(stream);
            });
        }))
    }
}

fn identity(seed: u8) -> IdentityKey {
    IdentityKey::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
}
