//! What `init` makes for the websocket cover: a path that nobody guesses, and what hands it on in nginx.

use std::path::Path;

use anyhow::{Context as _, Result};
use qnet_wire::{name::ServerName, url::WebsocketUrl};

use crate::{
    files,
    settings::{BEHIND_LISTEN, Settings},
};

/// What paths are made of, and how many such letters have 96 bits: nobody finds one of 2^96 by asking.
const ALPHABETS: [(&[u8], usize); 4] = [
    (b"0123456789abcdef", 24),
    (b"abcdefghijklmnopqrstuvwxyz", 21),
    (b"abcdefghijklmnopqrstuvwxyz0123456789", 19),
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 17),
];
/// Letters more than that at most, and what may stand between letters, at most twice: no two bridges' paths need look alike.
const MORE: usize = 8;
const BETWEEN: &[u8] = b"/-_";
const CUTS: usize = 2;

/// The address of the websocket at `host`: the one that is in `file` or in the settings `config` already, or a new one.
pub(super) fn url(file: &Path, config: &Path, host: &ServerName) -> Result<WebsocketUrl> {
    let there = files::read_plain(file).ok();
    let there = there.and_then(|(text, _)| str::from_utf8(&text).ok()?.trim().parse().ok());
    let there = there.or_else(|| Settings::read(config).ok()?.url);
    match there.filter(|url: &WebsocketUrl| url.host() == host) {
        Some(url) => Ok(url),
        None => format!("https://{host}{}", path()?).parse().context("the path that was made"),
    }
}

/// A path of a shape of its own.
fn path() -> Result<String> {
    let (alphabet, least) = ALPHABETS[below(ALPHABETS.len())?];
    let mut path = Vec::new();
    for _ in 0..least + below(MORE + 1)? {
        path.push(alphabet[below(alphabet.len())?]);
    }
    for _ in 0..below(CUTS + 1)? {
        // Between two letters.
        let at = 1 + below(path.len() - 1)?;
        if path[at - 1..=at].iter().all(u8::is_ascii_alphanumeric) {
            path.insert(at, BETWEEN[below(BETWEEN.len())?]);
        }
    }
    Ok(format!("/{}", String::from_utf8(path)?))
}

/// A number under `bound`, each as likely as the others; `bound` is 1 to 256.
fn below(bound: usize) -> Result<usize> {
    let even = 256 - 256 % bound;
    loop {
        let mut byte = [0];
        boring::rand::rand_bytes(&mut byte).context("the system gives no random bytes")?;
        if usize::from(byte[0]) < even {
            return Ok(usize::from(byte[0]) % bound);
        }
    }
}

/// For the server block of the site.
pub(super) fn nginx(url: &WebsocketUrl) -> String {
    // Servers leave the query out when they match.
    let path = url.path().split('?').next().unwrap_or_default();
    format!(
        "# Written by `qnet-bridge init`: the way to the bridge. In the server block of {host}:\n\
         #   include {FILE};\n\
         location = {path} {{\n    \
             proxy_pass http://{BEHIND_LISTEN};\n    \
             proxy_http_version 1.1;\n    \
             proxy_set_header Host $host;\n    \
             proxy_set_header Upgrade $http_upgrade;\n    \
             proxy_set_header Connection $http_connection;\n    \
             # Whose it is, for the limits of one client. Behind a CDN see nginx's module realip.\n    \
             proxy_set_header X-Forwarded-For $remote_addr;\n    \
             proxy_read_timeout 1h;\n    \
             access_log off;\n\
         }}\n",
        host = url.host(),
    )
}

/// Where that is written.
pub(super) const FILE: &str = "/etc/qnet-bridge/nginx.conf";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use std::fs;

    use super::*;

    #[test]
    fn paths_are_legal_and_of_many_shapes() {
        let (mut all, mut shapes) = (HashSet::new(), HashSet::new());
        for _ in 0..300 {
            let path = path().unwrap();
            let url: WebsocketUrl = format!("https://a.example{path}").parse().unwrap();
            assert_eq!(url.path(), path);
            let letters = path.bytes().filter(u8::is_ascii_alphanumeric).count();
            assert!((17..=24 + MORE).contains(&letters), "{path}");
            shapes.insert((path.len(), path.matches(['-', '_', '/']).count()));
            assert!(all.insert(path), "twice the same");
        }
        assert!(shapes.len() > 20, "{shapes:?}");
    }

    #[test]
    fn numbers_are_drawn_evenly() {
        let mut counts = [0; 3];
        (0..3_000).for_each(|_| counts[below(3).unwrap()] += 1);
        // Six standard deviations, of 26 each.
        assert!(counts.iter().all(|count| (840..=1_160).contains(count)), "{counts:?}");
        assert_eq!(below(1).unwrap(), 0);
        assert!(below(256).unwrap() < 256);
    }

    #[test]
    fn the_path_that_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (file, config) = (folder.path().join("url"), folder.path().join("bridge.toml"));
        let (host, other): (ServerName, ServerName) =
            ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        assert_ne!(url(&file, &config, &host).unwrap(), url(&file, &config, &host).unwrap());
        fs::write(&config, "url = \"https://a.example/mine\"").unwrap();
        assert_eq!(url(&file, &config, &host).unwrap().path(), "/mine");
        assert_ne!(url(&file, &config, &other).unwrap().path(), "/mine");
        fs::write(&file, "https://a.example/ours\n").unwrap();
        assert_eq!(url(&file, &config, &host).unwrap().path(), "/ours");
        assert_ne!(url(&file, &config, &other).unwrap().path(), "/ours");
    }
}
