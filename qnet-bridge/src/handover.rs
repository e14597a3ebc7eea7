//! An upgrade without a lost connection: the listening sockets go from a process that runs to one that it starts beside itself.
//!
//! 1. The old process starts its program again, by the path and with the arguments by which it was started itself. The new one's
//!    standard input is a socket between the two, on which the listening sockets come (`SCM_RIGHTS`, unix(7)). It is started by way of
//!    a third, which ends at once, so that it is nobody's child but the system's: a service manager hears of its end as of the old one's,
//!    which it would not if the old one were its parent.
//! 2. The new one reads its settings and examines the decoy. Where it cannot serve it ends, and nothing has changed.
//! 3. It says that it is ready, and takes the connections from then on. The old one takes no more; those that it has go on.
//!
//! 4. The socket between the two stays. For each client that comes to the new one with a session of the old one's, the new one makes a
//!    connection to the old one and hands that one's end of it over on this socket ([`give`], [`taken`]). Nobody else has the socket, and
//!    it has no name by which it could be found. Where the new one is succeeded itself, its successor gets the socket as well.
//!
//! 5. Whoever asks the new one what it has counted is told of the old one's as well, which the new one asks on a socket that it hands over
//!    in the same way ([`ask`]). The old one's last word on the socket between the two is what it had counted at its end ([`last_word`]).
//!
//! Between 2 and 3 nobody takes connections for a moment: they wait in the kernel's queue, which belongs to the socket.
//!
//! A service manager passes sockets in another way, `sd_listen_fds(3)`: it holds them itself, so they outlive every process.

use std::{
    env,
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use listenfd::ListenFd;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::UnixStream as Channel,
    sync::mpsc,
    time::timeout,
};

use crate::systemd;

/// Set for a process that takes over, and for the one between.
const VARIABLE: &str = "QNET_BRIDGE_TAKES_OVER";
/// Its value for the one between.
const BETWEEN: &str = "between";
/// Sockets that are handed over at most: where the bridge listens, and where it tells numbers.
const MAX_SOCKETS: usize = 2;
/// Processes before the one that hands over of which its successor hears. More than these end their sessions' carriers by their number:
/// a bridge that is upgraded eight times in `upgrade-drain`.
const MAX_OLDER: usize = 7;
/// What is handed over to an older process: a client's carrier, or who asks what was counted. One that is too old to know the difference
/// takes the second for the first, and says nothing.
const CARRIER: u8 = 1;
const QUESTION: u8 = 2;
/// How long a new process may take: the decoy's examination takes up to 12 s.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may take to end once it has closed everything, and between two looks whether it has.
const END_LIMIT: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The sockets with which this process was started, and who waits for it.
pub(crate) struct Inherited {
    sockets: Vec<TcpListener>,
    predecessor: Option<UnixStream>,
    /// To the processes before that one, the oldest first.
    older: Vec<UnixStream>,
    told: bool,
}

impl Inherited {
    /// Looks what there is. To be called once, before there are threads.
    pub(crate) fn receive() -> Result<Self> {
        if env::var_os(VARIABLE).is_some() {
            return from_predecessor()
                .with_context(|| format!("{VARIABLE} is for the program's own use: no sockets came"));
        }
        let sockets = from_manager().context("the service manager's sockets cannot be used")?;
        Ok(Self { sockets, predecessor: None, older: Vec::new(), told: false })
    }

    /// How many processes there were before that may have sessions still.
    pub(crate) fn predecessors(&self) -> usize {
        self.older.len() + usize::from(self.predecessor.is_some())
    }

    /// Whether another process serves until this one is ready.
    pub(crate) fn takes_over(&self) -> bool {
        self.predecessor.is_some()
    }

    /// The socket that listens at `address`, of which port 0 is any port.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let fits = |socket: &TcpListener| {
            socket
                .local_addr()
                .is_ok_and(|local| local == address || (address.port() == 0 && local.ip() == address.ip()))
        };
        self.sockets.iter().position(fits).map(|place| self.sockets.remove(place))
    }

    /// The same for the bridge's own address: where the service manager holds sockets, one of them must be it.
    pub(crate) fn take_own(&mut self, address: SocketAddr) -> Result<Option<TcpListener>> {
        let found = self.take(address);
        match self.sockets.first() {
            Some(other) if found.is_none() && !self.takes_over() => bail!(
                "the service manager listens on {}, and listen is {address}: make them the same",
                other.local_addr()?
            ),
            _ => Ok(found),
        }
    }

    /// Tells whoever waits for it that this process serves.
    pub(crate) fn ready(&mut self) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        match &mut self.predecessor {
            // One that is gone needs no word.
            Some(predecessor) => drop(predecessor.write_all(&[1])),
            None => systemd::ready(),
        }
    }

    /// The sockets to the processes that may have sessions still, the oldest first.
    pub(crate) fn older(self) -> Vec<UnixStream> {
        self.older.into_iter().chain(self.predecessor).collect()
    }
}

/// The crate clears the variables, which are for this process alone, and sees that none started from here has the sockets unless it
/// is given them.
fn from_manager() -> Result<Vec<TcpListener>> {
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for number in 0..given.len() {
        let socket = given.take_tcp_listener(number)?.context("one is missing")?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn from_predecessor() -> Result<Inherited> {
    let mut channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Some((count, mut sockets)) = receive(&channel)? else { bail!("the other side has gone") };
    channel.write_all(&process::id().to_be_bytes())?;
    let older = sockets.split_off(usize::from(count).min(sockets.len()));
    let sockets = sockets.into_iter().map(TcpListener::from).collect();
    let older = older.into_iter().map(UnixStream::from).collect();
    Ok(Inherited { sockets, predecessor: Some(channel), older, told: false })
}

/// From now on `links` go to the processes at the channels' other ends, each to its own.
pub(crate) fn reach(channels: &[UnixStream], links: Vec<mpsc::Receiver<UnixStream>>) -> Result<()> {
    for (channel, links) in channels.iter().zip(links) {
        tokio::spawn(give(channel.try_clone().context("an older process is lost")?, links));
    }
    Ok(())
}

/// Hands connections over to the process at the channel's other end, for as long as that is there.
async fn give(channel: UnixStream, mut links: mpsc::Receiver<UnixStream>) {
    let Ok(channel) = nonblocking(channel) else { return };
    loop {
        tokio::select! {
            link = links.recv() => {
                let Some(link) = link else { return };
                let sent = channel.async_io(Interest::WRITABLE, || send(channel.as_fd(), CARRIER, &[link.as_fd()]));
                match sent.await {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
                    Err(error) => tracing::debug!("a client's session in the older process is not reached: {error}"),
                    Ok(()) => {}
                }
            }
            // It says nothing before its last word, which is for whoever counts.
            _ = channel.async_io(Interest::READABLE, || peek(&channel)) => return,
        }
    }
}

/// What the process at the channel's other end hands over to this one.
pub(crate) enum Taken {
    /// A client's carrier, with a session of this process's.
    Carrier(UnixStream),
    /// Who asks what was counted.
    Question(UnixStream),
}

/// The next that it hands over; none when it is gone.
pub(crate) async fn taken(channel: &Channel) -> Option<Taken> {
    loop {
        let (what, sockets) =
            channel.async_io(Interest::READABLE, || receive(channel)).await.ok().flatten()?;
        // Without one where this process has too many open files.
        if let Some(socket) = sockets.into_iter().next() {
            let question = what == QUESTION;
            return Some(if question {
                Taken::Question(socket.into())
            } else {
                Taken::Carrier(socket.into())
            });
        }
    }
}

/// Asks the process at the channel's other end what it has counted; `socket` is for its answer.
pub(crate) async fn ask(channel: &Channel, socket: UnixStream) -> io::Result<()> {
    channel.async_io(Interest::WRITABLE, || send(channel.as_fd(), QUESTION, &[socket.as_fd()])).await
}

/// Says `word` to whoever asked, or as the last on a channel. It is short, so that either there is room for it or nobody reads.
pub(crate) fn say(socket: impl AsFd, word: &[u8]) {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if let Err(error) = rustix::net::send(socket, word, flags) {
        tracing::debug!("what was counted is not told: {error}");
    }
}

/// Waits for the last word of the process at the channel's other end; none where it ends without.
pub(crate) async fn last_word(channel: &Channel, word: &mut [u8]) -> Option<()> {
    let mut rest = word;
    while !rest.is_empty() {
        channel.readable().await.ok()?;
        match channel.try_read(rest) {
            Ok(0) => return None,
            Ok(count) => rest = rest.get_mut(count..)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(())
}

pub(crate) fn nonblocking(channel: UnixStream) -> io::Result<Channel> {
    channel.set_nonblocking(true)?;
    Channel::from_std(channel)
}

/// How this process was started, which is how its successor is.
#[derive(Clone)]
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// To be asked early: when the file has been replaced, the system no longer tells its path.
    pub(crate) fn this() -> Result<Self> {
        let path = env::current_exe().context("this program's own path is not known")?;
        Ok(Self { path, arguments: env::args_os().skip(1).collect() })
    }

    /// Starts it with these sockets, to listen and to older processes, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start, ends, or is not ready in time; then it is gone.
    pub(crate) async fn succeed(
        self,
        sockets: Vec<TcpListener>,
        older: Vec<UnixStream>,
    ) -> Result<Successor> {
        let (own, its) = UnixStream::pair().context("no socket for the new process")?;
        let listening = sockets.iter().take(MAX_SOCKETS).map(|socket| socket.as_fd());
        let forgotten = older.len().saturating_sub(MAX_OLDER);
        let descriptors: Vec<_> =
            listening.chain(older.iter().skip(forgotten).map(|channel| channel.as_fd())).collect();
        let count = u8::try_from(sockets.len().min(MAX_SOCKETS)).unwrap_or(u8::MAX);
        send(own.as_fd(), count, &descriptors).context("the sockets cannot be handed over")?;
        let mut own = nonblocking(own)?;
        let between = self.start(BETWEEN, OwnedFd::from(its).into())?;
        let mut attempt = Attempt { between, process: None };
        let ready = timeout(READY_LIMIT, attempt.ready(&mut own)).await;
        let late = || format!("the new process was not ready within {} s", READY_LIMIT.as_secs());
        let pid = ready.with_context(late)??;
        attempt.process = None;
        Ok(Successor { pid, channel: own })
    }

    fn start(&self, role: &str, input: Stdio) -> Result<Child> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env(VARIABLE, role).stdin(input);
        command.spawn().with_context(|| format!("cannot start {}", self.path.display()))
    }
}

/// A process that has taken over.
pub(crate) struct Successor {
    pub(crate) pid: u32,
    /// To it.
    pub(crate) channel: Channel,
}

/// Starts the process that takes over, if this one is there for nothing else.
pub(crate) fn stands_between() -> Result<bool> {
    if env::var_os(VARIABLE).is_none_or(|role| role != BETWEEN) {
        return Ok(false);
    }
    Program::this()?.start("", Stdio::inherit())?;
    Ok(true)
}

/// One byte, with descriptors.
fn send(channel: BorrowedFd<'_>, byte: u8, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS + MAX_OLDER))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(channel, &[IoSlice::new(&[byte])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The same from the other end; none where that is gone.
fn receive(channel: &impl AsFd) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS + MAX_OLDER))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let into = &mut [IoSliceMut::new(&mut byte)];
    let received = recvmsg(channel, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    let [byte] = byte;
    Ok((received.bytes > 0).then_some((byte, descriptors)))
}

/// Whether there is something to read, or the end, which stays there.
fn peek(channel: &impl AsFd) -> io::Result<()> {
    rustix::net::recv(channel, &mut [0; 1], RecvFlags::PEEK)?;
    Ok(())
}

/// A new process that is not ready; ended when dropped.
struct Attempt {
    between: Child,
    process: Option<Pid>,
}

impl Attempt {
    /// Waits for its word. The process's number.
    async fn ready(&mut self, channel: &mut Channel) -> Result<u32> {
        let Ok(pid) = channel.read_u32().await else { bail!("{}; why, it says above", self.end().await) };
        self.process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if channel.read_u8().await.is_err() {
            bail!("{}; why, it says above", self.end().await);
        }
        Ok(pid)
    }

    /// How it ended, as far as that is known here.
    async fn end(&mut self) -> String {
        let end = tokio::time::Instant::now() + END_LIMIT;
        while tokio::time::Instant::now() < end {
            match self.between.try_wait() {
                Ok(None) => tokio::time::sleep(LOOK_EVERY).await,
                Ok(Some(status)) if !status.success() => return format!("the new process ended ({status})"),
                _ => break,
            }
        }
        "the new process ended before it was ready".to_owned()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            // Fails where it has ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
        // It has ended as a rule, and is only taken notice of.
        let _ = self.between.kill();
        let _ = self.between.wait();
    }
}
