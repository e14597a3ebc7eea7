//! `qnet-bridge run` as a process, before nginx, dialled as a client does.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use qnet_tests::support::{isolate::isolated, process, tunnel::runtime};
use qnet_wire::target::{Answer, Datagram, Request};
use support::{Bridge, answer, ask, echo, output, request, round};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

#[test]
fn a_stream_goes_where_the_policy_allows() -> Result<()> {
    isolated("a_stream_goes_where_the_policy_allows", || {
        runtime()?.block_on(async {
            let (echo, closed) = (echo().await?, process::free_address()?);
            let (port, closed) = (echo.port(), closed.port());
            let bridge = Bridge::start(&format!(
                "exit-policy = [\"accept 127.0.0.0/8:{port}\", \"accept 127.0.0.1:{closed}\"]\nallow-special = true"
            ))?;
            let tunnel = bridge.dial().await?;
            let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
            for target in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
                let (stream, said) = ask(&tunnel, &target).await?;
                assert_eq!(said, Answer::Connected, "{target}");
                assert!(round(stream, &data).await? == data, "{target}");
            }
            for (target, expected) in [
                (format!("127.0.0.1:{closed}"), Answer::Refused),
                ("127.0.0.1:1".to_owned(), Answer::NotAllowed),
                (format!("127.0.0.1:{}", bridge.line.address.port()), Answer::NotAllowed),
                (format!("8.8.8.8:{port}"), Answer::NotAllowed),
                (format!("no-such-host.invalid:{port}"), Answer::HostUnreachable),
            ] {
                assert_eq!(ask(&tunnel, &target).await?.1, expected, "{target}");
            }
            Ok(())
        })
    })
}

#[test]
fn data_may_come_with_the_request_and_the_request_in_pieces() -> Result<()> {
    isolated("data_may_come_with_the_request_and_the_request_in_pieces", || {
        runtime()?.block_on(async {
            let echo = echo().await?;
            let bridge = Bridge::start("exit-policy = [\"accept *:*\"]\nallow-special = true")?;
            let tunnel = bridge.dial().await?;
            let mut head = Vec::new();
            Request::Tcp(echo.to_string().parse()?).write(&mut head);
            head.extend(b"first words");
            let mut stream = tunnel.open()?;
            stream.write_all(&head).await?;
            assert_eq!(answer(&mut stream).await?, Answer::Connected);
            assert_eq!(round(stream, b", and more").await?, b"first words, and more");
            let mut stream = tunnel.open()?;
            for byte in &head {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(answer(&mut stream).await?, Answer::Connected);
            assert_eq!(round(stream, b"").await?, b"first words");
            // What is no request ends the stream, and no other.
            for (nonsense, expected) in
                [(&b"GET / HTTP/1.1"[..], Answer::Failed), (b"\x01\x09", Answer::Unsupported)]
            {
                let mut stream = tunnel.open()?;
                stream.write_all(nonsense).await?;
                assert_eq!(answer(&mut stream).await?, expected);
                assert_eq!(stream.read(&mut [0]).await?, 0);
            }
            assert_eq!(ask(&tunnel, &echo.to_string()).await?.1, Answer::Connected);
            Ok(())
        })
    })
}

#[test]
fn by_default_nothing_of_the_bridges_own_is_reached() -> Result<()> {
    isolated("by_default_nothing_of_the_bridges_own_is_reached", || {
        // A public address of this machine's own, and names for it and for loopback: what a rebinding name server would say.
        let hosts = tempfile::NamedTempFile::new()?;
        fs::write(
            hosts.path(),
            "1.2.3.4 own.example.\n127.0.0.1 localhost. rebound.example.\n169.254.169.254 meta.example.\n",
        )?;
        for line in [
            "ip addr add 1.2.3.4/32 dev lo".to_owned(),
            format!("mount --bind {} /etc/hosts", hosts.path().display()),
        ] {
            let mut words = line.split(' ');
            let status = std::process::Command::new(words.next().context("a word")?).args(words).status()?;
            assert!(status.success(), "{line}");
        }
        runtime()?.block_on(async {
            let web = tokio::net::TcpListener::bind("0.0.0.0:80").await?;
            let bridge = Bridge::start("")?;
            let tunnel = bridge.dial().await?;
            for target in [
                "127.0.0.1:80",
                "localhost:80",
                "rebound.example:80",
                "own.example:80",
                "1.2.3.4:80",
                "meta.example:80",
                "[::1]:80",
                "[::ffff:127.0.0.1]:80",
                "[::ffff:1.2.3.4]:80",
                "0.0.0.0:80",
                "169.254.169.254:80",
                "1.2.3.4:22",
            ] {
                assert_eq!(ask(&tunnel, target).await?.1, Answer::NotAllowed, "{target}");
            }
            let came = tokio::time::timeout(Duration::from_millis(300), web.accept()).await;
            assert!(came.is_err(), "a connection was made");
            // A public address that is not ours: there is no way to it here, and that is what is said.
            assert_eq!(ask(&tunnel, "8.8.8.8:443").await?.1, Answer::NetworkUnreachable);
            assert_eq!(request(&tunnel, &Request::Udp).await?.1, Answer::Unsupported);
            Ok(())
        })
    })
}

/// A name server that says once that a name is at `first`, and from then on that it is here. How often it was asked.
fn rebinding(first: [u8; 4]) -> Result<Arc<AtomicUsize>> {
    const HEADER: usize = 12;
    let socket = std::net::UdpSocket::bind("127.0.0.1:53")?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // RFC 1035, section 4.1: the header, labels to an empty one, type and class; what follows (EDNS) is left out.
            let Some(name) = query[HEADER..length].iter().position(|byte| *byte == 0) else { continue };
            let end = HEADER + name + 5;
            let is_a = query[end - 4..end] == [0, 1, 0, 1];
            let mut answer = query[..end].to_vec();
            answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                let place = if count.fetch_add(1, Ordering::Relaxed) == 0 { first } else { [127, 0, 0, 1] };
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(place);
            }
            socket.send_to(&answer, from).ok();
        }
    });
    Ok(asked)
}

#[test]
fn a_name_is_looked_up_once_and_what_was_judged_is_connected_to() -> Result<()> {
    isolated("a_name_is_looked_up_once_and_what_was_judged_is_connected_to", || {
        let servers = tempfile::NamedTempFile::new()?;
        fs::write(servers.path(), "nameserver 127.0.0.1\n")?;
        let mounted = std::process::Command::new("mount")
            .args([Path::new("--bind"), servers.path(), Path::new("/etc/resolv.conf")])
            .status()?;
        assert!(mounted.success());
        let asked = rebinding([8, 8, 8, 8])?;
        runtime()?.block_on(async {
            let web = tokio::net::TcpListener::bind("127.0.0.1:80").await?;
            let bridge = Bridge::start("")?;
            let tunnel = bridge.dial().await?;
            // To the public address there is no way here; to the other there is one.
            assert_eq!(ask(&tunnel, "rebinding.example.net:80").await?.1, Answer::NetworkUnreachable);
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            assert_eq!(ask(&tunnel, "rebinding.example.net:80").await?.1, Answer::NotAllowed);
            assert_eq!(asked.load(Ordering::Relaxed), 2);
            let came = tokio::time::timeout(Duration::from_millis(300), web.accept()).await;
            assert!(came.is_err(), "a connection was made");
            Ok(())
        })
    })
}

#[test]
fn datagrams_go_both_ways_where_udp_is_allowed() -> Result<()> {
    isolated("datagrams_go_both_ways_where_udp_is_allowed", || {
        runtime()?.block_on(async {
            let (server, other) =
                (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
            let (address, forbidden) = (server.local_addr()?, other.local_addr()?);
            tokio::spawn(async move {
                let mut buffer = [0; 65_535];
                while let Ok((count, from)) = server.recv_from(&mut buffer).await {
                    server.send_to(&buffer[..count], from).await.ok();
                }
            });
            let port = address.port();
            let policy = format!("exit-policy = [\"accept *:{port}\"]\nallow-special = true\nudp = true");
            let bridge = Bridge::start(&policy)?;
            let tunnel = bridge.dial().await?;
            let (mut stream, said) = request(&tunnel, &Request::Udp).await?;
            assert_eq!(said, Answer::Connected);
            let mut up = Vec::new();
            let large = vec![5; 20_000];
            for (peer, payload) in [
                (forbidden.to_string(), &b"lost"[..]),
                (address.to_string(), b"one"),
                (format!("localhost:{port}"), b""),
                (address.to_string(), &large),
            ] {
                Datagram { peer: peer.parse()?, payload }.write(&mut up)?;
            }
            stream.write_all(&up).await?;
            let mut inbox = Vec::new();
            let mut heard = Vec::new();
            while heard.len() < 3 {
                while let Some((datagram, length)) = Datagram::read(&inbox)? {
                    assert_eq!(datagram.peer.to_string(), address.to_string());
                    heard.push(datagram.payload.len());
                    inbox.drain(..length);
                }
                if heard.len() < 3 {
                    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut inbox));
                    assert_ne!(read.await.context("datagrams are missing")??, 0);
                }
            }
            assert_eq!(heard, [3, 0, 20_000]);
            let lost = tokio::time::timeout(Duration::from_millis(300), other.recv_from(&mut [0; 9])).await;
            assert!(lost.is_err(), "a datagram came where none is allowed");
            Ok(())
        })
    })
}

#[test]
fn datagrams_to_this_machine_are_lost_under_the_default_policy() -> Result<()> {
    isolated("datagrams_to_this_machine_are_lost_under_the_default_policy", || {
        runtime()?.block_on(async {
            // At a port that the default policy has, so that the address alone can be the reason.
            let (four, six) = (UdpSocket::bind("127.0.0.1:443").await?, UdpSocket::bind("[::1]:443").await?);
            let bridge = Bridge::start("udp = true")?;
            let tunnel = bridge.dial().await?;
            let mut datagrams = Vec::new();
            for peer in ["127.0.0.1:443", "localhost:443", "[::1]:443", "[::ffff:127.0.0.1]:443"] {
                Datagram { peer: peer.parse()?, payload: b"x" }.write(&mut datagrams)?;
            }
            let heard = async |within| {
                let (mut one, mut other) = ([0; 9], [0; 9]);
                let either = async {
                    tokio::select! {
                        _ = four.recv_from(&mut one) => {}
                        _ = six.recv_from(&mut other) => {}
                    }
                };
                tokio::time::timeout(Duration::from_millis(within), either).await.is_ok()
            };
            let (mut stream, said) = request(&tunnel, &Request::Udp).await?;
            assert_eq!(said, Answer::Connected);
            stream.write_all(&datagrams).await?;
            assert!(!heard(1_000).await, "a datagram came to this machine");
            // The same datagrams come where the policy says so.
            bridge.reload("udp = true\nallow-special = true")?;
            bridge.logs("settings were read again")?;
            let (mut stream, _) = request(&tunnel, &Request::Udp).await?;
            stream.write_all(&datagrams).await?;
            assert!(heard(10_000).await, "no datagram came at all");
            Ok(())
        })
    })
}

#[test]
fn an_upstream_gets_every_stream_as_it_is() -> Result<()> {
    isolated("an_upstream_gets_every_stream_as_it_is", || {
        runtime()?.block_on(async {
            let echo = echo().await?;
            let bridge = Bridge::start(&format!("upstream = \"{echo}\""))?;
            let tunnel = bridge.dial().await?;
            assert_eq!(round(tunnel.open()?, b"as it is").await?, b"as it is");
            bridge.reload(&format!("upstream = \"{}\"", process::free_address()?))?;
            bridge.logs("settings were read again")?;
            assert!(round(tunnel.open()?, b"to nobody").await.is_err());
            bridge.logs("is it running?")?;
            Ok(())
        })
    })
}

#[test]
fn settings_are_read_again_and_wrong_ones_are_not_taken() -> Result<()> {
    isolated("settings_are_read_again_and_wrong_ones_are_not_taken", || {
        runtime()?.block_on(async {
            let echo = echo().await?.to_string();
            let bridge = Bridge::start("allow-special = true\nexit-policy = [\"reject *:*\"]")?;
            let tunnel = bridge.dial().await?;
            assert_eq!(ask(&tunnel, &echo).await?.1, Answer::NotAllowed);
            bridge
                .reload("allow-special = true\nexit-policy = [\"accept *:*\"]\nmax-streams-per-client = 2")?;
            bridge.logs("the settings were read again")?;
            let (first, said) = ask(&tunnel, &echo).await?;
            assert_eq!(said, Answer::Connected);
            bridge.reload("exit-policy = [\"acept *:*\"]")?;
            bridge.logs("the settings stay as they are: in exit-policy: `acept *:*`")?;
            let (second, said) = ask(&tunnel, &echo).await?;
            assert_eq!(said, Answer::Connected);
            assert_eq!(ask(&tunnel, &echo).await?.1, Answer::TooManyStreams);
            drop(second);
            assert_eq!(round(first, b"still there").await?, b"still there");
            bridge.reload("listen = \"127.0.0.1:1\"").ok();
            bridge.logs("the settings stay as they are: in the configuration")?;
            Ok(())
        })
    })
}

#[test]
fn at_the_end_streams_go_on_and_no_new_ones_come() -> Result<()> {
    isolated("at_the_end_streams_go_on_and_no_new_ones_come", || {
        runtime()?.block_on(async {
            let echo = echo().await?.to_string();
            let mut bridge =
                Bridge::start("allow-special = true\nexit-policy = [\"accept *:*\"]\ndrain = 60")?;
            let tunnel = bridge.dial().await?;
            let (mut stream, _) = ask(&tunnel, &echo).await?;
            process::signal(bridge.running.pid(), rustix::process::Signal::TERM)?;
            bridge.logs("1 streams may go on for 60 s")?;
            assert!(TcpStream::connect(bridge.line.address).await.is_err(), "it still listens");
            assert!(ask(&tunnel, &echo).await.is_err(), "a new stream is served");
            stream.write_all(b"still").await?;
            let mut back = [0; 5];
            stream.read_exact(&mut back).await?;
            assert!(bridge.running.ended()?.is_none());
            assert_eq!(round(stream, b" there").await?, b" there");
            let status = process::wait_for("the end", Duration::from_secs(5), || bridge.running.ended())?;
            assert!(status.success());
            Ok(())
        })
    })
}

#[test]
fn what_is_wrong_is_said_in_one_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("bridge.toml");
    let path = config.to_str().context("UTF-8")?;
    let said = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let output = output(args)?;
        Ok((output.status.code(), String::from_utf8(output.stderr)?))
    };
    let (code, text) = said(&["run", "--config", path])?;
    assert!(code == Some(1) && text.contains(path) && text.contains("No such file"), "{text}");
    fs::write(&config, "decoy = \"127.0.0.1:8443\"\nsni = [\"www.example.com\"]\ndrain = \"long\"\n")?;
    let (code, text) = said(&["run", "--config", path])?;
    assert!(
        code == Some(1) && ["line 3", "drain", "\"long\""].iter().all(|word| text.contains(word)),
        "{text}"
    );
    fs::write(&config, "decoy = \"127.0.0.1:8443\"\nsni = [\"www.example.com\"]\n")?;
    assert_eq!(said(&["run", "--check-config", "--config", path])?.0, Some(0));
    let (code, text) = said(&["run", "--config", path, "--exit-policy", "accept *:0"])?;
    assert!(code == Some(1) && text.contains("`accept *:0`") && text.contains("1 to 65535"), "{text}");
    let (code, text) = said(&["run", "--listen", "443"])?;
    assert!(code == Some(2) && text.contains("--listen") && text.contains("'443'"), "{text}");
    let (code, text) = said(&["run", "--config", path, "--decoy", "192.0.2.1:443"])?;
    assert!(code == Some(1) && text.contains("not this machine's"), "{text}");
    // A key that others may read.
    let (state, key) = (folder.path(), folder.path().join("qnet_identity"));
    fs::write(&key, "")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let (code, text) = said(&["run", "--config", path, "--state", state.to_str().context("UTF-8")?])?;
    assert!(code == Some(1) && text.contains("chmod 600"), "{text}");
    Ok(())
}

#[test]
fn completions_and_man_pages_are_written() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let output = support::program().args(["completions", shell]).output()?;
        assert!(output.status.success() && String::from_utf8(output.stdout)?.contains("invited"), "{shell}");
    }
    let folder = tempfile::tempdir()?;
    assert!(support::program().arg("man").arg(folder.path()).status()?.success());
    for verb in ["", "-init", "-check", "-decoys", "-line", "-run", "-invite", "-revoke", "-invited"] {
        let page = folder.path().join(format!("qnet-bridge{verb}.1"));
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        assert!(text.contains(".TH"), "{verb}");
    }
    Ok(())
}
