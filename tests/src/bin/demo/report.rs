//! What is printed: a table of two columns in plain text, 80 wide.

use qnet_transport::tls::chrome::CHROME_156;

use crate::roles::{NEWS_NAME, SITE_NAME};
use crate::seen::{Direction, PIECE, Seen};

/// Widths of the table's columns, with two blanks between them: 80 in all. A JA4 has 36 letters.
const WIDTHS: [usize; 3] = [11, 36, 29];

/// Where the censor has nothing.
const HIDDEN: &str = "(not visible)";

/// Everything there is to tell.
pub(crate) struct Facts {
    /// What the wire showed of the client's connection.
    pub(crate) seen: Seen,
    /// The page as the client received it.
    pub(crate) page: Vec<u8>,
    /// How many pieces of it were on the wire in clear.
    pub(crate) found: usize,
    /// The page's SHA-256 as its server sent it.
    pub(crate) served: String,
    /// And as the client received it.
    pub(crate) received: String,
    /// Bytes through the tunnel's stream, up and down.
    pub(crate) payload: [String; 2],
    /// How long until the tunnel was up, milliseconds.
    pub(crate) tunnel_ms: String,
    /// How long the page then took, milliseconds.
    pub(crate) page_ms: String,
    /// The censor's own visits.
    pub(crate) visits: Visits,
    /// How many requests the site answered in the client's connection.
    pub(crate) requests: String,
    /// The program that made them, as it called itself.
    pub(crate) agent: String,
}

/// What the censor's visits brought: SHA-256 of the certificate, of the front page, and the certificate's subject.
#[derive(Debug)]
pub(crate) struct Visits {
    /// At the bridge's address.
    pub(crate) at_bridge: [String; 3],
    /// At the site's own.
    pub(crate) at_site: [String; 3],
}

/// The whole report.
pub(crate) fn text(facts: &Facts) -> String {
    let Facts { seen, page, served, received, .. } = facts;
    let mut out = String::from(
        "One page through a bridge on this machine, over a wire that a censor watches\n\
         (15 ms each way). The site, the bridge, the client, the censor's own visitor\n\
         and the news server that the censor would block are a process each.\n\n",
    );
    row(&mut out, ["", "WHAT THE CENSOR SAW", "WHAT REALLY HAPPENED"]);
    row(&mut out, WIDTHS.map(|width| "-".repeat(width)).each_ref().map(String::as_str));
    for (label, left, right) in rows(facts) {
        row(&mut out, [label, &left, &right]);
    }
    out.push_str(&format!(
        "\nThe page of {NEWS_NAME}, {} bytes, by SHA-256:\nserved   {served}\nreceived {received}\n\
         The same. Found in the {} bytes of the wire: {} of its {PIECE}-byte pieces.\n\n\
         It shows how the parts fit, not what a censor could learn from more than one\n\
         connection; docs/threat-model.md says what QNet does not promise.\n",
        page.len(),
        seen.up.bytes + seen.down.bytes,
        facts.found,
    ));
    out
}

fn rows(facts: &Facts) -> Vec<(&'static str, String, String)> {
    let mut rows = hello(&facts.seen);
    rows.extend(answer(facts));
    rows.extend(flow(facts));
    rows
}

/// What the client said in clear, and the server after it.
fn hello(seen: &Seen) -> Vec<(&'static str, String, String)> {
    let browser = CHROME_156.browser;
    let who = if seen.ja4 == CHROME_156.ja4 {
        format!("the client; as {browser} sends it, captured {}", CHROME_156.captured)
    } else {
        format!("the client; NOT that of {browser}, {}", CHROME_156.ja4)
    };
    let (ech, token) = match seen.ech {
        true => ("has an ECH field, as Chromium's has", "a token for the bridge, encrypted"),
        false => ("has no ECH field", "nothing"),
    };
    vec![
        ("server name", seen.name.clone(), format!("{NEWS_NAME}, asked for inside")),
        ("hello's JA4", seen.ja4.clone(), who),
        ("hello's ECH", ech.into(), token.into()),
        ("ALPN", format!("offered: {}", seen.protocols), format!("h2, with {SITE_NAME}")),
        ("TLS", seen.chosen.clone(), format!("with {SITE_NAME}, all passed on by the bridge")),
    ]
}

/// Who is at the other end.
fn answer(facts: &Facts) -> Vec<(&'static str, String, String)> {
    let [certificate, page, subject] = &facts.visits.at_bridge;
    let (certificate, page) = (short(certificate), short(page));
    vec![
        (
            "who answers",
            format!("its own visit, meanwhile: certificate {certificate} for {subject}, page {page}"),
            format!("{SITE_NAME}; a visit there brings the same certificate and page"),
        ),
        (
            "site's log",
            HIDDEN.into(),
            format!("a visit of {} requests by {}", facts.requests, browser(&facts.agent)),
        ),
    ]
}

/// What passed, and when.
fn flow(facts: &Facts) -> Vec<(&'static str, String, String)> {
    let Facts { seen, payload: [request, answer], .. } = facts;
    let Seen { up, down, .. } = seen;
    vec![
        (
            "records",
            format!("{} up, {} down", up.records, down.records),
            "a page load, then the tunnel".into(),
        ),
        (
            "bytes",
            format!("{} up, {} down", up.bytes, down.bytes),
            format!("payload {request} up, {answer} down"),
        ),
        ("first up", lengths(up), "hello, page load, knock in its last request, tunnel".into()),
        ("first down", lengths(down), "handshake, page, proof, tunnel".into()),
        (
            "time",
            format!("{} ms, first to last byte", seen.lasted.as_millis()),
            format!("tunnel {} ms, page {} ms", facts.tunnel_ms, facts.page_ms),
        ),
        (
            "inside",
            "encrypted records".into(),
            "Noise XKpsk2 with X25519 and ML-KEM-768, client to bridge".into(),
        ),
    ]
}

/// The first records' lengths, as many as have room on two lines.
fn lengths(direction: &Direction) -> String {
    direction.first.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
}

/// The beginning of a hash, enough to tell two apart.
fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

/// What a user agent calls its browser: the part that begins with "Chrome/", or all of it.
fn browser(agent: &str) -> &str {
    agent.split(' ').find(|part| part.starts_with("Chrome/")).unwrap_or(agent)
}

/// One row, each cell broken between words where it is too long for its column.
fn row(out: &mut String, cells: [&str; 3]) {
    let mut cells = [0, 1, 2].map(|n| wrap(cells[n], WIDTHS[n]).into_iter());
    loop {
        let line = cells.each_mut().map(Iterator::next);
        if line.iter().all(Option::is_none) {
            return;
        }
        let [label, left, right] = line.map(Option::unwrap_or_default);
        let [a, b, _] = WIDTHS;
        out.push_str(format!("{label:a$}  {left:b$}  {right}").trim_end());
        out.push('\n');
    }
}

/// `text` in lines of at most `width` letters; a longer word has a line to itself.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
