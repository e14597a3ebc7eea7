//! The built-in decoy: the operator's own static site on loopback, with HTTP/2 and TLS 1.3, for who wants no web server beside.
//!
//! | module | what it holds |
//! |---|---|
//! | `files` | the site, read whole into memory: what is not in the table does not exist |
//! | `serve` | HTTP over the connections that the bridge passes on |
//! | `websocket` | a secret path of it, where clients open websockets to the bridge |
//! | `tls` | the certificate of the moment, and the one that answers a certificate authority's question |
//!
//! TLS is BoringSSL's, which is here already for the client's side (docs/decisions/0013). A stranger meets this TLS stack and this HTTP
//! server, as he would meet nginx's: fewer sites have them, which is a reason for nginx where there is a choice.

pub mod files;
mod serve;
pub mod tls;
mod websocket;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use anyhow::Result;
use tokio::{net::TcpListener, task::JoinHandle};

use files::Files;
use tls::Tls;
pub use websocket::Websockets;

/// A site that is served. Ends when dropped; its connections then end with their visitors.
pub struct Site {
    address: SocketAddr,
    folder: PathBuf,
    files: Shared,
    way: Way,
    task: JoinHandle<()>,
}

type Shared = Arc<RwLock<Arc<Files>>>;
/// Where websockets go, once that is known.
type Way = Arc<OnceLock<Websockets>>;

impl Site {
    /// Reads the site and serves it on a free loopback port.
    ///
    /// # Errors
    /// The site cannot be read, or no port can be had.
    pub async fn start(folder: &Path, tls: Arc<Tls>) -> Result<Self> {
        let files: Shared = Arc::new(RwLock::new(Arc::new(Files::read(folder)?)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let way = Way::default();
        let task = tokio::spawn(serve::serve(listener, tls, Arc::clone(&files), Arc::clone(&way)));
        Ok(Self { address, folder: folder.to_owned(), files, way, task })
    }

    /// Hands websockets on from now on, if it did not already.
    pub fn hand_on(&self, websockets: Websockets) {
        self.way.get_or_init(|| websockets);
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads the site again; where that fails, what was there goes on being served.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn reload(&self) -> Result<()> {
        let new = Arc::new(Files::read(&self.folder)?);
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now(files: &Shared) -> Arc<Files> {
    Arc::clone(&files.read().unwrap_or_else(PoisonError::into_inner))
}

/// Whether an error of accepting concerns one connection alone.
fn passes(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted
}
