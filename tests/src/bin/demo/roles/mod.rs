//! The five who play: what each process does.

mod bridge;
mod client;
mod news;
mod site;
mod visitor;

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::actor::heed_parent;

/// The site whose visitor the client seems to be.
pub(crate) const SITE_NAME: &str = "kayaks.example";

/// The host the client asks for.
pub(crate) const NEWS_NAME: &str = "news.example";

/// The file of the authority that signed the site's certificate, in the folder that all share.
const AUTHORITY: &str = "ca.pem";

/// The file in which the client leaves what it received.
pub(crate) const RECEIVED: &str = "page.html";

/// The longest head of an HTTP/1.1 message that is read, bytes.
const MAX_HEAD: usize = 4_096;

/// Plays the role that the first argument names; the rest are what it needs.
///
/// # Errors
/// The role's.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut given = arguments.iter().map(String::as_str);
    let role = given.next().context("a role is needed")?;
    let mut next = || given.next().with_context(|| format!("the {role} needs more arguments"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match role {
        "news" => {
            heed_parent(|| ());
            runtime.block_on(news::run())
        }
        "site" => {
            let folder = std::path::PathBuf::from(next()?);
            let gone = folder.clone();
            // Where the parent ended in order the folder is gone already.
            heed_parent(move || std::fs::remove_dir_all(gone).unwrap_or_default());
            runtime.block_on(site::run(&folder))
        }
        "bridge" => {
            let (decoy, news) = (next()?.parse()?, next()?.parse()?);
            heed_parent(|| ());
            runtime.block_on(bridge::run(decoy, news))
        }
        "client" => {
            let (line, folder) = (next()?.parse()?, next()?);
            let close = heed_parent(|| ());
            runtime.block_on(client::run(&line, folder.as_ref(), &close))
        }
        "visitor" => {
            let (bridge, site, folder) = (next()?.parse()?, next()?.parse()?, next()?);
            heed_parent(|| ());
            runtime.block_on(visitor::run(bridge, site, folder.as_ref()))
        }
        other => bail!("nobody plays the {other}"),
    }
}

/// A SHA-256 in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The length of an HTTP/1.1 message's head, its empty line included, once it is there.
fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}
