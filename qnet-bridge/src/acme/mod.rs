//! A certificate for the built-in site, from an authority that speaks ACME (RFC 8555), proved by TLS-ALPN-01 (RFC 8737).
//!
//! The authority connects to port 443 of the name, which is the bridge. To the bridge it is a visitor, so its question reaches the site as
//! every visitor's does, and is answered by a certificate that only it asks for ([`crate::site::tls`]). Nothing else is needed: no other
//! port, no other program.
//!
//! 1. Account: a key of its own; the authority knows it again.
//! 2. Order for the name; its authorization has a challenge with a token.
//! 3. The challenge's certificate is set up and the authority told; it looks.
//! 4. A request for a fresh key is signed; the chain is kept beside its key in one file, and shown to visitors.

mod http;
mod jws;
mod made;
mod place;

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use boring::{asn1::Asn1Time, pkey::PKey, x509::X509};
use hyper::Uri;
use qnet_wire::name::ServerName;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::{
    files,
    site::tls::{Pair, Tls},
};
use http::{Client, Reply};
use jws::Account;
pub use place::{Contact, DirectoryUrl, NoContact, NoDirectory};

/// How long the authority may take to look and to sign.
const POLL_LIMIT: Duration = Duration::from_secs(180);
/// Between two questions whether it is done, where it does not say how long.
const POLL_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause it may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Tries of one request whose nonce was refused (RFC 8555, section 6.5).
const NONCE_TRIES: u32 = 3;
/// The pause after the first failure; each further one doubles it. Let's Encrypt allows five failed tries an hour.
const FIRST_WAIT: Duration = Duration::from_secs(15 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(12 * 3_600);
/// How often is looked whether a certificate has to be renewed.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3_600);
/// Longest file read, in bytes: a key and a chain.
const MAX_FILE: u64 = 256 * 1024;

/// What to ask, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The authority's directory.
    pub directory: DirectoryUrl,
    /// How the authority may reach the operator.
    pub contact: Option<Contact>,
    /// Where the account's key and the certificate are kept.
    pub folder: PathBuf,
    /// The site's name.
    pub name: ServerName,
}

/// Gets certificates and keeps them fresh.
pub struct Acme {
    settings: Settings,
    tls: Arc<Tls>,
    client: Client,
}

/// The authority's addresses for what it does.
struct Directory {
    nonce: Uri,
    account: Uri,
    order: Uri,
}

impl Acme {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// The roots that the authority's own certificate is judged by cannot be read.
    pub fn new(settings: Settings, tls: Arc<Tls>) -> Result<Self> {
        Ok(Self { settings, tls, client: Client::new()? })
    }

    /// Shows the certificate that is kept, if there is one that is not over.
    ///
    /// # Errors
    /// What is kept cannot be read, or others may read it.
    pub fn show_kept(&self) -> Result<bool> {
        let Some(pair) = self.kept()? else { return Ok(false) };
        let Some(first) = pair.chain.first() else { return Ok(false) };
        if left(first)? <= 0 {
            return Ok(false);
        }
        self.tls.set(&pair)?;
        Ok(true)
    }

    /// Gets a certificate, however many tries it takes, and shows it.
    pub async fn get(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            match self.obtain().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(
                        "no certificate for {} yet: {error:#}; tried again in {} min",
                        self.settings.name,
                        wait.as_secs() / 60
                    );
                }
            }
            sleep(wait).await;
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }

    /// Renews the certificate whenever two thirds of its time are over, for ever.
    pub async fn keep(&self) {
        loop {
            match self.kept().and_then(|pair| pair.as_ref().map(due).transpose()) {
                Ok(Some(false)) => {}
                Ok(_) => self.get().await,
                Err(error) => tracing::error!("the site's certificate cannot be looked at: {error:#}"),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// One certificate, kept and shown.
    async fn obtain(&self) -> Result<()> {
        let outcome = self.order().await;
        self.tls.end_challenge();
        let (key, chain) = outcome?;
        let pair = Pair::from_pem(&chain, &key)?;
        let file = Zeroizing::new([key.as_slice(), &chain].concat());
        files::place(&self.file(), &file, 0o600)?;
        self.tls.set(&pair)?;
        tracing::info!("the site has a new certificate for {}", self.settings.name);
        Ok(())
    }

    /// The key and the chain, PEM.
    async fn order(&self) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>)> {
        let directory = self.directory().await?;
        let mut session = Session { acme: self, account: self.account()?, nonce: None, directory };
        session.register().await?;
        let name = self.settings.name.as_str();
        let order = json!({ "identifiers": [{ "type": "dns", "value": name }] });
        let reply = session.post(&session.directory.order.clone(), &order.to_string()).await?;
        let place = reply.location.clone().context("the authority gives the order no address")?;
        let order = reply.json()?;
        for authorization in order["authorizations"].as_array().context("the order has no authorizations")? {
            session
                .authorize(&uri(authorization)?)
                .await
                .context("the authority could not see that the name is ours")?;
        }
        let key = made::key()?;
        let request = json!({ "csr": jws::encode(&made::request(&key, name)?) });
        session.post(&uri(&order["finalize"])?, &request.to_string()).await?;
        let order = session.until(&place, &["valid"]).await.context("the order was not completed")?;
        let chain = session.post(&uri(&order["certificate"])?, "").await?.body;
        let key = Zeroizing::new(key.private_key_to_pem_pkcs8()?);
        Ok((key, chain))
    }

    async fn directory(&self) -> Result<Directory> {
        let address = self.settings.directory.uri();
        let reply = self.client.get(address).await.with_context(|| format!("cannot ask {address}"))?;
        let found = reply.json()?;
        let named = |name: &str| {
            uri(&found[name]).with_context(|| format!("{address} is no ACME directory: no {name}"))
        };
        Ok(Directory { nonce: named("newNonce")?, account: named("newAccount")?, order: named("newOrder")? })
    }

    fn account(&self) -> Result<Account> {
        let path = self.settings.folder.join("account.pem");
        if let Some(pem) = read_private(&path)? {
            return Account::new(
                &PKey::private_key_from_pem(&pem).with_context(|| format!("{} is no key", path.display()))?,
            );
        }
        files::private_folder(&self.settings.folder)?;
        let key = made::key()?;
        files::place(&path, &Zeroizing::new(key.private_key_to_pem_pkcs8()?), 0o600)?;
        Account::new(&key)
    }

    fn file(&self) -> PathBuf {
        self.settings.folder.join(format!("{}.pem", self.settings.name))
    }

    fn kept(&self) -> Result<Option<Pair>> {
        let path = self.file();
        let Some(pem) = read_private(&path)? else { return Ok(None) };
        Pair::from_pem(&pem, &pem).with_context(|| format!("in {}", path.display())).map(Some)
    }
}

/// A file that nobody else may read, if it is there.
fn read_private(path: &std::path::Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    ensure!(
        metadata.permissions().mode() & 0o077 == 0,
        "{0} can be read by others; run: chmod 600 {0}",
        path.display()
    );
    ensure!(metadata.len() <= MAX_FILE, "{} is too long for a key and a certificate", path.display());
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(Zeroizing::new(content)))
}

/// Seconds until a certificate is over.
fn left(certificate: &X509) -> Result<i64> {
    let now = Asn1Time::days_from_now(0)?;
    let left = now.diff(certificate.not_after())?;
    Ok(i64::from(left.days) * 86_400 + i64::from(left.secs))
}

/// Whether less than a third of its time is left.
fn due(pair: &Pair) -> Result<bool> {
    let first = pair.chain.first().context("there is no certificate")?;
    let whole = first.not_before().diff(first.not_after())?;
    let whole = i64::from(whole.days) * 86_400 + i64::from(whole.secs);
    Ok(left(first)? < whole / 3)
}

fn uri(value: &Value) -> Result<Uri> {
    let text = value.as_str().context("an address is missing")?;
    text.parse().with_context(|| format!("`{}` is no address", text.escape_debug()))
}

/// Requests under one account.
struct Session<'a> {
    acme: &'a Acme,
    account: Account,
    nonce: Option<String>,
    directory: Directory,
}

impl Session<'_> {
    async fn register(&mut self) -> Result<()> {
        let contact: Vec<&str> = self.acme.settings.contact.iter().map(Contact::url).collect();
        let account = json!({ "termsOfServiceAgreed": true, "contact": contact });
        let reply =
            self.post(&self.directory.account.clone(), &account.to_string()).await.context("no account")?;
        let id = reply.location.context("the authority gives the account no address")?;
        self.account.registered(id.to_string());
        Ok(())
    }

    async fn authorize(&mut self, place: &Uri) -> Result<()> {
        let authorization = self.post(place, "").await?.json()?;
        if authorization["status"] == "valid" {
            return Ok(());
        }
        let challenges = authorization["challenges"].as_array().context("no challenges")?;
        let challenge = challenges.iter().find(|challenge| challenge["type"] == "tls-alpn-01");
        let challenge = challenge.context("the authority does not offer tls-alpn-01")?;
        let token = challenge["token"].as_str().context("the challenge has no token")?;
        let answer = self.account.key_authorization(token)?;
        self.acme.tls.set_challenge(&made::challenge(self.acme.settings.name.as_str(), &answer)?)?;
        self.post(&uri(&challenge["url"])?, "{}").await?;
        self.until(place, &["valid"]).await?;
        Ok(())
    }

    /// Asks until the object has one of these states.
    async fn until(&mut self, place: &Uri, states: &[&str]) -> Result<Value> {
        let end = Instant::now() + POLL_LIMIT;
        loop {
            let reply = self.post(place, "").await?;
            let object = reply.json()?;
            let state = object["status"].as_str().unwrap_or_default();
            if states.contains(&state) {
                return Ok(object);
            }
            if state == "invalid" {
                bail!("{}", why(&object));
            }
            ensure!(Instant::now() < end, "not within {} s", POLL_LIMIT.as_secs());
            sleep(reply.retry_after.unwrap_or(POLL_PAUSE).min(LONGEST_PAUSE)).await;
        }
    }

    /// A signed request; one whose nonce is refused is made again with the one that came instead.
    async fn post(&mut self, place: &Uri, payload: &str) -> Result<Reply> {
        for _ in 0..NONCE_TRIES {
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.acme.client.head(&self.directory.nonce).await?.nonce.context("no nonce")?,
            };
            let body = self.account.sign(&place.to_string(), &nonce, payload)?;
            let mut reply = self.acme.client.post(place, body).await?;
            self.nonce = reply.nonce.take();
            if (200..300).contains(&reply.status) {
                return Ok(reply);
            }
            let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            if problem["type"] != "urn:ietf:params:acme:error:badNonce" {
                bail!("the authority refuses ({}): {}", reply.status, detail(&problem));
            }
        }
        bail!("the authority refuses every nonce")
    }
}

/// A problem document's words (RFC 7807), fit for one line of a log.
fn detail(problem: &Value) -> String {
    let words = problem["detail"].as_str().or(problem["type"].as_str()).unwrap_or("without a reason");
    words.chars().take(300).collect::<String>().escape_debug().to_string()
}

/// Why an order or authorization is invalid: its own error, or that of its challenge.
fn why(object: &Value) -> String {
    let challenges = object["challenges"].as_array().into_iter().flatten();
    let errors = std::iter::once(object).chain(challenges).map(|part| &part["error"]);
    let found = errors.into_iter().find(|error| error.is_object());
    found.map_or_else(|| "the authority says no, and not why".to_owned(), detail)
}
