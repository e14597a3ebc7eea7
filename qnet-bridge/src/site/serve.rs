//! HTTP for the site's visitors.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_boring::SslStreamBuilder;

use super::{Shared, Way, files::Found, now, passes, tls::Tls};

/// Connections at once; as many as the bridge itself takes.
const MAX_CONNECTIONS: usize = 60_000;
/// How long a handshake or a request's head may take: nginx's.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection may idle between requests. A quiet tunnel needs a request before it is over.
const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// How long a visitor may take to hear the end.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of an answer handed to a connection at once: a record of TLS.
const PIECE: usize = 16 * 1024;
/// Bytes that are taken of what comes with a request, for nothing: nginx's `client_max_body_size`.
const MAX_BODY: usize = 1 << 20;
/// Requests at once on a connection: nginx's.
const MAX_STREAMS: u32 = 128;
/// The pause after accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, tls: Arc<Tls>, files: Shared, way: Way) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let (tls, site) = (Arc::clone(&tls), (Arc::clone(&files), Arc::clone(&way)));
                tokio::spawn(async move {
                    visitor(tcp, peer, &tls, site).await;
                    drop(slot);
                });
            }
            Err(error) if passes(&error) => {}
            Err(error) => {
                tracing::warn!("the built-in site cannot accept connections: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// When a connection was last used: asked for something, or taken some of an answer.
pub(super) struct Use(Mutex<Instant>);

impl Default for Use {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Use {
    pub(super) fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when it was not used for so long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// An answer's content, a piece at a time as the visitor takes it.
struct Content {
    left: Bytes,
    using: Arc<Use>,
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.using.touch();
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let count = self.left.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(count)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

async fn visitor(tcp: TcpStream, peer: SocketAddr, tls: &Tls, (files, way): (Shared, Way)) {
    let Ok(ssl) = tls.accept() else { return };
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    // Who does not finish the handshake is no visitor.
    let Ok(Ok(stream)) = timeout(HEAD_LIMIT, SslStreamBuilder::new(ssl, tcp).accept()).await else { return };
    if stream.ssl().selected_alpn_protocol() == Some(b"acme-tls/1") {
        // The question was answered by the certificate.
        return;
    }
    let using = Arc::new(Use::default());
    let noted = Arc::clone(&using);
    let service = service_fn(move |mut request: Request<Incoming>| {
        noted.touch();
        let (files, way, using) = (Arc::clone(&files), Arc::clone(&way), Arc::clone(&noted));
        async move {
            let opened = match way.get() {
                Some(websockets) => websockets.open(&mut request, peer).await,
                None => None,
            };
            let response = match opened {
                Some(response) => response,
                None => {
                    let response = without_body_for_head(&request, answer(&request, &files));
                    drain(request.into_body()).await;
                    response
                }
            };
            Ok::<_, Infallible>(response.map(|left| Content { left, using }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // A visitor may break off as he likes.
        _ = connection.as_mut() => return,
        () = using.idle(IDLE_LIMIT) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(END_LIMIT, connection).await;
}

/// Takes what came with a request and is not wanted. To answer before it is there would be to reset its stream.
async fn drain(mut body: Incoming) {
    let mut left = MAX_BODY;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length > left {
            return;
        }
        left -= length;
    }
}

/// A HEAD gets everything but the body (RFC 9110, section 9.3.2), its length included. Over HTTP/2 nobody else sees to that.
fn without_body_for_head<B>(request: &Request<B>, mut response: Response<Bytes>) -> Response<Bytes> {
    if request.method() == Method::HEAD {
        let length = HeaderValue::from(std::mem::take(response.body_mut()).len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    response
}

fn answer<B>(request: &Request<B>, files: &Shared) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    if request.method() != Method::GET && request.method() != Method::HEAD {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let files = now(files);
    let path = request.uri().path();
    let (file, found) = match files.get(path) {
        Found::File(file) => (file, true),
        Found::Nothing(page) => (page, false),
        Found::Folder => {
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            // A path of a request is a header's value.
            if let Ok(location) = HeaderValue::try_from(format!("{path}/")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            return response;
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !found {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = file.content.clone();
        return response;
    }
    if let (Ok(tag), Ok(changed)) = (HeaderValue::try_from(&file.tag), HeaderValue::try_from(&file.changed)) {
        headers.insert(header::ETAG, tag);
        headers.insert(header::LAST_MODIFIED, changed);
    }
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == file.tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = file.content.clone();
    }
    response
}
