//! The decoy: an ordinary small site over TLS 1.3 and HTTP/2, which knows nothing of QNet.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use boring::ssl::{AlpnError, SslAcceptor, SslFiletype, SslMethod, SslVersion, select_next_proto};
use bytes::Bytes;
use http::{Request, Response, header};
use qnet_tests::support::ca::Certificates;
use qnet_tests::support::site;
use tokio::io::BufWriter;
use tokio::net::{TcpListener, TcpStream};

use super::SITE_NAME;
use crate::actor::say;

/// One record's worth: what h2 writes piece by piece leaves as web servers send it.
const WRITE_BUFFER: usize = 16_384;

type Files = HashMap<String, Bytes>;

pub(super) async fn run(folder: &Path) -> Result<()> {
    let certificates = Certificates::make(folder, &[SITE_NAME])?;
    let acceptor = acceptor(&certificates)?;
    let files = Arc::new(files(&folder.join("site"))?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say("address", listener.local_addr()?)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let (acceptor, files) = (acceptor.clone(), Arc::clone(&files));
        tokio::spawn(async move {
            // How a visit ended is the visitor's affair; what it was is what the site's log would hold.
            let mut visit = Visit::default();
            serve(&acceptor, tcp, &files, &mut visit).await.ok();
            say("visit", format_args!("{} {}", visit.requests, visit.agent))
        });
    }
}

/// What a site's log tells of one connection.
#[derive(Default)]
struct Visit {
    requests: usize,
    agent: String,
}

fn acceptor(certificates: &Certificates) -> Result<SslAcceptor> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_certificate_file(&certificates.certificate, SslFiletype::PEM)?;
    builder.set_private_key_file(&certificates.key, SslFiletype::PEM)?;
    builder
        .set_alpn_select_callback(|_, offered| select_next_proto(b"\x02h2", offered).ok_or(AlpnError::NOACK));
    Ok(builder.build())
}

/// The site, by path.
fn files(folder: &Path) -> Result<Files> {
    site::write(folder)?;
    let mut files = Files::new();
    for name in site::PAGE_LOAD {
        files.insert(format!("/{name}"), fs::read(folder.join(name))?.into());
    }
    let front = files.get("/index.html").context("a site needs a front page")?.clone();
    files.insert("/".into(), front);
    Ok(files)
}

async fn serve(acceptor: &SslAcceptor, tcp: TcpStream, files: &Files, visit: &mut Visit) -> Result<()> {
    let tls = tokio_boring::accept(acceptor, tcp).await.ok().context("no TLS")?;
    let mut connection = h2::server::handshake(BufWriter::with_capacity(WRITE_BUFFER, tls)).await?;
    while let Some(asked) = connection.accept().await {
        let (request, mut respond) = asked?;
        visit.requests += 1;
        if let Some(agent) = request.headers().get(header::USER_AGENT) {
            agent.to_str().unwrap_or_default().clone_into(&mut visit.agent);
        }
        let (head, body) = answer(&request, files)?;
        respond.send_response(head, false)?.send_data(body, true)?;
    }
    Ok(())
}

fn answer<T>(request: &Request<T>, files: &Files) -> Result<(Response<()>, Bytes)> {
    let path = request.uri().path();
    let found = files.get(path).cloned();
    let (status, body) =
        found.map_or((404, Bytes::from_static(b"There is no such page.\n")), |body| (200, body));
    let kind = match path.rsplit_once('.').map(|(_, end)| end) {
        _ if status == 404 => "text/plain",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        _ => "text/html",
    };
    let head = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, body.len())
        .body(())?;
    Ok((head, body))
}
