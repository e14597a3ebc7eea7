//! `qnet-bridge run`: a bridge without tor.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use qnet_transport::{
    admission::{self, Admission, Follower},
    bridge::{BridgeConfig, Listener, Sessions},
    connect::Connect,
    decoy, identity,
    tls::Roots,
};
use qnet_wire::{
    bridge_line::{BridgeLine, Cover},
    invitation::InvitedList,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use zeroize::Zeroizing;

use crate::{
    acme::Acme,
    exit::Exit,
    metrics::Metrics,
    settings::{self, Certificate, Plan, Settings},
    site::{
        Site,
        tls::{Pair, Tls},
    },
};

/// How long the process stays for its last words, once it has nothing left to do.
const GOODBYE: Duration = Duration::from_millis(50);

/// Accept clients and connect out for them, without tor
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// A TOML file with the flags' names as keys; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say whether the settings are right, and end
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Run {
    fn plan(&self) -> Result<Plan> {
        let file = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        self.settings.clone().over(file).plan()
    }

    pub(crate) fn start(self) -> Result<()> {
        let plan = self.plan()?;
        if self.check_config {
            read_invited(&plan)?;
            return crate::say("the settings are right\n");
        }
        raise_file_limit();
        wait(run(plan, &self))
    }
}

/// Runs `work` to its end.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the system gives no threads")?;
    let outcome = runtime.block_on(work);
    // Look-ups under way in threads must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Allows as many open files as the administrator permits: a bridge needs two for each visitor and three for each client.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

async fn run(plan: Plan, invocation: &Run) -> Result<()> {
    let mut signals = Signals::watch()?;
    let decoy = Decoy::start(&plan).await?;
    let invited = read_invited(&plan)?;
    let listener = bind(&plan, decoy.address, invited.as_ref())?;
    // The authority comes through the bridge's own port, so the certificate is got when that is open.
    tokio::select! {
        () = decoy.certify() => {}
        () = signals.end.recv() => return Ok(()),
    }
    announce(&listener, &plan).await?;
    tokio::spawn(watch_decoy(listener.trouble()));
    let guests = follow_invited(&listener, &plan, invited);
    let exit = Arc::new(Exit::new(plan.destination.clone(), plan.limits.clone()));
    let _metrics = match plan.metrics {
        Some(address) => Some(Metrics::start(address, listener.counter(), Arc::clone(&exit)).await?),
        None => None,
    };
    let read_again = |plan: &Plan| {
        decoy.reload(plan);
        if let Some(guests) = &guests {
            guests.read_again();
        }
    };
    serve(listener, exit, plan, invocation, &read_again, &mut signals).await;
    // Sessions that have just ended tell their clients, which would wait otherwise.
    tokio::time::sleep(GOODBYE).await;
    Ok(())
}

/// What answers strangers, and this program's part in it.
struct Decoy {
    address: SocketAddr,
    /// Where it is this program that answers.
    own: Option<(Site, Arc<Tls>)>,
    acme: Option<Arc<Acme>>,
}

impl Decoy {
    async fn start(plan: &Plan) -> Result<Self> {
        match &plan.decoy {
            settings::Decoy::Server { place, third_party } => {
                Ok(Self { address: place.resolve(*third_party).await?, own: None, acme: None })
            }
            settings::Decoy::Site { folder, certificate } => {
                let tls = Arc::new(Tls::default());
                let acme = match certificate {
                    Certificate::Files { chain, key } => {
                        tls.set(&read_pair(chain, key)?)?;
                        None
                    }
                    Certificate::Acme(settings) => {
                        Some(Arc::new(Acme::new(settings.clone(), Arc::clone(&tls))?))
                    }
                };
                let site = Site::start(folder, Arc::clone(&tls)).await?;
                Ok(Self { address: site.address(), own: Some((site, tls)), acme })
            }
        }
    }

    /// Sees to it that there is a certificate, now and later, where it is this program that has to.
    async fn certify(&self) {
        let Some(acme) = &self.acme else { return };
        match acme.show_kept() {
            Ok(true) => {}
            Ok(false) => acme.get().await,
            Err(error) => {
                tracing::error!("the certificate that is kept cannot be used: {error:#}");
                acme.get().await;
            }
        }
        let acme = Arc::clone(acme);
        tokio::spawn(async move { acme.keep().await });
    }

    /// Reads the site and its certificate again, whichever way they may have changed.
    fn reload(&self, plan: &Plan) {
        let Some((site, tls)) = &self.own else { return };
        let certificate = |()| match &plan.decoy {
            settings::Decoy::Site { certificate: Certificate::Files { chain, key }, .. } => {
                tls.set(&read_pair(chain, key)?)
            }
            _ => Ok(()),
        };
        match site.reload().and_then(certificate) {
            Ok(()) => tracing::info!("the site and its certificate were read again"),
            Err(error) => tracing::error!("the site or its certificate stays as it is: {error:#}"),
        }
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Pair> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let secret = Zeroizing::new(read(key)?);
    let mode = std::fs::metadata(key)?.permissions().mode();
    ensure!(
        mode & 0o007 == 0,
        "everybody may read the certificate's key {0}; run: chmod o= {0}",
        key.display()
    );
    Pair::from_pem(&read(certificate)?, &secret)
        .with_context(|| format!("in {} and {}", certificate.display(), key.display()))
}

/// The list of invited clients, on a bridge by invitation.
fn read_invited(plan: &Plan) -> Result<Option<InvitedList>> {
    Ok(plan.invited.as_deref().map(admission::read).transpose()?)
}

/// Keeps to the list of invited clients as it changes, on a bridge by invitation.
fn follow_invited(listener: &Listener, plan: &Plan, list: Option<InvitedList>) -> Option<Arc<Follower>> {
    let guests = Arc::new(Follower::new(plan.invited.clone()?, list?, listener.doorkeeper()?));
    let follower = Arc::clone(&guests);
    tokio::spawn(async move { follower.follow().await });
    Some(guests)
}

/// A bridge that listens before its decoy.
fn bind(plan: &Plan, decoy: SocketAddr, invited: Option<&InvitedList>) -> Result<Listener> {
    Listener::bind(BridgeConfig {
        listen: plan.listen,
        identity: identity::load_or_create(&plan.state)?,
        decoy,
        names: plan.names.clone(),
        admission: invited.map_or(Admission::Open, admission::admission),
        connect: Connect::default(),
        profile: qnet_transport::Profile::default(),
        sessions: Sessions::default(),
    })
    .with_context(|| format!("cannot listen on {}; {}", plan.listen, LISTEN_ADVICE))
}

/// Examines the decoy and says how users reach the bridge.
async fn announce(listener: &Listener, plan: &Plan) -> Result<()> {
    let roots = Roots::load().context("the certificates to check sites by")?;
    if let Some(examiner) = listener.examiner() {
        decoy::watch(examiner, roots, |_| ()).await.map_err(|why| anyhow!(why))?;
    }
    let address = listener.local_addr();
    if plan.invited.is_some() {
        tracing::info!(
            "listening on {address} for invited clients; `qnet-bridge invite NAME` makes a line for one"
        );
        return Ok(());
    }
    let key = identity::load(&plan.state)?.context("the key is gone")?.public();
    let line = BridgeLine {
        address,
        fingerprint: None,
        key,
        cover: Cover::Mirror(plan.names.clone()),
        profile: None,
        invitation: None,
    };
    tracing::info!("listening; the line for users, with this machine's public address in it: {line}");
    Ok(())
}

const LISTEN_ADVICE: &str = "is another program listening there? Ports under 1024 need the capability \
                             cap_net_bind_service, which the service that `qnet-bridge init` writes has";

/// Tells the operator when the web site stops answering, and when it does again.
async fn watch_decoy(mut trouble: watch::Receiver<Option<String>>) {
    while trouble.changed().await.is_ok() {
        match trouble.borrow_and_update().as_deref() {
            Some(why) => tracing::warn!("neither visitors nor clients can be served: {why}"),
            None => tracing::info!("the web site behind this bridge answers again"),
        }
    }
}

/// Serves until told to end, and then until the streams have ended or their time is over.
async fn serve(
    mut listener: Listener,
    exit: Arc<Exit>,
    mut plan: Plan,
    invocation: &Run,
    read_again: &impl Fn(&Plan),
    signals: &mut Signals,
) {
    let (alive, mut gone) = mpsc::channel::<()>(1);
    loop {
        tokio::select! {
            incoming = listener.accept() => {
                let Some(incoming) = incoming else { break };
                let (exit, alive) = (Arc::clone(&exit), alive.clone());
                tokio::spawn(async move {
                    exit.serve(incoming).await;
                    drop(alive);
                });
            }
            _ = signals.hangup.recv() => {
                reload(&exit, &mut plan, invocation);
                read_again(&plan);
            }
            () = signals.end.recv() => break,
        }
    }
    listener.stop_listening();
    drop(alive);
    tracing::info!(
        "ending: no new connections are taken; {} streams may go on for {} s (a second signal ends them)",
        exit.clients.streams(),
        plan.drain.as_secs()
    );
    tokio::select! {
        // New streams are dropped, so that their clients turn to another bridge.
        () = async { while let Some(incoming) = listener.accept().await { drop(incoming) } } => {}
        _ = gone.recv() => {}
        () = signals.end.recv() => {}
        () = tokio::time::sleep(plan.drain) => {}
    }
}

/// Takes the file's destination, limits and drain; the rest needs a restart.
fn reload(exit: &Exit, plan: &mut Plan, invocation: &Run) {
    let new = match invocation.plan() {
        Ok(new) => new,
        Err(error) => {
            tracing::error!("the settings stay as they are: {error:#}");
            return;
        }
    };
    exit.set(new.destination.clone(), new.limits.clone());
    let Plan { destination, limits, drain, .. } = new.clone();
    *plan = Plan { destination, limits, drain, ..plan.clone() };
    if *plan == new {
        tracing::info!("the settings were read again");
    } else {
        tracing::warn!(
            "the settings were read again, but listen, state, invited, metrics and which site answers strangers stay until a restart"
        );
    }
}

struct Signals {
    hangup: Signal,
    end: End,
}

struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> Result<Self> {
        let on = |kind| signal(kind).context("the system gives no signal handlers");
        let end = End { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? };
        Ok(Self { hangup: on(SignalKind::hangup())?, end })
    }
}

impl End {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
