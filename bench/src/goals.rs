//! What is wanted of QNet beside the others, and whether it is so: by ratios of medians of the same rounds.

use crate::limit::{Passes, gibibytes, per_gigabyte};
use crate::report::Series;

/// A goal, what was measured, and whether that is enough.
pub struct Goal {
    /// In words, with the figure.
    pub what: String,
    /// In figures.
    pub measured: String,
    /// Whether it is met.
    pub holds: bool,
}

/// QNet's CPU may be so much of the relay's and of one AEAD pass at each end.
const OF_LIMIT: f64 = 1.3;
/// And of obfs4proxy's.
const OF_OBFS4: f64 = 0.2;
/// Its speed at least so much of the relay's.
const OF_SPEED: f64 = 0.8;
/// Jain's index of its streams at least.
const EVEN: f64 = 0.95;
/// CPU of a connection's set-up at the bridge, ms.
const SET_UP: f64 = 0.6;
/// CPU of a further stream at both ends, µs.
const FURTHER: f64 = 30.0;
/// Resident memory of an idle connection at the bridge, KiB.
const IDLE: f64 = 12.0;

/// GiB a second and core of full records sealed and opened with ChaCha20-Poly1305, and with AES-256-GCM, at least.
const AEADS: [f64; 2] = [1.2, 5.0];
/// A full record as a frame, written and read, µs.
const FRAME: f64 = 12.0;

/// Those that can be judged by who took part.
#[must_use]
pub fn judge(series: &[Series], passes: &Passes) -> Vec<Goal> {
    let median = |name: &str, figure: &str| {
        series.iter().find(|one| one.name == name).and_then(|one| one.median(figure))
    };
    let mut goals = Vec::new();
    let mut at_most = |what: String, value: Option<f64>, most: f64| {
        if let Some(value) = value {
            goals.push(Goal { what, measured: format!("{value:.2}"), holds: value <= most });
        }
    };
    let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
    for way in ["up", "down"] {
        let figure = format!("{way}: CPU, both (s/GB)");
        let own = median("qnet", &figure);
        let limit = median("relay", &figure).map(|relay| relay + per_gigabyte(passes.aes.iter().sum()));
        at_most(
            format!("{way}: CPU at most {OF_LIMIT} times the relay's and the AEAD's"),
            ratio(own, limit),
            OF_LIMIT,
        );
        at_most(
            format!("{way}: CPU at most {OF_OBFS4} times obfs4proxy's"),
            ratio(own, median("obfs4", &figure)),
            OF_OBFS4,
        );
        for peer in ["ss-chacha20", "ss-aes-128", "trojan", "stunnel"] {
            at_most(format!("{way}: CPU less than {peer}'s"), ratio(own, median(peer, &figure)), 1.0);
        }
    }
    for figure in ["up: one stream (MB/s)", "down: one stream (MB/s)", "64 streams down, together (MB/s)"] {
        // Turned round, so that less is better here as well.
        let slower = ratio(median("relay", figure), median("qnet", figure));
        at_most(
            format!("{figure}: the relay's at most {:.2} times QNet's", 1.0 / OF_SPEED),
            slower,
            1.0 / OF_SPEED,
        );
    }
    let uneven = median("qnet", "64 streams down, Jain's index").map(|index| 1.0 - index);
    at_most(format!("64 streams: Jain's index at least {EVEN}: one less it"), uneven, 1.0 - EVEN);
    let set_up = median("qnet-pt", "its CPU, bridge (ms)");
    at_most(format!("a connection's set-up: at most {SET_UP} ms of the bridge's CPU"), set_up, SET_UP);
    let further = median("qnet", "its CPU, both (µs)");
    at_most(format!("a further stream: at most {FURTHER} µs of CPU"), further, FURTHER);
    let idle = median("qnet-pt", "an idle connection, bridge (KiB)");
    at_most(format!("an idle connection: at most {IDLE} KiB at the bridge"), idle, IDLE);
    at_most(
        format!("a full record as a frame, there and back: at most {FRAME} µs"),
        Some(passes.frame * 1e6),
        FRAME,
    );
    let aeads = [("ChaCha20-Poly1305", passes.chacha), ("AES-256-GCM", passes.aes)];
    for ((name, both), least) in aeads.into_iter().zip(AEADS) {
        let slower = both.into_iter().map(gibibytes).fold(f64::INFINITY, f64::min);
        goals.push(Goal {
            what: format!("{name}: at least {least} GiB/s a core, the slower of sealing and opening"),
            measured: format!("{slower:.2}"),
            holds: slower >= least,
        });
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::limit::Passes;
    use crate::report::Series;

    #[test]
    fn a_goal_is_missed_where_the_ratio_is_too_great() {
        let series = |name: &str, cpu| Series {
            name: name.into(),
            rounds: vec![vec![("up: CPU, both (s/GB)", cpu)]; 3],
        };
        // 0.2 s a gigabyte, both passes.
        let passes = Passes { aes: [1.6384e-6; 2], chacha: [1e-6; 2], frame: 1e-6 };
        let of = |own| judge(&[series("relay", 1.0), series("qnet", own), series("trojan", 2.0)], &passes);
        let holds = |own| of(own).iter().take(2).map(|goal| goal.holds).collect::<Vec<_>>();
        assert_eq!(holds(1.5), [true, true]);
        assert_eq!(holds(1.6), [false, true]);
        assert_eq!(holds(2.1), [false, false]);
    }
}
