//! Where a bridge listens: before a web site, behind a web server, or both beside its built-in site.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use qnet_transport::{
    admission::{self, Admission},
    bridge::{BridgeConfig, Counter, Incoming, Listener, Sessions, WebsocketBridgeConfig},
    connect::Connect,
    identity,
    listening::Listening,
};
use qnet_wire::{invitation::InvitedList, url::WebsocketUrl};

use crate::{
    handover::Inherited,
    settings::{Decoy, Front, Plan},
    site::{Site, Websockets},
};

const LISTEN_ADVICE: &str = "is another program listening there? Ports under 1024 need the capability \
                             cap_net_bind_service, which the service that `qnet-bridge init` writes has";

/// The socket at which the bridge listens, inherited where it can be.
pub(crate) fn listen(plan: &Plan, inherited: &mut Inherited) -> Result<Listening> {
    let listening = match inherited.take_own(plan.listen)? {
        Some(socket) => Listening::inherited(socket),
        None => Listening::bind(plan.listen),
    };
    let listening =
        listening.with_context(|| format!("cannot listen on {}; {}", plan.listen, LISTEN_ADVICE))?;
    Ok(listening.behind(&plan.balancers))
}

/// One bridge's listeners, with the same key and the same sessions.
pub(crate) struct Listeners {
    /// At the address that the settings say.
    pub(crate) first: Listener,
    /// For what the built-in site hands on.
    websockets: Option<Listener>,
}

impl Listeners {
    /// A bridge before its decoy, which may be the built-in site, or behind a web server. It serves nobody yet.
    pub(crate) fn prepare(
        listening: Listening,
        plan: &Plan,
        (decoy, site): (SocketAddr, Option<&Site>),
        invited: Option<&InvitedList>,
        sessions: &Sessions,
    ) -> Result<Self> {
        let first = match &plan.decoy {
            Decoy::Front(Front { url, origin, forwarded }) => {
                let config = websocket(plan, url, sessions.clone())?;
                let config = WebsocketBridgeConfig { site: Some(*origin), forwarded: *forwarded, ..config };
                Listener::prepare_websocket(listening, config)
            }
            Decoy::Server { .. } | Decoy::Site { .. } => {
                let config = BridgeConfig {
                    listen: plan.listen,
                    identity: identity::load_or_create(&plan.state)?,
                    decoy,
                    names: plan.names.clone(),
                    admission: invited.map_or(Admission::Open, admission::admission),
                    connect: Connect::default(),
                    profile: qnet_transport::Profile::default(),
                    sessions: sessions.clone(),
                };
                Listener::prepare(listening, config)
            }
        };
        let mut listeners = Self { first, websockets: None };
        if let (Some(site), Some(url)) = (site, plan.decoy.url()) {
            listeners.take_from(site, url, plan)?;
        }
        Ok(listeners)
    }

    /// Takes the websockets that the built-in site hands on.
    fn take_from(&mut self, site: &Site, url: &WebsocketUrl, plan: &Plan) -> Result<()> {
        let listening = Listening::bind((Ipv4Addr::LOCALHOST, 0).into());
        let listening = listening.context("no port on loopback for the site's websockets")?;
        let config = websocket(plan, url, self.first.sessions())?;
        let mut listener = Listener::prepare_websocket(listening, config);
        listener.open();
        site.hand_on(Websockets::new(url.path(), listener.local_addr(), self.first.whose()));
        self.websockets = Some(listener);
        Ok(())
    }

    /// Begins to serve, if it did not.
    pub(crate) fn open(&mut self) {
        self.first.open();
    }

    /// Takes no more connections from outside; visitors who are there may still become clients.
    pub(crate) async fn stop_listening(&mut self) {
        self.first.stop_listening().await;
    }

    /// The next stream a client opened.
    pub(crate) async fn accept(&mut self) -> Option<Incoming> {
        match &mut self.websockets {
            None => self.first.accept().await,
            Some(websockets) => tokio::select! {
                incoming = self.first.accept() => incoming,
                incoming = websockets.accept() => incoming,
            },
        }
    }

    /// Tells what was counted. A websocket by way of the built-in site is a connection of the first listener's.
    pub(crate) fn counter(&self) -> Counter {
        self.first.counter()
    }
}

/// For what the built-in site hands on.
fn websocket(plan: &Plan, url: &WebsocketUrl, sessions: Sessions) -> Result<WebsocketBridgeConfig> {
    Ok(WebsocketBridgeConfig {
        listen: plan.listen,
        identity: identity::load_or_create(&plan.state)?,
        url: url.clone(),
        site: None,
        forwarded: true,
        connect: Connect::default(),
        profile: qnet_transport::Profile::default(),
        sessions,
    })
}
