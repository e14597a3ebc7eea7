//! A bridge's listening socket goes from one process to the next, and comes from a service manager.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use qnet_tests::support::{
    censor::{Censor, Manner},
    isolate::isolated,
    process::{self, Running, runs, signal, wait_for},
    tunnel::runtime,
};
use qnet_transport::{
    Profile, Stream,
    client::{Dialer, DialerConfig},
    tls::Roots,
};
use qnet_wire::{bridge_line::BridgeLine, target::Answer};
use rustix::process::Signal;
use support::{
    ask, echo, echoes,
    installed::{IDLE, Installed, POLICY},
    round,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(30);

/// What is downloaded while the bridge is upgraded, bytes: several windows of a stream.
const DOWNLOAD: usize = 48 << 20;

/// The bytes at a place of the download.
fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

/// A server that gives the download to whoever connects.
async fn source() -> Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut sent = 0;
                while sent < DOWNLOAD {
                    let next = pattern(sent, (DOWNLOAD - sent).min(64 * 1024));
                    tcp.write_all(&next).await?;
                    sent += next.len();
                }
                tcp.shutdown().await
            });
        }
    });
    Ok(address.to_string())
}

/// Takes the download from `from` to `to` and looks at every byte.
async fn take(stream: &mut Stream, from: usize, to: usize) -> Result<()> {
    let mut got = from;
    let mut buffer = vec![0; 64 * 1024];
    while got < to {
        let most = buffer.len().min(to - got);
        let n = timeout(LIMIT, stream.read(&mut buffer[..most])).await.context("it stands still")??;
        ensure!(n > 0, "an end after {got} bytes");
        ensure!(buffer[..n] == pattern(got, n), "a wrong byte between {got} and {}", got + n);
        got += n;
    }
    Ok(())
}

/// A client with this line on a path on which somebody cuts connections.
async fn cut_off(bridge: &Installed, line: BridgeLine) -> Result<(Censor, Dialer, BridgeLine)> {
    let censor = Censor::start(bridge.address(), Manner::default()).await?;
    let line = BridgeLine { address: censor.address(), ..line };
    let roots = Roots::with(Some(&bridge.web.certificates().ca), None)?;
    // New connections as soon as they are wanted: how few there may be is another test's business.
    let profile = Profile { burst: 100, per_minute: 6_000, ..Profile::default() };
    Ok((censor, Dialer::new(DialerConfig { profile, ..DialerConfig::new(roots) }), line))
}

/// A stranger's visit: nginx answers plain HTTP at its TLS port in plain words.
fn visit(address: SocketAddr) -> Result<()> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(LIMIT))?;
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    Ok(())
}

/// Strangers without a pause, until the first is not served.
struct Visitors {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<Result<()>>>,
}

impl Visitors {
    fn begin(address: SocketAddr) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let one = || {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    visit(address)?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let threads = (0..4).map(|_| one()).collect();
        Self { stop, count, threads }
    }

    /// Waits for `more` visits.
    fn more(&self, more: usize) -> Result<()> {
        let enough = self.count.load(Ordering::Relaxed) + more;
        wait_for("visits", LIMIT, || Ok((self.count.load(Ordering::Relaxed) >= enough).then_some(())))
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap_or_else(|_| bail!("a visitor panicked"))?;
        }
        Ok(())
    }
}

/// Which file a process runs.
fn file_of(pid: u32) -> Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/exe"))?.ino())
}

#[test]
fn a_new_process_takes_over_and_no_connection_is_lost() -> Result<()> {
    isolated("a_new_process_takes_over_and_no_connection_is_lost", || {
        let metrics = process::free_address()?;
        let bridge = Installed::new(&format!("{POLICY}\nmetrics = \"{metrics}\""))?;
        let mut old = bridge.start()?;
        runtime()?.block_on(async {
            let (echo, dialer) = (echo().await?.to_string(), bridge.dialer()?);
            let before = dialer.dial(&bridge.line()?).await?;
            let (mut stream, _) = ask(&before, &echo).await?;
            echoes(&mut stream, b"before").await?;
            let visitors = Visitors::begin(bridge.listen);
            visitors.more(20)?;
            bridge.install()?;
            let new = bridge.upgrade(&old)?;
            bridge.logs("takes the connections from now on")?;
            visitors.more(50)?;
            visitors.end().context("a visitor was not served")?;
            assert_eq!(file_of(new)?, fs::metadata(bridge.path("qnet-bridge"))?.ino(), "the old program");
            assert_ne!(file_of(new)?, file_of(old.pid())?);
            // Who is there has all that was there before, new streams too.
            echoes(&mut stream, b"after").await?;
            let (another, said) = ask(&before, &echo).await?;
            assert_eq!((said, round(another, b"more").await?), (Answer::Connected, b"more".to_vec()));
            // Who comes now comes to the new one.
            let after = dialer.dial(&bridge.line()?).await?;
            let (mut late, _) = ask(&after, &echo).await?;
            assert!(old.ended()?.is_none());
            drop((stream, before));
            let status = wait_for("the old process's end", 6 * IDLE, || old.ended())?;
            assert!(status.success(), "{status}");
            echoes(&mut late, b"still there").await?;
            let numbers = Command::new("curl")
                .args(["--silent", "--fail", &format!("http://{metrics}/metrics")])
                .output()?;
            assert!(numbers.status.success(), "nobody tells numbers");
            // And once more, from a process that took over itself.
            signal(new, Signal::USR2)?;
            let third = bridge.told()?;
            assert!(third.starts_with("MAINPID=") && !third.ends_with(&new.to_string()), "{third}");
            visit(bridge.listen)?;
            echoes(&mut late, b"and still").await
        })
    })
}

#[test]
fn sessions_go_on_though_their_connections_end_after_an_upgrade() -> Result<()> {
    isolated("sessions_go_on_though_their_connections_end_after_an_upgrade", || {
        cut_after_upgrades(&Installed::new(POLICY)?, [1, 1])
    })
}

#[test]
fn sessions_behind_a_web_server_go_on_as_well() -> Result<()> {
    isolated("sessions_behind_a_web_server_go_on_as_well", || {
        // The page's connection stays beside the first websocket.
        cut_after_upgrades(&Installed::behind_a_web_server(POLICY)?, [2, 1])
    })
}

/// The connections of a session with a download under way and a stream at rest are cut after one upgrade, twice, of which there are
/// as many as `connections` says, and after the next.
fn cut_after_upgrades(bridge: &Installed, connections: [usize; 2]) -> Result<()> {
    let mut old = bridge.start()?;
    runtime()?.block_on(async {
        let (echo, source) = (echo().await?.to_string(), source().await?);
        let (censor, dialer, line) = cut_off(bridge, bridge.line()?).await?;
        let tunnel = dialer.dial(&line).await?;
        let (mut idle, _) = ask(&tunnel, &echo).await?;
        echoes(&mut idle, b"before").await?;
        let (mut download, said) = ask(&tunnel, &source).await?;
        assert_eq!(said, Answer::Connected);
        take(&mut download, 0, DOWNLOAD / 6).await?;
        let second = bridge.upgrade(&old)?;
        bridge.logs("takes the connections from now on")?;
        for (part, connections) in (1..3).zip(connections) {
            take(&mut download, part * DOWNLOAD / 6, (part + 1) * DOWNLOAD / 6).await?;
            assert_eq!(censor.cut(), connections);
        }
        take(&mut download, DOWNLOAD / 2, DOWNLOAD * 4 / 6).await?;
        echoes(&mut idle, b"after two cuts").await?;
        // What the session opens now is served where the session is.
        let (another, said) = ask(&tunnel, &echo).await?;
        assert_eq!((said, round(another, b"more").await?), (Answer::Connected, b"more".to_vec()));
        // From the third process the first is found as well.
        signal(second, Signal::USR2)?;
        let told = bridge.told()?;
        assert!(told.starts_with("MAINPID="), "{told}");
        let later = dialer.dial(&line).await?;
        let (mut late, _) = ask(&later, &echo).await?;
        assert!(censor.cut() >= 1);
        take(&mut download, DOWNLOAD * 4 / 6, DOWNLOAD).await?;
        let end = timeout(LIMIT, download.read(&mut [0])).await??;
        assert_eq!(end, 0, "more than was sent");
        echoes(&mut idle, b"after another process and another cut").await?;
        echoes(&mut late, b"the third process's own").await?;
        assert!(old.ended()?.is_none(), "the streams have ended with the process");
        assert!(censor.opened() >= 5, "{} connections", censor.opened());
        drop((idle, download, tunnel));
        let status = wait_for("the old process's end", 6 * IDLE, || old.ended())?;
        assert!(status.success(), "{status}");
        echoes(&mut late, b"still there").await
    })
}

#[test]
fn who_is_revoked_loses_the_session_that_the_process_before_has() -> Result<()> {
    isolated("who_is_revoked_loses_the_session_that_the_process_before_has", || {
        let bridge = Installed::new(POLICY)?;
        bridge.configure(&format!("{POLICY}\ninvited = \"{}\"", bridge.path("state/invited").display()))?;
        qnet_transport::identity::load_or_create(&bridge.path("state"))?;
        let invite = |verb: &[&str]| -> Result<String> {
            let mut command = support::program();
            let output = command.args(verb).arg("--config").arg(bridge.path("bridge.toml")).output()?;
            ensure!(output.status.success(), "{output:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        let tor_data = bridge.path("no-tor").display().to_string();
        let line = invite(&["invite", "alice", "--plain", "--tor-data", &tor_data])?;
        let old = bridge.start()?;
        runtime()?.block_on(async {
            let echo = echo().await?.to_string();
            let (censor, dialer, line) = cut_off(&bridge, line.parse()?).await?;
            let tunnel = dialer.dial(&line).await?;
            let (mut stream, _) = ask(&tunnel, &echo).await?;
            bridge.upgrade(&old)?;
            assert_eq!(censor.cut(), 1);
            echoes(&mut stream, b"by way of the new process").await?;
            invite(&["revoke", "alice"])?;
            let end = timeout(LIMIT, stream.read(&mut [0])).await.context("the session goes on")?;
            assert!(end.is_err(), "{end:?}");
            Ok(())
        })
    })
}

#[test]
fn a_session_ends_with_the_process_that_has_it() -> Result<()> {
    isolated("a_session_ends_with_the_process_that_has_it", || {
        let bridge = Installed::new(POLICY)?;
        let mut old = bridge.start()?;
        runtime()?.block_on(async {
            let echo = echo().await?.to_string();
            let (censor, dialer, line) = cut_off(&bridge, bridge.line()?).await?;
            let (by_link, by_itself) = (dialer.dial(&line).await?, dialer.dial(&line).await?);
            let (mut carried, _) = ask(&by_link, &echo).await?;
            let (mut direct, _) = ask(&by_itself, &echo).await?;
            bridge.upgrade(&old)?;
            assert_eq!(censor.cut(), 2);
            echoes(&mut carried, b"by way of the new process").await?;
            signal(old.pid(), Signal::KILL)?;
            wait_for("its end", LIMIT, || old.ended())?;
            let mut byte = [0];
            let end = timeout(LIMIT, carried.read(&mut byte)).await.context("nobody says that it is over")?;
            assert!(end.is_err(), "{end:?}");
            // Whose connection ended before hears it from the new process, which finds nobody to ask.
            let end = timeout(LIMIT, async {
                direct.write_all(b"?").await?;
                direct.read(&mut byte).await
            });
            assert!(end.await.context("nobody says that it is over")?.is_err());
            let anew = dialer.dial(&line).await?;
            let (mut stream, _) = ask(&anew, &echo).await?;
            echoes(&mut stream, b"anew").await
        })
    })
}

#[test]
fn a_process_that_cannot_take_over_changes_nothing() -> Result<()> {
    isolated("a_process_that_cannot_take_over_changes_nothing", || {
        let bridge = Installed::new(POLICY)?;
        let old = bridge.start()?;
        runtime()?.block_on(async {
            let (echo, dialer) = (echo().await?.to_string(), bridge.dialer()?);
            let tunnel = dialer.dial(&bridge.line()?).await?;
            let (mut stream, _) = ask(&tunnel, &echo).await?;
            let processes = process::children(1)?;
            let visitors = Visitors::begin(bridge.listen);
            let fails = |why: &str| -> Result<()> {
                signal(old.pid(), Signal::USR2)?;
                bridge.logs(why)
            };
            bridge.configure("bandwith = 7")?;
            fails("unknown field `bandwith`")?;
            bridge.logs("no upgrade, and this process goes on: the new process ended before it was ready")?;
            bridge.configure(POLICY)?;
            bridge.install_script("#!/bin/sh\nexec <&-\nexit 7\n")?;
            fails("(exit status: 7)")?;
            bridge.install_script("#!/nowhere/sh\n")?;
            fails("this process goes on: cannot start")?;
            visitors.more(20)?;
            visitors.end()?;
            echoes(&mut stream, b"as before").await?;
            assert!(process::children(old.pid())?.is_empty(), "a process was left");
            assert_eq!(process::children(1)?, processes, "a process was left");
            // What failed does not stand in the way of what works.
            bridge.install()?;
            let new = bridge.upgrade(&old)?;
            assert!(
                runs(new) && !process::children(old.pid())?.contains(&new),
                "nobody else hears of its end"
            );
            Ok(())
        })
    })
}

#[test]
fn what_is_left_ends_with_its_time_or_at_a_word() -> Result<()> {
    isolated("what_is_left_ends_with_its_time_or_at_a_word", || {
        let bridge = Installed::new(&format!("{POLICY}\nupgrade-drain = 2\ndrain = 0"))?;
        let mut old = bridge.start()?;
        runtime()?.block_on(async {
            let (echo, dialer) = (echo().await?.to_string(), bridge.dialer()?);
            let tunnel = dialer.dial(&bridge.line()?).await?;
            let (mut stream, _) = ask(&tunnel, &echo).await?;
            bridge.configure(&format!("{POLICY}\ndrain = 0"))?;
            let second = bridge.upgrade(&old)?;
            echoes(&mut stream, b"for two seconds").await?;
            wait_for("the old process's end", LIMIT, || old.ended())?;
            // The successor, whose time is an hour, ends at a word.
            let tunnel = dialer.dial(&bridge.line()?).await?;
            let (mut stream, _) = ask(&tunnel, &echo).await?;
            signal(second, Signal::USR2)?;
            bridge.told()?;
            echoes(&mut stream, b"for an hour").await?;
            assert!(runs(second));
            signal(second, Signal::TERM)?;
            wait_for("its end", LIMIT, || Ok((!runs(second)).then_some(())))?;
            visit(bridge.listen)
        })
    })
}

#[test]
fn an_upgrade_under_way_ends_with_the_process() -> Result<()> {
    isolated("an_upgrade_under_way_ends_with_the_process", || {
        let bridge = Installed::new(POLICY)?;
        let mut old = bridge.start()?;
        bridge.install_script("#!/bin/sh\nexec sleep 1000\n")?;
        signal(old.pid(), Signal::USR2)?;
        let started = || Ok(process::children(old.pid())?.first().copied());
        let hangs = wait_for("a process", LIMIT, started)?;
        visit(bridge.listen)?;
        signal(old.pid(), Signal::USR2)?;
        bridge.logs("a new process is being started already")?;
        signal(old.pid(), Signal::TERM)?;
        let status = wait_for("the end", LIMIT, || old.ended())?;
        assert!(status.success() && !runs(hangs), "{status}");
        Ok(())
    })
}

/// `systemd-socket-activate` does to a program what systemd does for a socket unit.
fn activate(bridge: &Installed, socket: SocketAddr) -> Result<Running> {
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &socket.to_string(), "-E"]);
    command.arg(format!("SSL_CERT_FILE={}", bridge.web.certificates().ca.display())).arg("-E");
    command.arg(format!("NOTIFY_SOCKET={}", bridge.path("notify").display()));
    command.arg(bridge.path("qnet-bridge")).args(["run", "--config"]).arg(bridge.path("bridge.toml"));
    let log = File::create(bridge.path("log"))?;
    let running = Running::start("systemd-socket-activate", command.stdin(Stdio::null()).stderr(log))?;
    bridge.logs("Listening on")?;
    Ok(running)
}

#[test]
fn a_service_managers_socket_is_used_and_handed_on() -> Result<()> {
    isolated("a_service_managers_socket_is_used_and_handed_on", || {
        let bridge = Installed::new(POLICY)?;
        let mut first = activate(&bridge, bridge.listen)?;
        // The one that starts the bridge is served as any other.
        visit(bridge.listen)?;
        assert_eq!(bridge.told()?, "READY=1");
        let second = bridge.upgrade(&first)?;
        wait_for("the first process's end", LIMIT, || first.ended())?;
        visit(bridge.listen)?;
        signal(second, Signal::TERM)?;
        wait_for("the end", LIMIT, || Ok((!runs(second)).then_some(())))?;
        assert!(TcpStream::connect(bridge.listen).is_err(), "somebody holds the socket still");

        let other = process::free_address()?;
        let mut wrong = activate(&bridge, other)?;
        drop(TcpStream::connect(other)?);
        let status = wait_for("an end", LIMIT, || wrong.ended())?;
        assert!(!status.success());
        bridge.logs(&format!("the service manager listens on {other}, and listen is {}", bridge.listen))
    })
}
