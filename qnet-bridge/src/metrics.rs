//! Numbers for Prometheus, on loopback: sums over all clients, nothing of any one, and no addresses.

use std::{
    convert::Infallible,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use qnet_transport::{
    Counters,
    bridge::{Counter, Counts},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::exit::Exit;

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
    /// Begins to tell, at a socket that listens there already if there is one. With the socket for who comes after.
    pub(crate) fn start(
        address: SocketAddr,
        inherited: Option<std::net::TcpListener>,
        counter: Counter,
        exit: Arc<Exit>,
    ) -> Result<(Self, std::net::TcpListener)> {
        let socket = inherited.map_or_else(|| std::net::TcpListener::bind(address), Ok);
        let socket = socket.with_context(|| format!("cannot listen on {address} (metrics)"))?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.try_clone()?)?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let numbers = Arc::new(Numbers { counter, exit, started });
        Ok((Self(tokio::spawn(serve(listener, numbers))), socket))
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, numbers: Arc<Numbers>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((tcp, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let numbers = Arc::clone(&numbers);
        tokio::spawn(async move {
            answer(tcp, &numbers).await;
            drop(slot);
        });
    }
}

async fn answer(tcp: TcpStream, numbers: &Numbers) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(page(&request, numbers)) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(tcp), service);
    // Whoever asks may break off.
    let _ = timeout(LIMIT, connection).await;
}

fn page<B>(request: &Request<B>, numbers: &Numbers) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() == "/metrics" {
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(KIND));
        *response.body_mut() = Full::new(numbers.text().into());
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

struct Numbers {
    counter: Counter,
    exit: Arc<Exit>,
    started: u64,
}

impl Numbers {
    fn text(&self) -> String {
        let Counts { connections, streams: _, decoy_failures, .. } = self.counter.counts();
        let counts = &self.exit.counts;
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
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
            &[("", connections)],
        );
        put("sessions", "gauge", "Clients' sessions.", &[("", self.counter.sessions() as u64)]);
        put(
            "decoy_up",
            "gauge",
            "Whether the decoy was reached when last asked.",
            &[("", self.counter.decoy_up().into())],
        );
        put(
            "decoy_failures_total",
            "counter",
            "Connections for which it was not reached.",
            &[("", decoy_failures)],
        );
        put("streams", "gauge", "Clients' streams.", &[("", self.exit.clients.streams() as u64)]);
        let outcomes = [
            ("{outcome=\"connected\"}", of(&counts.connected)),
            ("{outcome=\"refused\"}", of(&counts.refused)),
            ("{outcome=\"failed\"}", of(&counts.failed)),
            ("{outcome=\"limited\"}", of(&counts.limited)),
        ];
        put("streams_total", "counter", "Clients' streams by what became of them.", &outcomes);
        put(
            "bytes_total",
            "counter",
            "Bytes of clients' streams, both directions.",
            &[("", self.exit.clients.bytes())],
        );
        shaping(&mut put, &self.counter.shaping());
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
fn shaping(put: &mut impl FnMut(&str, &str, &str, &[Sample]), shaping: &Counters) {
    put(
        "shaping_records_total",
        "counter",
        "Records to clients, and those of padding alone.",
        &[("{kind=\"data\"}", shaping.records), ("{kind=\"padding\"}", shaping.padding_records)],
    );
    let bytes = [
        ("{kind=\"data\"}", shaping.carried),
        ("{kind=\"padding\"}", shaping.padding),
        ("{kind=\"cover\"}", shaping.cover),
    ];
    put("shaping_bytes_total", "counter", "Bytes of records to clients by what they are.", &bytes);
    put(
        "shaping_held_seconds_total",
        "counter",
        "How long data was held for the shape, in all.",
        &[("", shaping.held.as_secs())],
    );
    let departures = [
        ("{of=\"schedule\"}", shaping.off_schedule),
        ("{of=\"budget\"}", shaping.over_budget),
        ("{of=\"timer\"}", shaping.late),
    ];
    put(
        "shaping_departures_total",
        "counter",
        "Sends that left the schedule for want of time, padding left out for want of bytes, slots reached late.",
        &departures,
    );
}
