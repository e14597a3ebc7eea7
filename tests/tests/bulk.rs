//! How a long download through a tunnel is cut into records, beside one from the decoy itself.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::dns::{NameServer, Says};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::Link;
use qnet_tests::support::tunnel::{dialer, listener_before, runtime};
use qnet_tests::support::visitor::Visitor;
use qnet_transport::bridge::Listener;
use qnet_transport::connect::Connect;
use qnet_transport::decoy::Resolver;
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::BridgeLine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Application data as a record's outer type.
const DATA: u8 = 23;
/// What is downloaded, bytes.
const DOWNLOAD: usize = 6 << 20;
/// The part that is compared: by then all that begins slowly has begun, and the end is not in it.
const COMPARED: Range<usize> = 1 << 20..5 << 20;
/// The path's delay.
const DELAY: Duration = Duration::from_millis(5);
/// How long a download may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the visitor reads: the file is longer than his window.
const READS: Duration = Duration::from_secs(5);
/// Lengths with a smaller share of the records are chance: where a queue ran dry, acknowledgements.
const LEAST_SHARE: f64 = 0.1;
/// By how much a share may differ: HAProxy's own do by half of it, on a busy machine.
const NEAR: f64 = 0.1;

/// Each record length's share of the records that a download was made of.
type Shares = BTreeMap<usize, f64>;

fn shares(link: &Link) -> Result<Shares> {
    let traces = link.traces();
    let trace = traces.iter().max_by_key(|trace| trace.down.total()).context("nothing came by")?;
    let records = trace.down.records();
    let compared = records.iter().filter(|record| record.kind == DATA && COMPARED.contains(&record.offset));
    let (mut counts, mut all) = (BTreeMap::new(), 0);
    for record in compared {
        *counts.entry(record.length).or_insert(0_u32) += 1;
        all += 1;
    }
    ensure!(all > 200, "only {all} records of the part that is compared");
    Ok(counts.into_iter().map(|(length, count)| (length, f64::from(count) / f64::from(all))).collect())
}

fn from_the_decoy(decoy: &Decoy) -> Result<Shares> {
    let link = Link::start(decoy.address(), DELAY)?;
    let visitor = Visitor {
        paths: vec!["/tours.zip".into()],
        window: Some(u32::try_from(DOWNLOAD)?),
        ..Visitor::new(NAME)
    };
    visitor.visit(link.address(), READS)?;
    shares(&link)
}

/// A bridge that has looked at its decoy, as before it is announced.
async fn examined(decoy: &Decoy) -> Result<(Listener, BridgeLine)> {
    let (listener, line) = listener_before(decoy.address(), decoy.name())?;
    let resolver = Resolver::at(vec![NameServer::start(Says::Nothing)?.address()], Connect::default());
    let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
    listener.examiner().context("a mirror")?.asking(resolver).examine(&roots).await?;
    Ok((listener, line))
}

async fn through_a_tunnel(decoy: &Decoy, mut listener: Listener, mut line: BridgeLine) -> Result<Shares> {
    let bridge: SocketAddr = listener.local_addr();
    tokio::spawn(async move {
        while let Some(mut incoming) = listener.accept().await {
            incoming.stream.write_all(&vec![7; DOWNLOAD]).await?;
            incoming.stream.shutdown().await?;
        }
        anyhow::Ok(())
    });
    let link = Link::start(bridge, DELAY)?;
    line.address = link.address();
    let tunnel = dialer(decoy)?.dial(&line).await?;
    let mut stream = tunnel.open()?;
    stream.write_all(b"all of it").await?;
    let mut got = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut got)).await.context("too slow")??;
    ensure!(got.len() == DOWNLOAD, "{} bytes came", got.len());
    shares(&link)
}

fn compare(test: &str, server: Server) -> Result<()> {
    isolated(test, || {
        // Caddy's shortest answer is no decoy's without it.
        let cached = "header /favicon.ico Cache-Control \"public, max-age=604800, immutable\"";
        let extra = if server == Server::Caddy { cached } else { "" };
        let decoy = Decoy::start(server, Options { extra: extra.into(), ..Options::default() })?;
        let runtime = runtime()?;
        let (listener, line) = runtime.block_on(examined(&decoy))?;
        let direct = from_the_decoy(&decoy)?;
        let tunnel = runtime.block_on(through_a_tunnel(&decoy, listener, line))?;
        for length in direct.keys().chain(tunnel.keys()) {
            let of = |shares: &Shares| shares.get(length).copied().unwrap_or_default();
            let (its, ours) = (of(&direct), of(&tunnel));
            ensure!(
                its.max(ours) < LEAST_SHARE || (its - ours).abs() < NEAR,
                "{server:?}: records of {length} bytes are {its:.3} of the decoy's and {ours:.3} of the bridge's; {direct:.3?}, {tunnel:.3?}"
            );
        }
        Ok(())
    })
}

#[test]
fn bulk_is_cut_as_by_nginx() -> Result<()> {
    compare("bulk_is_cut_as_by_nginx", Server::Nginx)
}

#[test]
fn bulk_is_cut_as_by_apache() -> Result<()> {
    compare("bulk_is_cut_as_by_apache", Server::Apache)
}

#[test]
fn bulk_is_cut_as_by_caddy() -> Result<()> {
    compare("bulk_is_cut_as_by_caddy", Server::Caddy)
}

#[test]
fn bulk_is_cut_as_by_haproxy() -> Result<()> {
    compare("bulk_is_cut_as_by_haproxy", Server::Haproxy)
}

#[test]
fn bulk_is_cut_as_by_lighttpd() -> Result<()> {
    compare("bulk_is_cut_as_by_lighttpd", Server::Lighttpd)
}

#[test]
fn bulk_is_cut_as_by_hyper() -> Result<()> {
    compare("bulk_is_cut_as_by_hyper", Server::Rustls)
}
