//! `qnet-bridge line`: the line for users.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use qnet_transport::identity;
use qnet_wire::bridge_line::{BridgeLine, Cover, MAX_LEN, TRANSPORT};

use crate::{
    exit::Destination,
    settings::{DEFAULT_CONFIG, Decoy, Plan, Settings},
};

/// tor's data folder on Debian.
pub(crate) const TOR_DATA: &str = "/var/lib/tor";

/// Print the line for users, from this bridge's settings or from what tor wrote
#[derive(Args, Debug)]
pub(crate) struct Line {
    /// The bridge's settings; without such a file, what tor wrote is read
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// tor's data folder, for the fingerprints and for the lines of bridges that tor starts itself
    #[arg(long, value_name = "FOLDER", default_value = TOR_DATA)]
    tor_data: PathBuf,
    /// Where users connect to, if it is not where the bridge listens
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: Option<SocketAddr>,
    /// Also as a QR code
    #[arg(long)]
    qr: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Line {
    pub(crate) fn start(self) -> Result<()> {
        let fingerprints = Fingerprints::read(&self.tor_data)?;
        let lines = if self.config.exists() {
            let plan = Settings::read(&self.config)?.plan()?;
            own(&plan, fingerprints.as_ref(), self.address)?
        } else {
            tors(&self.tor_data, fingerprints.as_ref(), self.address).with_context(|| {
                format!("there is no {}, so tor's lines were looked for", self.config.display())
            })?
        };
        crate::say(&if self.json {
            json(&lines, fingerprints.as_ref())
        } else {
            text(&lines, fingerprints.as_ref(), self.qr)?
        })
    }
}

/// The relay's two fingerprints.
pub(crate) struct Fingerprints {
    /// Of its key; clients check it. Who knows it can find the bridge's descriptor, and so its address.
    real: String,
    /// Its hash, by which a bridge can be spoken about without giving it away. Missing where tor is older than 0.2.
    hashed: Option<String>,
}

impl Fingerprints {
    /// What tor wrote to `fingerprint` and `hashed-fingerprint` in its data folder: a nickname and 40 letters each.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let read = |name: &str| -> Result<Option<String>> {
            let path = folder.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let word = text.split_ascii_whitespace().nth(1);
                    let word = word
                        .filter(|word| word.len() == 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
                    let word = word.with_context(|| {
                        format!("{} holds no fingerprint: expected a name and 40 letters", path.display())
                    })?;
                    Ok(Some(word.to_owned()))
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => {
                    Err(error).with_context(|| format!("cannot read {}; are you root?", path.display()))
                }
            }
        };
        let Some(real) = read("fingerprint")? else { return Ok(None) };
        Ok(Some(Self { real, hashed: read("hashed-fingerprint")? }))
    }
}

/// The lines of a bridge that `run` runs, for whoever may have them: one, or two where its own site takes websockets as well.
pub(crate) fn own(
    plan: &Plan,
    fingerprints: Option<&Fingerprints>,
    address: Option<SocketAddr>,
) -> Result<Vec<BridgeLine>> {
    ensure!(
        plan.invited.is_none(),
        "this bridge is by invitation, so each client has a line of its own: `qnet-bridge invite NAME` makes one"
    );
    plain(plan, fingerprints, address)
}

/// The same on a bridge by invitation, without the invitation.
pub(crate) fn plain(
    plan: &Plan,
    fingerprints: Option<&Fingerprints>,
    address: Option<SocketAddr>,
) -> Result<Vec<BridgeLine>> {
    let behind = matches!(plan.decoy, Decoy::Front(_));
    ensure!(
        address.is_some() || !behind,
        "the bridge stands behind a web server: give that one's public address, or the CDN's, and its port, as in --address 192.0.2.7:443"
    );
    let address = address.unwrap_or(plan.listen);
    ensure!(
        !address.ip().is_unspecified() && address.port() != 0,
        "the bridge listens on {address}, which is no address to connect to: give the public one, as in --address 192.0.2.7:443"
    );
    let lines = lines(plan, fingerprints, address)?;
    ensure!(
        lines.iter().all(|line| line.to_string().len() <= MAX_LEN),
        "the line would be longer than {MAX_LEN} bytes: give {}",
        if behind { "a shorter url" } else { "fewer or shorter sni names" }
    );
    Ok(lines)
}

/// The lines with this address, whether it is one to connect to or not.
pub(crate) fn lines(
    plan: &Plan,
    fingerprints: Option<&Fingerprints>,
    address: SocketAddr,
) -> Result<Vec<BridgeLine>> {
    let Some(key) = identity::load(&plan.state)? else {
        bail!(
            "there is no key in {} yet; `qnet-bridge init` or the bridge's first run makes it",
            plan.state.display()
        );
    };
    let tor = matches!(plan.destination, Destination::Upstream(_));
    let fingerprint = fingerprints.filter(|_| tor).map(|both| both.real.clone());
    let mirror = (!plan.names.is_empty()).then(|| Cover::Mirror(plan.names.clone()));
    let websocket = plan.decoy.url().map(|url| Cover::Websocket(url.clone()));
    let line = |cover| BridgeLine {
        address,
        fingerprint: fingerprint.clone(),
        key: key.public(),
        cover,
        profile: None,
        invitation: None,
    };
    Ok(mirror.into_iter().chain(websocket).map(line).collect())
}

/// The lines of bridges that tor starts itself, from its file `bridgelines`.
pub(crate) fn tors(
    folder: &Path,
    fingerprints: Option<&Fingerprints>,
    address: Option<SocketAddr>,
) -> Result<Vec<BridgeLine>> {
    let path = folder.join("bridgelines");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; does tor run with ServerTransportPlugin qnet, and are you root?",
            path.display()
        )
    })?;
    let prefix = format!("Bridge {TRANSPORT} ");
    let mut lines = Vec::new();
    for text in text.lines().filter(|line| line.starts_with(&prefix)) {
        let mut line: BridgeLine = text.parse().with_context(|| format!("in {}", path.display()))?;
        line.address = address.unwrap_or(line.address);
        ensure!(
            !line.address.ip().is_unspecified(),
            "tor knows no public address of this machine: give it, as in --address 192.0.2.7:443"
        );
        let hashed = fingerprints.and_then(|both| both.hashed.as_deref());
        ensure!(
            hashed.is_none() || line.fingerprint.as_deref() != hashed,
            "{} has the hashed fingerprint, with which no client connects; was it edited?",
            path.display()
        );
        lines.push(line);
    }
    ensure!(
        !lines.is_empty(),
        "{} has no line of qnet; see tor's log for why it is not announced",
        path.display()
    );
    Ok(lines)
}

fn text(lines: &[BridgeLine], fingerprints: Option<&Fingerprints>, qr: bool) -> Result<String> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&format!("{line}\n"));
        if qr {
            text.push_str(&code(line)?);
        }
    }
    if let Some(Fingerprints { real, hashed }) = fingerprints {
        text.push_str(&format!("\nfingerprint         {real}  belongs in the line; tell it to users only\n"));
        if let Some(hashed) = hashed {
            text.push_str(&format!("hashed fingerprint  {hashed}  to speak of the bridge by, as at metrics.torproject.org; never in a line\n"));
        }
    }
    Ok(text)
}

fn json(lines: &[BridgeLine], fingerprints: Option<&Fingerprints>) -> String {
    let lines: Vec<String> = lines.iter().map(BridgeLine::to_string).collect();
    let real = fingerprints.map(|both| &both.real);
    let hashed = fingerprints.and_then(|both| both.hashed.as_ref());
    format!(
        "{:#}\n",
        serde_json::json!({ "lines": lines, "fingerprint": real, "hashed_fingerprint": hashed })
    )
}

/// The line as a QR code of block letters, dark on light as a camera wants it.
pub(crate) fn code(line: &BridgeLine) -> Result<String> {
    use qrcode::render::unicode::Dense1x2;
    let code = qrcode::QrCode::with_error_correction_level(line.to_string(), qrcode::EcLevel::L)?;
    // A terminal is dark as a rule, so what is light in the code is printed. The crate means ink by `Dark`.
    let image = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(image + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_a_light_border_and_fits_a_terminal() {
        let key = qnet_wire::key::IdentityKey::from_bytes([9; 32]).public();
        let line = format!("Bridge qnet 192.0.2.7:443 {} key={key} sni=www.example.com", "A".repeat(40));
        let code = code(&line.parse().unwrap()).unwrap();
        let rows: Vec<&str> = code.lines().collect();
        let widths: Vec<usize> = rows.iter().map(|row| row.chars().count()).collect();
        assert!(rows.len() < 40 && widths.iter().all(|width| *width == widths[0] && *width < 80), "{code}");
        // Four light modules all around (ISO/IEC 18004, section 5.3.8), two to a row of letters.
        assert!(rows[..2].iter().all(|row| row.chars().all(|letter| letter == '█')), "{code}");
        assert!(rows.iter().all(|row| row.starts_with("███") || row.starts_with("▀▀▀")), "{code}");
        assert_eq!(read(&rows), line);
    }

    /// What a camera before a dark terminal reads, each letter two modules and each module so many pixels square.
    fn read(rows: &[&str]) -> String {
        const PIXELS: usize = 4;
        let lit = |letter: char, lower: bool| match letter {
            '█' => true,
            '▀' => !lower,
            '▄' => lower,
            _ => false,
        };
        let modules: Vec<Vec<bool>> = rows
            .iter()
            .flat_map(|row| [false, true].map(|lower| row.chars().map(|letter| lit(letter, lower)).collect()))
            .collect();
        let (width, height) = (modules[0].len() * PIXELS, modules.len() * PIXELS);
        let mut picture = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            if modules[y / PIXELS][x / PIXELS] { 255 } else { 0 }
        });
        let grids = picture.detect_grids();
        grids.first().expect("a code is seen").decode().expect("it can be read").1
    }
}
