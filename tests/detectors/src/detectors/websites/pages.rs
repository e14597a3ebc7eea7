//! Sites of different make, each with one page: few large files or many small ones, text or pictures, at once or one after the
//! other by a script.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use qnet_tests::support::decoy::{Decoy, Options, Server};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

/// What the server logs when the browser has loaded the page: its last request.
pub(super) const LOADED: &str = "GET /loaded";

/// A file's least size, and how much larger the classes of sizes are, bytes.
const SMALL: usize = 800;
const LARGE: [usize; 4] = [2_000, 12_000, 45_000, 160_000];

/// A running site, and the folder it reads.
pub(super) struct Site {
    decoy: Decoy,
    _folder: TempDir,
}

impl std::ops::Deref for Site {
    type Target = Decoy;

    fn deref(&self) -> &Decoy {
        &self.decoy
    }
}

/// So many sites; the same ones every time.
pub(super) fn sites(count: usize) -> Result<Vec<Site>> {
    (0..count as u64).map(site).collect()
}

fn site(seed: u64) -> Result<Site> {
    let folder = TempDir::new()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    write(folder.path(), seed)?;
    let extra =
        format!("location / {{ root {}; }} location /loaded {{ return 204; }}", folder.path().display());
    let decoy = Decoy::start(Server::Nginx, Options { extra, ..Options::default() })?;
    Ok(Site { decoy, _folder: folder })
}

fn write(folder: &Path, seed: u64) -> Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut draw = |below: usize| rng.next_u32() as usize % below.max(1);
    let files = 1 + draw(24);
    let class = draw(LARGE.len());
    let by_script = draw(3) == 0;
    for number in 0..files {
        let size = SMALL + draw(LARGE.get(class).copied().unwrap_or(SMALL));
        let bytes: Vec<u8> = (0..size).map(|_| draw(256).to_le_bytes()[0]).collect();
        fs::write(folder.join(format!("{number}.bin")), bytes)?;
    }
    let text: String =
        (0..SMALL + draw(60_000)).map(|_| char::from(b'a' + draw(26).to_le_bytes()[0])).collect();
    let wait = if by_script {
        "for (const one of all) await one();"
    } else {
        "await Promise.all(all.map(one => one()));"
    };
    let page = format!(
        "<!doctype html><title>{seed}</title><p>{text}</p><script>(async () => {{ \
         const all = [...Array({files}).keys()].map(n => async () => (await fetch('/' + n + '.bin')).arrayBuffer()); \
         {wait} await fetch('/loaded'); }})();</script>"
    );
    fs::write(folder.join("index.html"), page)?;
    Ok(())
}
