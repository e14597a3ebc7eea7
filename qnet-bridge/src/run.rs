//! `qnet-bridge run`: a bridge without tor.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use qnet_transport::{
    admission::{self, Follower},
    bridge::{Listener, Sessions},
    decoy, identity,
    tls::Roots,
};
use qnet_wire::{bridge_line::Cover, invitation::InvitedList};
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time::timeout};
use zeroize::Zeroizing;

use crate::{
    acme::Acme,
    exit::{self, Exit},
    handover::{self, Inherited, Program},
    line,
    listeners::{self, Listeners},
    metrics::Metrics,
    numbers::Tally,
    serve::{Service, Signals},
    settings::{self, Certificate, Plan, Settings},
    site::{
        Site,
        files::Files,
        tls::{Pair, Tls},
    },
};

/// How long the process stays for its last words, once it has nothing left to do.
const GOODBYE: Duration = Duration::from_millis(50);
/// How long a web server of this machine may take to accept.
const REACH_LIMIT: Duration = Duration::from_secs(10);

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
    pub(crate) fn plan(&self) -> Result<Plan> {
        let file = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        self.settings.clone().over(file).plan()
    }

    pub(crate) fn start(self) -> Result<()> {
        if handover::stands_between()? {
            return Ok(());
        }
        let plan = self.plan()?;
        if self.check_config {
            look(&plan)?;
            return crate::say("the settings are right\n");
        }
        let inherited = Inherited::receive()?;
        raise_file_limit();
        wait(run(plan, &self, inherited))
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

async fn run(plan: Plan, invocation: &Run, mut inherited: Inherited) -> Result<()> {
    let program = Program::this()?;
    let mut signals = Signals::watch()?;
    let decoy = Decoy::start(&plan).await?;
    let invited = read_invited(&plan)?;
    let listening = listeners::listen(&plan, &mut inherited)?;
    let mut sockets = vec![listening.share()?];
    let sessions = Sessions::default();
    // Before a client of an older process can come.
    let asked: Vec<_> = (0..inherited.predecessors()).map(|_| sessions.look_elsewhere()).collect();
    let site = decoy.own.as_ref().map(|(site, _)| site);
    let place = (decoy.address, site);
    let mut listeners = Listeners::prepare(listening, &plan, place, invited.as_ref(), &sessions)?;
    let certified = decoy.certified();
    if !inherited.takes_over() || !certified {
        listeners.open();
    }
    if !certified {
        // The authority comes through the bridge's own port, so the certificate is got when that is open here and nowhere else.
        inherited.ready();
        tokio::select! {
            () = decoy.certify() => {}
            () = signals.end.recv() => return Ok(()),
        }
    }
    announce(&listeners.first, &plan).await?;
    tokio::spawn(watch_decoy(listeners.first.trouble(), matches!(plan.decoy, settings::Decoy::Front(_))));
    let guests = follow_invited(&listeners.first, &plan, invited);
    let exit = Arc::new(Exit::new(plan.destination.clone(), plan.limits.clone(), decoy.as_target(&plan)));
    let telling = plan.metrics.map(|at| Metrics::listen(at, inherited.take(at))).transpose()?;
    listeners.open();
    inherited.ready();
    let older = inherited.older();
    handover::reach(&older, asked)?;
    let tally = Arc::new(Tally::new(listeners.counter(), Arc::clone(&exit), &older)?);
    let metrics = telling.as_ref().map(|socket| Metrics::start(socket, Arc::clone(&tally))).transpose()?;
    sockets.extend(telling);
    let mut tasks = decoy.renew();
    tally.listen(&mut tasks);
    let read_again = |plan: &Plan| {
        decoy.reload(plan);
        if let Some(guests) = &guests {
            guests.read_again();
        }
    };
    let service = Service {
        listeners,
        exit,
        plan,
        invocation,
        read_again: &read_again,
        signals,
        program,
        sockets,
        older,
        alone: (metrics, tasks),
        tally,
    };
    service.run().await;
    // Sessions that have just ended tell their clients, which would wait otherwise.
    tokio::time::sleep(GOODBYE).await;
    Ok(())
}

/// Reads every file that the settings name, as [`run`] will: what is not there, or open to others, is an error before it starts.
fn look(plan: &Plan) -> Result<()> {
    identity::load(&plan.state)?;
    read_invited(plan)?;
    if let settings::Decoy::Site { folder, certificate, .. } = &plan.decoy {
        Files::read(folder)?;
        if let Certificate::Files { chain, key } = certificate {
            Tls::default().set(&read_pair(chain, key)?)?;
        }
    }
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
            settings::Decoy::Front(front) => Ok(Self { address: front.origin, own: None, acme: None }),
            settings::Decoy::Site { folder, certificate, .. } => {
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

    /// As clients may ask for it.
    fn as_target(&self, plan: &Plan) -> exit::Site {
        exit::Site { address: self.address, names: plan.site_names() }
    }

    /// Whether there is a certificate, or somebody else sees to it.
    fn certified(&self) -> bool {
        self.acme.as_ref().is_none_or(|acme| {
            acme.show_kept().unwrap_or_else(|error| {
                tracing::error!("the certificate that is kept cannot be used: {error:#}");
                false
            })
        })
    }

    /// Gets a certificate, where it is this program that has to.
    async fn certify(&self) {
        if let Some(acme) = &self.acme {
            acme.get().await;
        }
    }

    /// Renews it in time, for as long as what is returned is held.
    fn renew(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Some(acme) = self.acme.clone() {
            tasks.spawn(async move { acme.keep().await });
        }
        tasks
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

/// Examines the decoy and says how users reach the bridge.
async fn announce(listener: &Listener, plan: &Plan) -> Result<()> {
    let roots = Roots::load().context("the certificates to check sites by")?;
    if let Some(examiner) = listener.examiner() {
        decoy::watch(examiner, roots, |_| ()).await.map_err(|why| anyhow!(why))?;
    }
    let mut whose = "this machine's";
    if let settings::Decoy::Front(front) = &plan.decoy {
        whose = "the web server's";
        if let Err(error) = reach(front.origin).await {
            tracing::warn!("{}: nothing answers at origin {} ({error})", NO_SITE, front.origin);
        }
    }
    let address = listener.local_addr();
    if plan.invited.is_some() {
        tracing::info!(
            "listening on {address} for invited clients; `qnet-bridge invite NAME` makes a line for one"
        );
        return Ok(());
    }
    for line in line::lines(plan, None, address)? {
        match &line.cover {
            Cover::Mirror(_) => {
                tracing::info!("listening; the line for users, with {whose} public address in it: {line}");
            }
            // The log has other readers than the file with the path.
            Cover::Websocket(_) => tracing::info!(
                "listening at {address} for websockets; `qnet-bridge line` prints the line for users, with the secret path, for \
                 {whose} public address"
            ),
        }
    }
    Ok(())
}

/// Whether a web server of this machine accepts connections.
pub(crate) async fn reach(origin: SocketAddr) -> io::Result<()> {
    let connected = timeout(REACH_LIMIT, TcpStream::connect(origin)).await;
    connected.unwrap_or_else(|late| Err(late.into())).map(drop)
}

/// What visitors meet where a bridge behind a web server does not reach its origin.
const NO_SITE: &str = "who asks for the secret path and is no client gets no answer";

/// Tells the operator when the web site, or the origin of the one in front, stops answering, and when it does again.
async fn watch_decoy(mut trouble: watch::Receiver<Option<String>>, front: bool) {
    let lost = if front { NO_SITE } else { "neither visitors nor clients can be served" };
    while trouble.changed().await.is_ok() {
        match trouble.borrow_and_update().as_deref() {
            Some(why) => tracing::warn!("{lost}: {why}"),
            None => tracing::info!("the web site behind this bridge answers again"),
        }
    }
}
