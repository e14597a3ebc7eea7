//! Numbers for Prometheus, on loopback: sums over all clients, nothing of any one, and no addresses. After an upgrade they go on.

use std::{
    convert::Infallible,
    fmt::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::numbers::{Number, Numbers, Tally};

/// Connections at once: Prometheus has one, and somebody looks by hand.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may last.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// The pause after accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Prometheus's text format.
const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A server that tells numbers. Ends when dropped.
pub(crate) struct Metrics(JoinHandle<()>);

impl Metrics {
    /// The socket to tell at: one that listens there already, if there is one.
    pub(crate) fn listen(
        address: SocketAddr,
        inherited: Option<std::net::TcpListener>,
    ) -> Result<std::net::TcpListener> {
        let socket = inherited.map_or_else(|| std::net::TcpListener::bind(address), Ok);
        let socket = socket.with_context(|| format!("cannot listen on {address} (metrics)"))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Begins to tell.
    pub(crate) fn start(socket: &std::net::TcpListener, tally: Arc<Tally>) -> Result<Self> {
        let listener = TcpListener::from_std(socket.try_clone()?)?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self(tokio::spawn(serve(listener, Arc::new(Told { tally, started })))))
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, told: Arc<Told>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // They end with it: who is connected still after an upgrade would ask the old process on and on.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((tcp, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let told = Arc::clone(&told);
        connections.spawn(async move {
            answer(tcp, &told).await;
            drop(slot);
        });
    }
}

async fn answer(tcp: TcpStream, told: &Told) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(page(&request, told).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(tcp), service);
    // Whoever asks may break off.
    let _ = timeout(LIMIT, connection).await;
}

async fn page<B>(request: &Request<B>, told: &Told) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if let Some(numbers) = told.tally.all().await {
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(KIND));
        *response.body_mut() = Full::new(told.text(numbers).into());
    } else {
        // To Prometheus a gap, over which it computes rates rightly.
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

struct Told {
    tally: Arc<Tally>,
    started: u64,
}

impl Told {
    fn text(&self, numbers: Numbers) -> String {
        let mut text = String::new();
        let mut put = |name: &str, kind: &str, help: &str, values: &[Sample]| {
            write(&mut text, name, kind, help, values);
        };
        let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        put("info", "gauge", "The program.", &[(version, 1)]);
        put(
            "start_time_seconds",
            "gauge",
            "When it was started, in seconds since 1970.",
            &[("", self.started)],
        );
        put(
            "connections_total",
            "counter",
            "Connections accepted, visitors' included.",
            &[("", numbers[Number::Connections])],
        );
        put("sessions", "gauge", "Clients' sessions.", &[("", numbers[Number::Sessions])]);
        put(
            "decoy_up",
            "gauge",
            "Whether the decoy was reached when last asked.",
            &[("", self.tally.decoy_up().into())],
        );
        put(
            "decoy_failures_total",
            "counter",
            "Connections for which it was not reached.",
            &[("", numbers[Number::DecoyFailures])],
        );
        put("streams", "gauge", "Clients' streams.", &[("", numbers[Number::Streams])]);
        let outcomes = [
            ("{outcome=\"connected\"}", numbers[Number::Connected]),
            ("{outcome=\"refused\"}", numbers[Number::Refused]),
            ("{outcome=\"failed\"}", numbers[Number::Failed]),
            ("{outcome=\"limited\"}", numbers[Number::Limited]),
        ];
        put("streams_total", "counter", "Clients' streams by what became of them.", &outcomes);
        put(
            "bytes_total",
            "counter",
            "Bytes of clients' streams, both directions.",
            &[("", numbers[Number::Bytes])],
        );
        shaping(&mut put, &numbers);
        text
    }
}

/// Labels, and the value under them.
type Sample<'a> = (&'a str, u64);

/// Appends what one name stands for.
fn write(text: &mut String, name: &str, kind: &str, help: &str, values: &[Sample]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP qnet_bridge_{name} {help}\n# TYPE qnet_bridge_{name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "qnet_bridge_{name}{labels} {value}");
    }
}

/// What carriers' shapes cost, and how often they were left.
fn shaping(put: &mut impl FnMut(&str, &str, &str, &[Sample]), numbers: &Numbers) {
    put(
        "shaping_records_total",
        "counter",
        "Records to clients, and those of padding alone.",
        &[
            ("{kind=\"data\"}", numbers[Number::Records]),
            ("{kind=\"padding\"}", numbers[Number::PaddingRecords]),
        ],
    );
    let bytes = [
        ("{kind=\"data\"}", numbers[Number::Carried]),
        ("{kind=\"padding\"}", numbers[Number::Padding]),
        ("{kind=\"cover\"}", numbers[Number::Cover]),
    ];
    put("shaping_bytes_total", "counter", "Bytes of records to clients by what they are.", &bytes);
    put(
        "shaping_held_seconds_total",
        "counter",
        "How long data was held for the shape, in all.",
        &[("", numbers[Number::HeldMs] / 1_000)],
    );
    let departures = [
        ("{of=\"schedule\"}", numbers[Number::OffSchedule]),
        ("{of=\"budget\"}", numbers[Number::OverBudget]),
        ("{of=\"timer\"}", numbers[Number::Late]),
    ];
    put(
        "shaping_departures_total",
        "counter",
        "Sends that left the schedule for want of time, padding left out for want of bytes, slots reached late.",
        &departures,
    );
}
