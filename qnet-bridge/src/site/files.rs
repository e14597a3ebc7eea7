//! A static site in memory: a table from the paths of its URLs to its files.
//!
//! A request is looked up and never becomes a file's name, so no request can leave the folder. Names that begin with a dot are
//! left out (but `.well-known`), and so are links that lead out of the folder: they are an error, since somebody wanted them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Most bytes of all files together: they are kept in memory.
const MAX_BYTES: usize = 256 << 20;
/// Most files.
const MAX_FILES: usize = 20_000;
/// Deepest folder below the site's.
const MAX_DEPTH: usize = 32;
/// The page for what is not there, where the site has none of its own.
const NOT_FOUND: &str = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n<body><h1>Not Found</h1>\n\
                         <p>The requested page was not found on this server.</p></body></html>\n";

/// A file as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub content: Bytes,
    /// Its media type.
    pub kind: &'static str,
    /// A name for this content, in quotes (RFC 9110, section 8.8.3).
    pub tag: String,
    /// When it was changed, as HTTP writes it (RFC 9110, section 5.6.7).
    pub changed: String,
}

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A file.
    File(&'a File),
    /// A folder's page is at the path with a slash.
    Folder,
    /// Nothing; this page says so.
    Nothing(&'a File),
}

/// A whole site.
#[derive(Debug)]
pub struct Files {
    /// By URL path, decoded, with the first slash. A folder's page is under the folder's path with the last slash.
    table: HashMap<String, File>,
    missing: File,
}

impl Files {
    /// Reads every file below `folder`.
    ///
    /// # Errors
    /// It cannot be read, has no `index.html`, is too large, or a link leads out of it.
    pub fn read(folder: &Path) -> Result<Self> {
        let root =
            folder.canonicalize().with_context(|| format!("cannot read the site {}", folder.display()))?;
        let mut reader = Reader { root: root.clone(), table: HashMap::new(), bytes: 0 };
        reader.folder(&root, "/", 0)?;
        let table = reader.table;
        ensure!(
            table.contains_key("/"),
            "the site {} has no index.html, which visitors ask for first",
            folder.display()
        );
        let missing = table.get("/404.html").cloned();
        let missing = missing
            .unwrap_or_else(|| File::new(Bytes::from_static(NOT_FOUND.as_bytes()), "html", UNIX_EPOCH));
        Ok(Self { table, missing })
    }

    /// What a URL's path names, as it stands in a request: percent-encoded.
    #[must_use]
    pub fn get(&self, path: &str) -> Found<'_> {
        let Some(path) = decode(path) else { return Found::Nothing(&self.missing) };
        match self.table.get(&path) {
            Some(file) => Found::File(file),
            None if !path.is_empty() && self.table.contains_key(&format!("{path}/")) => Found::Folder,
            None => Found::Nothing(&self.missing),
        }
    }
}

struct Reader {
    root: PathBuf,
    table: HashMap<String, File>,
    bytes: usize,
}

impl Reader {
    fn folder(&mut self, folder: &Path, url: &str, depth: usize) -> Result<()> {
        ensure!(
            depth <= MAX_DEPTH,
            "{} is too deep: a site has {MAX_DEPTH} folders in one another at most",
            folder.display()
        );
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                bail!("{} has a name that is not UTF-8", entry.path().display())
            };
            if name.starts_with('.') && name != ".well-known" {
                continue;
            }
            let path = entry
                .path()
                .canonicalize()
                .with_context(|| format!("cannot read {}", entry.path().display()))?;
            ensure!(
                path.starts_with(&self.root),
                "{} leads out of the site; copy what it points to",
                entry.path().display()
            );
            if path.is_dir() {
                self.folder(&path, &format!("{url}{name}/"), depth + 1)?;
            } else {
                self.file(&path, url, name)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, url: &str, name: &str) -> Result<()> {
        let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(metadata.is_file(), "{} is neither a file nor a folder", path.display());
        let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        self.bytes = self.bytes.saturating_add(length);
        ensure!(
            self.bytes <= MAX_BYTES && self.table.len() < MAX_FILES,
            "the site {} is too large to be kept in memory ({} MiB, {MAX_FILES} files): take a web server, and decoy= instead of site=",
            self.root.display(),
            MAX_BYTES >> 20
        );
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let end = name.rsplit_once('.').map_or("", |(_, end)| end);
        let file = File::new(content.into(), end, metadata.modified().unwrap_or(UNIX_EPOCH));
        if name == "index.html" {
            self.table.insert(url.to_owned(), file.clone());
        }
        self.table.insert(format!("{url}{name}"), file);
        Ok(())
    }
}

impl File {
    fn new(content: Bytes, end: &str, changed: SystemTime) -> Self {
        let digest = Sha256::digest(&content);
        let tag = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        Self {
            content,
            kind: kind(end),
            tag: format!("\"{tag}\""),
            changed: httpdate::fmt_http_date(changed),
        }
    }
}

/// The media type by a name's end.
fn kind(end: &str) -> &'static str {
    match end.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "xml" | "rss" | "atom" => "application/xml",
        "txt" | "md" => "text/plain; charset=utf-8",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "svg" => "image/svg+xml",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

/// Percent-decoding (RFC 3986, section 2.1); `None` for what is not UTF-8 then, or not an encoding.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2)?;
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let [high, low] = digits else { return None };
        bytes.push(value(*high)? << 4 | value(*low)?);
        rest = more;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("index.html", "front");
        write("a b/index.html", "inner");
        write("style.css", "p{}");
        write("größe.txt", "large");
        write(".git/config", "secret");
        write(".well-known/security.txt", "mail");
        folder
    }

    fn content<'a>(files: &'a Files, path: &str) -> Option<&'a [u8]> {
        match files.get(path) {
            Found::File(file) => Some(&file.content),
            _ => None,
        }
    }

    #[test]
    fn what_is_there_and_nothing_else() {
        let folder = site();
        let files = Files::read(folder.path()).unwrap();
        for (path, expected) in [
            ("/", &b"front"[..]),
            ("/index.html", b"front"),
            ("/a%20b/", b"inner"),
            ("/style.css", b"p{}"),
            ("/gr%C3%B6%c3%9fe.txt", b"large"),
            ("/.well-known/security.txt", b"mail"),
        ] {
            assert_eq!(content(&files, path), Some(expected), "{path}");
        }
        assert_eq!(files.get("/a%20b"), Found::Folder);
        for path in [
            "",
            "index.html",
            "//",
            "/./",
            "/../",
            "/a%20b/../index.html",
            "/.git/config",
            "/%2e%2e/etc/passwd",
            "/%2fetc/passwd",
            "/..%2f..%2fetc/passwd",
            "/style.css/",
            "/style.css%00",
            "/%",
            "/%2",
            "/%zz",
            "/%ff",
            "/STYLE.css",
            "/\\index.html",
        ] {
            assert!(matches!(files.get(path), Found::Nothing(_)), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_a_site_says_why() {
        let said = |folder: &Path| format!("{:#}", Files::read(folder).unwrap_err());
        let folder = site();
        assert!(said(&folder.path().join("none")).contains("cannot read the site"));
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("users.txt")).unwrap();
        assert!(said(folder.path()).contains("leads out of the site"));
        fs::remove_file(folder.path().join("users.txt")).unwrap();
        std::os::unix::fs::symlink("style.css", folder.path().join("again.css")).unwrap();
        assert_eq!(content(&Files::read(folder.path()).unwrap(), "/again.css"), Some(&b"p{}"[..]));
        std::os::unix::fs::symlink(".", folder.path().join("loop")).unwrap();
        assert!(said(folder.path()).contains("too deep"));
        fs::remove_file(folder.path().join("loop")).unwrap();
        fs::remove_file(folder.path().join("index.html")).unwrap();
        assert!(said(folder.path()).contains("no index.html"));
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_folder(path in "[/.%2eEfF5cC\\\\a-c]{0,40}") {
            let folder = site();
            let files = Files::read(folder.path()).unwrap();
            if let Found::File(file) = files.get(&path) {
                let known = [&b"front"[..], b"inner", b"p{}", b"large", b"mail"].contains(&&*file.content);
                prop_assert!(known);
            }
        }
    }
}
