//! The status page: what a person wants to know of the proxy, and one button.
//!
//! Any page in the user's browser can send requests to this port. So the Host header must be this machine's own (a name that
//! was pointed here meets 421), what changes something needs the token that only the page itself holds, and the page loads
//! nothing from anywhere else and cannot be framed.

mod limit;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;

use crate::front::Service;
use limit::Limited;
use report::{Report, Uptime};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Random bytes in the token.
const TOKEN: usize = 16;
/// The header that carries it: one that a foreign page cannot set without being asked first.
const TOKEN_HEADER: &str = "x-qnet-token";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the page shows, and its token.
#[derive(Clone)]
pub(crate) struct Status {
    service: Service,
    token: Arc<str>,
    uptime: Uptime,
}

impl Status {
    /// With a fresh token.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn new(service: &Service) -> Result<Self, getrandom::Error> {
        let mut token = [0; TOKEN];
        getrandom::fill(&mut token)?;
        let token = BASE64URL_NOPAD.encode(&token).into();
        Ok(Self { service: service.clone(), token, uptime: Uptime::now() })
    }
}

/// Serves the page until it is aborted.
pub(crate) async fn serve(listener: TcpListener, status: Status) {
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => return tracing::error!("status: {error}"),
    };
    let router = Router::new()
        .route("/", get(page))
        .route("/page.css", get(|| async { ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE) }))
        .route(
            "/page.js",
            get(|| async { ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT) }),
        )
        .route("/status.json", get(|State(status): State<Status>| async move { Json(Report::of(&status)) }))
        .route("/reconnect", post(reconnect))
        .layer(from_fn_with_state(address, guard))
        .with_state(status);
    if let Err(error) = axum::serve(Limited::new(listener), router).await {
        tracing::error!("status: {error}");
    }
}

async fn page(State(status): State<Status>) -> Response {
    let html = PAGE.replace("{token}", &status.token).replace("{version}", env!("CARGO_PKG_VERSION"));
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

/// New tunnels to all bridges.
async fn reconnect(State(status): State<Status>, headers: HeaderMap) -> StatusCode {
    let given = headers.get(TOKEN_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
    if !bool::from(given.ct_eq(status.token.as_bytes())) {
        return StatusCode::FORBIDDEN;
    }
    tracing::info!("new tunnels are wanted, by the status page");
    status.service.pool.redial();
    StatusCode::NO_CONTENT
}

/// Refuses requests that mean another host, and adds what keeps the page to itself.
async fn guard(State(address): State<SocketAddr>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = if host.is_some_and(|host| is_own(host, address)) {
        next.run(request).await
    } else {
        let words = "This is the status page of a proxy on your own machine; open it by its address.\n";
        (StatusCode::MISDIRECTED_REQUEST, words).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a Host header means this port of this machine.
fn is_own(host: &str, address: SocketAddr) -> bool {
    let port = address.port();
    [address.to_string(), format!("localhost:{port}")].iter().any(|own| host.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_hosts_are_answered() {
        let address: SocketAddr = "127.0.0.1:8088".parse().unwrap();
        for host in ["127.0.0.1:8088", "localhost:8088", "LocalHost:8088"] {
            assert!(is_own(host, address), "{host}");
        }
        for host in
            ["", "127.0.0.1", "127.0.0.1:80", "localhost", "evil.example:8088", "localhost.evil.example:8088"]
        {
            assert!(!is_own(host, address), "{host}");
        }
        assert!(is_own("[::1]:8088", "[::1]:8088".parse().unwrap()));
    }
}
