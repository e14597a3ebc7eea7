//! What a shaper did, for whoever looks for its bugs.

use std::fmt;
use std::time::Duration;

/// What the shapers of a session's carriers did on this side.
///
/// These figures find bugs in a shaper. They prove nothing about anonymity: a carrier that keeps to its schedule and its budget
/// may be told apart all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records with data.
    pub records: u64,
    /// Their lengths without what was added, bytes.
    pub carried: u64,
    /// Records of padding alone.
    pub padding_records: u64,
    /// Bytes added, those at the ends of data records included.
    pub padding: u64,
    /// Bytes of cover sent while nobody asked for anything; not among those above.
    pub cover: u64,
    /// How long data was held, in all.
    pub held: Duration,
    /// Records that went out sooner than their schedule wanted, or cut otherwise: no budget of time was left, or they may not wait.
    pub off_schedule: u64,
    /// Records of padding, and ends of data records, that were left out or cut short: no budget of bytes was left.
    pub over_budget: u64,
    /// Slots of a schedule that were reached more than two milliseconds late: the driver's timers, or a busy machine.
    pub late: u64,
}

impl Counters {
    /// Adds another carrier's, or a later part of this one's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.carried += other.carried;
        self.padding_records += other.padding_records;
        self.padding += other.padding;
        self.cover += other.cover;
        self.held += other.held;
        self.off_schedule += other.off_schedule;
        self.over_budget += other.over_budget;
        self.late += other.late;
    }
}

/// On one line, for a log.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, carried, padding_records, padding, cover, held, off_schedule, over_budget, late } =
            self;
        write!(
            f,
            "{records} records of {carried} bytes, {padding} bytes added ({padding_records} records of padding), {cover} bytes of cover, held for \
             {} ms, {off_schedule} off schedule, {over_budget} over budget, {late} late",
            held.as_millis()
        )
    }
}
