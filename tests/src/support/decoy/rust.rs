//! A web server as programs in Rust have it: rustls (its cryptography BoringSSL's), hyper, and the site's files. Without TLS it
//! is the origin behind servers that read no files.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion};

use super::config::TYPES;
use super::{Certificates, Options};

/// How long an origin keeps an idle connection: longer than anyone in front of it.
const ORIGIN_IDLE: Duration = Duration::from_secs(3_600);

/// A running server. Ends when dropped.
#[derive(Debug)]
pub(super) struct RustServer {
    /// Dropped, it ends the server.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RustServer {
    /// Starts it with TLS; its requests go into `access.log` in `folder`.
    pub(super) fn with_tls(
        address: SocketAddr,
        folder: &Path,
        certificates: &Certificates,
        options: &Options,
    ) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(folder.join("access.log"))?;
        let acceptor = TlsAcceptor::from(Arc::new(tls(certificates, options)?));
        let site = Site { folder: folder.join("site"), log: Some(Mutex::new(log)), idle: options.idle };
        Self::start(address, site, Some((acceptor, options.head)))
    }

    /// Starts it without TLS and without a log.
    pub(super) fn plain(address: SocketAddr, folder: &Path) -> Result<Self> {
        let site = Site { folder: folder.join("site"), log: None, idle: ORIGIN_IDLE };
        Self::start(address, site, None)
    }

    fn start(address: SocketAddr, site: Site, tls: Option<(TlsAcceptor, Duration)>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let (end, ended) = oneshot::channel::<()>();
        // A thread of its own: whoever starts it may be in another runtime.
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = accept(listener, Arc::new(site), tls) => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for RustServer {
    fn drop(&mut self) {
        self.end = None;
        // A server that panicked has ended, too.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(
    listener: std::net::TcpListener,
    site: Arc<Site>,
    tls: Option<(TlsAcceptor, Duration)>,
) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tokio::spawn(serve(Arc::clone(&site), tls.clone(), tcp));
    }
}

async fn serve(site: Arc<Site>, tls: Option<(TlsAcceptor, Duration)>, tcp: TcpStream) -> Result<()> {
    tcp.set_nodelay(true)?;
    let Some((acceptor, head)) = tls else { return http1(&site, tcp).await };
    let tls = timeout(head, acceptor.accept(tcp)).await.context("no handshake")??;
    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(&site, tls).await
    } else {
        http1(&site, tls).await
    }
}

/// What rustls does unless told otherwise, tickets included.
fn tls(certificates: &Certificates, options: &Options) -> Result<ServerConfig> {
    let versions: &[&SupportedProtocolVersion] = if options.tls13 { &[&TLS13, &TLS12] } else { &[&TLS12] };
    let chain = CertificateDer::pem_file_iter(&certificates.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&certificates.key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(boring_rustls_provider::provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let offered: &[&[u8]] = if options.h2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// The files, and what is noted of requests.
#[derive(Debug)]
struct Site {
    folder: PathBuf,
    log: Option<Mutex<File>>,
    idle: Duration,
}

async fn http1(site: &Arc<Site>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<()> {
    let service = service_fn(|request| Arc::clone(site).answer(request));
    let mut builder = http1::Builder::new();
    // Between requests the next one's head is awaited.
    builder.timer(TokioTimer::new()).header_read_timeout(site.idle);
    Ok(builder.serve_connection(TokioIo::new(io), service).await?)
}

/// hyper has no limit of its own for idle connections.
async fn http2(site: &Arc<Site>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<()> {
    let last = Arc::new(Mutex::new(Instant::now()));
    let service = service_fn(|request| {
        let (site, last) = (Arc::clone(site), Arc::clone(&last));
        async move {
            let answer = site.answer(request).await;
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            answer
        }
    });
    let builder = http2::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    loop {
        let end = *last.lock().unwrap_or_else(PoisonError::into_inner) + site.idle;
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = sleep_until(end), if end > Instant::now() => {}
            () = std::future::ready(()), if end <= Instant::now() => break,
        }
    }
    // Answers that are under way are still sent.
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}

impl Site {
    /// hyper takes a service's errors for its own; this one has none.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (status, kind, body) = self.find(&request).await;
        if let Some(log) = &self.log {
            let (method, path, version) = (request.method(), request.uri().path(), request.version());
            let line =
                format!("- - - [-] \"{method} {path} {version:?}\" {} {}\n", status.as_u16(), body.len());
            // A full disk shows elsewhere.
            let _ = log.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        }
        let body = if request.method() == Method::HEAD { Bytes::new() } else { body };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
        Ok(response)
    }

    async fn find(&self, request: &Request<Incoming>) -> (StatusCode, &'static str, Bytes) {
        let failed = |status: StatusCode| (status, "text/plain", Bytes::from(status.to_string()));
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return failed(StatusCode::METHOD_NOT_ALLOWED);
        }
        let path = request.uri().path().trim_start_matches('/');
        let path = if path.is_empty() { "index.html" } else { path };
        if path.split('/').any(|part| part == "..") {
            return failed(StatusCode::BAD_REQUEST);
        }
        let Ok(body) = tokio::fs::read(self.folder.join(path)).await else {
            return failed(StatusCode::NOT_FOUND);
        };
        let ends = |end: &str| path.strip_suffix(end).is_some_and(|name| name.ends_with('.'));
        let kind =
            TYPES.iter().find(|(_, end)| ends(end)).map_or("application/octet-stream", |(kind, _)| kind);
        (StatusCode::OK, kind, body.into())
    }
}
