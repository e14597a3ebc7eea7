//! The page the censor would block, on a plain HTTP server (RFC 9112) that answers any request with it.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{MAX_HEAD, NEWS_NAME, head_length, sha256};
use crate::actor::say;

/// How many paragraphs the page has: about 250 kB.
const PARAGRAPHS: usize = 1_500;

pub(super) async fn run() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say("address", listener.local_addr()?)?;
    let page = page()?;
    loop {
        answer(listener.accept().await?.0, &page).await?;
        say("served", format_args!("{} {}", sha256(page.as_bytes()), page.len()))?;
    }
}

async fn answer(mut tcp: TcpStream, page: &str) -> Result<()> {
    let mut request = Vec::new();
    while head_length(&request).is_none() {
        let read = tcp.read_buf(&mut request).await?;
        ensure!(read > 0 && request.len() <= MAX_HEAD, "the request is cut short or too long");
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    tcp.write_all(head.as_bytes()).await?;
    tcp.write_all(page.as_bytes()).await?;
    tcp.shutdown().await.context("the reader left before the end")
}

/// A page of another text each time, so that no two runs have one hash.
fn page() -> Result<String> {
    let edition = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let mut html = format!(
        "<!DOCTYPE html>\n<title>{NEWS_NAME}</title>\n<h1>What the paper may not print</h1>\n<p>Edition {edition}</p>\n"
    );
    for n in 1..=PARAGRAPHS {
        html.push_str(&format!(
            "<p>{n}. The mayor of district {} did not say on day {} how the money for bridge {} was spent, \
             and report {} names those who asked him.</p>\n",
            n * 7 % 101,
            n * 13 % 365,
            n * 31 % 997,
            n * 7_919
        ));
    }
    html.push_str("</html>\n");
    Ok(html)
}
