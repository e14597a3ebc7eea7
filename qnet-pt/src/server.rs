//! The bridge side: clients from the transport, tor's ORPort behind.

use crate::TRANSPORT;
use crate::carriers;
use crate::lifetime::Lifetime;
use crate::options::{Mirror, Options, Websocket};
use crate::orport;
use crate::output::Output;
use qnet_pt_ipc::args::Args;
use qnet_pt_ipc::env::{OrPort, Server, ServerTransport, Settings};
use qnet_pt_ipc::line::Line;
use qnet_transport::admission::{self, Admission, Follower, InvitedFileError};
use qnet_transport::bridge::{Incoming, Listener};
use qnet_transport::decoy::{self, is_local};
use qnet_transport::identity::{self, IdentityError};
use qnet_transport::relay::relay;
use qnet_wire::bridge_line::{BridgeLine, Cover, MAX_LEN};
use qnet_wire::invitation::InvitedList;
use qnet_wire::key::{IdentityKey, KEY_LETTERS};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

/// Where to listen if the parent does not say: what C tor would.
const DEFAULT_BIND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// How long the site may take to accept: all of starting must fit Arti's 30 s.
const REACH: Duration = Duration::from_secs(10);
/// Room for a relay's fingerprint and the space before it, which join the bridge line later.
const FINGERPRINT: usize = 41;
/// Room for what `qnet-bridge invite` adds to the line for one client.
const INVITATION: usize = " invite=".len() + KEY_LETTERS;
/// What the longest public address, with its port, may be longer than a loopback one.
const ADDRESS: usize = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".len() - "127.0.0.1:1".len();

/// Starts what was asked for and tells the parent.
pub(crate) async fn start(server: &Server, settings: &Settings, output: &Output, lifetime: &Lifetime) {
    if let OrPort::Extended { address, .. } = &server.or_port
        && !address.ip().is_loopback()
    {
        tracing::warn!(
            "the Extended ORPort is not on loopback: clients' addresses cross the network in clear; \
             use ExtORPort 127.0.0.1:auto in torrc"
        );
    }
    for transport in server.transports.iter().filter(|transport| transport.name == TRANSPORT) {
        match listen(transport, settings, output).await {
            Ok((listener, address, args)) => {
                output.line(&Line::Smethod { name: TRANSPORT, address, args: &args });
                let or_port = Arc::new(server.or_port.clone());
                tokio::spawn(watch_decoy(listener.trouble(), output.clone()));
                tokio::spawn(accept(listener, or_port, output.clone(), lifetime.clone()));
            }
            Err(message) => output.line(&Line::SmethodError { name: TRANSPORT, message: &message }),
        }
    }
    output.line(&Line::SmethodsDone);
}

/// Makes one transport ready; an error is one line that says what to do.
async fn listen(
    transport: &ServerTransport,
    settings: &Settings,
    output: &Output,
) -> Result<(Listener, SocketAddr, Args), String> {
    let options = Options::parse(&transport.options).map_err(|error| error.to_string())?;
    let (listener, line) = match options {
        Options::Mirror(options) => mirror(options, transport, settings, output).await?,
        Options::Websocket(options) => websocket(options, transport, settings).await?,
    };
    let mut args = Args::new();
    for (key, value) in line.pt_args() {
        args.push(key, value);
    }
    Ok((listener, line.address, args))
}

fn identity(settings: &Settings) -> Result<IdentityKey, String> {
    identity::load_or_create(&settings.state).map_err(|error| match error {
        IdentityError::Read { .. } => format!("{error}; may tor's user read the state folder?"),
        error => error.to_string(),
    })
}

fn read_invited(path: &Path) -> Result<InvitedList, String> {
    admission::read(path).map_err(|error| match error {
        InvitedFileError::Read { .. } => format!("{error}; may tor's user read it?"),
        error => error.to_string(),
    })
}

/// A bridge before a web site.
async fn mirror(
    options: Mirror,
    transport: &ServerTransport,
    settings: &Settings,
    output: &Output,
) -> Result<(Listener, BridgeLine), String> {
    let decoy = options.decoy.resolve(options.third_party).await.map_err(|error| error.to_string())?;
    let identity = identity(settings)?;
    let key = identity.public();
    let bind = transport.bind.unwrap_or(DEFAULT_BIND);
    let roots = carriers::roots()?;
    let invited = options.invited.as_deref().map(read_invited).transpose()?;
    let admission = invited.as_ref().map_or(Admission::Open, admission::admission);
    let listener = carriers::listen(bind, identity, decoy, &options, admission, settings)?;
    let address = listener.local_addr();
    let cover = Cover::Mirror(options.names);
    let line =
        BridgeLine { address, fingerprint: None, key, cover, profile: options.profile, invitation: None };
    let invitation = if invited.is_some() { INVITATION } else { 0 };
    if line.to_string().len() + FINGERPRINT + invitation > MAX_LEN {
        return Err(format!(
            "the bridge line would be longer than {MAX_LEN} bytes: give fewer or shorter sni= names"
        ));
    }
    if let Some(examiner) = listener.examiner() {
        let output = output.clone();
        let refused = move |why: &str| {
            output.status(&[("TRANSPORT", TRANSPORT), ("DECOY", "Refused"), ("REASON", why)]);
        };
        decoy::watch(examiner, roots, refused).await?;
    }
    if let (Some(path), Some(list), Some(door)) = (options.invited, invited, listener.doorkeeper()) {
        tokio::spawn(async move { Follower::new(path, list, door).follow().await });
    }
    Ok((listener, line))
}

/// A bridge behind a web server. The line's address is where the bridge listens; its users need the web server's.
async fn websocket(
    options: Websocket,
    transport: &ServerTransport,
    settings: &Settings,
) -> Result<(Listener, BridgeLine), String> {
    let Some(bind) = transport.bind.filter(|bind| bind.ip().is_loopback()) else {
        return Err("a bridge with url= listens on loopback only, for the web server in front of it, which ends TLS; \
                    add to torrc: ServerTransportListenAddr qnet 127.0.0.1:8081"
            .to_owned());
    };
    if !is_local(options.site.ip()) {
        return Err(format!(
            "site={} is not this machine's: what visitors say would cross the network in the clear; give a web server \
             of this machine",
            options.site
        ));
    }
    let identity = identity(settings)?;
    let key = identity.public();
    let listener = carriers::listen_websocket(bind, identity, &options, settings)?;
    let cover = Cover::Websocket(options.url);
    let address = listener.local_addr();
    let line =
        BridgeLine { address, fingerprint: None, key, cover, profile: options.profile, invitation: None };
    // The web server's address may be an IPv6 one, in full.
    if line.to_string().len() + FINGERPRINT + ADDRESS > MAX_LEN {
        return Err(format!("the bridge line would be longer than {MAX_LEN} bytes: give a shorter url="));
    }
    if let Err(error) = timeout(REACH, tokio::net::TcpStream::connect(options.site))
        .await
        .unwrap_or_else(|late| Err(late.into()))
    {
        tracing::warn!(
            "visitors get no site: nothing answers at site={}: {error}; is that web server running?",
            options.site
        );
    }
    Ok((listener, line))
}

async fn accept(mut listener: Listener, or_port: Arc<OrPort>, output: Output, lifetime: Lifetime) {
    loop {
        let incoming = tokio::select! {
            () = lifetime.ending() => return,
            incoming = listener.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let (or_port, output, token) = (Arc::clone(&or_port), output.clone(), lifetime.token());
        tokio::spawn(async move {
            serve(incoming, &or_port, &output).await;
            drop(token);
        });
    }
}

/// Tells the operator when the web site stops answering, and when it does again.
async fn watch_decoy(mut trouble: watch::Receiver<Option<String>>, output: Output) {
    while trouble.changed().await.is_ok() {
        let why = trouble.borrow_and_update().clone();
        if let Some(reason) = why {
            tracing::warn!("neither visitors nor clients can be served: {reason}");
            output.status(&[("TRANSPORT", TRANSPORT), ("DECOY", "Failed"), ("REASON", &reason)]);
        } else {
            tracing::info!("the web site behind this bridge answers again");
            output.status(&[("TRANSPORT", TRANSPORT), ("DECOY", "Success")]);
        }
    }
}

async fn serve(incoming: Incoming, or_port: &OrPort, output: &Output) {
    let Incoming { mut stream, client } = incoming;
    let (mut tcp, early) = match orport::connect(or_port, client).await {
        Ok(connected) => connected,
        Err(error) => {
            let reason = error.to_string();
            tracing::warn!("a client was turned away: {reason}");
            output.status(&[("TRANSPORT", TRANSPORT), ("ORPORT", "Failed"), ("REASON", &reason)]);
            return;
        }
    };
    let relayed = async {
        stream.write_all(&early).await?;
        drop(early);
        relay(&mut stream, &mut tcp, |_, _| ()).await
    };
    if let Err(error) = relayed.await {
        tracing::debug!("a connection ended: {error}");
    }
}
