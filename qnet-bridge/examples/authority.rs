//! The tests' certificate authority as a program, for `deploy/systemd/test`: it finds NAME at ADDRESS, keeps what is to be believed in
//! FOLDER, writes its directory's URL to FOLDER/directory, and runs until it is ended.
#![forbid(unsafe_code)]

#[path = "../tests/support/acme.rs"]
#[expect(dead_code, reason = "what the tests count and age is not asked for here")]
mod acme;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let usage = "usage: authority FOLDER NAME ADDRESS";
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().context(usage);
    let (folder, name, address) = (PathBuf::from(word()?), word()?, word()?.parse().context(usage)?);
    let authority = acme::Authority::start(&folder, &name, address, 90).await?;
    // At once, for whoever waits for it.
    fs::write(folder.join("new"), &authority.directory)?;
    fs::rename(folder.join("new"), folder.join("directory"))?;
    std::future::pending().await
}
