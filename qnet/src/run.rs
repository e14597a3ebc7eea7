//! The proxy from start to end: what listens, what changes with the settings, what ends it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::connect::{Connect, Upstream};
use qnet_transport::tls::Roots;
use qnet_wire::error::chain;
use qnet_wire::target::Target;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cli::Proxy;
use crate::front::{self, Service};
use crate::logging;
use crate::pool::{Pool, Probe};
use crate::settings::{Forward, Settings};
use crate::status::{self, Status};
use crate::stdio;
use crate::traffic::Traffic;

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long the process stays for its last words to the bridges, which would keep its sessions otherwise, where it has done all
/// it was started for.
const GOODBYE: Duration = Duration::from_millis(50);
/// How long at most where it was told to end: they are said as soon as it has its turn on a busy machine.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Runs until a signal.
pub(crate) fn main(flags: Proxy, settings: Settings) -> ExitCode {
    logging::start(settings.log_level);
    in_runtime(async |begun| {
        let dialer = dialer(settings.upstream.clone())?;
        let pool = Pool::start(dialer, &settings.bridges, probe(&settings));
        begun.set(Arc::clone(&pool)).ok();
        let traffic = Arc::new(Traffic::default());
        let service = Service::new(Arc::clone(&pool), traffic);
        match settings.stdio.clone() {
            Some(target) => stdio::carry(&service, target).await,
            None => serve(flags, settings, service).await,
        }
    })
}

/// Runs `body` to its end or a signal's, and says what failed; it tells which pool it has begun.
pub(crate) fn in_runtime(body: impl AsyncFnOnce(&OnceLock<Arc<Pool>>) -> Result<(), String>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::complain(&format!("the system gives no threads: {error}"), 1),
    };
    let begun = OnceLock::new();
    let done = runtime.block_on(async {
        tokio::select! {
            done = body(&begun) => {
                sleep(GOODBYE).await;
                done
            }
            done = ended() => {
                if let Some(pool) = begun.get() {
                    // What is not said by then is not said.
                    timeout(GOODBYE_LIMIT, pool.end()).await.ok();
                }
                done
            }
        }
    });
    // A read of standard input under way in a thread must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::complain(&error, 1),
    }
}

/// What dials bridges.
pub(crate) fn dialer(upstream: Upstream) -> Result<Dialer, String> {
    let roots =
        Roots::load().map_err(|error| format!("the certificates to check sites by: {}", chain(&error)))?;
    let connect = Connect { upstream, ..Connect::default() };
    Ok(Dialer::new(DialerConfig { connect, ..DialerConfig::new(roots) }))
}

fn probe(settings: &Settings) -> Probe {
    settings.probe.clone().map_or(Probe::Site, Probe::Target)
}

/// Serves until a signal, and takes up changes of the configuration.
async fn serve(flags: Proxy, mut settings: Settings, service: Service) -> Result<(), String> {
    tokio::spawn(Arc::clone(&service.traffic).sample());
    let status = Status::new(&service).map_err(|error| format!("the system gives no randomness: {error}"))?;
    let mut listeners = Listeners { service, status, running: HashMap::new() };
    let failures = listeners.apply(&settings).await;
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    let mut changes = Changes::of(flags.config.as_deref());
    loop {
        changes.next().await?;
        match Settings::read(&flags) {
            Ok(new) if new == settings => tracing::info!("the settings are the same"),
            Ok(new) => {
                listeners.service.pool.change(&new.bridges);
                listeners.service.pool.probe_by(probe(&new));
                for failure in listeners.apply(&new).await {
                    tracing::error!("{failure}");
                }
                for (name, same) in [
                    ("upstream", new.upstream == settings.upstream),
                    ("log-level", new.log_level == settings.log_level),
                ] {
                    if !same {
                        tracing::warn!("{name}: the change is taken up at the next start only");
                    }
                }
                tracing::info!("new settings: {new}");
                settings = new;
            }
            Err(wrong) => {
                let lines = wrong.to_string();
                lines.lines().for_each(|line| tracing::error!("{line}"));
                tracing::error!("the settings stay as they were");
            }
        }
    }
}

/// What listens, by where and for what.
struct Listeners {
    service: Service,
    status: Status,
    running: HashMap<Listening, JoinHandle<()>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Listening {
    Proxy(SocketAddr),
    Status(SocketAddr),
    Forward(SocketAddr, Target),
}

impl Listeners {
    /// Stops what is not wanted any more and starts what is new; returns what failed. Connections that are there go on.
    async fn apply(&mut self, settings: &Settings) -> Vec<String> {
        let proxy = settings.listen.map(Listening::Proxy);
        let status = settings.status.map(Listening::Status);
        let forwards = settings
            .forwards
            .iter()
            .map(|Forward { listen, target }| Listening::Forward(*listen, target.clone()));
        let wanted: Vec<Listening> = proxy.into_iter().chain(status).chain(forwards).collect();
        let unwanted: Vec<Listening> =
            self.running.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        for key in unwanted {
            if let Some(task) = self.running.remove(&key) {
                task.abort();
                // Until its socket is closed: the next may want the same address.
                let _ = task.await;
            }
        }
        let mut failures = Vec::new();
        for key in wanted {
            if self.running.contains_key(&key) {
                continue;
            }
            match self.start(&key).await {
                Ok(task) => drop(self.running.insert(key, task)),
                Err(error) => failures.push(error),
            }
        }
        failures
    }

    async fn start(&self, key: &Listening) -> Result<JoinHandle<()>, String> {
        let service = self.service.clone();
        Ok(match key {
            Listening::Proxy(address) => {
                let listener = front::listen(*address, "listen").await?;
                tracing::info!(
                    "applications: SOCKS5 and HTTP at {address}; let SOCKS look up names (socks5h)"
                );
                tokio::spawn(service.proxy(listener))
            }
            Listening::Status(address) => {
                let listener = front::listen(*address, "status").await?;
                tracing::info!("status page: http://{address}/");
                tokio::spawn(status::serve(listener, self.status.clone()))
            }
            Listening::Forward(address, target) => {
                let listener = front::listen(*address, "forward").await?;
                tracing::info!("a port is forwarded: {address}");
                tokio::spawn(service.forward(listener, Some(target.clone())))
            }
        })
    }
}

/// When the configuration is to be read again.
struct Changes<'a> {
    path: Option<&'a Path>,
    seen: Option<(SystemTime, u64)>,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

impl<'a> Changes<'a> {
    fn of(path: Option<&'a Path>) -> Self {
        Self {
            path,
            seen: path.and_then(stamp),
            #[cfg(unix)]
            hangup: None,
        }
    }

    /// Waits for SIGHUP, or for a file that is not as it was.
    async fn next(&mut self) -> Result<(), String> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let hangup = match self.hangup.take() {
                Some(hangup) => hangup,
                None => {
                    signal(SignalKind::hangup()).map_err(|error| format!("no signal handlers: {error}"))?
                }
            };
            let hangup = self.hangup.insert(hangup);
            tokio::select! {
                _ = hangup.recv() => self.seen = self.path.and_then(stamp),
                seen = changed(self.path, self.seen) => self.seen = seen,
            }
        }
        #[cfg(not(unix))]
        {
            self.seen = changed(self.path, self.seen).await;
        }
        Ok(())
    }
}

/// Waits until the file is there and another than `seen`.
async fn changed(path: Option<&Path>, seen: Option<(SystemTime, u64)>) -> Option<(SystemTime, u64)> {
    loop {
        sleep(LOOK).await;
        let now = path.and_then(stamp);
        if now.is_some() && now != seen {
            return now;
        }
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

/// Waits for a signal to end.
async fn ended() -> Result<(), String> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let told = |error| format!("the system gives no signal handlers: {error}");
        let mut terminate = signal(SignalKind::terminate()).map_err(told)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(told)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(|error| format!("the system gives no signal handlers: {error}"))?;
    tracing::info!("ending");
    Ok(())
}
