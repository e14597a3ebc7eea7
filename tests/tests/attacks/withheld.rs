//! Data withheld while a tunnel is in use, for longer than its decoy bears idleness.

use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Gate, Link, Rule, Way, Which};

use qnet_tests::support::attack::stage::{Payload, SOON, Stage, copy, until};
use qnet_tests::support::attack::standstill::{full_at_decoy, full_in_tunnel, of_decoy, of_tunnel};
use qnet_tests::support::attack::visit::{TRIES, all};

/// How long the decoy bears a silent connection.
const IDLE: Duration = Duration::from_secs(5);
/// How long the client's records are held.
const HELD: Duration = Duration::from_secs(8);
/// How long a tunnel that is in use is watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Bytes that show that a stream flows.
const SOME: u64 = 200_000;

fn stage(server: Server) -> Result<Stage> {
    Stage::new(server, Options { idle: IDLE, head: IDLE, ..Options::default() })
}

/// Waits until more of a stream has come.
fn flows(what: &str, payload: &Mutex<Payload>) -> Result<()> {
    let before = copy(payload).right;
    until(what, SOON, || copy(payload).right > before + SOME || copy(payload).broken)?;
    ensure!(!copy(payload).broken && !copy(payload).wrong, "{what}: {:?}", copy(payload));
    Ok(())
}

/// All that one side says is held, so that no credit comes and the other's data stands still; then it goes on.
fn held(server: Server, way: Way) -> Result<()> {
    let stage = stage(server)?;
    let link = Link::start(stage.bridge, Duration::ZERO)?;
    let (arm, release) = (Gate::new(), Gate::new());
    link.set_rules(vec![Rule::new(way, Which::Once(arm.clone()), Act::Hold(release.clone()))]);
    let tunnel = stage.tunnel_over(&link)?;
    let payload = match way {
        Way::Up => stage.download(&tunnel)?,
        Way::Down => stage.upload(&tunnel)?,
    };
    flows("a transfer", &payload)?;
    arm.open();
    let began = Instant::now();
    while began.elapsed() < HELD {
        thread::sleep(Duration::from_millis(100));
        let trace = link.traces().pop().context("no connection")?;
        for end in [trace.up.end(), trace.down.end()] {
            ensure!(end.is_none(), "ended after {:?}: {end:?}", began.elapsed());
        }
    }
    let stood = copy(&payload).right;
    release.open();
    flows("the transfer goes on", &payload)?;
    ensure!(copy(&payload).right > stood, "nothing came");
    Ok(())
}

#[test]
fn a_download_survives_a_silent_client_before_nginx() -> Result<()> {
    isolated("withheld::a_download_survives_a_silent_client_before_nginx", || held(Server::Nginx, Way::Up))
}

#[test]
fn a_download_survives_a_silent_client_before_lighttpd() -> Result<()> {
    isolated("withheld::a_download_survives_a_silent_client_before_lighttpd", || {
        held(Server::Lighttpd, Way::Up)
    })
}

#[test]
fn an_upload_survives_a_silent_bridge_before_nginx() -> Result<()> {
    isolated("withheld::an_upload_survives_a_silent_bridge_before_nginx", || held(Server::Nginx, Way::Down))
}

#[test]
fn an_upload_survives_a_silent_bridge_before_lighttpd() -> Result<()> {
    isolated("withheld::an_upload_survives_a_silent_bridge_before_lighttpd", || {
        held(Server::Lighttpd, Way::Down)
    })
}

/// How long servers bear a download that stands still, where they can be told, and an idle connection.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a download that stands still is watched: for twice as long, what follows it, and some servers' waiting for a close.
const STILL: Duration = Duration::from_secs(16);
/// By how much the same may come sooner or later.
const NEAR: Duration = Duration::from_millis(500);

/// A client's records are held during a download until the decoy would lose its patience: the tunnel shows what the decoy shows whose
/// visitor says nothing, and when. One of several plays may differ, since a loaded machine is late at times.
fn stands_still(server: Server, extra: &str) -> Result<()> {
    let options = Options { idle: PATIENCE, head: PATIENCE, extra: extra.to_owned(), ..Options::default() };
    let stage = Stage::new(server, options)?;
    let mut shown = Vec::new();
    for _ in 0..TRIES {
        let (here, there) = thread::scope(|scope| {
            let here = scope.spawn(|| of_tunnel(&stage, STILL));
            let there = scope.spawn(|| of_decoy(&stage, STILL));
            (here.join(), there.join())
        });
        let (here, there) = (here.ok().context("panicked")??, there.ok().context("panicked")??);
        if here.same(&there, NEAR) {
            return Ok(());
        }
        shown.push((here, there));
    }
    bail!("in a tunnel, and from the decoy: {shown:#?}")
}

#[test]
fn a_download_that_stands_still_ends_as_nginxs() -> Result<()> {
    isolated("withheld::a_download_that_stands_still_ends_as_nginxs", || {
        stands_still(Server::Nginx, "    send_timeout 5s;\n")
    })
}

#[test]
fn a_download_that_stands_still_ends_as_apaches() -> Result<()> {
    isolated("withheld::a_download_that_stands_still_ends_as_apaches", || stands_still(Server::Apache, ""))
}

#[test]
fn a_download_that_stands_still_ends_as_haproxys() -> Result<()> {
    isolated("withheld::a_download_that_stands_still_ends_as_haproxys", || stands_still(Server::Haproxy, ""))
}

#[test]
fn a_download_that_stands_still_ends_as_lighttpds() -> Result<()> {
    isolated("withheld::a_download_that_stands_still_ends_as_lighttpds", || {
        stands_still(Server::Lighttpd, "server.max-write-idle = 5\n")
    })
}

#[test]
fn a_download_that_stands_still_goes_on_as_caddys() -> Result<()> {
    isolated("withheld::a_download_that_stands_still_goes_on_as_caddys", || stands_still(Server::Caddy, ""))
}

#[test]
fn a_download_that_stands_still_goes_on_as_hypers() -> Result<()> {
    isolated("withheld::a_download_that_stands_still_goes_on_as_hypers", || stands_still(Server::Rustls, ""))
}

/// Nothing of a download is taken for so long: somewhat less, and more, than servers bear.
const FULL: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(9)];

/// What TCP acknowledges is withheld, too, so that the bridge's socket stays full: it closes when the decoy does, which can say nothing any
/// more. One of several plays may differ.
fn stays_full(server: Server, extra: &str) -> Result<()> {
    // On a path without delay a socket's buffers would hold all that a session sends ahead. These are of the test's own namespace.
    for (name, sizes) in [("tcp_wmem", "4096 16384 262144"), ("tcp_rmem", "4096 65536 131072")] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), sizes)?;
    }
    let options = Options { idle: SOON, head: PATIENCE, extra: extra.to_owned(), ..Options::default() };
    let stage = Stage::new(server, options)?;
    all(2, &FULL, |time| {
        let mut shown = Vec::new();
        for _ in 0..TRIES {
            let (here, there) = (full_in_tunnel(&stage, *time)?, full_at_decoy(&stage, *time)?);
            if here == there && here.0 == (*time > PATIENCE) {
                return Ok(());
            }
            shown.push((here, there));
        }
        bail!("after {time:?} in a tunnel, and from the decoy: {shown:?}")
    })
}

#[test]
fn a_socket_that_stays_full_is_closed_as_nginx_does() -> Result<()> {
    isolated("withheld::a_socket_that_stays_full_is_closed_as_nginx_does", || {
        stays_full(Server::Nginx, "    send_timeout 5s;\n")
    })
}

#[test]
fn a_socket_that_stays_full_is_closed_as_apache_does() -> Result<()> {
    isolated("withheld::a_socket_that_stays_full_is_closed_as_apache_does", || stays_full(Server::Apache, ""))
}

#[test]
fn a_socket_that_stays_full_is_closed_as_lighttpd_does() -> Result<()> {
    isolated("withheld::a_socket_that_stays_full_is_closed_as_lighttpd_does", || {
        stays_full(Server::Lighttpd, "server.max-write-idle = 5\n")
    })
}

/// A tunnel that carries something, much or little, either way, outlives the decoy's limit; one that carries nothing ends
/// as the decoy ends it.
#[test]
fn a_tunnel_in_use_outlives_its_decoys_patience() -> Result<()> {
    isolated("withheld::a_tunnel_in_use_outlives_its_decoys_patience", || {
        let stage = stage(Server::Nginx)?;
        let links = (0..4).map(|_| Link::start(stage.bridge, Duration::ZERO)).collect::<Result<Vec<_>>>()?;
        let [up, down, little, idle] = links.as_slice() else { unreachable!() };
        // About two megabytes a second.
        for (link, way) in [(up, Way::Up), (down, Way::Down)] {
            link.set_rules(vec![Rule::new(way, Which::From(20), Act::Delay(Duration::from_millis(8)))]);
        }
        let (up, down) = (stage.tunnel_over(up)?, stage.tunnel_over(down)?);
        let (up, down) = ((stage.upload(&up)?, up), (stage.download(&down)?, down));
        let (little, idle_tunnel) = (stage.tunnel_over(little)?, stage.tunnel_over(idle)?);
        let began = Instant::now();
        let mut littles = Vec::new();
        while began.elapsed() < WATCHED {
            flows("an upload", &up.0)?;
            flows("a download", &down.0)?;
            // A new stream now and then, of which the far side says nothing.
            littles.push(stage.block_on(stage.whisper(&little))?);
            thread::sleep(Duration::from_millis(2_900));
        }
        ensure!(little.is_open() && littles.len() > 5, "{} streams", littles.len());
        let end = idle.traces().pop().context("no connection")?.down.end();
        ensure!(matches!(end, Some((End::Fin, at)) if at < WATCHED), "the idle one: {end:?}");
        ensure!(!idle_tunnel.is_open(), "it is said to be open");
        Ok(())
    })
}
