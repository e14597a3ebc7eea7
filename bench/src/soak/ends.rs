//! The two ends of a stream, each of which does its part of the plan and checks the other's.

use std::io;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::Linger};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{sleep, timeout};

use super::plan::{End, Pauses, Plan, Side};

/// Read and written at once, bytes.
const PIECE: usize = 16 * 1024;

/// A stream that has not ended by then is stuck. Where its carrier was cut, another may have to wait some seconds for the budget.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

/// How a stream ended at one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As planned, all of it.
    Whole,
    /// As planned, before its time.
    Broken,
    /// Before its time, where that was not planned: with an error, or, `silently`, as if it were all.
    Lost { silently: bool },
    /// A byte that nobody sent there.
    Corrupt,
    /// Not at all.
    Stuck,
}

/// What went wrong while it went.
enum Failure {
    Corrupt,
    Early,
    Io,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// The client's end of the stream with this seed.
pub(super) async fn client(mut stream: TcpStream, seed: u64) -> Outcome {
    let plan = Plan::of(seed);
    if stream.write_all(&seed.to_be_bytes()).await.is_err() {
        return outcome(&plan, Err(Failure::Io));
    }
    bounded(stream, plan, Side::Client).await
}

/// The far end of some stream. None: it never said which.
pub(super) async fn far(mut stream: TcpStream) -> Option<Outcome> {
    let mut seed = [0; 8];
    timeout(LIMIT, stream.read_exact(&mut seed)).await.ok()?.ok()?;
    Some(bounded(stream, Plan::of(u64::from_be_bytes(seed)), Side::Far).await)
}

async fn bounded(mut stream: TcpStream, plan: Plan, side: Side) -> Outcome {
    let done = timeout(LIMIT, run(&mut stream, &plan, side)).await;
    let broken = matches!(plan.end, End::Broken { by, hard: true, .. } if by == side);
    if broken || !matches!(done, Ok(Ok(()))) {
        // So that the other end does not take what came for all there was.
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, Linger, &now).ok();
    }
    done.map_or(Outcome::Stuck, |done| outcome(&plan, done))
}

fn outcome(plan: &Plan, done: Result<(), Failure>) -> Outcome {
    match (done, plan.end) {
        (Err(Failure::Corrupt), _) => Outcome::Corrupt,
        (Ok(()), End::Whole { .. }) => Outcome::Whole,
        (_, End::Broken { .. }) => Outcome::Broken,
        (Err(Failure::Early), _) => Outcome::Lost { silently: true },
        (Err(Failure::Io), _) => Outcome::Lost { silently: false },
    }
}

async fn run(stream: &mut TcpStream, plan: &Plan, side: Side) -> Result<(), Failure> {
    let (mut read, mut write) = stream.split();
    match plan.end {
        End::Broken { by, after, .. } if by == side => {
            // It reads meanwhile, so that the other's data do not stand in the way.
            tokio::select! {
                sent = send(&mut write, plan, side, after) => sent,
                Err(Failure::Corrupt) = get(&mut read, plan, side) => Err(Failure::Corrupt),
            }
        }
        End::Whole { answers: true } if side == Side::Far => {
            get(&mut read, plan, side).await?;
            send(&mut write, plan, side, plan.sends(side)).await?;
            Ok(write.shutdown().await?)
        }
        _ if side == Side::Far => {
            // Its end says that all has come as well.
            tokio::try_join!(send(&mut write, plan, side, plan.sends(side)), get(&mut read, plan, side))?;
            Ok(write.shutdown().await?)
        }
        _ => {
            let sent = async {
                send(&mut write, plan, side, plan.sends(side)).await?;
                Ok(write.shutdown().await?)
            };
            tokio::try_join!(sent, get(&mut read, plan, side)).map(drop)
        }
    }
}

async fn send(write: &mut WriteHalf<'_>, plan: &Plan, side: Side, bytes: u64) -> Result<(), Failure> {
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    let mut pauses = Pauses::new(plan.seed);
    while at < bytes {
        let count = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        let now = piece.get_mut(..count).unwrap_or_default();
        plan.fill(side, at, now);
        write.write_all(now).await?;
        at += count as u64;
        if let Some(time) = pauses.after(count as u64) {
            sleep(time).await;
        }
    }
    Ok(())
}

/// Reads to the other's end.
async fn get(read: &mut ReadHalf<'_>, plan: &Plan, side: Side) -> Result<(), Failure> {
    let from = if side == Side::Client { Side::Far } else { Side::Client };
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    let mut pauses = Pauses::new(plan.seed.rotate_left(32));
    loop {
        let count = read.read(&mut piece).await?;
        if count == 0 {
            return if at == plan.gets(side) { Ok(()) } else { Err(Failure::Early) };
        }
        if !plan.matches(from, at, piece.get(..count).unwrap_or_default()) {
            return Err(Failure::Corrupt);
        }
        at += count as u64;
        if let Some(time) = pauses.after(count as u64) {
            sleep(time).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, client, far};
    use crate::soak::plan::{End, Plan};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn both_ends_agree_on_every_plan() {
        for seed in 0..300 {
            let (near, distant) = connected().await;
            let wanted = match Plan::of(seed).end {
                End::Whole { .. } => Outcome::Whole,
                End::Broken { .. } => Outcome::Broken,
            };
            let (near, distant) = tokio::join!(client(near, seed), far(distant));
            assert_eq!(near, wanted, "{:?}", Plan::of(seed));
            // A reset may overtake the seed.
            assert!(distant.is_none_or(|outcome| outcome == wanted), "{:?}", Plan::of(seed));
        }
    }

    #[tokio::test]
    async fn a_changed_byte_and_a_missing_end_are_noticed() {
        let whole =
            |seed: &u64| Plan::of(*seed).up > 1_000 && matches!(Plan::of(*seed).end, End::Whole { .. });
        let seed = (0..).find(whole).unwrap();
        for flips in [true, false] {
            let (near, mut middle) = connected().await;
            let (mut after, distant) = connected().await;
            let (near, distant, ()) = tokio::join!(client(near, seed), far(distant), async move {
                let mut piece = [0; 500];
                middle.read_exact(&mut piece).await.unwrap();
                piece[400] ^= u8::from(flips);
                after.write_all(&piece).await.unwrap();
                if !flips {
                    after.shutdown().await.unwrap();
                    drop(middle);
                }
                after.read_to_end(&mut Vec::new()).await.ok();
            });
            let wanted = if flips { Outcome::Corrupt } else { Outcome::Lost { silently: true } };
            assert_eq!(distant, Some(wanted));
            assert!(matches!(near, Outcome::Lost { .. }), "{near:?}");
        }
    }
}
