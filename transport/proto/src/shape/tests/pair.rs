//! Two shapers against each other over a path with a delay: whatever the profile, both come to rest.

use super::*;

const DELAY: Duration = Duration::from_millis(20);
/// Content of a record of padding: the frame's header.
const PADDING: usize = 4;
/// Steps of a run; far more than any takes.
const STEPS: usize = 200_000;

struct End {
    played: Played,
    left: usize,
    /// What comes, when: length and content.
    coming: std::collections::VecDeque<(Instant, usize, usize)>,
}

impl End {
    fn new(shape: Shape, role: Role, seed: u8, now: Instant) -> Self {
        let mut played = Played::new(shape, role, seed);
        played.shaper.set_round_trip(2 * DELAY);
        played.now = now;
        Self { played, left: 0, coming: std::collections::VecDeque::new() }
    }

    fn wakes_at(&self) -> Option<Instant> {
        let comes = self.coming.front().map(|(at, ..)| *at);
        [comes, self.played.shaper.deadline()].into_iter().flatten().min()
    }

    /// All it can do at `now`: the records it sends.
    fn turn(&mut self, now: Instant) -> Vec<(usize, usize)> {
        while let Some((at, length, content)) = self.coming.front().copied()
            && at <= now
        {
            self.coming.pop_front();
            self.played.shaper.heard(length, content.max(PADDING), now);
        }
        let mut sent = Vec::new();
        loop {
            match self.played.shaper.next(self.left, LONGEST - OVERHEAD, LONGEST, now) {
                Step::Send { content } => {
                    let content = content.min(self.left);
                    self.left -= content;
                    let length = self.played.shaper.length(content, LONGEST, self.left == 0, now);
                    sent.push((length.unwrap_or(content + OVERHEAD), content));
                }
                Step::Pad(length) => sent.push((length, 0)),
                Step::Hold | Step::Rest => return sent,
            }
            assert!(sent.len() < 10_000, "no end to what is sent at once");
        }
    }
}

/// Runs a page load of `exchanges`; how many bytes each side sent, and how long after the last data all was quiet.
fn run(shape: Shape, seed: u8, exchanges: &[(usize, usize)]) -> ([usize; 2], Duration) {
    let begin = Played::new(shape, Role::Client, seed).now;
    let mut now = begin;
    let roles = [Role::Client, Role::Bridge];
    let mut ends = roles.map(|role| End::new(shape, role, seed.wrapping_add(role as u8), now));
    let (mut exchanges, mut sent, mut last) = (exchanges.iter(), [0; 2], now);
    let (mut to_come, mut answer) = (0, 0);
    ends.iter_mut().for_each(|end| end.played.shaper.opened(now));
    for _ in 0..STEPS {
        if ends[0].left + ends[1].left + to_come == 0
            && let Some((ask, answers)) = exchanges.next()
        {
            (ends[0].left, answer, to_come) = (*ask, *answers, ask + answers);
        }
        for from in 0..2 {
            for (length, content) in ends[from].turn(now) {
                sent[from] += length;
                ends[1 - from].coming.push_back((now + DELAY, length, content));
                if content > 0 {
                    last = now;
                    to_come = to_come.saturating_sub(content);
                }
            }
        }
        if answer > 0 && ends[0].left == 0 {
            ends[1].left += std::mem::take(&mut answer);
            continue;
        }
        let Some(at) = ends.iter().filter_map(End::wakes_at).min() else {
            if exchanges.len() == 0 && to_come == 0 {
                return (sent, now - last);
            }
            continue;
        };
        now = now.max(at);
    }
    panic!("{}: no end after {:?}: {sent:?}", shape.profile().name, now - begin);
}

#[test]
fn two_ends_come_to_rest_whatever_the_profile() {
    for shape in Shape::all() {
        for seed in 0..8 {
            let (sent, quiet) = run(shape, seed, &[(1_850, 4_900), (785, 1_050), (500, 200_000), (60, 300)]);
            let least = [1_850 + 785 + 500 + 60, 4_900 + 1_050 + 200_000 + 300];
            assert!(sent[0] >= least[0] && sent[1] >= least[1], "{sent:?}");
            assert!(quiet < Duration::from_secs(60), "{}: quiet after {quiet:?}", shape.profile().name);
        }
    }
}
