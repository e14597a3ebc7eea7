//! From a bridge line to an open websocket, as a browser comes to it: the page first.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use qnet_proto::chrome::CHROME_156;
use qnet_proto::http2::{Output, PageLoad};
use qnet_proto::knock::Field;
use qnet_proto::websocket::{Channel, WebsocketError};
use qnet_wire::url::WebsocketUrl;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::link::Link;
use crate::client::{CONNECT_LIMIT, DialError, DialerConfig};
use crate::driver::now;
use crate::timer;
use crate::tls::{Purpose, Ticket, Tls, connect};

/// An open websocket.
pub(crate) struct Opened {
    pub(crate) tcp: TcpStream,
    pub(crate) tls: Tls,
    pub(crate) channel: Channel,
    pub(crate) round_trip: Duration,
}

/// When a websocket is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// There is none.
    Alone,
    /// There is one.
    Beside,
}

/// What one session's carriers keep for each other of a site: what a browser has of a page that is open. A bridge may have
/// several lines, each with a site of its own: what one gave is never shown to another.
#[derive(Default)]
pub(crate) struct Known(Mutex<Option<Site>>);

/// The site that was visited last.
struct Site {
    url: WebsocketUrl,
    tickets: Vec<Ticket>,
    page: Option<Page>,
}

/// A page that was loaded.
struct Page {
    /// What its websocket's request says of cookies.
    cookies: Vec<String>,
    /// Its connection, where the websocket has one of its own: it stays for as long as this is there, and on its own if that is said.
    stays: Option<oneshot::Sender<()>>,
    /// Whether its connection carried a websocket, and nothing is known of its end.
    carries: bool,
}

impl Known {
    /// Does something with what is known of this site; what was known of another is forgotten.
    fn site<T>(&self, url: &WebsocketUrl, with: impl FnOnce(&mut Site) -> T) -> T {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|site| site.url != *url) {
            *known = None;
        }
        with(known.get_or_insert_with(|| Site { url: url.clone(), tickets: Vec::new(), page: None }))
    }

    /// The newest ticket: it serves once.
    fn ticket(&self, url: &WebsocketUrl) -> Option<Ticket> {
        self.site(url, |site| site.tickets.pop())
    }

    /// Keeps what a connection was given, in place of what was known before.
    fn learn(&self, url: &WebsocketUrl, tls: &Tls) {
        let mut new: Vec<_> = std::iter::from_fn(|| tls.ticket()).collect();
        if !new.is_empty() {
            new.reverse();
            self.site(url, |site| site.tickets = new);
        }
    }

    /// The cookies of the page, if it was loaded and a browser would have its script open another websocket over a connection of
    /// its own.
    fn cookies(&self, url: &WebsocketUrl, occasion: Occasion) -> Option<Vec<String>> {
        self.site(url, |site| {
            let page = site.page.as_mut()?;
            page.carries &= occasion == Occasion::Beside;
            (!page.carries).then(|| page.cookies.clone())
        })
    }

    /// No websocket came of it: the page stays open without one, as a browser's does, until its connection idles out.
    pub(crate) fn leave_open(&self) {
        let site = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stays) = site.and_then(|site| site.page?.stays) {
            // Where the connection has ended there is nothing to keep.
            let _ = stays.send(());
        }
    }

    /// The page is loaded, or, with `None`, to be loaded anew.
    fn set_page(&self, url: &WebsocketUrl, page: Option<Page>) {
        self.site(url, |site| site.page = page);
    }
}

/// Opens the websocket of the site at `address`: after a load of its page, or, where that was loaded before, as its script does.
pub(crate) async fn open(
    config: &DialerConfig,
    address: SocketAddr,
    url: &WebsocketUrl,
    known: &Known,
    occasion: Occasion,
    rng: &mut ChaCha20Rng,
) -> Result<Opened, DialError> {
    if let Some(cookies) = known.cookies(url, occasion) {
        let opened = alone(config, address, url, known, &cookies, rng).await;
        if matches!(opened, Err(DialError::Websocket(_))) {
            // The site has changed its mind: the page is opened anew.
            known.set_page(url, None);
        }
        return opened;
    }
    let mut tcp = config.connect.connect_within(address, CONNECT_LIMIT).await?;
    let connected = connect(&mut tcp, Purpose::Page(known.ticket(url)), url.host(), &config.roots).await?;
    let round_trip = connected.round_trip;
    let mut link = Link::new(tcp, connected);
    let mut page =
        PageLoad::new(&CHROME_156, url.host(), &config.path, Field::Padding, seed(rng)).without_knock();
    load(&mut link, &mut page).await?;
    known.learn(url, &link.tls);
    let cookies = page.cookies(url.path());
    let (stays, stay) = oneshot::channel();
    if page.takes_websockets() {
        known.set_page(url, Some(Page { cookies, stays: None, carries: true }));
        let mut channel = Channel::http2(page, &CHROME_156, url.host(), url.path(), seed(rng), now());
        let outcome = opened(&mut link, &mut channel).await;
        return match (outcome, channel) {
            (Ok(()), channel) => Ok(Opened { tcp: link.tcp, tls: link.tls, channel, round_trip }),
            (Err(error), channel) => {
                if let Some(page) = channel.into_load() {
                    let _ = stays.send(());
                    tokio::spawn(keep_open(link, page, stay));
                }
                Err(error)
            }
        };
    }
    tokio::spawn(keep_open(link, page, stay));
    known.set_page(url, Some(Page { cookies: cookies.clone(), stays: Some(stays), carries: false }));
    alone(config, address, url, known, &cookies, rng).await
}

/// Opens the websocket over a connection of its own, HTTP/1.1. So does Chrome wherever no HTTP/2 connection of the page's is
/// left that could carry it.
async fn alone(
    config: &DialerConfig,
    address: SocketAddr,
    url: &WebsocketUrl,
    known: &Known,
    cookies: &[String],
    rng: &mut ChaCha20Rng,
) -> Result<Opened, DialError> {
    let mut tcp = config.connect.connect_within(address, CONNECT_LIMIT).await?;
    let connected =
        connect(&mut tcp, Purpose::Websocket(known.ticket(url)), url.host(), &config.roots).await?;
    let round_trip = connected.round_trip;
    let mut channel = Channel::http1(&CHROME_156, url.host(), url.path(), cookies, seed(rng));
    let mut link = Link::new(tcp, connected);
    opened(&mut link, &mut channel).await?;
    known.learn(url, &link.tls);
    Ok(Opened { tcp: link.tcp, tls: link.tls, channel, round_trip })
}

fn seed(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}

/// Sends what the page has to send.
async fn pay(link: &mut Link, page: &mut PageLoad) -> Result<(), DialError> {
    // A load without a knock gives records only.
    while let Some(Output::Record(content) | Output::Knock(content)) = page.poll(now()) {
        link.send(&content).await?;
    }
    match page.failure() {
        Some(failure) => Err(WebsocketError::Load(failure.clone()).into()),
        None => Ok(()),
    }
}

/// Takes what comes until `at`, if that is some.
async fn listen(link: &mut Link, page: &mut PageLoad, at: Option<Instant>) -> Result<(), DialError> {
    let received = match at {
        None => link.receive().await?,
        Some(at) => match timer::by(at, link.receive()).await {
            None => return Ok(()),
            Some(received) => received?,
        },
    };
    page.on_data(&received, now()).map_err(|error| WebsocketError::Load(error).into())
}

/// Loads the page, and waits for as long as its script would before it opens the websocket.
async fn load(link: &mut Link, page: &mut PageLoad) -> Result<(), DialError> {
    let mut script = None;
    loop {
        pay(link, page).await?;
        if script.is_none() {
            script = page.conclude().map(|pause| now() + pause);
        }
        if script.is_some_and(|at| at <= now()) {
            return Ok(());
        }
        let at = [page.deadline(), script].into_iter().flatten().min();
        listen(link, page, at).await?;
    }
}

/// Keeps the page's connection as a browser does: pays what is owed, until it idles out, ends, or the websocket is gone, if it is not
/// told to stay without one.
async fn keep_open(mut link: Link, mut page: PageLoad, told: oneshot::Receiver<()>) {
    let gone = async {
        if told.await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(gone);
    loop {
        if pay(&mut link, &mut page).await.is_err() {
            return;
        }
        let at = page.deadline();
        let over = tokio::select! {
            () = &mut gone => true,
            listened = listen(&mut link, &mut page, at) => listened.is_err(),
        };
        if over || page.deadline().is_some_and(|idle| idle <= now()) {
            return;
        }
    }
}

/// Sends the opening and waits for its answer.
async fn opened(link: &mut Link, channel: &mut Channel) -> Result<(), DialError> {
    let mut payload = Vec::new();
    while !channel.is_open() {
        while let Some(content) = channel.poll(now()) {
            link.send(&content).await?;
        }
        let received = link.receive().await?;
        channel.on_data(&received, &mut payload, now())?;
    }
    if !payload.is_empty() {
        // A bridge waits for the client's first message.
        return Err(WebsocketError::Answer("a message before the first one").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_site_gave_is_never_shown_to_another() {
        let [one, other] = ["https://one.example/a", "https://other.example/a"]
            .map(|url| url.parse::<WebsocketUrl>().unwrap());
        let known = Known::default();
        let page = || Page { cookies: vec!["a=b".to_owned()], stays: None, carries: true };
        known.set_page(&one, Some(page()));
        // Its connection may still carry the websocket: nothing is opened beside it.
        assert_eq!(known.cookies(&one, Occasion::Beside), None);
        assert_eq!(known.cookies(&one, Occasion::Alone), Some(vec!["a=b".to_owned()]));
        assert_eq!(known.cookies(&other, Occasion::Alone), None);
        assert_eq!(known.cookies(&one, Occasion::Alone), None, "a visit elsewhere forgets it");
    }
}
