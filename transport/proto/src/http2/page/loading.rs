//! The page's subresources: which request goes when.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Output, PageLoad, Step, draw};
use crate::http2::frame;
use crate::http2::plan::{self, Wanted};
use crate::http2::request::{Level, Resource};

#[derive(Debug)]
pub(super) struct Loading {
    pub(super) now: VecDeque<Wanted>,
    rest: VecDeque<Wanted>,
    blockers: Vec<u32>,
    blocked: bool,
    pub(super) release: Release,
    /// Streams of scripts that were asked for before the parser has reached them.
    early: VecDeque<u32>,
    /// The one among them that the parser waits for.
    reached: Option<u32>,
    pub(super) last: Wanted,
}

/// When the requests of [`Loading::rest`] may go, and the parser goes on to a script after the images.
#[derive(Debug, Clone, Copy)]
pub(super) enum Release {
    /// Not known: something is awaited.
    Held,
    At(Instant),
    Passed,
}

impl PageLoad {
    pub(super) fn begin_loading(&mut self) {
        let Step::Parsing { plan, last, .. } = std::mem::replace(&mut self.step, Step::Ask) else { return };
        self.step = Step::Loading(Loading {
            now: plan.burst.into(),
            rest: plan.rest.into(),
            blockers: Vec::new(),
            blocked: plan.blocked,
            release: Release::Held,
            early: VecDeque::new(),
            reached: None,
            last,
        });
    }

    pub(super) fn load(&mut self, now: Instant) -> Option<Output> {
        let open = self.open();
        let limit = self.connection.as_ref().map_or(0, |connection| connection.max_streams) as usize;
        let Step::Loading(loading) = &mut self.step else { return None };
        if loading.now.is_empty() && !(loading.rest.is_empty() && loading.early.is_empty()) {
            if !self.released(now) {
                return None;
            }
            let Step::Loading(loading) = &mut self.step else { return None };
            if loading.rest.is_empty() {
                if let Some(record) = self.reach() {
                    return Some(Output::Record(record));
                }
            } else if open < self.profile.late_limit.min(limit) {
                loading.now.extend(loading.rest.pop_front());
            } else {
                return None;
            }
        }
        let Step::Loading(loading) = &mut self.step else { return None };
        if loading.now.is_empty() {
            if open == 0 {
                let last = std::mem::replace(&mut loading.last, (Resource::Icon, String::new()));
                let at = now + draw(&mut self.random, self.profile.pauses.icon);
                self.step = Step::Last { at, last };
            }
            return None;
        }
        if open >= limit {
            return None;
        }
        let (resource, path) = loading.now.pop_front()?;
        let output = self.request(resource, path, now);
        let stream = self.latest_stream();
        if let Step::Loading(loading) = &mut self.step {
            if plan::blocks(resource) {
                loading.blockers.push(stream);
            }
            if resource == Resource::EarlyScript {
                loading.early.push_back(stream);
            }
        }
        Some(output)
    }

    /// Whether nothing keeps the parser any more, and the moment after that has passed.
    fn released(&mut self, now: Instant) -> bool {
        let pause = self.profile.pauses.release;
        let Step::Loading(loading) = &mut self.step else { return false };
        let held =
            loading.blocked && loading.blockers.iter().any(|id| self.asked.iter().any(|a| a.stream == *id));
        if held {
            return false;
        }
        if let Release::Held = loading.release {
            loading.release = Release::At(now + draw(&mut self.random, pause));
        }
        if let Release::At(at) = loading.release {
            if now < at {
                return false;
            }
            loading.release = Release::Passed;
        }
        true
    }

    /// The parser reaches the next script that was asked for early. Where its answer is still awaited it becomes urgent: a record
    /// for each stream whose place that changes.
    fn reach(&mut self) -> Option<Vec<u8>> {
        let Step::Loading(loading) = &mut self.step else { return None };
        let open = |stream: u32| self.asked.iter().any(|asked| asked.stream == stream);
        if loading.reached.is_some_and(open) {
            return None;
        }
        while let Some(stream) = loading.early.pop_front() {
            let level = Resource::LateScript.level();
            let changes = self.dependencies.change(stream, level);
            if changes.is_empty() {
                continue;
            }
            loading.reached = Some(stream);
            let record = |(stream, depends_on, level): (u32, u32, Level)| {
                let mut out = Vec::new();
                frame::priority(stream, depends_on, self.profile.weights[level as usize], &mut out);
                out
            };
            let connection = self.connection.as_mut()?;
            connection.owed.extend(changes.into_iter().map(record));
            return connection.owed.pop_front();
        }
        None
    }
}
