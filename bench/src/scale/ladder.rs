//! More and more connections, all of which stay: at each step what they cost, and how echoes fare.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::figures::each;
use super::lab::{Held, Lab, Used, settle, system};

/// Set-ups at once.
const AT_ONCE: usize = 32;

/// After so many it is looked how much memory is left.
const BATCH: usize = 1_000;

/// Descriptors that a bridge has besides, brief streams of a second under load included.
const OTHERS: u64 = 1_000;

/// Memory that must be left: the machine has no other use for being full.
const SPARE: u64 = 1_500 << 20;

/// How long is looked at what rests.
const REST: Duration = Duration::from_secs(5);

/// How the load is at each step, the same in total.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Messages a second, of all connections together.
    pub rate: u32,
    /// Bytes of a message.
    pub bytes: usize,
    /// How long, seconds; each connection sends once at least, if it takes longer.
    pub seconds: u64,
}

/// How echoes fared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Echo {
    /// Answers.
    pub count: u64,
    /// Messages that went out over 50 ms late, since the load could do no more.
    pub late: u64,
    /// Milliseconds to the answer: half were faster.
    pub p50: f64,
    /// Of a hundred, 99 were faster.
    pub p99: f64,
    /// The slowest.
    pub most: f64,
    /// Seconds it took in all.
    pub seconds: f64,
    /// Processor seconds meanwhile.
    pub used: Used,
}

/// A step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Connections that are there.
    pub connections: usize,
    /// Of these, new.
    pub added: usize,
    /// How long it took to add them, seconds.
    pub seconds: f64,
    /// Milliseconds from a dial to the first echoed byte, while as many were made at once.
    pub set_up_ms: [f64; 2],
    /// Processor seconds while they were added.
    pub set_up: Used,
    /// What bridge, load and decoy hold.
    pub held: [Held; 3],
    /// Bytes more of resident memory for each connection than with none: bridge, load, decoy.
    pub each: [f64; 3],
    /// Bytes more of the kernel's slabs, of all ends together.
    pub kernel_each: f64,
    /// Processor seconds in a second of rest.
    pub rest: Used,
    /// Echoes under the same load in total.
    pub echo: Echo,
    /// What failed so far, by what it said.
    pub failures: BTreeMap<String, u64>,
    /// Connections whose session had no carrier at the end.
    pub without_carrier: u64,
}

/// The whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ladder {
    /// Whether each message had a stream of its own.
    pub brief: bool,
    /// Descriptors that a process may have.
    pub descriptors: u64,
    /// The load of all steps.
    pub load: Load,
    /// Each step.
    pub steps: Vec<Step>,
    /// At the last one: a byte a minute of each connection, for two minutes.
    pub minute: Option<Echo>,
    /// Failures after that.
    pub failures: BTreeMap<String, u64>,
    /// Why it ended early, if it did.
    pub stopped: Option<String>,
    /// What the bridge warned of.
    pub warnings: Vec<String>,
}

/// How far to climb.
#[derive(Clone, Debug)]
pub struct Climb {
    /// Connections at each step, growing.
    pub to: Vec<usize>,
    /// Whether each message has a stream of its own, so that most connections have none at a moment.
    pub brief: bool,
    /// Descriptors that a process may have.
    pub descriptors: u64,
    /// The load of each.
    pub load: Load,
    /// Whether to have a byte a minute in the end.
    pub minute: bool,
    /// How long connections may be added, from the beginning.
    pub limit: Duration,
}

/// Climbs. What ends it early is told with the steps that there are.
///
/// # Errors
/// A process ends before the first step does, or says what cannot be understood.
pub fn climb(lab: &mut Lab, climb: &Climb) -> Result<Ladder> {
    let Climb { to, brief, descriptors, load, minute, limit } = climb;
    let (load, end) = (*load, Instant::now() + *limit);
    let most = room(*descriptors, *brief);
    let empty = (lab.held()?, system()?[1]);
    let mut ladder = Ladder {
        brief: *brief,
        descriptors: *descriptors,
        load,
        steps: Vec::new(),
        minute: None,
        failures: BTreeMap::new(),
        stopped: None,
        warnings: Vec::new(),
    };
    let mut there = 0;
    for wanted in to {
        let connections = most.min(*wanted);
        if connections < *wanted {
            ladder.stopped = Some(format!(
                "a process may have {descriptors} descriptors here, with room for {most} of {wanted} connections"
            ));
        }
        writeln!(io::stderr(), "bench: {connections} connections")?;
        let (step, stopped) = match step(lab, [there, connections], &empty, climb, end) {
            Ok(step) => step,
            Err(error) if there > 0 => {
                ladder.stopped = Some(format!("{error:#}"));
                break;
            }
            Err(error) => return Err(error),
        };
        ladder.stopped = stopped.or(ladder.stopped);
        there = step.connections;
        ladder.failures.clone_from(&step.failures);
        ladder.steps.push(step);
        if ladder.stopped.is_some() {
            break;
        }
    }
    if *minute && there > 0 {
        writeln!(io::stderr(), "bench: a byte a minute")?;
        match echo(lab, Duration::from_secs(60), 1, Duration::from_secs(120)) {
            Ok((echo, answer)) => {
                ladder.minute = Some(echo);
                ladder.failures = failures(&answer);
            }
            Err(error) => ladder.stopped = Some(format!("{error:#}")),
        }
    }
    ladder.warnings = lab.warnings()?;
    Ok(ladder)
}

fn step(
    lab: &mut Lab,
    [there, to]: [usize; 2],
    empty: &([Held; 3], u64),
    climb: &Climb,
    end: Instant,
) -> Result<(Step, Option<String>)> {
    let (load, mut stopped) = (climb.load, None);
    let before = lab.used()?;
    let mut opened = Value::Null;
    let (mut seconds, mut now) = (0.0, there);
    while now < to && stopped.is_none() {
        let count = BATCH.min(to - now);
        opened = lab.tell(
            &json!({ "do": "open", "count": count, "at_once": AT_ONCE.min(count), "brief": climb.brief }),
        )?;
        seconds += number(&opened, "seconds")?;
        now += count;
        let [left, _] = system()?;
        if left < SPARE {
            stopped = Some(format!("{} MiB of memory were left at {now} connections", left >> 20));
        } else if Instant::now() > end && now < to {
            stopped = Some(format!("its time was over at {now} connections"));
        }
        writeln!(io::stderr(), "bench: {now} in {seconds:.0} s, {} MiB left", left >> 20)?;
    }
    let set_up = lab.used()?.since(before);
    settle();
    let held = lab.held()?;
    let alive = whole(&opened, "alive")?;
    let slab = system()?[1];
    let resting = (lab.used()?, Instant::now());
    thread::sleep(REST);
    let rest = lab.used()?.since(resting.0).over(resting.1.elapsed().as_secs_f64());
    let rate = f64::from(load.rate);
    #[expect(clippy::cast_precision_loss, reason = "a hundred thousand at most")]
    let interval = Duration::from_secs_f64(now as f64 / rate);
    let span = Duration::from_secs(load.seconds).max(interval);
    let (echo, answer) = echo(lab, interval, load.bytes, span)?;
    let count = usize::try_from(alive)?;
    let step = Step {
        connections: now,
        added: now - there,
        seconds,
        set_up_ms: [milliseconds(&opened, "median_us")?, milliseconds(&opened, "p99_us")?],
        set_up,
        held,
        each: [0, 1, 2].map(|side: usize| each(empty.0[side].resident, held[side].resident, count)),
        kernel_each: each(empty.1, slab, count),
        rest,
        echo,
        failures: failures(&answer),
        without_carrier: whole(&answer, "without_carrier")?,
    };
    Ok((step, stopped))
}

/// Connections for which the bridge may have enough descriptors: each has one to the client and one to the decoy, and one for a stream.
fn room(descriptors: u64, brief: bool) -> usize {
    let each = if brief { 2 } else { 3 };
    usize::try_from(descriptors.saturating_sub(OTHERS) / each).unwrap_or(usize::MAX)
}

fn echo(lab: &mut Lab, interval: Duration, bytes: usize, span: Duration) -> Result<(Echo, Value)> {
    let (before, begun) = (lab.used()?, Instant::now());
    let answer = lab.tell(&json!({
        "do": "echo",
        "interval_us": u64::try_from(interval.as_micros())?,
        "milliseconds": u64::try_from(span.as_millis())?,
        "bytes": bytes,
    }))?;
    let echo = Echo {
        count: whole(&answer, "count")?,
        late: whole(&answer, "late")?,
        p50: milliseconds(&answer, "p50_us")?,
        p99: milliseconds(&answer, "p99_us")?,
        most: milliseconds(&answer, "most_us")?,
        seconds: begun.elapsed().as_secs_f64(),
        used: lab.used()?.since(before),
    };
    Ok((echo, answer))
}

impl Used {
    fn since(self, before: Self) -> Self {
        let Self { bridge, client, decoy } = self;
        Self { bridge: bridge - before.bridge, client: client - before.client, decoy: decoy - before.decoy }
    }

    fn over(self, seconds: f64) -> Self {
        let Self { bridge, client, decoy } = self;
        Self { bridge: bridge / seconds, client: client / seconds, decoy: decoy / seconds }
    }
}

pub(super) fn number(answer: &Value, name: &str) -> Result<f64> {
    answer.get(name).and_then(Value::as_f64).with_context(|| format!("no {name} in {answer}"))
}

pub(super) fn whole(answer: &Value, name: &str) -> Result<u64> {
    answer.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {answer}"))
}

fn milliseconds(answer: &Value, name: &str) -> Result<f64> {
    Ok(number(answer, name)? / 1e3)
}

fn failures(answer: &Value) -> BTreeMap<String, u64> {
    let all = answer.get("failures").and_then(Value::as_object).into_iter().flatten();
    all.map(|(what, count)| (what.clone(), count.as_u64().unwrap_or(0))).collect()
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn descriptors_say_how_many_connections_there_may_be() {
        assert_eq!(room(20_000, false), 6_333);
        assert_eq!(room(20_000, true), 9_500);
        assert_eq!(room(1_048_576, false), 349_192);
        assert_eq!(room(100, true), 0);
    }
}
