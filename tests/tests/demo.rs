//! `./dev demo` as a newcomer runs it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use qnet_tests::support::isolate::isolated;
use qnet_transport::tls::chrome::CHROME_156;
use sha2::{Digest, Sha256};

/// Bytes in a row that do not come twice by chance.
const PIECE: usize = 16;

/// What a terminal shows at once.
const SCREEN: (usize, usize) = (80, 40);

fn demo(arguments: &[&Path], temporary: &Path) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    Ok(command.args(arguments).env("TMPDIR", temporary).output()?)
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn the_page_arrives_and_is_not_on_the_wire() -> Result<()> {
    isolated("the_page_arrives_and_is_not_on_the_wire", || {
        let (kept, temporary) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let output = demo(&["--keep".as_ref(), kept.path()], temporary.path())?;
        let (text, said) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success() && said.is_empty(), "{}:\n{text}{said}", output.status);

        let [page, up, down] =
            ["page.html", "up.bin", "down.bin"].map(|name| fs::read(kept.path().join(name)));
        let (page, up, down) = (page?, up?, down?);
        let hash = Sha256::digest(&page).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        for line in [format!("\nserved   {hash}\n"), format!("\nreceived {hash}\n")] {
            ensure!(text.contains(&line), "no line {line:?} in:\n{text}");
        }
        ensure!(text.contains(CHROME_156.ja4) && !text.contains("NOT that"), "not Chrome's JA4:\n{text}");
        let lines: Vec<&str> = text.lines().collect();
        let widest = lines.iter().map(|line| line.chars().count()).max().context("nothing was printed")?;
        ensure!(widest <= SCREEN.0 && lines.len() <= SCREEN.1, "{widest} columns, {} lines", lines.len());

        // These are the wire's bytes: they begin as TLS does, and are enough to have carried the page.
        ensure!(up.starts_with(&[22, 3, 1]) && contains(&up, "kayaks.example"), "no hello");
        ensure!(contains(&page, "news.example") && down.len() > page.len(), "{} bytes down", down.len());
        for wire in [&up, &down] {
            ensure!(!contains(wire, "news.example"), "the news server's name is on the wire");
            let seen: HashSet<&[u8]> = wire.windows(PIECE).collect();
            ensure!(!page.chunks_exact(PIECE).any(|piece| seen.contains(piece)), "the page is on the wire");
        }
        ensure!(fs::read_dir(temporary.path())?.next().is_none(), "the temporary folder was not emptied");
        Ok(())
    })
}

#[test]
fn a_failure_says_what_failed_and_what_to_do() -> Result<()> {
    let output = demo(&[], Path::new("/nowhere"))?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{}", output.status);
    ensure!(said.contains("/nowhere") && said.contains("What to do:"), "{said}");
    Ok(())
}
