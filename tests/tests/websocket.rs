//! The websocket cover behind real web servers: data both ways, what visitors get, carriers that end, and somebody in the
//! middle who ends TLS.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_proto::chrome::CHROME_156;
use qnet_proto::websocket::{Channel, WebsocketError};
use qnet_tests::ja4::extension;
use qnet_tests::support::censor::{Censor, Manner};
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::front::{self, Front, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::Link;
use qnet_tests::support::process::free_address;
use qnet_tests::support::talk::TalkServer;
use qnet_tests::support::tap::{Tap, Tapped, Way};
use qnet_tests::support::tunnel::{EchoWebsocket, dialer_with, echo_websocket, runtime};
use qnet_transport::Stream;
use qnet_transport::client::{DialError, Tunnel};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

const PATH: &str = "/secret/path?x=1";
const PATIENCE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(60);

/// Sends so many bytes over a stream of its own and expects them back.
async fn echo(tunnel: &Tunnel, bytes: usize) -> Result<()> {
    let (mut read, mut write) = tokio::io::split(tunnel.open()?);
    let data: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251).to_le_bytes()[0]).collect();
    let expected = Sha256::digest(&data);
    let writer = tokio::spawn(async move {
        write.write_all(&data).await?;
        write.shutdown().await
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await?;
    writer.await??;
    ensure!(back.len() == bytes && Sha256::digest(&back) == expected, "{} of {bytes} bytes", back.len());
    Ok(())
}

/// A word there and back on an open stream.
async fn say(stream: &mut Stream, word: &[u8]) -> Result<()> {
    stream.write_all(word).await?;
    let mut back = vec![0; word.len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.context("no answer")??;
    ensure!(back == word, "{back:?}");
    Ok(())
}

fn through(server: Server) -> Result<()> {
    runtime()?.block_on(async {
        let EchoWebsocket { front, line, dialer } = echo_websocket(server, PATH, IDLE)?;
        let tunnel = dialer.dial(&line).await?;
        for bytes in [1, 1_000, 3_000_000] {
            timeout(PATIENCE, echo(&tunnel, bytes)).await.context("too slow")??;
        }
        let many: Vec<_> = (0..8).map(|_| tunnel.clone()).collect();
        let many = many.into_iter().map(|tunnel| tokio::spawn(async move { echo(&tunnel, 200_000).await }));
        for one in many.collect::<Vec<_>>() {
            timeout(PATIENCE, one).await.context("too slow")???;
        }
        drop(front);
        Ok(())
    })
}

#[test]
fn data_goes_both_ways_through_nginx() -> Result<()> {
    isolated("data_goes_both_ways_through_nginx", || through(Server::Nginx))
}

#[test]
fn data_goes_both_ways_through_haproxy_over_http2() -> Result<()> {
    isolated("data_goes_both_ways_through_haproxy_over_http2", || through(Server::Haproxy))
}

#[test]
fn data_goes_both_ways_through_haproxy_over_http1() -> Result<()> {
    isolated("data_goes_both_ways_through_haproxy_over_http1", || through(Server::HaproxyHttp1))
}

/// Status and body of a request, by curl.
fn ask(front: &Front, path: &str, arguments: &[&str]) -> Result<(String, Vec<u8>)> {
    let at = format!("{NAME}:{}", front.address().port());
    let output = Command::new("curl")
        .args(["-s", "--max-time", "20", "-w", "%{stderr}%{http_code}"])
        .args(["--resolve", &format!("{at}:127.0.0.1")])
        .arg("--cacert")
        .arg(&front.certificates().ca)
        .args(arguments)
        .arg(format!("https://{at}{path}"))
        .output()?;
    Ok((String::from_utf8(output.stderr)?, output.stdout))
}

/// The same of the site's plain origin.
fn ask_origin(front: &Front, path: &str, arguments: &[&str]) -> Result<(String, Vec<u8>)> {
    let output = Command::new("curl")
        .args(["-s", "--max-time", "20", "-w", "%{stderr}%{http_code}"])
        .args(arguments)
        .arg(format!("http://{}{path}", front.site()))
        .output()?;
    Ok((String::from_utf8(output.stderr)?, output.stdout))
}

fn visitors(server: Server) -> Result<()> {
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    runtime()?.block_on(async {
        let EchoWebsocket { front, line, dialer } = echo_websocket(server, PATH, IDLE)?;
        let tunnel = dialer.dial(&line).await?;
        let front = tokio::task::spawn_blocking(move || {
            let version = |number| ["-H", number, "-H", KEY];
            let asked = [
                ("/", vec![]),
                ("/style.css", vec![]),
                ("/no/such/page", vec![]),
                // What the front hands on to the bridge.
                (PATH, vec![]),
                (PATH, vec!["--http1.1"]),
                ("/secret/path", vec![]),
                ("/secret/path?x=2", vec![]),
                (PATH, vec!["-X", "POST", "-d", "a=b"]),
                (PATH, vec!["-X", "DELETE"]),
                (PATH, [&upgrade[..], &version("Sec-WebSocket-Version: 8")].concat()),
                ("/secret/path", [&upgrade[..], &version("Sec-WebSocket-Version: 13")].concat()),
                ("/secret", vec![]),
                ("/secret/pathology", vec![]),
            ];
            // HAProxy itself refuses a websocket without its key.
            let keyless = (server == Server::Nginx).then(|| (PATH, upgrade.to_vec()));
            for (path, arguments) in asked.into_iter().chain(keyless) {
                let (wanted, found) = (ask_origin(&front, path, &arguments)?, ask(&front, path, &arguments)?);
                ensure!(wanted == found, "{path} {arguments:?}: {} and {}", wanted.0, found.0);
            }
            Ok(front)
        })
        .await??;
        echo(&tunnel, 1_000).await?;
        drop(front);
        Ok(())
    })
}

#[test]
fn visitors_get_the_site_through_nginx() -> Result<()> {
    isolated("visitors_get_the_site_through_nginx", || visitors(Server::Nginx))
}

#[test]
fn visitors_get_the_site_through_haproxy() -> Result<()> {
    isolated("visitors_get_the_site_through_haproxy", || visitors(Server::Haproxy))
}

/// The front ends and comes back, and with it every connection; and again while a transfer goes on.
fn restarts(server: Server) -> Result<()> {
    runtime()?.block_on(async {
        let EchoWebsocket { mut front, line, dialer } = echo_websocket(server, PATH, IDLE)?;
        let tunnel = dialer.dial(&line).await?;
        let mut stream = tunnel.open()?;
        say(&mut stream, b"before").await?;
        front.restart()?;
        say(&mut stream, b"after").await?;
        let transfer = tokio::spawn({
            let tunnel = tunnel.clone();
            async move { echo(&tunnel, 20_000_000).await }
        });
        sleep(Duration::from_millis(300)).await;
        front.restart()?;
        timeout(PATIENCE, transfer).await.context("too slow")???;
        say(&mut stream, b"still").await
    })
}

#[test]
fn a_session_outlives_nginx() -> Result<()> {
    isolated("a_session_outlives_nginx", || restarts(Server::Nginx))
}

#[test]
fn a_session_outlives_haproxy() -> Result<()> {
    isolated("a_session_outlives_haproxy", || restarts(Server::Haproxy))
}

#[test]
fn a_session_outlives_the_fronts_idle_limit() -> Result<()> {
    isolated("a_session_outlives_the_fronts_idle_limit", || {
        runtime()?.block_on(async {
            for server in [Server::Nginx, Server::Haproxy] {
                let EchoWebsocket { front, line, dialer } =
                    echo_websocket(server, PATH, Duration::from_secs(2))?;
                let mut stream = dialer.dial(&line).await?.open()?;
                say(&mut stream, b"before").await?;
                sleep(Duration::from_millis(3_500)).await;
                say(&mut stream, b"after").await?;
                drop(front);
            }
            Ok(())
        })
    })
}

/// A transfer while the first carrier that gets so far freezes, and others are cut.
async fn under_attack(server: Server) -> Result<()> {
    const MEGABYTE: usize = 1 << 20;
    let EchoWebsocket { front, line, dialer } = echo_websocket(server, PATH, IDLE)?;
    let freezing = Manner { freeze_after: Some(MEGABYTE as u64), freeze_most: Some(1), ..Manner::default() };
    let censor = Arc::new(Censor::start(front.address(), freezing).await?);
    let line = BridgeLine { address: censor.address(), ..line };
    let (mut read, mut write) = tokio::io::split(dialer.dial(&line).await?.open()?);
    let cutting = tokio::spawn({
        let censor = Arc::clone(&censor);
        async move {
            for _ in 0..2 {
                sleep(Duration::from_secs(4)).await;
                ensure!(censor.cut() > 0, "nothing to cut");
            }
            Ok(())
        }
    });
    let data: Vec<u8> =
        (0..12 * MEGABYTE).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        for piece in sent.chunks(MEGABYTE / 8) {
            write.write_all(piece).await?;
            sleep(Duration::from_millis(100)).await;
        }
        write.shutdown().await
    });
    let mut back = Vec::new();
    timeout(PATIENCE, read.read_to_end(&mut back)).await.context("too slow")??;
    writer.await??;
    cutting.await??;
    ensure!(back == data, "{} of {} bytes", back.len(), data.len());
    ensure!(censor.frozen() == 1 && censor.opened() >= 3, "{} and {}", censor.frozen(), censor.opened());
    Ok(())
}

#[test]
fn transfers_go_on_while_carriers_freeze_and_are_cut() -> Result<()> {
    isolated("transfers_go_on_while_carriers_freeze_and_are_cut", || {
        runtime()?.block_on(async {
            let (nginx, haproxy) = tokio::join!(under_attack(Server::Nginx), under_attack(Server::Haproxy));
            nginx.context("nginx").and(haproxy.context("HAProxy"))
        })
    })
}

#[test]
fn refusals_say_what_is_wrong_and_leave_the_page_open() -> Result<()> {
    isolated("refusals_say_what_is_wrong_and_leave_the_page_open", || {
        runtime()?.block_on(async {
            for server in [Server::Nginx, Server::Haproxy] {
                let EchoWebsocket { front, line, dialer } = echo_websocket(server, PATH, IDLE)?;
                let wrong: BridgeLine = line.to_string().replace("/secret/path", "/other").parse()?;
                let link = Link::start(front.address(), Duration::ZERO)?;
                let wrong = BridgeLine { address: link.address(), ..wrong };
                let refused = dialer.dial(&wrong).await.err().context("another path was taken")?;
                ensure!(
                    matches!(refused, DialError::Websocket(WebsocketError::Refused(404))),
                    "{server:?}: {refused}"
                );
                sleep(Duration::from_secs(1)).await;
                // A browser whose page finds no websocket still shows the page.
                let page = link.traces().into_iter().next().context("no page")?;
                ensure!(
                    page.up.end().is_none() && page.down.end().is_none(),
                    "{server:?}: the page was closed"
                );
                drop(front);
            }
            Ok(())
        })
    })
}

/// Where a site's own server takes the websocket: the client says what is wrong, and the page stays open as a browser's does.
#[test]
fn where_another_server_answers_the_page_stays_open() -> Result<()> {
    isolated("where_another_server_answers_the_page_stays_open", || {
        runtime()?.block_on(async {
            for server in [Server::Nginx, Server::Haproxy] {
                let talk = free_address()?;
                let front = Front::start(server, front::Options::new(PATH, talk))?;
                let _talk = TalkServer::start(talk)?;
                let link = Link::start(front.address(), Duration::ZERO)?;
                let key = IdentityKey::from_bytes([7; 32]).public();
                let line = format!("qnet {} key={key} url=https://{NAME}{PATH}", link.address()).parse()?;
                let error = dialer_with(&front.certificates().ca)?.dial(&line).await.err();
                let tampered = matches!(error, Some(DialError::Tunnel(qnet_proto::Ended::Tampered)));
                ensure!(tampered, "{server:?}: {error:?}");
                // Longer than a close is waited for.
                sleep(Duration::from_secs(4)).await;
                let page = link.traces().into_iter().next().context("no page")?;
                ensure!(
                    page.up.end().is_none() && page.down.end().is_none(),
                    "{server:?}: the page was closed"
                );
            }
            Ok(())
        })
    })
}

/// A bridge behind HAProxy, with a tap before it that ends TLS as a CDN does.
fn tapped(server: Server) -> Result<(EchoWebsocket, Tap, BridgeLine)> {
    let bridge = echo_websocket(server, PATH, IDLE)?;
    let [http2, http1] = bridge.front.in_the_clear();
    let tap = Tap::start(bridge.front.certificates(), http2, http1)?;
    let line = BridgeLine { address: tap.address(), ..bridge.line.clone() };
    Ok((bridge, tap, line))
}

fn position(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}

#[test]
fn our_own_connections_are_a_browsers() -> Result<()> {
    isolated("our_own_connections_are_a_browsers", || {
        runtime()?.block_on(async {
            let (mut bridge, tap, line) = tapped(Server::HaproxyHttp1)?;
            let tunnel = bridge.dialer.dial(&line).await?;
            echo(&tunnel, 100_000).await?;
            let seen = tap.seen();
            let [page, own] = &seen[..] else { anyhow::bail!("{} connections", seen.len()) };
            ensure!(page.protocol == b"h2" && !page.resumed && own.protocol == b"http/1.1" && own.resumed);
            ensure!(own.hello.extension(extension::PRE_SHARED_KEY).is_some());
            let mut channel = Channel::http1(&CHROME_156, &NAME.parse()?, PATH, &[], [1; 32]);
            let wanted = channel.poll(std::time::Instant::now()).context("a request")?;
            let until_key =
                |text: &[u8]| position(text, b"-Key: ").and_then(|end| text.get(..end).map(<[u8]>::to_vec));
            let request = until_key(&wanted);
            ensure!(request == until_key(&own.records[0]) && wanted.len() == own.records[0].len());
            // A lost websocket is opened again without the page (`websocket_hello` has Chromium do it).
            let alone = |one: &Tapped| {
                one.protocol == b"http/1.1" && one.resumed && until_key(&one.records[0]) == request
            };
            bridge.front.restart()?;
            echo(&tunnel, 1_000).await?;
            let seen = tap.seen();
            let [_, _, again] = &seen[..] else { anyhow::bail!("{} connections", seen.len()) };
            ensure!(alone(again));

            let (mut bridge, tap, line) = tapped(Server::Haproxy)?;
            let tunnel = bridge.dialer.dial(&line).await?;
            echo(&tunnel, 100_000).await?;
            let connects =
                |one: &Tapped| one.records.iter().filter(|one| one.get(3..5) == Some(&[1, 0x24])).count();
            let seen = tap.seen();
            let [page] = &seen[..] else { anyhow::bail!("{} connections", seen.len()) };
            ensure!(page.protocol == b"h2" && !page.resumed && connects(page) == 1);
            bridge.front.restart()?;
            echo(&tunnel, 1_000).await?;
            let seen = tap.seen();
            let [_, again] = &seen[..] else { anyhow::bail!("{} connections", seen.len()) };
            ensure!(alone(again));
            Ok(())
        })
    })
}

/// Whoever ends TLS alters the first messages: the client takes nobody for the bridge, and nothing reaches the bridge's user.
#[test]
fn somebody_in_the_middle_cannot_alter() -> Result<()> {
    isolated("somebody_in_the_middle_cannot_alter", || {
        runtime()?.block_on(async {
            let (bridge, tap, line) = tapped(Server::HaproxyHttp1)?;
            // The first message down, behind the answer to the opening.
            tap.edit(|way, number, bytes| {
                if let (Way::Down, 1, Some(byte)) = (way, number, bytes.get_mut(600)) {
                    *byte ^= 1;
                }
            });
            let error = bridge.dialer.dial(&line).await.err().context("an altered answer was taken")?;
            ensure!(matches!(error, DialError::Tunnel(qnet_proto::Ended::Tampered)), "{error}");
            tap.edit(|way, number, bytes| {
                // The first of message 1's pieces, behind the nonce.
                if let (Way::Up, 1, Some(byte)) = (way, number, bytes.get_mut(100)) {
                    *byte ^= 1;
                }
            });
            // The bridge says nothing to that for half a minute.
            let silence = timeout(Duration::from_secs(4), bridge.dialer.dial(&line)).await;
            ensure!(silence.is_err(), "an altered message was answered");
            tap.edit(|_, _, _| {});
            echo(&bridge.dialer.dial(&line).await?, 1_000).await
        })
    })
}

/// Plays what a client sent again, straight to the front.
async fn replay(to: SocketAddr, records: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut tcp = tokio::net::TcpStream::connect(to).await?;
    for record in records {
        tcp.write_all(record).await?;
        // As the client did, who had to wait for answers.
        sleep(Duration::from_millis(200)).await;
    }
    let mut said = Vec::new();
    let _ = timeout(Duration::from_secs(3), tcp.read_to_end(&mut said)).await;
    Ok(said)
}

#[test]
fn somebody_in_the_middle_cannot_play_it_again() -> Result<()> {
    isolated("somebody_in_the_middle_cannot_play_it_again", || {
        runtime()?.block_on(async {
            let (bridge, tap, line) = tapped(Server::HaproxyHttp1)?;
            let tunnel = bridge.dialer.dial(&line).await?;
            let mut stream = tunnel.open()?;
            say(&mut stream, b"once").await?;
            let seen = tap.seen();
            let own = seen.iter().find(|one| one.protocol == b"http/1.1").context("a websocket")?;
            let [_, http1] = bridge.front.in_the_clear();
            // The bridge's second message is another one each time, so the third opens nothing, and nothing comes of it.
            let said = replay(http1, &own.records).await?;
            let again = replay(http1, &own.records).await?;
            let behind =
                |said: &[u8]| -> Result<usize> { Ok(position(said, b"\r\n\r\n").context("an answer")? + 4) };
            let (first, second) = (&said[behind(&said)?..], &again[behind(&again)?..]);
            ensure!(first != second, "message 2 came twice");
            // One message, of message 2's size: no word comes back.
            for one in [first, second] {
                ensure!((1_100..2_000).contains(&one.len()), "{} bytes", one.len());
            }
            say(&mut stream, b"the session goes on").await
        })
    })
}
