//! The experimental way in: QNet as Arti's manager of pluggable transports.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arti_client::config::TorClientConfigBuilder;
use arti_client::{DormantMode, TorClient, TorClientBuilder};
use async_trait::async_trait;
use futures::{AsyncRead, AsyncWrite};
use qnet_transport::Stream;
use qnet_transport::client::Dialer;
use qnet_wire::bridge_line::{BridgeLine, TRANSPORT};
use qnet_wire::error::chain;
use safelog::MaybeSensitive;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tor_chanmgr::builder::ChanBuilder;
use tor_chanmgr::factory::{AbstractPtError, AbstractPtMgr, ChannelFactory};
use tor_chanmgr::transport::TransportImplHelper;
use tor_error::bad_api_usage;
use tor_linkspec::{
    ChannelMethod, HasChanMethod as _, OwnedChanTarget, PtTarget, PtTargetAddr, PtTransportName,
};
use tor_proto::peer::PeerAddr;
use tor_rtcompat::{Runtime, StreamOps, TlsProvider};

use crate::bridges::{self, Error};
use crate::gate::Gate;

/// Where Arti is told that the transport is, before [`bootstrap`] takes its place: the discard port, where nothing listens.
const NOWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

/// Adds these bridges to `config`, for a client that [`bootstrap`] will make.
///
/// # Errors
/// See [`Error`]; `config` is unchanged then.
pub fn add_bridges(config: &mut TorClientConfigBuilder, lines: &[impl AsRef<str>]) -> Result<(), Error> {
    bridges::declare(config, &bridges::parse(lines)?, NOWHERE.into())
}

/// Makes a client and bootstraps it, with `qnet` bridges reached by `dialer`. That takes the place of whatever pluggable transports
/// the configuration names, and of a directory provider that `builder` was given.
///
/// # Errors
/// [`Error::Client`], where Arti cannot make the client or does not bootstrap.
pub async fn bootstrap<R>(builder: TorClientBuilder<R>, dialer: Dialer) -> Result<Arc<TorClient<R>>, Error>
where
    R: Runtime + TlsProvider<Wire>,
{
    let gate = Gate::default();
    let client = builder.dirmgr_builder::<Gate>(Arc::new(gate.clone())).create_unbootstrapped_async().await?;
    // The channel manager is there once the bootstrap has begun. Until it knows the transport, nothing may ask it for a channel:
    // the directory waits at the gate, and a dormant client fetches no bridge descriptors.
    client.set_dormant(DormantMode::Soft);
    let mut bootstrapped = Box::pin(client.bootstrap());
    tokio::select! {
        early = &mut bootstrapped => early?,
        () = gate.reached() => {
            client.chanmgr()?.set_pt_mgr(Arc::new(Manager { runtime: client.runtime().clone(), dialer }));
            client.set_dormant(DormantMode::Normal);
            gate.open();
            bootstrapped.as_mut().await?;
        }
    }
    drop(bootstrapped);
    Ok(client)
}

struct Manager<R> {
    runtime: R,
    dialer: Dialer,
}

#[async_trait]
impl<R: Runtime + TlsProvider<Wire>> AbstractPtMgr for Manager<R> {
    async fn factory_for_transport(
        &self,
        transport: &PtTransportName,
    ) -> Result<Option<Arc<dyn ChannelFactory + Send + Sync>>, Arc<dyn AbstractPtError>> {
        if transport.to_string() != TRANSPORT {
            return Ok(None);
        }
        let transport = Transport { dialer: self.dialer.clone() };
        Ok(Some(Arc::new(ChanBuilder::new_client(self.runtime.clone(), transport))))
    }
}

struct Transport {
    dialer: Dialer,
}

#[async_trait]
impl TransportImplHelper for Transport {
    type Stream = Wire;

    async fn connect(&self, target: &OwnedChanTarget) -> tor_chanmgr::Result<(PeerAddr, Wire)> {
        let ChannelMethod::Pluggable(target) = target.chan_method() else {
            let bug = bad_api_usage!("QNet's transport was asked for a direct connection");
            return Err(tor_chanmgr::Error::UnusableTarget(bug));
        };
        match dial(&self.dialer, &target).await {
            Ok(stream) => Ok((PeerAddr::Pt(target), Wire(stream.compat()))),
            Err(reason) => {
                tracing::warn!("no connection to the bridge: {reason}");
                Err(tor_chanmgr::Error::Io {
                    peer: MaybeSensitive::sensitive(PeerAddr::Pt(target)),
                    action: "reaching the bridge",
                    source: Arc::new(io::Error::other(reason)),
                })
            }
        }
    }
}

async fn dial(dialer: &Dialer, target: &PtTarget) -> Result<Stream, String> {
    let PtTargetAddr::IpPort(address) = target.addr() else {
        return Err("a bridge needs an address and a port".to_owned());
    };
    let line = BridgeLine::from_pt_args(*address, target.settings()).map_err(|error| chain(&error))?;
    let tunnel = dialer.dial(&line).await.map_err(|error| chain(&error))?;
    tunnel.open().map_err(|error| chain(&error))
}

/// A stream to a bridge, as Arti's runtimes put TLS around it: every runtime of Arti's own can.
pub struct Wire(Compat<Stream>);

impl StreamOps for Wire {}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
