//! What a detector is, and what it says.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::stage::Field;
use crate::transport::Kind;

/// A figure that decides, stated before anything is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Threshold {
    /// What is compared with it.
    pub what: &'static str,
    /// The figure, in words with its unit.
    pub value: String,
    /// Who set it, and where.
    pub source: &'static str,
}

/// What a detector says of itself before it has seen anything.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// Its number in this lab.
    pub number: u8,
    /// A short name.
    pub name: &'static str,
    /// The paper or project it is from.
    pub source: &'static str,
    /// What it does, in our words.
    pub rule: &'static str,
    /// What decides.
    pub thresholds: Vec<Threshold>,
    /// Whether QNet has to pass it, or is only measured by it.
    pub gate: bool,
}

/// Why something is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The detector must flag it.
    Positive,
    /// The detector must not flag it.
    Negative,
    /// QNet.
    Subject,
    /// Judged for comparison; no outcome is a failure.
    Beside,
    /// What should have been judged and could not be, which is a failure.
    Unjudged,
    /// A transport that has not what the rule looks at: there is nothing to judge, and that is said.
    #[serde(rename = "not applicable")]
    Inapplicable,
}

/// A figure behind a verdict.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
}

impl Figure {
    /// A figure.
    #[must_use]
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value }
    }

    /// The mean of some values, the least and the greatest of them; the names of these two are for [`Figure::ranges`].
    #[must_use]
    pub fn range(name: &str, values: &[f64]) -> [Self; 3] {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        [
            Self::new(name, mean),
            Self::new(format!("{name}{LEAST}"), least),
            Self::new(format!("{name}{MOST}"), most),
        ]
    }

    /// The ranges among figures: name, mean, least and greatest.
    #[must_use]
    pub fn ranges(figures: &[Self]) -> Vec<(&str, [f64; 3])> {
        figures
            .windows(3)
            .filter_map(|three| match three {
                [mean, least, most] if least.name.strip_suffix(LEAST) == Some(&mean.name) => {
                    Some((mean.name.as_str(), [mean.value, least.value, most.value]))
                }
                _ => None,
            })
            .collect()
    }
}

/// What the names of a range's ends end in.
const LEAST: &str = ", least";
const MOST: &str = ", most";

/// What a detector says of one thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// What was judged, for people.
    pub what: String,
    /// Why.
    pub role: Role,
    /// Whether the detector would have a censor block it.
    pub flagged: bool,
    /// Why it says so.
    pub figures: Vec<Figure>,
    /// What a figure cannot say; empty mostly.
    pub note: String,
}

impl Verdict {
    /// That there is none, and why.
    #[must_use]
    pub fn none(what: impl Into<String>, why: impl Into<String>) -> Self {
        let (what, note) = (what.into(), why.into());
        Self { what, role: Role::Unjudged, flagged: false, figures: Vec::new(), note }
    }

    /// That the rule does not apply to it, and why.
    #[must_use]
    pub fn inapplicable(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { role: Role::Inapplicable, ..Self::none(what, why) }
    }

    /// Whether it is as it must be.
    #[must_use]
    pub fn holds(&self) -> bool {
        match self.role {
            Role::Positive => self.flagged,
            Role::Negative | Role::Subject => !self.flagged,
            Role::Beside | Role::Inapplicable => true,
            Role::Unjudged => false,
        }
    }
}

/// What a rule says of one capture.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Whether a censor would block on it.
    pub flagged: bool,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Further words.
    pub note: String,
    /// Why nothing can be said of it, where that is so.
    pub unjudged: Option<String>,
}

impl Judgement {
    /// Adds a figure.
    #[must_use]
    pub fn figure(mut self, name: impl Into<String>, value: f64) -> Self {
        self.figures.push(Figure { name: name.into(), value });
        self
    }
}

/// What can be drawn.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Plot {
    /// Samples that are drawn beside each other as empirical distribution functions.
    Distributions {
        /// What was measured, with its unit.
        title: String,
        /// Whose, and the values.
        samples: Vec<(String, Vec<f64>)>,
    },
    /// Points, each with a name.
    Points {
        /// What is set against what.
        title: String,
        /// What is measured to the right and upwards, with units.
        axes: [&'static str; 2],
        /// Whose, and where.
        points: Vec<(String, [f64; 2])>,
    },
}

/// Something that a censor would run.
pub trait Detector {
    /// What it is and by what it decides.
    fn about(&self) -> About;

    /// Whether it judges what the lab captured, rather than goes out itself.
    fn needs_captures(&self) -> bool {
        true
    }

    /// Judges what there is. Both controls must be among the verdicts.
    ///
    /// # Errors
    /// It cannot run, which counts as a failure.
    fn examine(&self, field: &Field) -> Result<Vec<Verdict>>;

    /// The same, with what can be drawn.
    ///
    /// # Errors
    /// As [`Self::examine`].
    fn examine_and_plot(&self, field: &Field) -> Result<(Vec<Verdict>, Vec<Plot>)> {
        Ok((self.examine(field)?, Vec::new()))
    }
}

/// What was found by one rule in one place. Where that could not be, or without both its controls, a verdict says so: what is said of
/// other places stands.
pub fn part(what: impl Into<String>, found: Result<Vec<Verdict>>) -> Vec<Verdict> {
    let what = what.into();
    let mut verdicts = match found {
        Ok(verdicts) => verdicts,
        Err(error) => return vec![Verdict::none(what, format!("{error:#}"))],
    };
    let has = |role| verdicts.iter().any(|verdict| verdict.role == role);
    let lacks = |(role, words): &(Role, &str)| {
        (has(Role::Subject) && !has(*role)).then(|| format!("no {words} control"))
    };
    let missing: Vec<String> =
        [(Role::Positive, "positive"), (Role::Negative, "negative")].iter().filter_map(lacks).collect();
    verdicts.extend(missing.into_iter().map(|why| Verdict::none(what.clone(), why)));
    verdicts
}

/// Judges each capture that `role` gives a part by one rule.
pub fn each_capture(
    field: &Field,
    role: impl Fn(&Capture) -> Option<Role>,
    rule: impl Fn(&Capture) -> Judgement,
) -> Vec<Verdict> {
    field
        .captures
        .iter()
        .filter_map(|capture| {
            let (role, what) = (role(capture)?, capture.title());
            let Judgement { flagged, figures, note, unjudged } = rule(capture);
            Some(match unjudged {
                Some(why) => Verdict { figures, ..Verdict::none(what, why) },
                None => Verdict { what, role, flagged, figures, note },
            })
        })
        .collect()
}

/// The part of a transport where obfs4 or the tunnel is the positive control and plain TLS the negative one.
#[must_use]
pub fn usual_role(transport: Kind, positive: Kind) -> Role {
    match transport {
        Kind::Plain => Role::Negative,
        Kind::Qnet | Kind::QnetWebsocket => Role::Subject,
        other if other == positive => Role::Positive,
        _ => Role::Beside,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_part_that_fails_or_lacks_a_control_says_so() {
        let found = |roles: &[Role]| {
            let verdict = |role: &Role| Verdict { role: *role, ..Verdict::none("QNet", "") };
            let found = part("replays, Nginx", Ok(roles.iter().map(verdict).collect()));
            found.into_iter().filter(|one| one.role == Role::Unjudged).map(|one| one.note).collect::<Vec<_>>()
        };
        let all = [Role::Positive, Role::Subject, Role::Negative];
        assert_eq!(found(&all), Vec::<String>::new());
        assert_eq!(found(&all[..2]), ["no negative control"]);
        assert_eq!(found(&all[1..]), ["no positive control"]);
        assert_eq!(found(&all[..1]), Vec::<String>::new(), "nothing of QNet's is judged");
        let failed = part("replays, Nginx", Err(anyhow!("no nginx").context("start")));
        assert_eq!(failed.len(), 1);
        assert_eq!((failed[0].what.as_str(), failed[0].note.as_str()), ("replays, Nginx", "start: no nginx"));
        assert!(!failed[0].holds());
    }
}
