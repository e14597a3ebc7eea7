//! The load: a process that holds ten thousands of sessions by the transport's own interface, and does as lines of JSON on its standard
//! input say. Each has a line of JSON as its answer.
//!
//! Connections come to the bridge from as many networks as there are, up to 65,536, as users do: 10.0.0.0/8 is loopback's in the
//! namespace that all this runs in, and there a connection comes from the address it goes to.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use qnet_transport::Stream;
use qnet_transport::client::{Dialer, DialerConfig, Tunnel};
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::BridgeLine;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::figures::percentile;
use super::many::Many;

/// Networks that connections come from.
const NETWORKS: usize = 65_536;

/// How long an answer may take until it counts as a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message that goes out so much later than it was due is counted: the load is then not what it says.
const LATE: Duration = Duration::from_millis(50);

/// How often it is looked whether all are done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What every connection is to do.
#[derive(Clone, Copy)]
struct Order {
    /// From one message of a connection to its next.
    interval: Duration,
    bytes: usize,
    start: Instant,
    end: Instant,
}

/// What all connections share.
struct Common {
    dialer: Dialer,
    order: watch::Receiver<Option<Order>>,
    failures: Mutex<BTreeMap<String, u64>>,
    /// Of answers, in microseconds.
    latencies: Mutex<Vec<u32>>,
    late: AtomicUsize,
    /// Connections that did what they were told to last.
    done: AtomicUsize,
    /// Connections that are there.
    alive: AtomicUsize,
}

/// Does what it is told until its standard input ends.
///
/// # Errors
/// What it is told cannot be understood, or the system gives no threads.
pub fn run(line: &str, ca: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dialer = Dialer::new(DialerConfig::new(Roots::with(Some(ca), None)?));
    let line: BridgeLine = line.parse().map_err(|error| anyhow!("no bridge line: {error}"))?;
    let mut generator = Generator::new(dialer, line);
    for command in io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&command?)?;
        let answer = runtime.block_on(generator.obey(&command))?;
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    runtime.shutdown_background();
    Ok(())
}

/// All connections, and what they are told.
struct Generator {
    common: Arc<Common>,
    orders: watch::Sender<Option<Order>>,
    line: BridgeLine,
    /// Connections that were begun, failed ones included.
    begun: usize,
    tunnels: Arc<Mutex<Vec<Tunnel>>>,
    many: Option<Many>,
}

impl Generator {
    fn new(dialer: Dialer, line: BridgeLine) -> Self {
        let (orders, order) = watch::channel(None);
        let common = Common {
            dialer,
            order,
            failures: Mutex::default(),
            latencies: Mutex::default(),
            late: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            alive: AtomicUsize::new(0),
        };
        Self { common: Arc::new(common), orders, line, begun: 0, tunnels: Arc::default(), many: None }
    }

    async fn obey(&mut self, command: &Value) -> Result<Value> {
        let number = |name: &str| {
            let number = command.get(name).and_then(Value::as_u64);
            number.with_context(|| format!("{name} is missing"))
        };
        match command.get("do").and_then(Value::as_str) {
            Some("open") => {
                let brief = command.get("brief").and_then(Value::as_bool).unwrap_or(false);
                let (count, at_once) = (number("count")?, number("at_once")?);
                self.open(usize::try_from(count)?, usize::try_from(at_once)?, brief).await
            }
            Some("echo") => {
                let interval = Duration::from_micros(number("interval_us")?);
                let span = Duration::from_millis(number("milliseconds")?);
                self.echo(interval, usize::try_from(number("bytes")?)?, span).await
            }
            Some("session") => {
                self.many = Some(Many::begin(&self.common.dialer, &self.line).await?);
                Ok(json!({}))
            }
            Some("streams") => self.many()?.open(usize::try_from(number("count")?)?).await,
            Some("flow") => self.many()?.flow(Duration::from_millis(number("milliseconds")?)).await,
            Some("leave") => {
                self.many = None;
                Ok(json!({}))
            }
            other => bail!("cannot do {other:?}"),
        }
    }

    fn many(&mut self) -> Result<&mut Many> {
        self.many.as_mut().context("there is no session for streams")
    }

    /// Opens so many more connections, each with a session of its own and a stream in it that works. The stream stays for all messages,
    /// or where it is brief each has one of its own.
    async fn open(&mut self, count: usize, at_once: usize, brief: bool) -> Result<Value> {
        ensure!(at_once > 0, "at_once must be above zero");
        let places = Arc::new(Semaphore::new(at_once));
        let times = Arc::new(Mutex::new(Vec::with_capacity(count)));
        let begun = Instant::now();
        for number in self.begun..self.begun + count {
            let place = Arc::clone(&places).acquire_owned().await?;
            let mut line = self.line.clone();
            line.address.set_ip(network(number));
            let (common, tunnels) = (Arc::clone(&self.common), Arc::clone(&self.tunnels));
            let times = Arc::clone(&times);
            tokio::spawn(async move {
                let start = Instant::now();
                let made = timeout(PATIENCE, set_up(&common.dialer, &line)).await;
                match made.unwrap_or_else(|_| Err(anyhow!("no working stream in time"))) {
                    Ok((tunnel, stream)) => {
                        locked(&times).push(microseconds(start.elapsed()));
                        locked(&tunnels).push(tunnel.clone());
                        let stream = (!brief).then_some(stream);
                        common.alive.fetch_add(1, Ordering::Relaxed);
                        drop(place);
                        member(&common, number, &tunnel, stream).await;
                        common.alive.fetch_sub(1, Ordering::Relaxed);
                    }
                    Err(error) => common.fail("not opened", &error),
                }
            });
        }
        self.begun += count;
        // With the last place back all have come to an end, or to rest.
        let all = places.acquire_many(u32::try_from(at_once)?).await?;
        drop(all);
        let seconds = begun.elapsed().as_secs_f64();
        let mut times = std::mem::take(&mut *locked(&times));
        times.sort_unstable();
        Ok(json!({
            "seconds": seconds,
            "alive": self.common.alive.load(Ordering::Relaxed),
            "median_us": percentile(&times, 0.5),
            "p99_us": percentile(&times, 0.99),
            "failures": &*locked(&self.common.failures),
        }))
    }

    /// Has every connection send a message each `interval` and read it back, for `span`; they begin evenly spread over one interval.
    async fn echo(&mut self, interval: Duration, bytes: usize, span: Duration) -> Result<Value> {
        self.common.done.store(0, Ordering::Relaxed);
        self.common.late.store(0, Ordering::Relaxed);
        locked(&self.common.latencies).clear();
        // All have to have heard of it by then.
        let start = Instant::now() + Duration::from_secs(1);
        self.orders.send(Some(Order { interval, bytes, start, end: start + span }))?;
        sleep_until(start + span).await;
        let limit = Instant::now() + PATIENCE + Duration::from_secs(5);
        let busy = || self.common.done.load(Ordering::Relaxed) < self.common.alive.load(Ordering::Relaxed);
        while busy() && Instant::now() < limit {
            sleep(LOOK_EVERY).await;
        }
        let mut latencies = std::mem::take(&mut *locked(&self.common.latencies));
        latencies.sort_unstable();
        let open = |tunnel: &&Tunnel| tunnel.is_open() && !tunnel.is_carried();
        Ok(json!({
            "count": latencies.len(),
            "late": self.common.late.load(Ordering::Relaxed),
            "p50_us": percentile(&latencies, 0.5),
            "p99_us": percentile(&latencies, 0.99),
            "most_us": percentile(&latencies, 1.0),
            "alive": self.common.alive.load(Ordering::Relaxed),
            "without_carrier": locked(&self.tunnels).iter().filter(open).count(),
            "failures": &*locked(&self.common.failures),
        }))
    }
}

impl Common {
    fn fail(&self, when: &str, error: &anyhow::Error) {
        *locked(&self.failures).entry(format!("{when}: {error:#}")).or_default() += 1;
    }
}

/// A session and a stream of it that echoes.
async fn set_up(dialer: &Dialer, line: &BridgeLine) -> Result<(Tunnel, Stream)> {
    let tunnel = dialer.dial(line).await?;
    let mut stream = tunnel.open()?;
    stream.write_all(b"e").await?;
    exchange(&mut stream, b"!").await?;
    Ok((tunnel, stream))
}

/// A message, and what comes back.
async fn exchange(stream: &mut Stream, message: &[u8]) -> Result<()> {
    let mut answer = vec![0; message.len()];
    stream.write_all(message).await?;
    stream.read_exact(&mut answer).await?;
    ensure!(answer == message, "other bytes were echoed than were sent");
    Ok(())
}

/// What a connection does from its set-up to its end.
async fn member(common: &Common, number: usize, tunnel: &Tunnel, mut stream: Option<Stream>) {
    let mut order = common.order.clone();
    // What was told before was not for this one.
    order.mark_unchanged();
    loop {
        tokio::select! {
            changed = order.changed() => if changed.is_err() { return },
            why = end(tunnel, stream.as_mut()) => return common.fail("at rest", &why),
        }
        let Some(now) = *order.borrow_and_update() else { continue };
        if let Err(error) = follow(common, number, &now, tunnel, stream.as_mut()).await {
            return common.fail("under load", &error);
        }
        common.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns only when something is wrong.
async fn end(tunnel: &Tunnel, stream: Option<&mut Stream>) -> anyhow::Error {
    match stream {
        Some(stream) => match stream.read(&mut [0]).await {
            Ok(read) => anyhow!("{read} bytes that nobody sent"),
            Err(error) => error.into(),
        },
        None => anyhow!("the session ended: {}", tunnel.closed().await),
    }
}

async fn follow(
    common: &Common,
    number: usize,
    order: &Order,
    tunnel: &Tunnel,
    mut stream: Option<&mut Stream>,
) -> Result<()> {
    let mut due = order.start + order.interval.mul_f64(phase(number));
    while due < order.end {
        sleep_until(due).await;
        let sent = Instant::now();
        if sent - due > LATE {
            common.late.fetch_add(1, Ordering::Relaxed);
        }
        let message = vec![number.to_le_bytes()[0]; order.bytes];
        let answered = async {
            match &mut stream {
                Some(stream) => exchange(stream, &message).await,
                None => {
                    let mut stream = tunnel.open()?;
                    stream.write_all(b"e").await?;
                    exchange(&mut stream, &message).await
                }
            }
        };
        timeout(PATIENCE, answered).await.context("no answer in time")??;
        locked(&common.latencies).push(microseconds(sent.elapsed()));
        due += order.interval;
    }
    Ok(())
}

/// Which part of an interval a connection lets pass: multiples of the golden ratio spread evenly, however many there are.
fn phase(number: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a hundred thousand at most")]
    let turns = number as f64 * 0.618_033_988_749_895;
    turns.fract()
}

/// The address that a connection goes to and comes from.
fn network(number: usize) -> IpAddr {
    let [.., high, low] = (number % NETWORKS).to_be_bytes();
    Ipv4Addr::new(10, high, low, 1).into()
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{NETWORKS, network, phase};

    #[test]
    fn each_connection_has_a_network_until_there_are_no_more() {
        let all: HashSet<_> = (0..NETWORKS).map(network).collect();
        assert_eq!(all.len(), NETWORKS);
        assert_eq!(network(0).to_string(), "10.0.0.1");
        assert_eq!(network(65_535).to_string(), "10.255.255.1");
        assert_eq!(network(65_536), network(0));
    }

    #[test]
    fn messages_are_spread_over_the_interval() {
        let mut tenths = [0; 10];
        for number in 0..1_000 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below ten")]
            let tenth = (phase(number) * 10.0) as usize;
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (95..=105).contains(count)), "{tenths:?}");
    }
}
