//! Sites that differ as real ones do: in how many files of which kind and size, on how many hosts, asked for by the page, by a
//! style sheet or by a script, at once or one after the other.
//!
//! Counts and sizes are log-normal, as files on the web are (Barford and Crovella, SIGMETRICS 1998: sigma 1.3 for sizes), around
//! medians of the HTTP Archive: requests and bytes by kind of the Web Almanac 2024 (chapter "Page Weight", desktop), and for one
//! picture what it published in 2018 (median 19 kB, nine tenths below 108 kB, which is sigma 1.36). Both are halved, so
//! that thousands of visits end the same day: the first twenty sites here weigh 0.8 MB on average.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

/// All sites' hosts are below it.
pub(super) const DOMAIN: &str = "example.net";

/// Changes when the sites do: visits to others cannot be compared with these.
pub(super) const VERSION: u32 = 1;

/// How much the number of files of one kind varies from site to site: pages' weights have sigma 1 (2.0 MB, 4.0 and 7.4 at the 50th, 75th and
/// 90th percentiles, Web Almanac 2020), and sizes have their part in it.
const COUNT_SIGMA: f64 = 0.7;

/// How much the sizes of files of one kind vary.
const SIZE_SIGMA: f64 = 1.3;

/// The most files of a kind, and the smallest and largest file, bytes: a page that is all of a run's time would say little.
const MOST: usize = 40;
const SIZES: RangeInclusive<usize> = 150..=400_000;

/// What a page is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Style,
    Script,
    Font,
    Picture,
    Data,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Style, Self::Script, Self::Font, Self::Picture, Self::Data];

    /// The median number on a page and the median size, bytes, both halved; data fetched by scripts are what the Almanac's kinds leave of its
    /// 71 requests.
    fn medians(self) -> (f64, f64) {
        match self {
            Self::Style => (4.0, 5_000.0),
            Self::Script => (12.0, 12_500.0),
            Self::Font => (2.0, 16_500.0),
            Self::Picture => (9.0, 9_500.0),
            Self::Data => (4.0, 1_000.0),
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Style => "css",
            Self::Script => "js",
            Self::Font => "woff2",
            Self::Picture => "bmp",
            Self::Data => "json",
        }
    }
}

/// All sites, behind one web server.
pub(super) struct Sites {
    decoy: Decoy,
    _folder: TempDir,
}

impl Sites {
    /// So many sites; the same ones every time.
    pub(super) fn start(count: usize) -> Result<Self> {
        let folder = TempDir::new()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        for number in 0..count {
            Site::draw(number).write(folder.path())?;
        }
        // The port differs from visit to visit, and a page can name another host only with it.
        let extra = format!(
            "location / {{ root {folder}/$host; add_header Access-Control-Allow-Origin *; \
             if ($http_host ~ \":([0-9]+)$\") {{ set $port $1; }} sub_filter @PORT@ $port; sub_filter_once off; }}",
            folder = folder.path().display()
        );
        let decoy = Decoy::start(Server::Nginx, Options { extra, ..Options::default() })?;
        Ok(Self { decoy, _folder: folder })
    }

    /// Where they are.
    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.decoy.address()
    }

    /// A site's page, asked for at a port of loopback.
    pub(super) fn url(number: usize, port: u16) -> String {
        format!("https://{}:{port}/", host(number, 0))
    }
}

/// The `which`th host of a site; its page is on the first.
fn host(site: usize, which: usize) -> String {
    format!("h{which}-site{site}.{DOMAIN}")
}

struct File {
    kind: Kind,
    /// Which of the site's hosts has it.
    host: usize,
    size: usize,
}

struct Site {
    number: usize,
    files: Vec<File>,
    /// The page's text, bytes.
    text: usize,
    /// Whether scripts stop the page while they load, as they do unless a page says otherwise.
    blocking: bool,
    /// Whether data are fetched one after the other.
    in_turn: bool,
    rng: ChaCha20Rng,
}

impl Site {
    fn draw(number: usize) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(number as u64);
        let hosts = 1 + below(&mut rng, 3);
        let mut files = Vec::new();
        for kind in Kind::ALL {
            let (count, size) = kind.medians();
            let own = below(&mut rng, hosts);
            for _ in 0..log_normal(&mut rng, count, COUNT_SIGMA, 0..=MOST) {
                let size = log_normal(&mut rng, size, SIZE_SIGMA, SIZES);
                // A script may not read what another host sends it.
                let host = if kind == Kind::Data { 0 } else { own };
                files.push(File { kind, host, size });
            }
        }
        let text = log_normal(&mut rng, 9_000.0, SIZE_SIGMA, SIZES);
        let (blocking, in_turn) = (below(&mut rng, 2) == 0, below(&mut rng, 2) == 0);
        Self { number, files, text, blocking, in_turn, rng }
    }

    fn write(mut self, folder: &Path) -> Result<()> {
        let mut head = String::new();
        let mut body = String::new();
        let mut data = String::new();
        let pictures_by_style = below(&mut self.rng, 3);
        let mut style = String::new();
        let files = std::mem::take(&mut self.files);
        for (place, file) in files.iter().enumerate() {
            let path = format!("{place}.{}", file.kind.ending());
            let url = format!("//{}:@PORT@/{path}", host(self.number, file.host));
            match file.kind {
                Kind::Style => write!(head, "<link rel=stylesheet href={url}>")?,
                Kind::Script if self.blocking => write!(body, "<script src={url}></script>")?,
                Kind::Script => write!(head, "<script async src={url}></script>")?,
                Kind::Font => write!(
                    style,
                    "@font-face{{font-family:f{place};src:url({url})}}h{}{{font-family:f{place}}}",
                    place % 6 + 1
                )?,
                Kind::Picture if place % 3 < pictures_by_style => {
                    write!(style, "#p{place}{{background-image:url({url})}}")?;
                    write!(body, "<div id=p{place}>.</div>")?;
                }
                Kind::Picture => write!(body, "<img src={url}>")?,
                Kind::Data => write!(data, "'/{path}',")?,
            }
            let root = folder.join(host(self.number, file.host));
            fs::create_dir_all(&root)?;
            fs::write(root.join(path), content(file.kind, file.size, &mut self.rng))?;
        }
        let fetch = "async one => (await fetch(one)).arrayBuffer()";
        let all = match self.in_turn {
            true => format!("(async () => {{ for (const one of [{data}]) await ({fetch})(one) }})()"),
            false => format!("Promise.all([{data}].map({fetch}))"),
        };
        let headings: String = (1..=6).map(|level| format!("<h{level}>{level}</h{level}>")).collect();
        let text = letters(self.text, &mut self.rng);
        let page = format!(
            "<!doctype html><html><head><meta charset=utf-8><title>{number}</title><link rel=icon href=data:,>{head}\
             <style>{style}</style></head><body>{headings}<p>{text}</p>{body}\
             <script>addEventListener('load', () => {{ window.done = {all} }});</script></body></html>",
            number = self.number,
        );
        let root = folder.join(host(self.number, 0));
        fs::create_dir_all(&root)?;
        fs::write(root.join("index.html"), page).context("a page")
    }
}

fn content(kind: Kind, size: usize, rng: &mut ChaCha20Rng) -> Vec<u8> {
    match kind {
        Kind::Style | Kind::Script => format!("/*{}*/", letters(size, rng)).into_bytes(),
        Kind::Data => format!("\"{}\"", letters(size, rng)).into_bytes(),
        Kind::Font => bytes(size, rng),
        Kind::Picture => bitmap(size, rng),
    }
}

/// An uncompressed picture of about so many bytes: a browser stops loading one that it cannot decode.
fn bitmap(size: usize, rng: &mut ChaCha20Rng) -> Vec<u8> {
    const WIDTH: u32 = 16;
    let height = u32::try_from(size).unwrap_or(u32::MAX).div_ceil(WIDTH * 3).max(1);
    let pixels = bytes((WIDTH * 3 * height) as usize, rng);
    let mut out = b"BM".to_vec();
    for number in [54 + WIDTH * 3 * height, 0, 54, 40, WIDTH, height, 1 | 24 << 16, 0, 0, 0, 0, 0, 0] {
        out.extend(number.to_le_bytes());
    }
    out.extend(pixels);
    out
}

fn bytes(size: usize, rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut out = vec![0; size];
    rng.fill_bytes(&mut out);
    out
}

fn letters(size: usize, rng: &mut ChaCha20Rng) -> String {
    bytes(size, rng).into_iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

fn below(rng: &mut ChaCha20Rng, limit: usize) -> usize {
    rng.next_u32() as usize % limit
}

/// A log-normal number with this median within a range, by Box and Muller's method.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what a cast does to numbers beyond the type's is what the range does"
)]
fn log_normal(rng: &mut ChaCha20Rng, median: f64, sigma: f64, range: RangeInclusive<usize>) -> usize {
    let mut even = || (f64::from(rng.next_u32()) + 0.5) / (f64::from(u32::MAX) + 1.0);
    let (radius, angle) = ((-2.0 * even().ln()).sqrt(), std::f64::consts::TAU * even());
    let drawn = median * (sigma * radius * angle.cos()).exp();
    (drawn.round() as usize).clamp(*range.start(), *range.end())
}
