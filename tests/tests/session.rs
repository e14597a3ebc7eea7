//! Sessions over connections that are cut, frozen, replaced and refused, through a real web server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_proto::Ended;
use qnet_tests::support::censor::{Censor, Manner};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::tunnel::runtime;
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Listener, Sessions};
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::connect::Connect;
use qnet_transport::tls::Roots;
use qnet_transport::{Profile, Stream};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

const MEGABYTE: usize = 1 << 20;

/// New connections as fast as they are cut: how few there may be is another test's business.
fn unhurried() -> Profile {
    Profile { burst: 1_000, per_minute: 60_000, give_up: Duration::from_secs(20), ..Profile::default() }
}

/// A bridge, what stands before it, and who dials.
struct Stage {
    decoy: Decoy,
    sessions: Sessions,
    censor: Censor,
    dialer: Dialer,
    line: BridgeLine,
}

fn identity() -> IdentityKey {
    IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]))
}

/// A bridge each of whose streams first gives as many bytes as the eight it begins with say, then all that it was given.
async fn serve(decoy: &Decoy, sessions: Sessions) -> Result<SocketAddr> {
    let mut listener = Listener::bind(BridgeConfig {
        listen: "127.0.0.1:0".parse()?,
        identity: identity(),
        decoy: decoy.address(),
        names: vec![decoy.name().parse()?],
        admission: Admission::Open,
        connect: Connect::default(),
        profile: Profile::default(),
        sessions,
    })?;
    let address = listener.local_addr();
    tokio::spawn(async move {
        while let Some(incoming) = listener.accept().await {
            tokio::spawn(answer(incoming.stream));
        }
    });
    Ok(address)
}

async fn answer(stream: Stream) -> std::io::Result<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    let wanted = usize::try_from(read.read_u64().await?).unwrap_or(0);
    let mut sent = 0;
    while sent < wanted {
        let next = pattern(sent, (wanted - sent).min(64 * 1024));
        write.write_all(&next).await?;
        sent += next.len();
    }
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

/// The bytes at a place of every stream.
fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

impl Stage {
    async fn new(options: Options, manner: Manner, profile: Profile) -> Result<Self> {
        let decoy = Decoy::start(Server::Nginx, options)?;
        let sessions = Sessions::default();
        let censor = Censor::start(serve(&decoy, sessions.clone()).await?, manner).await?;
        let dialer = dialer(&decoy, profile, "/")?;
        let (address, key) = (censor.address(), identity().public());
        let line = format!("qnet {address} key={key} sni={NAME}").parse()?;
        Ok(Self { decoy, sessions, censor, dialer, line })
    }

    /// Lets the client load another page.
    fn load(&mut self, path: &str, profile: Profile) -> Result<()> {
        self.dialer = dialer(&self.decoy, profile, path)?;
        Ok(())
    }

    async fn open(&self) -> Result<Stream> {
        let tunnel = self.dialer.dial(&self.line).await?;
        tunnel.established().await?;
        Ok(tunnel.open()?)
    }
}

fn dialer(decoy: &Decoy, profile: Profile, path: &str) -> Result<Dialer> {
    let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
    Ok(Dialer::new(DialerConfig { profile, path: path.to_owned(), ..DialerConfig::new(roots) }))
}

/// A decoy with a page that is nothing but text: a load of less than 16 KB in all.
fn small_page() -> Options {
    let extra =
        "location = /small { default_type text/html; return 200 '<html><body>Closed today.</body></html>'; }";
    Options { extra: extra.to_owned(), ..Options::default() }
}

/// Takes `count` bytes and checks each.
async fn download(stream: &mut Stream, count: usize) -> Result<()> {
    stream.write_u64(count as u64).await?;
    expect(stream, count).await
}

async fn expect(stream: &mut Stream, count: usize) -> Result<()> {
    let mut got = 0;
    let mut buffer = vec![0; 64 * 1024];
    while got < count {
        let most = buffer.len().min(count - got);
        let n = stream.read(&mut buffer[..most]).await?;
        ensure!(n > 0, "an end after {got} of {count} bytes");
        ensure!(buffer[..n] == pattern(got, n), "a wrong byte between {got} and {}", got + n);
        got += n;
    }
    Ok(())
}

/// Runs a test's body in a network of its own.
fn staged<F>(name: &str, body: impl FnOnce() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    isolated(name, || {
        runtime()?.block_on(async { timeout(Duration::from_secs(120), body()).await.context("too slow")? })
    })
}

#[test]
fn streams_go_on_while_connections_are_cut() -> Result<()> {
    staged("streams_go_on_while_connections_are_cut", || async {
        let manner = Manner { delay: Duration::from_millis(5), ..Manner::default() };
        let stage = Arc::new(Stage::new(Options::default(), manner, unhurried()).await?);
        let stream = stage.open().await?;
        let (mut read, mut write) = tokio::io::split(stream);
        let cutting = tokio::spawn({
            let stage = Arc::clone(&stage);
            async move {
                loop {
                    sleep(Duration::from_millis(400)).await;
                    let _ = stage.censor.cut();
                }
            }
        });
        let total = 40 * MEGABYTE;
        let writer = tokio::spawn(async move {
            write.write_u64(0).await?;
            for at in (0..total).step_by(MEGABYTE) {
                write.write_all(&pattern(at, MEGABYTE)).await?;
                sleep(Duration::from_millis(50)).await;
            }
            write.shutdown().await
        });
        let mut got = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = read.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            ensure!(buffer[..n] == pattern(got, n), "a wrong byte between {got} and {}", got + n);
            got += n;
        }
        writer.await??;
        cutting.abort();
        ensure!(got == total, "{got} bytes of {total}");
        ensure!(stage.censor.opened() >= 4, "{} connections only", stage.censor.opened());
        Ok(())
    })
}

/// 10 MB at a round trip of 100 ms, the connection frozen after 16 KB, all it carried counted, or not.
#[test]
fn a_frozen_connection_costs_at_most_half_the_speed() -> Result<()> {
    staged("a_frozen_connection_costs_at_most_half_the_speed", || async {
        let delay = Duration::from_millis(50);
        let manner = Manner { delay, ..Manner::default() };
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..3 {
            for (freezes, times) in times.iter_mut().enumerate() {
                let mut stage = Stage::new(small_page(), manner, Profile::default()).await?;
                stage.load("/small", Profile::default())?;
                let freeze_after = (freezes == 1).then_some(16 * 1024);
                stage.censor.set_manner(Manner { delay, freeze_after, freeze_most: Some(1) });
                let begun = Instant::now();
                let tunnel = stage.dialer.dial(&stage.line).await?;
                let mut stream = tunnel.open()?;
                download(&mut stream, 10_000_000).await?;
                times.push(begun.elapsed());
                ensure!(stage.censor.frozen() == freezes, "{} froze", stage.censor.frozen());
                ensure!(stage.censor.opened() <= 1 + freezes, "{} connections", stage.censor.opened());
            }
        }
        for times in &mut times {
            times.sort_unstable();
        }
        let [free, frozen] = times;
        ensure!(frozen[1] <= 2 * free[1], "frozen {frozen:?}, free {free:?}");
        Ok(())
    })
}

#[test]
fn a_session_outlives_its_idle_carrier() -> Result<()> {
    staged("a_session_outlives_its_idle_carrier", || async {
        let options = Options { idle: Duration::from_secs(2), ..Options::default() };
        let profile = Profile { poll: None, ..Profile::default() };
        let stage = Stage::new(options, Manner::default(), profile).await?;
        let mut stream = stage.open().await?;
        download(&mut stream, 100_000).await?;
        for _ in 0..2 {
            sleep(Duration::from_secs(6)).await;
            ensure!(stage.censor.alive() == 0, "a connection is still there");
            stream.write_all(b"again").await?;
            let mut back = [0; 5];
            stream.read_exact(&mut back).await?;
            ensure!(&back == b"again");
        }
        ensure!(stage.censor.opened() == 3, "{} connections", stage.censor.opened());
        Ok(())
    })
}

#[test]
fn news_of_the_bridges_is_looked_for() -> Result<()> {
    staged("news_of_the_bridges_is_looked_for", || async {
        let profile = Profile { poll: Some(Duration::from_secs(1)), ..unhurried() };
        let manner = Manner::default();
        let stage = Stage::new(Options::default(), manner, profile).await?;
        let mut stream = stage.open().await?;
        download(&mut stream, 1_000).await?;
        // The answer is under way when the connection is cut, and nobody here has anything to say.
        stream.write_all(&pattern(0, 2 * MEGABYTE)).await?;
        sleep(Duration::from_millis(100)).await;
        let _ = stage.censor.cut();
        expect(&mut stream, 2 * MEGABYTE).await
    })
}

#[test]
fn carriers_are_replaced_before_they_have_carried_too_much() -> Result<()> {
    staged("carriers_are_replaced_before_they_have_carried_too_much", || async {
        let profile = Profile { volume: 4 << 20..=4 << 20, ..unhurried() };
        let manner = Manner { delay: Duration::from_millis(10), ..Manner::default() };
        let stage = Stage::new(Options::default(), manner, profile).await?;
        let tunnel = stage.dialer.dial(&stage.line).await?;
        // 20 MB a second: the time in which the next carrier comes is then worth a few megabytes, on a busy machine too.
        for _ in 0..20 {
            download(&mut tunnel.open()?, 2 * MEGABYTE).await?;
            sleep(Duration::from_millis(100)).await;
        }
        let carried = stage.censor.down();
        ensure!(carried.len() >= 3, "{carried:?}");
        // One goes on until the next has joined: what a fast path carries in some round trips.
        let most = carried.iter().max().copied().unwrap_or(0);
        ensure!(most < 24 << 20, "{carried:?}");
        Ok(())
    })
}

#[test]
fn two_carriers_share_the_work() -> Result<()> {
    staged("two_carriers_share_the_work", || async {
        // Neither is replaced for what it has carried.
        let profile = Profile { stripes: 2, volume: 1 << 30..=1 << 30, ..unhurried() };
        let manner = Manner { delay: Duration::from_millis(10), ..Manner::default() };
        let stage = Stage::new(Options::default(), manner, profile).await?;
        let mut stream = stage.open().await?;
        // Until the second is there and has joined.
        while stage.censor.opened() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_secs(2)).await;
        let before = stage.censor.down();
        download(&mut stream, 100 * MEGABYTE).await?;
        let after = stage.censor.down();
        ensure!(after.len() == 2, "{before:?}, {after:?}");
        let carried: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        let least = carried.iter().min().copied().unwrap_or(0) as f64 / carried.iter().sum::<u64>() as f64;
        ensure!(least > 0.1, "{carried:?}");
        Ok(())
    })
}

/// An address that is blocked, and another of the same bridge.
#[test]
fn a_session_goes_on_at_another_address() -> Result<()> {
    staged("a_session_goes_on_at_another_address", || async {
        let stage = Stage::new(Options::default(), Manner::default(), unhurried()).await?;
        let other = serve(&stage.decoy, stage.sessions.clone()).await?;
        let second: BridgeLine = format!("qnet {other} key={} sni={NAME}", identity().public()).parse()?;
        let tunnel = stage.dialer.dial_any(&[stage.line.clone(), second.clone()]).await?;
        let mut stream = tunnel.open()?;
        download(&mut stream, 1_000_000).await?;
        stage.censor.set_target("127.0.0.1:9".parse()?);
        let _ = stage.censor.cut();
        stream.write_all(&pattern(0, 1_000_000)).await?;
        expect(&mut stream, 1_000_000).await?;
        // The first address works no more: a dial takes the second at once.
        download(&mut stage.dialer.dial_any(&[stage.line.clone(), second]).await?.open()?, 1_000).await?;
        let nobody = stage.dialer.dial_any(&[]).await.err().context("a tunnel to nobody")?;
        ensure!(nobody.to_string().contains("one bridge's lines"), "{nobody}");
        Ok(())
    })
}

#[test]
fn a_bridge_that_was_started_anew_says_that_it_forgot() -> Result<()> {
    staged("a_bridge_that_was_started_anew_says_that_it_forgot", || async {
        let stage = Stage::new(Options::default(), Manner::default(), unhurried()).await?;
        let tunnel = stage.dialer.dial(&stage.line).await?;
        tunnel.established().await?;
        let mut stream = tunnel.open()?;
        download(&mut stream, 1_000).await?;
        // Another process, as far as anybody can tell: the same key at the same address, and no session.
        stage.censor.set_target(serve(&stage.decoy, Sessions::default()).await?);
        let _ = stage.censor.cut();
        stream.write_all(b"anybody?").await?;
        let heard = timeout(Duration::from_secs(20), stream.read(&mut [0; 1])).await?;
        ensure!(heard.is_err(), "an end of a stream, not of the session");
        ensure!(tunnel.closed().await == Ended::Forgotten);
        Ok(())
    })
}

#[test]
fn a_bridge_that_is_gone_is_given_up() -> Result<()> {
    staged("a_bridge_that_is_gone_is_given_up", || async {
        let profile = Profile { give_up: Duration::from_secs(2), ..unhurried() };
        let mut stage = Stage::new(Options::default(), Manner::default(), profile).await?;
        let tunnel = stage.dialer.dial(&stage.line).await?;
        tunnel.established().await?;
        let mut stream = tunnel.open()?;
        download(&mut stream, 1_000).await?;
        stage.decoy.stop()?;
        stream.write_all(b"anybody?").await?;
        let heard = timeout(Duration::from_secs(30), stream.read(&mut [0; 1])).await?;
        ensure!(heard.is_err(), "an end of a stream, not of the session");
        ensure!(tunnel.closed().await == Ended::Unreachable);
        Ok(())
    })
}

#[test]
fn the_bridge_hears_of_a_users_end_at_once() -> Result<()> {
    staged("the_bridge_hears_of_a_users_end_at_once", || async {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let mut listener = Listener::bind(BridgeConfig {
            listen: "127.0.0.1:0".parse()?,
            identity: identity(),
            decoy: decoy.address(),
            names: vec![NAME.parse()?],
            admission: Admission::Open,
            connect: Connect::default(),
            profile: Profile::default(),
            sessions: Sessions::default(),
        })?;
        let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
        let line = format!("qnet {} key={} sni={NAME}", listener.local_addr(), identity().public());
        let tunnel = Dialer::new(DialerConfig::new(roots)).dial(&line.parse()?).await?;
        let mut stream = tunnel.open()?;
        stream.write_all(b"hello").await?;
        let mut far = listener.accept().await.context("a stream")?.stream;
        far.read_exact(&mut [0; 5]).await?;
        drop((stream, tunnel));
        let heard = timeout(Duration::from_secs(2), far.read(&mut [0; 1])).await?;
        ensure!(heard.is_err(), "cancelled, not ended");
        Ok(())
    })
}
