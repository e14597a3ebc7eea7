//! One stream over long paths, beside plain TCP over the same.
//!
//! Both go through a `link` of their own by the same rules (`sender`): a TCP connection straight to the far end, and QNet's
//! carrier from `qnet proxy` to `qnet-bridge run`. What is measured is a stream that has been under way for a while, and how long the
//! first megabytes take.

mod link;
mod sender;

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use self::link::Link;
pub use self::sender::Path;
use crate::goals::Goal;
use crate::load::{self, Direction};
use crate::measure::Figure;
use crate::peers::Qnet;
use crate::report::Series;

/// QNet's share of plain TCP's throughput, at least.
pub const SHARE: f64 = 0.9;

/// The figures that are judged.
pub const STEADY: [&str; 2] = ["up, under way (MB/s)", "down, under way (MB/s)"];

/// What is carried where the beginning is timed, bytes.
const FIRST: u64 = 1_000_000;

/// Where segments get lost: so much takes some seconds there.
const FIRST_OF_LOSSY: u64 = 100_000;

/// Round trips until a stream counts as under way: slow start takes nine to the greatest window, and windows that grow with the
/// path as many again.
const WARM_UP_TRIPS: u32 = 25;

/// A path, and how long a stream on it is watched.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What the table calls it.
    pub name: &'static str,
    /// What it does.
    pub path: Path,
    /// How long a stream is watched once it is under way.
    pub span: Duration,
}

/// All cases. Losses come seldom: where there are some, more time is needed for the same number.
#[must_use]
pub fn cases() -> Vec<Case> {
    let case = |name, trip, rate: Option<u64>, lost, span| Case {
        name,
        path: Path { round_trip: Duration::from_millis(trip), rate, lost, seed: 1 },
        span: Duration::from_secs(span),
    };
    let rate = Some(12_500_000);
    vec![
        case("100 ms, no rate", 100, None, 0, 5),
        case("100 ms, 100 Mbit/s", 100, rate, 0, 5),
        case("300 ms, no rate", 300, None, 0, 6),
        case("300 ms, 100 Mbit/s", 300, rate, 0, 6),
        case("100 ms, 1 % lost", 100, None, 10, 30),
        case("300 ms, 1 % lost", 300, None, 10, 30),
    ]
}

/// What QNet needed for its part of a round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needed {
    /// The greatest memory of client and bridge, bytes.
    pub memory: [u64; 2],
    /// Carriers. More than one: the first counted as stalled, or had carried enough.
    pub carriers: u64,
}

/// A round of a case: of plain TCP and of QNet.
///
/// # Errors
/// A program does not start, ends, or does not carry what it was given.
pub fn round(case: &Case, number: usize, qnet: &Qnet) -> Result<([Vec<Figure>; 2], Needed)> {
    // Other losses each round, the same for both.
    let path = Path { seed: (number as u64 + 1) * 0x9E37_79B9, ..case.path };
    let case = Case { path, ..*case };
    let (plain, (figures, needed)) = if case.path.lost > 0 {
        // Both are mostly waiting.
        let both = thread::scope(|scope| {
            let plain = scope.spawn(|| plain(&case));
            (tunnelled(&case, qnet), plain.join())
        });
        (both.1.map_err(|_| anyhow!("a measurement panicked"))??, both.0?)
    } else {
        (plain(&case)?, tunnelled(&case, qnet)?)
    };
    Ok(([plain, figures], needed))
}

fn plain(case: &Case) -> Result<Vec<Figure>> {
    let (far, taken) = load::start_counting()?;
    let link = Link::start(far, case.path)?;
    let connect = || -> Result<TcpStream> { crate::socks::patient(TcpStream::connect(link.address())?) };
    let first = first(case, connect)?;
    let further = self::first(case, connect)?;
    let up = under_way(case, Direction::Up, connect, &taken)?;
    let down = under_way(case, Direction::Down, connect, &AtomicU64::new(0))?;
    Ok(figures(case, [first, further, up, down]))
}

fn tunnelled(case: &Case, qnet: &Qnet) -> Result<(Vec<Figure>, Needed)> {
    let (far, taken) = load::start_counting()?;
    let path = case.path;
    let mut opened = Arc::default();
    let pair = qnet.start_by(far, |bridge: SocketAddr| {
        let link = Link::start(bridge, path)?;
        opened = link.opened();
        Ok((link.address(), link))
    })?;
    let connect = || pair.connect();
    let first = first(case, connect)?;
    let further = self::first(case, connect)?;
    let up = under_way(case, Direction::Up, connect, &taken)?;
    let after_up = pair.resident()?;
    let down = under_way(case, Direction::Down, connect, &AtomicU64::new(0))?;
    let after_down = pair.resident()?;
    let memory = [0, 1].map(|side: usize| after_up[side].max(after_down[side]));
    let needed = Needed { memory, carriers: opened.load(Ordering::Relaxed) };
    Ok((figures(case, [first, further, up, down]), needed))
}

fn figures(case: &Case, [first, further, up, down]: [f64; 4]) -> Vec<Figure> {
    let names = if case.path.lost > 0 {
        ["first connection: 100 KB down (s)", "a further one: 100 KB down (s)"]
    } else {
        ["first connection: 1 MB down (s)", "a further one: 1 MB down (s)"]
    };
    vec![(names[0], first), (names[1], further), (STEADY[0], up), (STEADY[1], down)]
}

/// Seconds from the connection's beginning until so much has come.
fn first(case: &Case, connect: impl Fn() -> Result<TcpStream>) -> Result<f64> {
    let begin = Instant::now();
    let bytes = if case.path.lost > 0 { FIRST_OF_LOSSY } else { FIRST };
    load::transfer(connect()?, Direction::Down, bytes)?;
    Ok(begin.elapsed().as_secs_f64())
}

/// MB a second that arrive of a stream without end, once it is under way. `taken` counts what arrives: the far end's upward, the near
/// end's downward.
#[expect(clippy::cast_precision_loss, reason = "bytes of a run are far below 2^52")]
fn under_way(
    case: &Case,
    direction: Direction,
    connect: impl Fn() -> Result<TcpStream>,
    taken: &AtomicU64,
) -> Result<f64> {
    let stream = connect()?;
    let handle = stream.try_clone()?;
    thread::scope(|scope| {
        // It ends with an error: by us, or before, and then its throughput shows it.
        let carrier = scope.spawn(move || match direction {
            Direction::Up => load::transfer(stream, direction, u64::MAX),
            Direction::Down => load::receive(stream, u64::MAX, taken),
        });
        let now = || (taken.load(Ordering::Relaxed), Instant::now());
        thread::sleep(case.path.round_trip * WARM_UP_TRIPS);
        let (before, begun) = now();
        thread::sleep(case.span);
        let (after, ended) = now();
        let alive = !carrier.is_finished();
        drop(handle.shutdown(Shutdown::Both));
        let outcome = carrier.join().map_err(|_| anyhow!("the stream's thread panicked"))?;
        if !alive {
            outcome.with_context(|| format!("{}: the stream ended", case.name))?;
        }
        Ok((after - before) as f64 / 1e6 / (ended - begun).as_secs_f64())
    })
}

/// Whether QNet carries enough, of each case's series of plain TCP and of QNet.
#[must_use]
pub fn judge(case: &str, plain: &Series, qnet: &Series) -> Vec<Goal> {
    let ratio = |figure: &str| Some(qnet.median(figure)? / plain.median(figure)?);
    let goal = |figure: &str| {
        let ratio = ratio(figure)?;
        let what = format!("{case}: {figure}: at least {SHARE} of plain TCP's");
        Some(Goal { what, measured: format!("{ratio:.2}"), holds: ratio >= SHARE })
    };
    STEADY.iter().filter_map(|figure| goal(figure)).collect()
}

#[cfg(test)]
mod tests {
    use super::{STEADY, judge};
    use crate::report::Series;

    #[test]
    fn nine_tenths_are_enough() {
        let series = |up, down| Series {
            name: "any".into(),
            rounds: vec![vec![(STEADY[0], up), (STEADY[1], down)]; 5],
        };
        let goals = judge("any path", &series(10.0, 10.0), &series(9.1, 8.9));
        assert_eq!(goals.iter().map(|goal| goal.holds).collect::<Vec<_>>(), [true, false]);
    }
}
