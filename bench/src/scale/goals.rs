//! What is wanted, and whether it is so.

use super::ladder::{Ladder, Step};
use super::streams::Streams;
use crate::goals::Goal;

/// Connections that all move data.
const MOVING: usize = 10_000;
/// Connections with a byte a minute each.
const OPEN: usize = 100_000;
/// Resident memory of one bridge's process, bytes.
const MEMORY: f64 = 2e9;
/// The step that latency is compared with.
const FEW: usize = 100;
/// And how many times its p99 it may be.
const SLOWER: f64 = 3.0;
/// Streams in one session.
const STREAMS: usize = 10_000;

/// Those that the run can judge. What was wanted and not reached does not hold.
#[must_use]
pub fn judge(ladders: &[Ladder], streams: &[Streams]) -> Vec<Goal> {
    let mut goals: Vec<Goal> = ladders.iter().flat_map(climbed).collect();
    if let Some(streams) = streams.iter().find(|streams| streams.wanted == STREAMS) {
        goals.push(Goal {
            what: format!("{STREAMS} streams in one session"),
            measured: format!("{}", streams.open),
            holds: streams.open >= STREAMS as u64,
        });
    }
    goals
}

fn climbed(ladder: &Ladder) -> Vec<Goal> {
    let how = if ladder.brief { "a stream for each message" } else { "a stream that stays" };
    let Some(last) = ladder.steps.last() else { return Vec::new() };
    // The step itself, or as far as the ladder came.
    let at = |connections| ladder.steps.iter().find(|step| step.connections >= connections).unwrap_or(last);
    let moving = at(MOVING);
    let mut goals =
        vec![served(format!("{MOVING} connections at once, all moving data ({how})"), moving, MOVING)];
    goals.push(memory(moving));
    if let Some(few) = ladder.steps.iter().find(|step| step.connections == FEW) {
        let ratio = moving.echo.p99 / few.echo.p99;
        goals.push(Goal {
            what: format!(
                "echo's p99 at {} connections at most {SLOWER} times that at {FEW}, under the same load ({how})",
                moving.connections
            ),
            measured: format!("{:.2} ({:.1} and {:.1} ms)", ratio, moving.echo.p99, few.echo.p99),
            holds: ratio <= SLOWER,
        });
    }
    if let Some(minute) = &ladder.minute {
        let failed: u64 = ladder.failures.values().sum();
        let mut goal =
            served(format!("{OPEN} connections open, each with a byte a minute ({how})"), last, OPEN);
        goal.holds &= failed == 0 && minute.count >= 2 * OPEN as u64;
        goal.measured =
            format!("{}, {} echoes in two minutes, {failed} failures", last.connections, minute.count);
        goals.push(goal);
        goals.push(memory(last));
    }
    goals
}

/// Nothing failed, all are there and had answers, and none of those was owed because the load could not.
fn served(what: String, step: &Step, connections: usize) -> Goal {
    let failed: u64 = step.failures.values().sum();
    let holds = failed == 0 && step.connections >= connections && step.echo.count >= connections as u64;
    Goal { what, measured: format!("{}, {failed} failures", step.connections), holds }
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
fn memory(step: &Step) -> Goal {
    let resident = step.held[0].resident as f64;
    Goal {
        what: format!("{} connections: at most {} GB in the bridge's memory", step.connections, MEMORY / 1e9),
        measured: format!("{:.2} GB", resident / 1e9),
        holds: resident <= MEMORY,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::judge;
    use crate::scale::lab::{Held, Used};
    use crate::scale::ladder::{Echo, Ladder, Load, Step};
    use crate::scale::streams::Streams;

    fn echo(count: u64, p99: f64) -> Echo {
        Echo { count, late: 0, p50: 1.0, p99, most: p99, seconds: 1.0, used: Used::default() }
    }

    fn step(connections: usize, p99: f64, resident: u64) -> Step {
        Step {
            connections,
            added: connections,
            seconds: 1.0,
            set_up_ms: [1.0; 2],
            set_up: Used::default(),
            held: [Held { resident, ..Held::default() }; 3],
            each: [0.0; 3],
            kernel_each: 0.0,
            rest: Used::default(),
            echo: echo(connections as u64, p99),
            failures: BTreeMap::new(),
            without_carrier: 0,
        }
    }

    fn ladder(steps: Vec<Step>, minute: Option<Echo>) -> Ladder {
        Ladder {
            brief: false,
            descriptors: 1_000_000,
            load: Load { rate: 2_000, bytes: 1_024, seconds: 10 },
            steps,
            minute,
            failures: BTreeMap::new(),
            stopped: None,
            warnings: Vec::new(),
        }
    }

    fn holds(ladder: Ladder) -> Vec<bool> {
        judge(&[ladder], &[]).iter().map(|goal| goal.holds).collect()
    }

    #[test]
    fn what_is_reached_holds() {
        let all = vec![step(100, 2.0, 1), step(10_000, 6.0, 200_000_000), step(100_000, 50.0, 1_999_999_999)];
        assert_eq!(holds(ladder(all, Some(echo(200_000, 5.0)))), [true; 5]);
    }

    #[test]
    fn a_goal_that_is_missed_does_not_hold() {
        assert_eq!(holds(ladder(vec![step(100, 2.0, 1), step(10_000, 6.1, 1)], None)), [true, true, false]);
        assert_eq!(holds(ladder(vec![step(10_000, 1.0, 2_000_000_001)], None)), [true, false]);
        assert_eq!(holds(ladder(vec![step(9_999, 1.0, 1)], None)), [false, true]);
        let mut failed = step(10_000, 1.0, 1);
        failed.failures.insert("not opened: refused".into(), 1);
        assert_eq!(holds(ladder(vec![failed], None)), [false, true]);
        let silent = ladder(vec![step(100_000, 1.0, 1)], Some(echo(199_999, 1.0)));
        assert_eq!(holds(silent), [true, true, false, true]);
        let short = ladder(vec![step(99_999, 1.0, 1)], Some(echo(200_000, 1.0)));
        assert_eq!(holds(short), [true, true, false, true]);
    }

    #[test]
    fn fewer_streams_than_wanted_do_not_hold() {
        let streams = Streams {
            wanted: 10_000,
            open: 1_024,
            refused: None,
            each: [0.0; 2],
            opening_us: [0.0; 2],
            megabytes_a_second: 1.0,
            jain: 1.0,
            moved: 1_024,
        };
        let goals = judge(&[], &[streams]);
        assert_eq!(goals.iter().map(|goal| goal.holds).collect::<Vec<_>>(), [false]);
    }
}
