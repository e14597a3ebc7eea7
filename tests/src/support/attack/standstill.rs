//! A download that stands still because somebody withholds what its receiver says: what its sender makes of that.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::stage::{SHORT, SOON, Stage, copy, until};
use super::visit::made_up;
use crate::support::flow::{End, Flow};
use crate::support::link::{Act, Gate, Link, Rule, Trace, Way, Which};
use crate::support::visitor::Visitor;

/// Bytes that show that a download flows. A visitor who grants no window beyond HTTP/2's first gets 65,535 bytes of a file.
const FLOWS: u64 = 200_000;
const FLOWS_TO_VISITOR: usize = 60_000;

/// A download from which nothing came for so long stands still.
const STILL: Duration = Duration::from_millis(500);

/// A window in which no socket's buffers end.
const MUCH: u32 = 1 << 30;

/// How long what sockets held may take to arrive.
const SETTLED: Duration = Duration::from_millis(1_500);

/// What is looked at how often.
const LOOK: Duration = Duration::from_millis(50);

/// What the wire showed since the download stood still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// The lengths of the records that still came, and when.
    pub records: Vec<(usize, Duration)>,
    /// How the direction ended, and when, if it did.
    pub end: Option<(End, Duration)>,
}

impl Standstill {
    /// Whether both showed the same, at the same times as far as `near`.
    #[must_use]
    pub fn same(&self, other: &Self, near: Duration) -> bool {
        self.records.len() == other.records.len()
            && self
                .records
                .iter()
                .zip(&other.records)
                .all(|(one, two)| one.0 == two.0 && one.1.abs_diff(two.1) <= near)
            && self.ends_as(other, near)
    }

    /// Whether both ended the same way, at the same time as far as `near`.
    #[must_use]
    pub fn ends_as(&self, other: &Self, near: Duration) -> bool {
        match (self.end, other.end) {
            (Some(one), Some(two)) => one.0 == two.0 && one.1.abs_diff(two.1) <= near,
            (one, two) => one == two,
        }
    }
}

/// How a download from the decoy ends whose visitor says nothing more, within `limit` of when it stood still.
///
/// # Errors
/// There is no download.
pub fn of_decoy(stage: &Stage, limit: Duration) -> Result<Standstill> {
    let link = Link::start(stage.decoy.address(), Duration::ZERO)?;
    visited(stage, &link, None, limit)?;
    watch(&link, limit)
}

/// The same by a wire that ends it `early`.
///
/// # Errors
/// There is no download, or the decoy itself ends it before.
pub fn cut_short(stage: &Stage, early: Duration, limit: Duration) -> Result<Standstill> {
    let inner = Link::start(stage.decoy.address(), Duration::ZERO)?;
    let link = Link::start(inner.address(), Duration::ZERO)?;
    visited(stage, &link, None, limit)?;
    let before = watch(&link, early)?;
    ensure!(before.end.is_none(), "the decoy ended a download: {before:?}");
    inner.inject(0, Way::Down, made_up(30), Some(End::Fin));
    watch(&link, limit)
}

/// A visitor's download, after whose request nothing more comes through: not that he closes, either.
fn visited(stage: &Stage, link: &Link, window: Option<u32>, limit: Duration) -> Result<()> {
    let (arm, never) = (Gate::new(), Gate::new());
    link.set_rules(vec![
        Rule::new(Way::Up, Which::Once(arm.clone()), Act::Hold(never.clone())),
        Rule::new(Way::Up, Which::AtEnd, Act::Hold(never)),
    ]);
    let visitor = Visitor { paths: vec!["/tours.zip".into()], window, ..Visitor::new(stage.decoy.name()) };
    let address = link.address();
    // It ends with the wire, or when its time is over.
    thread::spawn(move || visitor.visit(address, SOON + limit).is_ok());
    link.wait("a download", 0, SOON, |trace| trace.down.total() > FLOWS_TO_VISITOR)?;
    arm.open();
    Ok(())
}

/// The same of a tunnel's, whose client's records are held from the middle of a download on.
///
/// # Errors
/// There is no tunnel, or no download in it.
pub fn of_tunnel(stage: &Stage, limit: Duration) -> Result<Standstill> {
    let link = Link::start(stage.bridge, Duration::ZERO)?;
    let (arm, release) = (Gate::new(), Gate::new());
    link.set_rules(vec![Rule::new(Way::Up, Which::Once(arm.clone()), Act::Hold(release.clone()))]);
    let tunnel = stage.tunnel_over(&link)?;
    let payload = stage.download(&tunnel)?;
    until("a download", SOON, || copy(&payload).right > FLOWS)?;
    arm.open();
    let shown = watch(&link, limit);
    release.open();
    shown
}

/// Whether a download from the decoy has ended of which nothing was taken for so long, not even by TCP, when all is taken again; and with
/// which short records at its end.
///
/// # Errors
/// There is no download.
pub fn full_at_decoy(stage: &Stage, time: Duration) -> Result<(bool, Vec<usize>)> {
    let link = Link::start(stage.decoy.address(), Duration::ZERO)?;
    visited(stage, &link, Some(MUCH), time)?;
    filled(&link, time)
}

/// The same of a tunnel's.
///
/// # Errors
/// There is no tunnel, or no download in it.
pub fn full_in_tunnel(stage: &Stage, time: Duration) -> Result<(bool, Vec<usize>)> {
    let link = Link::start(stage.bridge, Duration::ZERO)?;
    let (arm, release) = (Gate::new(), Gate::new());
    link.set_rules(vec![Rule::new(Way::Up, Which::Once(arm.clone()), Act::Hold(release.clone()))]);
    let tunnel = stage.tunnel_over(&link)?;
    let payload = stage.download(&tunnel)?;
    until("a download", SOON, || copy(&payload).right > FLOWS)?;
    arm.open();
    let shown = filled(&link, time);
    release.open();
    shown
}

fn filled(link: &Link, time: Duration) -> Result<(bool, Vec<usize>)> {
    link.set_full(true);
    thread::sleep(time);
    link.set_full(false);
    thread::sleep(SETTLED);
    let down = link.traces().pop().context("no connection")?.down;
    let short = down.records().iter().rev().take_while(|record| record.length < SHORT);
    Ok((down.end().is_some(), short.map(|record| record.length).collect()))
}

/// Waits until the download stands still, and from then on for `limit` or until the direction ends.
fn watch(link: &Link, limit: Duration) -> Result<Standstill> {
    let look = || -> Result<Trace> { link.traces().pop().context("no connection") };
    let started = Instant::now();
    let mut known = (0, Instant::now());
    let stood = loop {
        let down = look()?.down;
        if down.total() != known.0 {
            known = (down.total(), Instant::now());
        }
        if known.1.elapsed() > STILL {
            // What came a moment before belongs to the download.
            break last(&down).context("no records")?;
        }
        ensure!(started.elapsed() < SOON, "the download goes on and on");
        thread::sleep(LOOK);
    };
    loop {
        let down = look()?.down;
        if down.end().is_some() || (down.started() + stood).elapsed() > limit {
            let later = |at: Duration| at.saturating_sub(stood);
            let records = down.records().iter().filter(|record| record.at > stood);
            return Ok(Standstill {
                records: records.map(|record| (record.length, later(record.at))).collect(),
                end: down.end().map(|(end, at)| (end, later(at))),
            });
        }
        thread::sleep(LOOK);
    }
}

fn last(flow: &Flow) -> Option<Duration> {
    flow.records().last().map(|record| record.at)
}
