//! A bridge by invitation before a real web server: whom it lets in, what others see, and what becomes of a client whose
//! invitation is taken back.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qnet_proto::Ended;
use qnet_tests::support::censor::{Censor, Manner};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::tunnel::{dialer, runtime};
use qnet_transport::admission::{self, Follower};
use qnet_transport::bridge::{BridgeConfig, Listener, Sessions};
use qnet_transport::client::{DialError, Dialer, Tunnel};
use qnet_transport::connect::Connect;
use qnet_transport::{Profile, Stream};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::invitation::{Invitation, InvitedList, MAX_INVITED};
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// The list is looked at every second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// For a connection that has to be made anew.
const LIMIT: Duration = Duration::from_secs(30);

/// A bridge that answers every stream with what it sent, its list, and who dials.
struct Stage {
    _decoy: Decoy,
    _folder: tempfile::TempDir,
    list: PathBuf,
    follower: Arc<Follower>,
    plain: BridgeLine,
    dialer: Dialer,
}

impl Stage {
    fn new(invited: &InvitedList) -> Result<Self> {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let folder = tempfile::tempdir()?;
        let list = folder.path().join("invited");
        write(&list, &invited.to_file_text())?;
        let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
        let key = identity.public();
        let invited = admission::read(&list)?;
        let mut listener = Listener::bind(BridgeConfig {
            listen: "127.0.0.1:0".parse()?,
            identity,
            decoy: decoy.address(),
            names: vec![decoy.name().parse()?],
            admission: admission::admission(&invited),
            connect: Connect::default(),
            profile: Profile::default(),
            sessions: Sessions::default(),
        })?;
        let plain = format!("qnet {} key={key} sni={NAME}", listener.local_addr()).parse()?;
        let door = listener.doorkeeper().context("a mirror bridge has a door")?;
        let follower = Arc::new(Follower::new(list.clone(), invited, door));
        let following = Arc::clone(&follower);
        tokio::spawn(async move { following.follow().await });
        tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(incoming.stream);
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let dialer = dialer(&decoy)?;
        Ok(Self { _decoy: decoy, _folder: folder, list, follower, plain, dialer })
    }

    fn line(&self, invitation: &Invitation) -> BridgeLine {
        BridgeLine { invitation: Some(invitation.clone()), ..self.plain.clone() }
    }

    async fn tunnel(&self, invitation: &Invitation) -> Result<(Tunnel, Stream)> {
        // By its text, as users have it.
        let line: BridgeLine = self.line(invitation).to_string().parse()?;
        let tunnel = self.dialer.dial(&line).await?;
        tunnel.established().await?;
        let mut stream = tunnel.open()?;
        echo(&mut stream).await?;
        Ok((tunnel, stream))
    }

    /// The bridge is the site, and nothing else, for who dials so.
    async fn stays_out(&self, line: &BridgeLine) -> Result<()> {
        match self.dialer.dial(line).await {
            Err(DialError::Tunnel(Ended::NoProof)) => Ok(()),
            Err(other) => Err(other).context("another end than a stranger's"),
            Ok(_) => Err(anyhow::anyhow!("let in")),
        }
    }
}

/// As `invite` and `revoke` do: whole, in one step.
fn write(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(beside, path)?)
}

async fn echo(stream: &mut Stream) -> Result<()> {
    stream.write_all(b"are you there?").await?;
    let mut back = [0; 14];
    timeout(LIMIT, stream.read_exact(&mut back)).await.context("no echo")??;
    ensure!(&back == b"are you there?");
    Ok(())
}

fn invitation(seed: u8) -> Invitation {
    Invitation::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
}

fn list(clients: &[(&str, &Invitation)]) -> Result<InvitedList> {
    let mut list = InvitedList::default();
    for (name, invitation) in clients {
        list.invite(name.parse()?, invitation.key().public())?;
    }
    Ok(list)
}

#[test]
fn the_invited_are_let_in_and_one_who_is_revoked_becomes_a_stranger() -> Result<()> {
    isolated("the_invited_are_let_in_and_one_who_is_revoked_becomes_a_stranger", || {
        runtime()?.block_on(async {
            let (alice, bob, eve) = (invitation(1), invitation(2), invitation(3));
            let stage = Stage::new(&list(&[("alice", &alice), ("bob", &bob)])?)?;
            let (alices, mut alices_stream) = stage.tunnel(&alice).await?;
            let (bobs, mut bobs_stream) = stage.tunnel(&bob).await?;
            // Who has the line without an invitation, or with one that the bridge never gave.
            stage.stays_out(&stage.plain).await?;
            stage.stays_out(&stage.line(&eve)).await?;

            write(&stage.list, &list(&[("bob", &bob)])?.to_file_text())?;
            let why =
                timeout(SOON, alices.closed()).await.context("the session of a revoked client goes on")?;
            assert_eq!(why, Ended::PeerClosed);
            assert!(echo(&mut alices_stream).await.is_err(), "a stream of a revoked client goes on");
            stage.stays_out(&stage.line(&alice)).await?;
            echo(&mut bobs_stream).await.context("bob is disturbed")?;
            assert!(bobs.is_open());

            // A new invitation under the old name is another key.
            let again = invitation(4);
            write(&stage.list, &list(&[("bob", &bob), ("alice", &again)])?.to_file_text())?;
            stage.follower.read_again();
            stage.tunnel(&again).await?;
            stage.stays_out(&stage.line(&alice)).await
        })
    })
}

#[test]
fn an_empty_list_admits_nobody_and_a_damaged_one_changes_nothing() -> Result<()> {
    isolated("an_empty_list_admits_nobody_and_a_damaged_one_changes_nothing", || {
        runtime()?.block_on(async {
            let alice = invitation(1);
            let stage = Stage::new(&InvitedList::default())?;
            stage.stays_out(&stage.plain).await?;
            stage.stays_out(&stage.line(&alice)).await?;
            let text = list(&[("alice", &alice)])?.to_file_text();
            write(&stage.list, &text)?;
            stage.follower.read_again();
            let (tunnel, mut stream) = stage.tunnel(&alice).await?;
            for damaged in ["", "qnet invited clients, version 1\nalice\n", text.trim_end()] {
                write(&stage.list, damaged)?;
                stage.follower.read_again();
                echo(&mut stream).await?;
            }
            fs::remove_file(&stage.list)?;
            stage.follower.read_again();
            echo(&mut stream).await?;
            assert!(tunnel.is_open());
            stage.stays_out(&stage.plain).await
        })
    })
}

#[test]
fn the_last_of_a_full_list_is_let_in() -> Result<()> {
    isolated("the_last_of_a_full_list_is_let_in", || {
        runtime()?.block_on(async {
            let all: Vec<_> = (0..MAX_INVITED)
                .map(|number| {
                    let mut rng = ChaCha20Rng::seed_from_u64(number as u64);
                    (format!("client-{number}"), Invitation::generate(&mut rng))
                })
                .collect();
            let mut list = InvitedList::default();
            for (name, invitation) in &all {
                list.invite(name.parse()?, invitation.key().public())?;
            }
            let stage = Stage::new(&list)?;
            let (_, last) = all.last().context("a full list")?;
            stage.tunnel(last).await?;
            stage.stays_out(&stage.plain).await
        })
    })
}

#[test]
fn a_sessions_next_connection_knocks_by_the_same_invitation() -> Result<()> {
    isolated("a_sessions_next_connection_knocks_by_the_same_invitation", || {
        runtime()?.block_on(async {
            let alice = invitation(1);
            let stage = Stage::new(&list(&[("alice", &alice)])?)?;
            let censor = Censor::start(stage.plain.address, Manner::default()).await?;
            let line = BridgeLine { address: censor.address(), ..stage.line(&alice) };
            let tunnel = stage.dialer.dial(&line).await?;
            let mut stream = tunnel.open()?;
            echo(&mut stream).await?;
            ensure!(censor.cut() == 1);
            echo(&mut stream).await.context("the session did not go on")?;
            ensure!(censor.opened() == 2, "{} connections", censor.opened());
            Ok(())
        })
    })
}
