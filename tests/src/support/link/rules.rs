//! What a censor does to one record of a direction, as data, and the cutter that applies it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Way;
use crate::support::flow::{End, HEADER};

/// One thing to do.
#[derive(Clone, Debug)]
pub struct Rule {
    /// To which direction.
    pub way: Way,
    /// To which records.
    pub which: Which,
    /// What.
    pub act: Act,
}

impl Rule {
    /// A rule.
    #[must_use]
    pub fn new(way: Way, which: Which, act: Act) -> Self {
        Self { way, which, act }
    }
}

/// Which records of a direction a rule concerns; they are counted from 0, of whatever type.
#[derive(Clone, Debug)]
pub enum Which {
    /// The record of this number.
    Nth(usize),
    /// The record of this number among those of outer type 23, counted from 0.
    NthData(usize),
    /// That one and all after it.
    From(usize),
    /// The first record whose last byte came this long after the connection's beginning, or later.
    After(Duration),
    /// The first record that begins after the gate was opened.
    Once(Gate),
    /// No record, but the direction's end. `Drop` keeps the direction open, `Cut` ends it otherwise.
    AtEnd,
}

/// What is done to a record.
#[derive(Clone, Debug)]
pub enum Act {
    /// One bit is flipped: `byte` counts from the record's header, or, negative, from its end (-1 is the last byte).
    Flip {
        /// Where.
        byte: isize,
        /// Which bit, 0 to 7.
        bit: u8,
    },
    /// It is changed by a function of the test's own.
    Edit(Editor),
    /// It never arrives.
    Drop,
    /// It arrives twice.
    Double,
    /// It changes place with the record after it.
    Swap,
    /// These bytes arrive before it.
    InjectBefore(Vec<u8>),
    /// These bytes arrive after it.
    InjectAfter(Vec<u8>),
    /// It, and all after it, wait until the gate opens.
    Hold(Gate),
    /// It, and all after it, come this much later.
    Delay(Duration),
    /// Only its first bytes arrive; then this direction ends (`Fin`) or the connection does (`Rst`). Cut at 0 to end before it.
    Cut {
        /// How many bytes arrive, its header included.
        keep: usize,
        /// How the direction ends.
        end: End,
    },
}

/// A test's own way to change a record.
#[derive(Clone)]
pub struct Editor(Arc<Edit>);

/// A function that is given a whole record with its header.
type Edit = dyn Fn(&mut Vec<u8>) + Send + Sync;

impl Editor {
    /// Wraps a function that is given the whole record with its header.
    pub fn new(edit: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(edit))
    }
}

impl std::fmt::Debug for Editor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Editor")
    }
}

/// Holds what waits at it until it is opened, once and for good.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everything through.
    pub fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What leaves the cutter, in order.
#[derive(Debug)]
pub(super) enum Item {
    Bytes(Vec<u8>),
    Wait(Gate),
    Pause(Duration),
    End(End),
}

/// Cuts a direction into records and applies the rules to each.
#[derive(Debug)]
pub(super) struct Cutter {
    rules: Vec<Rule>,
    started: Instant,
    /// Bytes of the record under way.
    pending: Vec<u8>,
    /// Whether the record under way is passed on as it comes.
    passing: usize,
    records: usize,
    data_records: usize,
    /// A record that waits to follow the next one.
    swapped: Option<Vec<u8>>,
    out: VecDeque<Item>,
}

impl Cutter {
    pub(super) fn new(way: Way, rules: &[Rule], started: Instant) -> Self {
        Self {
            rules: rules.iter().filter(|rule| rule.way == way).cloned().collect(),
            started,
            pending: Vec::new(),
            passing: 0,
            records: 0,
            data_records: 0,
            swapped: None,
            out: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], now: Instant) {
        if self.rules.is_empty() && self.swapped.is_none() {
            // The last rule may have gone while a record was under way.
            let kept = std::mem::take(&mut self.pending);
            self.out.push_back(Item::Bytes([&kept, bytes].concat()));
            return;
        }
        while !bytes.is_empty() {
            let wanted = self.wanted().min(bytes.len());
            let (taken, rest) = bytes.split_at(wanted);
            bytes = rest;
            if self.passing > 0 {
                self.passing -= wanted;
                self.out.push_back(Item::Bytes(taken.to_vec()));
                continue;
            }
            self.pending.extend(taken);
            self.advance(now);
        }
    }

    /// What is left when the direction ends is passed on as it is.
    pub(super) fn end(&mut self, end: End) {
        let left = [self.swapped.take().unwrap_or_default(), std::mem::take(&mut self.pending)].concat();
        self.out.push_back(Item::Bytes(left));
        let mut end = Some(end);
        for rule in self.rules.iter().filter(|rule| matches!(rule.which, Which::AtEnd)) {
            match &rule.act {
                Act::Drop => end = None,
                Act::Cut { end: other, .. } => end = Some(*other),
                Act::InjectBefore(bytes) => self.out.push_back(Item::Bytes(bytes.clone())),
                Act::Hold(gate) => self.out.push_back(Item::Wait(gate.clone())),
                Act::Delay(time) => self.out.push_back(Item::Pause(*time)),
                Act::Flip { .. } | Act::Edit(_) | Act::Double | Act::Swap | Act::InjectAfter(_) => {}
            }
        }
        self.out.extend(end.map(Item::End));
    }

    pub(super) fn next(&mut self) -> Option<Item> {
        self.out.pop_front()
    }

    /// How many bytes lead to the next decision.
    fn wanted(&self) -> usize {
        if self.passing > 0 {
            return self.passing;
        }
        let whole = if self.pending.len() < HEADER { HEADER } else { HEADER + self.body() };
        whole - self.pending.len()
    }

    /// The body's length by the pending header.
    fn body(&self) -> usize {
        match *self.pending {
            [_, _, _, high, low, ..] => u16::from_be_bytes([high, low]).into(),
            _ => 0,
        }
    }

    fn advance(&mut self, now: Instant) {
        if self.pending.len() < HEADER {
            return;
        }
        let whole = self.pending.len() == HEADER + self.body();
        if self.pending.len() == HEADER && !whole && !self.may_concern() {
            self.passing = self.body();
            let header = std::mem::take(&mut self.pending);
            self.count(&header);
            self.out.push_back(Item::Bytes(header));
        } else if whole {
            let record = std::mem::take(&mut self.pending);
            self.apply(record, now);
        }
    }

    /// Whether the record under way has to be kept until it is whole.
    fn may_concern(&self) -> bool {
        self.swapped.is_some() || self.rules.iter().any(|rule| self.concerns(rule, &self.pending, None))
    }

    /// Whether a rule is for this record; its time is known only when it is whole.
    fn concerns(&self, rule: &Rule, record: &[u8], now: Option<Instant>) -> bool {
        match &rule.which {
            Which::Nth(n) => self.records == *n,
            Which::NthData(n) => record.first() == Some(&23) && self.data_records == *n,
            Which::From(n) => self.records >= *n,
            Which::After(age) => now.is_none_or(|now| now.saturating_duration_since(self.started) >= *age),
            Which::Once(gate) => gate.is_open(),
            Which::AtEnd => false,
        }
    }

    fn count(&mut self, record: &[u8]) {
        self.records += 1;
        self.data_records += usize::from(record.first() == Some(&23));
    }

    fn apply(&mut self, mut record: Vec<u8>, now: Instant) {
        let acts: Vec<(usize, Act)> = self
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| self.concerns(rule, &record, Some(now)))
            .map(|(number, rule)| (number, rule.act.clone()))
            .collect();
        // `After` and `Once` are for one record only.
        for (number, _) in acts.iter().rev() {
            if self
                .rules
                .get(*number)
                .is_some_and(|rule| matches!(rule.which, Which::After(_) | Which::Once(_)))
            {
                self.rules.remove(*number);
            }
        }
        self.count(&record);
        let (mut copies, mut after, mut swap, mut end) = (1, Vec::new(), false, None);
        for (_, act) in acts {
            match act {
                Act::Flip { byte, bit } => flip(&mut record, byte, bit),
                Act::Edit(editor) => (editor.0)(&mut record),
                Act::Drop => copies = 0,
                Act::Double => copies = 2,
                Act::Swap => swap = true,
                Act::InjectBefore(bytes) => self.out.push_back(Item::Bytes(bytes)),
                Act::InjectAfter(bytes) => after.extend(bytes),
                Act::Hold(gate) => self.out.push_back(Item::Wait(gate)),
                Act::Delay(time) => self.out.push_back(Item::Pause(time)),
                Act::Cut { keep, end: how } => {
                    record.truncate(keep);
                    end = Some(how);
                }
            }
        }
        if swap && self.swapped.is_none() {
            self.swapped = Some(record);
            return;
        }
        let late = self.swapped.take().unwrap_or_default();
        self.out.push_back(Item::Bytes([record.repeat(copies), late, after].concat()));
        if let Some(end) = end {
            self.out.push_back(Item::End(end));
        }
    }
}

fn flip(record: &mut [u8], byte: isize, bit: u8) {
    let index =
        if byte < 0 { record.len().checked_sub(byte.unsigned_abs()) } else { Some(byte.unsigned_abs()) };
    if let Some(byte) = index.and_then(|index| record.get_mut(index)) {
        *byte ^= 1 << (bit & 7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three records, of types 22, 23 and 23.
    const THREE: &[u8] = &[22, 3, 1, 0, 1, 7, 23, 3, 3, 0, 2, 8, 8, 23, 3, 3, 0, 0];

    /// What comes out under one rule, with every way to cut the input in two giving the same.
    fn out(which: &Which, act: &Act) -> Vec<u8> {
        let now = Instant::now();
        let run = |cut: usize| {
            let mut cutter = Cutter::new(Way::Up, &[Rule::new(Way::Up, which.clone(), act.clone())], now);
            cutter.push(&THREE[..cut], now);
            cutter.push(&THREE[cut..], now);
            cutter.end(End::Fin);
            let mut bytes = Vec::new();
            while let Some(item) = cutter.next() {
                match item {
                    Item::Bytes(more) => bytes.extend(more),
                    Item::End(_) => break,
                    Item::Wait(_) | Item::Pause(_) => bytes.push(255),
                }
            }
            bytes
        };
        let whole = run(0);
        for cut in 1..=THREE.len() {
            assert_eq!(run(cut), whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn each_act_does_what_it_says() {
        let (a, b, c) = (&THREE[..6], &THREE[6..13], &THREE[13..]);
        let one = Which::Nth(1);
        assert_eq!(out(&one, &Act::Drop), [a, c].concat());
        assert_eq!(out(&one, &Act::Double), [a, b, b, c].concat());
        assert_eq!(out(&one, &Act::Swap), [a, c, b].concat());
        assert_eq!(out(&Which::Nth(2), &Act::Swap), THREE, "there is nothing after it");
        assert_eq!(out(&one, &Act::InjectBefore(vec![1])), [a, &[1], b, c].concat());
        assert_eq!(out(&one, &Act::InjectAfter(vec![1])), [a, b, &[1], c].concat());
        assert_eq!(out(&one, &Act::Hold(Gate::new())), [a, &[255], b, c].concat());
        assert_eq!(out(&one, &Act::Cut { keep: 6, end: End::Rst }), [a, &b[..6]].concat());
        assert_eq!(out(&one, &Act::Flip { byte: -1, bit: 0 }), [a, &b[..6], &[9], c].concat());
        assert_eq!(out(&one, &Act::Flip { byte: 5, bit: 3 }), [a, &b[..5], &[0, 8], c].concat());
        assert_eq!(out(&one, &Act::Edit(Editor::new(|record| record.push(3)))), [a, b, &[3], c].concat());
    }

    #[test]
    fn records_are_found_by_number_and_type() {
        let (a, b, c) = (&THREE[..6], &THREE[6..13], &THREE[13..]);
        assert_eq!(out(&Which::NthData(0), &Act::Drop), [a, c].concat());
        assert_eq!(out(&Which::NthData(1), &Act::Drop), [a, b].concat());
        assert_eq!(out(&Which::From(1), &Act::Drop), a);
        assert_eq!(out(&Which::After(Duration::ZERO), &Act::Drop), [b, c].concat());
        assert_eq!(out(&Which::After(Duration::from_secs(1)), &Act::Drop), THREE);
        assert_eq!(out(&Which::Nth(3), &Act::Drop), THREE);
        let gate = Gate::new();
        assert_eq!(out(&Which::Once(gate.clone()), &Act::Drop), THREE);
        gate.open();
        assert_eq!(out(&Which::Once(gate), &Act::Drop), [b, c].concat());
    }
}
