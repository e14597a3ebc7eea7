//! The censor's own visit: an ordinary client with the same server name, at the bridge's address and at the site's.

use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use boring::nid::Nid;
use boring::ssl::{SslConnector, SslMethod};
use boring::x509::X509;
use http::Request;
use tokio::net::TcpStream;

use super::{AUTHORITY, SITE_NAME, sha256};
use crate::actor::say;

pub(super) async fn run(bridge: SocketAddr, site: SocketAddr, folder: &Path) -> Result<()> {
    for (word, address) in [("bridge", bridge), ("site", site)] {
        let (certificate, page) =
            visit(address, &folder.join(AUTHORITY)).await.with_context(|| format!("at {word}"))?;
        say(
            word,
            format_args!("{} {} {}", sha256(&certificate.to_der()?), sha256(&page), subject(&certificate)?),
        )?;
    }
    pending().await
}

/// The certificate and the front page at `address`.
async fn visit(address: SocketAddr, authority: &Path) -> Result<(X509, Vec<u8>)> {
    let mut connector = SslConnector::builder(SslMethod::tls())?;
    connector.set_ca_file(authority)?;
    connector.set_alpn_protos(b"\x02h2\x08http/1.1")?;
    let tcp = TcpStream::connect(address).await?;
    let tls = tokio_boring::connect(connector.build().configure()?, SITE_NAME, tcp).await?;
    let certificate = tls.ssl().peer_certificate().context("no certificate")?;
    let (requests, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(connection);
    let mut requests = requests.ready().await?;
    let request = Request::get(format!("https://{SITE_NAME}/")).body(())?;
    let mut body = requests.send_request(request, true)?.0.await?.into_body();
    let mut page = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        page.extend(piece);
    }
    Ok((certificate, page))
}

/// The common name of a certificate's subject.
fn subject(certificate: &X509) -> Result<String> {
    let name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    Ok(name.context("the certificate names nobody")?.data().as_utf8()?.to_string())
}
