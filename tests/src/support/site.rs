//! A small web site such as a bridge's operator might have: a page with its style, script, pictures and icon, and a
//! file worth downloading.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// What the page shows, and a visitor can look for.
pub const HEADLINE: &str = "Kayaks of the upper valley";

/// The big file's size, bytes.
pub const BIG_FILE: usize = 20_000_000;

/// Each file's path in the site, in the order in which a browser asks for them.
pub const PAGE_LOAD: [&str; 6] = ["index.html", "style.css", "boat.png", "map.png", "menu.js", "favicon.ico"];

/// A page that visits the site's others, sends a form, and ends with asking for [`VISITED`].
pub const TOUR: &str = "/tour.html";

/// What a page asks for when a visit is over.
pub const VISITED: &str = "/visited.txt";

/// What the form of [`TOUR`] holds, bytes.
pub const FORM: usize = 20_000;

/// Writes the site into `folder`. The same bytes every time.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("index.html"), page())?;
    fs::write(folder.join("style.css"), style())?;
    fs::write(folder.join("menu.js"), script())?;
    fs::write(folder.join("boat.png"), png(96, "boat"))?;
    fs::write(folder.join("map.png"), png(160, "map"))?;
    fs::write(folder.join("favicon.ico"), icon())?;
    fs::write(folder.join("tours.zip"), noise("tours", BIG_FILE))?;
    fs::write(folder.join("tour.html"), tour())?;
    fs::write(folder.join("visited.txt"), "So long.")?;
    Ok(())
}

fn page() -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{HEADLINE}</title>\n\
         <link rel=\"stylesheet\" href=\"/style.css\">\n<link rel=\"icon\" href=\"/favicon.ico\">\n</head>\n<body>\n\
         <h1>{HEADLINE}</h1>\n<img src=\"/boat.png\" alt=\"A boat\" width=\"96\" height=\"96\">\n"
    );
    for n in 0..24 {
        html.push_str(&format!("<h2>Tour {}</h2>\n<p>{}</p>\n", n + 1, prose(n, 70)));
    }
    html.push_str("<img src=\"/map.png\" alt=\"The map\" width=\"160\" height=\"160\">\n");
    html.push_str("<p><a href=\"/tours.zip\">All tours, as a file</a></p>\n<script src=\"/menu.js\"></script>\n</body>\n</html>\n");
    html
}

/// The usual page, which also opens a websocket at `path` on its host, says so many messages there, each when the one before was
/// answered, and then asks for [`VISITED`]. They are as long as what people type, every tenth perhaps as what they paste.
#[must_use]
pub fn page_that_talks(path: &str, messages: usize) -> String {
    let script = format!(
        "<script>const draw = n => Math.floor(Math.random() * n);\nconst line = new WebSocket(`wss://${{location.host}}{path}`);\n\
         line.binaryType = 'arraybuffer';\nlet left = {messages};\n\
         const say = () => left-- > 0 ? line.send(crypto.getRandomValues(new Uint8Array(40 + draw(left % 10 ? 300 : 3000)))) : fetch('{VISITED}');\n\
         line.onopen = say;\nline.onmessage = () => setTimeout(say, draw(150));</script>\n</body>"
    );
    page().replace("</body>", &script)
}

/// Pages in a frame, one after the other, with what belongs to them; between them a form.
fn tour() -> String {
    let text: String = noise("form", FORM).iter().map(|b| char::from(b'a' + b % 26)).collect();
    let files = PAGE_LOAD.iter().skip(1).map(|file| format!("'/{file}'")).collect::<Vec<_>>().join(", ");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>A tour</title>\n<iframe name=\"page\"></iframe>\n\
         <form method=\"post\" enctype=\"multipart/form-data\" target=\"page\" action=\"/index.html\">\n\
         <textarea name=\"text\">{text}</textarea>\n</form>\n<script>\nconst frame = document.querySelector('iframe');\n\
         const shown = go => new Promise(done => {{ frame.onload = done; go(); }});\nconst wait = time => new Promise(done => setTimeout(done, time));\n\
         const page = async n => {{\n  await shown(() => frame.src = '/index.html?' + n);\n\
         await Promise.all([{files}].map(file => fetch(file + '?' + n)));\n  await wait(300);\n}};\n\
         (async () => {{\n  for (let n = 0; n < 5; n++) await page(n);\n  await shown(() => document.forms[0].submit());\n\
         await wait(300);\n  await page(5);\n  await fetch('{VISITED}');\n}})();\n</script>\n</html>\n"
    )
}

fn style() -> String {
    (0..220)
        .map(|n| {
            format!(".tour-{n} h2 {{ margin: {}px; color: #{:06x}; }}\n", n % 17, n * 74_755 % 0x100_0000)
        })
        .collect()
}

fn script() -> String {
    let mut js = String::from("\"use strict\";\nconst tours = [];\n");
    for n in 0..300 {
        js.push_str(&format!("tours.push({{ id: {n}, text: \"{}\" }});\n", prose(n, 12)));
    }
    js.push_str("document.body.dataset.tours = String(tours.length);\n");
    js
}

/// Words in an order that depends on `seed`.
fn prose(seed: usize, words: usize) -> String {
    const WORDS: [&str; 16] = [
        "river", "stone", "early", "paddle", "under", "bridge", "quiet", "morning", "slow", "bend", "with",
        "camp", "past", "willow", "north", "rain",
    ];
    let digest = noise(&format!("prose {seed}"), words);
    let text: Vec<&str> =
        digest.iter().filter_map(|b| WORDS.get(usize::from(*b) % WORDS.len()).copied()).collect();
    text.join(" ")
}

/// Bytes that do not compress, from a seed, no two stretches alike (xorshift64*; quick even without optimisation).
pub(super) fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut state =
        seed.bytes().fold(0x9e37_79b9_7f4a_7c15, |state: u64, b| state.rotate_left(9) ^ u64::from(b)) | 1;
    let mut out = Vec::with_capacity(size + 8);
    while out.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes());
    }
    out.truncate(size);
    out
}

/// A square RGB picture of noise, `side` pixels wide: a valid PNG (RFC 2083) whose data are stored, not compressed.
fn png(side: u16, seed: &str) -> Vec<u8> {
    let row = usize::from(side) * 3;
    let pixels = noise(seed, row * usize::from(side));
    let raw: Vec<u8> =
        pixels.chunks(row).flat_map(|line| std::iter::once(0).chain(line.iter().copied())).collect();
    let side = u32::from(side).to_be_bytes();
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut out, *b"IHDR", &[&side[..], &side, &[8, 2, 0, 0, 0]].concat());
    chunk(&mut out, *b"IDAT", &stored_zlib(&raw));
    chunk(&mut out, *b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, kind: [u8; 4], body: &[u8]) {
    out.extend(u32::try_from(body.len()).unwrap_or_default().to_be_bytes());
    let checked = [&kind[..], body].concat();
    out.extend(&checked);
    out.extend(crc32(&checked).to_be_bytes());
}

/// A zlib stream (RFC 1950) of stored blocks (RFC 1951, section 3.2.4).
fn stored_zlib(raw: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut blocks = raw.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or_default();
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    let (a, b) = raw.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend((b << 16 | a).to_be_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    };
    !bytes.iter().fold(!0, step)
}

/// An icon file that holds one PNG of 32 pixels.
fn icon() -> Vec<u8> {
    let picture = png(32, "icon");
    let mut out = vec![0, 0, 1, 0, 1, 0, 32, 32, 0, 0, 1, 0, 24, 0];
    out.extend(u32::try_from(picture.len()).unwrap_or_default().to_le_bytes());
    out.extend(22u32.to_le_bytes());
    out.extend(picture);
    out
}
