//! One HTTPS request, one connection: an authority is asked a dozen times in two months.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use boring::ssl::{SslConnector, SslMethod};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use qnet_transport::tls::authorities;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer, bytes: a chain of certificates has ten thousand.
const MAX_ANSWER: usize = 256 * 1024;
const AGENT: &str = concat!("qnet-bridge/", env!("CARGO_PKG_VERSION"));

/// What asks.
pub(super) struct Client {
    connector: SslConnector,
}

/// What came.
pub(super) struct Reply {
    pub(super) status: u16,
    /// For the next signed request (RFC 8555, section 6.5).
    pub(super) nonce: Option<String>,
    pub(super) location: Option<Uri>,
    /// In seconds; the form with a date is not used by authorities and is taken for none.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the authority's answer is no JSON")
    }
}

impl Client {
    pub(super) fn new() -> Result<Self> {
        let mut builder = SslConnector::builder(SslMethod::tls())?;
        builder.set_cert_store(authorities().context("the certificates to check the authority by")?);
        Ok(Self { connector: builder.build() })
    }

    pub(super) async fn get(&self, place: &Uri) -> Result<Reply> {
        let reply = self.send(Method::GET, place, None).await?;
        ensure!(reply.status == 200, "the answer is {}", reply.status);
        Ok(reply)
    }

    pub(super) async fn head(&self, place: &Uri) -> Result<Reply> {
        self.send(Method::HEAD, place, None).await
    }

    pub(super) async fn post(&self, place: &Uri, body: String) -> Result<Reply> {
        self.send(Method::POST, place, Some(body)).await
    }

    async fn send(&self, method: Method, place: &Uri, body: Option<String>) -> Result<Reply> {
        let sent = timeout(LIMIT, self.exchange(method, place, body)).await;
        sent.unwrap_or_else(|_| bail!("no answer within {} s", LIMIT.as_secs()))
            .with_context(|| format!("asking {}", place.host().unwrap_or_default()))
    }

    async fn exchange(&self, method: Method, place: &Uri, body: Option<String>) -> Result<Reply> {
        let host =
            place.host().filter(|_| place.scheme_str() == Some("https")).context("not an https address")?;
        let port = place.port_u16().unwrap_or(443);
        let tcp = TcpStream::connect((host, port)).await?;
        let tls = tokio_boring::connect(self.connector.configure()?, host, tcp).await;
        let tls = tls.map_err(|error| anyhow::anyhow!("{error}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        let path = place.path_and_query().map_or("/", |path| path.as_str());
        let authority = place.authority().map_or(host, |authority| authority.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, AGENT);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/jose+json");
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let text =
            |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes().to_vec();
        Ok(Reply {
            status: head.status.as_u16(),
            nonce: text("replay-nonce"),
            location: text("location").and_then(|location| location.parse().ok()),
            retry_after: text("retry-after")
                .and_then(|seconds| seconds.parse().ok())
                .map(Duration::from_secs),
            body,
        })
    }
}
