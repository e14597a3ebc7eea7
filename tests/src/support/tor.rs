//! A private Tor network on loopback: three authorities that are also relays and exits, bridges, clients.
//!
//! 1. Each authority's keys are made (`tor-gencert`, `tor --list-fingerprint`), since every torrc names all three.
//! 2. The authorities start together, just after a voting boundary, and agree on a consensus.
//! 3. A bridge starts, fetches the consensus and reaches 100 %. (Authorities never do: with three relays there is
//!    no path that leaves themselves out.)
//! 4. A client is given the bridge's line and reaches 100 % through it.
//!
//! Every tor names this process as its owner (`__OwningControllerProcess`) and is ended when its guard is dropped.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::process::{self, Running, wait_for};
use super::pt::{self, Pt};

/// Between attempts to vote until there is a first consensus. tor shortens the delays of so short an interval to a
/// second each: authorities vote two seconds before a boundary and count one second before it.
const FIRST_VOTING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a bootstrap may take. It takes about ten seconds; a loaded machine may miss a few votes.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(120);

/// How many authorities there are: the fewest that give a client three different hops.
const AUTHORITIES: usize = 3;

/// The authorities and what every other tor needs to know about them.
#[derive(Debug)]
pub struct Network {
    folder: TempDir,
    authorities: Vec<Tor>,
    dir_authority_lines: String,
}

impl Network {
    /// Starts the authorities. Exits accept connections to `exit_port` alone.
    ///
    /// # Errors
    /// tor or tor-gencert is missing or fails.
    pub fn start(exit_port: u16) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("qnet-tor-").tempdir()?;
        let plans = thread::scope(|scope| {
            let path = folder.path();
            let makers: Vec<_> =
                (0..AUTHORITIES).map(|n| scope.spawn(move || AuthorityPlan::make(path, n))).collect();
            makers
                .into_iter()
                .map(|maker| maker.join().unwrap_or_else(|_| bail!("a key maker panicked")))
                .collect::<Result<Vec<_>>>()
        })?;
        let dir_authority_lines: String = plans.iter().map(AuthorityPlan::line).collect();
        wait_for_boundary()?;
        let mut authorities = Vec::new();
        for plan in plans {
            let torrc = plan.torrc(exit_port, &dir_authority_lines);
            authorities.push(Tor::start(&plan.folder, &plan.nickname, &torrc, &[])?);
        }
        Ok(Self { folder, authorities, dir_authority_lines })
    }

    /// Starts a bridge and waits until it has bootstrapped and its transport has told its line.
    ///
    /// # Errors
    /// Either does not happen; with the end of tor's log.
    pub fn bridge(&self, pt: &Pt, extended_or_port: bool) -> Result<Bridge> {
        let name = if extended_or_port { "bridgeext" } else { "bridgeplain" };
        let folder = self.new_folder(name)?;
        let listen = process::free_address()?;
        let mut torrc = format!(
            "{}{}BridgeRelay 1\nPublishServerDescriptor 0\nBridgeDistribution none\nExitPolicy reject *:*\n\
             ServerTransportPlugin {pt_name} exec {binary}\nServerTransportListenAddr {pt_name} {listen}\n",
            self.common(),
            relay(name, process::free_address()?),
            pt_name = pt.name,
            binary = pt.binary.display(),
        );
        if extended_or_port {
            torrc.push_str("ExtORPort auto\n");
        }
        if !pt.server_options.is_empty() {
            torrc.push_str(&format!("ServerTransportOptions {} {}\n", pt.name, pt.server_options.join(" ")));
        }
        let mut tor = Tor::start(&folder, name, &torrc, &pt.environment)?;
        let lines = tor.folder.join("bridgelines");
        let line = wait_for("the bridge's line", BOOTSTRAP_LIMIT, || {
            tor.check()?;
            Ok(fs::read_to_string(&lines).ok().and_then(|text| pt::bridge_line(pt, &text).ok()))
        })
        .with_context(|| process::tail(&tor.log))?;
        tor.bootstrapped()?;
        let line = at_address(&line, listen)?;
        Ok(Bridge { tor, line, listen })
    }

    /// Starts a bridge relay from somebody else's torrc, which is included as it is, and waits until it has bootstrapped. What it
    /// keeps is in `data`.
    ///
    /// # Errors
    /// It does not; with the end of tor's log.
    pub fn relay_of(&self, torrc: &Path, data: &Path) -> Result<Tor> {
        let private = format!("{}Address 127.0.0.1\n%include {}\n", self.common(), torrc.display());
        let mut tor = Tor::start(data, "the operator's relay", &private, &[])?;
        tor.bootstrapped()?;
        Ok(tor)
    }

    /// Starts a client that knows one bridge and waits until it has bootstrapped.
    ///
    /// # Errors
    /// It does not; with the end of tor's log.
    pub fn client(&self, pt: &Pt, line: &str) -> Result<Client> {
        self.client_with(pt, line, "")
    }

    /// The same with more lines in its torrc.
    ///
    /// # Errors
    /// It does not; with the end of tor's log.
    pub fn client_with(&self, pt: &Pt, line: &str, torrc: &str) -> Result<Client> {
        let name = "client";
        let folder = self.new_folder(name)?;
        let socks = process::free_address()?;
        let torrc = format!(
            "{}{torrc}SocksPort {socks}\nUseBridges 1\nClientTransportPlugin {} exec {}\n{line}\n\
             ClientRejectInternalAddresses 0\nClientDNSRejectInternalAddresses 0\n",
            self.common(),
            pt.name,
            pt.binary.display(),
        );
        let mut tor = Tor::start(&folder, name, &torrc, &pt.environment)?;
        tor.bootstrapped()?;
        Ok(Client { tor, socks })
    }

    /// The authorities' `DirAuthority` lines, for what is no tor.
    #[must_use]
    pub fn authorities(&self) -> &str {
        &self.dir_authority_lines
    }

    /// What every torrc starts with.
    fn common(&self) -> String {
        format!("{COMMON}{}", self.dir_authority_lines)
    }

    /// A folder of its own for each tor: `<name>0`, `<name>1` …
    fn new_folder(&self, name: &str) -> Result<PathBuf> {
        let taken = fs::read_dir(self.folder.path())?.count();
        let folder = self.folder.path().join(format!("{name}{taken}"));
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Ends every authority, in order.
    ///
    /// # Errors
    /// One cannot be ended.
    pub fn stop(mut self) -> Result<()> {
        self.authorities.iter_mut().try_for_each(|authority| authority.running.stop())
    }
}

/// A bridge with its transport.
#[derive(Debug)]
pub struct Bridge {
    /// Its tor.
    pub tor: Tor,
    /// The line a client needs, with the leading word `Bridge`.
    pub line: String,
    /// Where the transport listens.
    pub listen: SocketAddr,
}

/// A client with its transport.
#[derive(Debug)]
pub struct Client {
    /// Its tor.
    pub tor: Tor,
    /// Its SOCKS port.
    pub socks: SocketAddr,
}

/// One tor process.
#[derive(Debug)]
pub struct Tor {
    running: Running,
    folder: PathBuf,
    log: PathBuf,
}

impl Tor {
    /// Starts a tor that has no network: the one authority it knows does not exist. It launches its transport all the same, and
    /// as a client it connects to its bridges. What it and the transport say to each other is in [`Self::pt_log`].
    /// `namespace`: a process in whose network namespace it runs instead of this one's.
    ///
    /// # Errors
    /// It does not start.
    pub fn alone(
        folder: &Path,
        name: &str,
        torrc: &str,
        pt: &Pt,
        namespace: Option<&Running>,
    ) -> Result<Self> {
        fs::create_dir(folder)?;
        let nobody = "DirAuthority nobody orport=9 v3ident=0000000000000000000000000000000000000001 127.0.0.1:9 \
                      0000000000000000000000000000000000000001\n";
        let pt_log = format!("Log [pt]debug file {}\n", folder.join("pt.log").display());
        let torrc = format!("{COMMON}{nobody}{pt_log}{torrc}");
        Self::start_in(namespace, folder, name, &torrc, &pt.environment)
    }

    fn start(folder: &Path, name: &str, torrc: &str, environment: &[(String, String)]) -> Result<Self> {
        Self::start_in(None, folder, name, torrc, environment)
    }

    fn start_in(
        namespace: Option<&Running>,
        folder: &Path,
        name: &str,
        torrc: &str,
        environment: &[(String, String)],
    ) -> Result<Self> {
        let (file, log) = (folder.join("torrc"), folder.join("notice.log"));
        let own = format!(
            "DataDirectory {}\nLog notice file {}\n__OwningControllerProcess {}\n",
            folder.display(),
            log.display(),
            std::process::id()
        );
        fs::write(&file, format!("{own}{torrc}"))?;
        let mut command = tor_command_in(namespace, folder)?;
        command
            .arg("--quiet")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("stderr"))?);
        command.envs(environment.iter().cloned());
        let running = Running::start(&format!("tor as {name}"), &mut command)?;
        Ok(Self { running, folder: folder.to_owned(), log })
    }

    /// Waits for 100 %.
    ///
    /// # Errors
    /// tor ended, or time has passed; with the end of its log.
    pub fn bootstrapped(&mut self) -> Result<()> {
        self.wait_logged("Bootstrapped 100%", BOOTSTRAP_LIMIT)
    }

    /// Waits until tor has logged a text.
    ///
    /// # Errors
    /// tor ended, or `limit` has passed; with the end of its log.
    pub fn wait_logged(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("{} logs {text:?}", self.running);
        wait_for(&what, limit, || {
            self.check()?;
            Ok(self.logged()?.contains(text).then_some(()))
        })
        .with_context(|| process::tail(&self.log))
    }

    /// All that tor has logged, level notice and above.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn logged(&self) -> Result<String> {
        Ok(if self.log.exists() { fs::read_to_string(&self.log)? } else { String::new() })
    }

    /// The transport's process, or `None` while there is none.
    ///
    /// # Errors
    /// `/proc` cannot be read, or there are several.
    pub fn transport(&self) -> Result<Option<u32>> {
        match process::children(self.running.pid())?.as_slice() {
            [] => Ok(None),
            [pid] => Ok(Some(*pid)),
            several => bail!("{} has the children {several:?}", self.running),
        }
    }

    /// All that a tor started by [`Self::alone`] has logged of its transport, level debug and above: every line
    /// of the transport's is there.
    ///
    /// # Errors
    /// There is no such log.
    pub fn pt_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("pt.log"))?)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its data directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks tor to end and waits for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(&mut self) -> Result<()> {
        self.running.stop()
    }

    fn check(&mut self) -> Result<()> {
        match self.running.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}", self.running),
        }
    }
}

/// The same for every tor here.
const COMMON: &str = "\
TestingTorNetwork 1
UseDefaultFallbackDirs 0
PathsNeededToBuildCircuits 0.67
ShutdownWaitLength 0
SafeLogging 0
";

/// What only authorities have. The exit policy must reach beyond 127.0.0.0/8, or the consensus has no exits.
const AUTHORITY: &str = "\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
AuthDirTestReachability 0
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
TestingV3AuthInitialVotingInterval 5 seconds
TestingV3AuthInitialVoteDelay 2 seconds
TestingV3AuthInitialDistDelay 2 seconds
V3AuthVotingInterval 20 seconds
V3AuthVoteDelay 2 seconds
V3AuthDistDelay 2 seconds
ExitRelay 1
ExitPolicyRejectPrivate 0
";

/// What authorities and bridges share.
fn relay(nickname: &str, or: SocketAddr) -> String {
    format!(
        "Nickname {nickname}\nAddress 127.0.0.1\nORPort {or} IPv4Only\nSocksPort 0\nAssumeReachable 1\n\
         ServerDNSAllowBrokenConfig 1\nServerDNSDetectHijacking 0\nContactInfo test\n"
    )
}

/// An authority before it starts: its keys and its ports.
struct AuthorityPlan {
    folder: PathBuf,
    nickname: String,
    or: SocketAddr,
    dir: SocketAddr,
    identity: String,
    fingerprint: String,
}

impl AuthorityPlan {
    fn make(parent: &Path, n: usize) -> Result<Self> {
        let nickname = format!("authority{n}");
        let folder = parent.join(&nickname);
        fs::create_dir_all(folder.join("keys"))?;
        let (or, dir) = (process::free_address()?, process::free_address()?);
        let identity = authority_identity(&folder, dir)?;
        let fingerprint = relay_fingerprint(&folder, &nickname, or)?;
        Ok(Self { folder, nickname, or, dir, identity, fingerprint })
    }

    fn line(&self) -> String {
        format!(
            "DirAuthority {} orport={} v3ident={} {} {}\n",
            self.nickname,
            self.or.port(),
            self.identity,
            self.dir,
            self.fingerprint
        )
    }

    fn torrc(&self, exit_port: u16, dir_authority_lines: &str) -> String {
        format!(
            "{COMMON}{dir_authority_lines}{}{AUTHORITY}DirPort {} IPv4Only\nExitPolicy accept *:{exit_port}, reject *:*\n",
            relay(&self.nickname, self.or),
            self.dir
        )
    }
}

/// Makes an authority's long-term and signing keys; gives the identity's fingerprint.
fn authority_identity(folder: &Path, dir: SocketAddr) -> Result<String> {
    let keys = folder.join("keys");
    let mut command = Command::new("tor-gencert");
    command.current_dir(&keys).args(["--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a"]);
    // An empty passphrase, read from an empty standard input: the key lives as long as this test.
    run(command.arg(dir.to_string()))?;
    let certificate = fs::read_to_string(keys.join("authority_certificate"))?;
    let identity = certificate.lines().find_map(|line| line.strip_prefix("fingerprint "));
    Ok(identity.context("tor-gencert's certificate names no fingerprint")?.to_owned())
}

/// Makes a relay's keys; gives its RSA fingerprint.
fn relay_fingerprint(folder: &Path, nickname: &str, or: SocketAddr) -> Result<String> {
    let mut command = tor_command(folder)?;
    command.arg("--ignore-missing-torrc").arg("-f").arg(folder.join("torrc")).args([
        "--list-fingerprint",
        "--Nickname",
        nickname,
        "--SocksPort",
        "0",
        "--Address",
        "127.0.0.1",
        "--AssumeReachable",
        "1",
    ]);
    run(command.args(["--ORPort", &format!("{or} IPv4Only")]).arg("--DataDirectory").arg(folder))?;
    let text = fs::read_to_string(folder.join("fingerprint"))?;
    let fingerprint = text.split_whitespace().nth(1).context("tor's file `fingerprint` is empty")?;
    Ok(fingerprint.to_owned())
}

/// A tor that reads nothing from /etc. (It takes only a regular file for its defaults.)
fn tor_command(folder: &Path) -> Result<Command> {
    tor_command_in(None, folder)
}

fn tor_command_in(namespace: Option<&Running>, folder: &Path) -> Result<Command> {
    let defaults = folder.join("torrc-defaults");
    File::create(&defaults)?;
    let mut command = match namespace {
        None => Command::new("tor"),
        Some(owner) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{}/ns/net", owner.pid())).arg("tor");
            command
        }
    };
    command.arg("--defaults-torrc").arg(defaults);
    Ok(command)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not start: is the package tor installed?", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said))
}

/// The line with another address: tor guesses the one it writes, and a test may have put something in between.
///
/// # Errors
/// It has none.
pub fn at_address(line: &str, address: SocketAddr) -> Result<String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let address = address.to_string();
    *words.get_mut(2).context("a bridge line has an address")? = &address;
    Ok(words.join(" "))
}

/// Sleeps until just after a voting boundary; they count from midnight, UTC. That leaves the authorities three seconds
/// to find each other. Those that start with less vote late, in the second in which votes are counted, and lose half a
/// minute to the next consensus.
fn wait_for_boundary() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let interval = FIRST_VOTING_INTERVAL.as_millis();
    thread::sleep(Duration::from_millis(u64::try_from(interval - now.as_millis() % interval)?));
    Ok(())
}
