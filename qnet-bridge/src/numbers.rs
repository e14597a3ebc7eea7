//! What a bridge has counted: by this process, and by those before it that serve on after an upgrade.
//!
//! An older process is asked over the socket between the two whenever somebody wants to know, and tells what it has counted up to its
//! end with its last word there. So sums go on over an upgrade: what it counted stays counted, and what is there at the moment is
//! there as long as the process is.

use std::{
    ops::Index,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use qnet_transport::bridge::{Counter, Counts};
use tokio::{io::AsyncReadExt as _, net::UnixStream as Channel, task::JoinSet, time::timeout};

use crate::{exit::Exit, handover};

/// How long an older process may take to answer: it is on this machine, and Prometheus waits.
const ANSWER_LIMIT: Duration = Duration::from_millis(200);
/// How long one that has never answered may: it is about to hand over what it listens at.
const FIRST_LIMIT: Duration = Duration::from_secs(3);
/// What the first byte says. Another version's numbers are not understood.
const VERSION: u8 = 1;
/// Bytes of all numbers: the version, and each as a u64.
pub(crate) const LENGTH: usize = 1 + COUNT * 8;

/// What there is a number of, in the order in which processes tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// Connections accepted.
    Connections,
    /// Those for which the decoy was not reached.
    DecoyFailures,
    /// Streams that were connected.
    Connected,
    /// Streams that the policy refused.
    Refused,
    /// Streams whose target was not reached.
    Failed,
    /// Streams beyond the limits.
    Limited,
    /// Bytes of streams, both directions.
    Bytes,
    /// Records to clients with data.
    Records,
    /// Their bytes without what was added.
    Carried,
    /// Records to clients of padding alone.
    PaddingRecords,
    /// Bytes that were added.
    Padding,
    /// Bytes of cover while nobody spoke.
    Cover,
    /// How long data was held for the shape, milliseconds.
    HeldMs,
    /// Sends that left the schedule.
    OffSchedule,
    /// Padding that was left out.
    OverBudget,
    /// Slots that were reached late.
    Late,
    /// Sessions at the moment.
    Sessions,
    /// Streams at the moment.
    Streams,
}

/// How many there are: streams are the last.
const COUNT: usize = Number::Streams as usize + 1;

/// What was counted, and what is there at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers([u64; COUNT]);

impl Index<Number> for Numbers {
    type Output = u64;

    fn index(&self, number: Number) -> &u64 {
        &self.0[number as usize]
    }
}

impl From<[(Number, u64); COUNT]> for Numbers {
    fn from(values: [(Number, u64); COUNT]) -> Self {
        let mut numbers = Self::default();
        for (number, value) in values {
            numbers.0[number as usize] = value;
        }
        numbers
    }
}

impl Numbers {
    fn add(&mut self, other: Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(more);
        }
    }

    /// What stays counted when the process is gone.
    fn past(mut self) -> Self {
        for now in [Number::Sessions, Number::Streams] {
            self.0[now as usize] = 0;
        }
        self
    }

    pub(crate) fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [VERSION; LENGTH];
        let (_, places) = bytes.split_at_mut(1);
        for (place, number) in places.chunks_exact_mut(8).zip(self.0) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; LENGTH]) -> Option<Self> {
        let (version, places) = bytes.split_first()?;
        let (numbers, _) = places.as_chunks();
        let mut decoded = Self::default();
        for (place, number) in decoded.0.iter_mut().zip(numbers) {
            *place = u64::from_be_bytes(*number);
        }
        (*version == VERSION).then_some(decoded)
    }
}

/// Counts on, after the processes before this one.
pub(crate) struct Tally {
    counter: Counter,
    exit: Arc<Exit>,
    older: Vec<Arc<Older>>,
}

impl Tally {
    /// `older`: the sockets to the processes that may serve still.
    pub(crate) fn new(counter: Counter, exit: Arc<Exit>, older: &[UnixStream]) -> Result<Self> {
        let older: Result<Vec<_>> = older.iter().map(|channel| Older::new(channel).map(Arc::new)).collect();
        Ok(Self { counter, exit, older: older.context("an older process is lost")? })
    }

    /// Whether the decoy was reached when this process last asked.
    pub(crate) fn decoy_up(&self) -> bool {
        self.counter.decoy_up()
    }

    /// Hears the older processes' last words, as long as the tasks are there: from then on the next process does.
    pub(crate) fn listen(&self, tasks: &mut JoinSet<()>) {
        for older in &self.older {
            let older = Arc::clone(older);
            tasks.spawn(async move { older.listen().await });
        }
    }

    /// What this process has counted, and those before it that are gone. Those that are there tell the next one themselves.
    pub(crate) fn own(&self) -> Numbers {
        let mut numbers = self.here();
        for older in &self.older {
            numbers.add(older.past());
        }
        numbers
    }

    /// The same with those that are there. `None` where one has never told what it counted: sums without it would fall, and come back
    /// at once when it does.
    pub(crate) async fn all(&self) -> Option<Numbers> {
        let mut asked = JoinSet::new();
        for older in &self.older {
            let older = Arc::clone(older);
            asked.spawn(async move {
                let limit = if older.has_told() { ANSWER_LIMIT } else { FIRST_LIMIT };
                let answer = timeout(limit, older.ask()).await.ok().flatten();
                older.counted(answer)
            });
        }
        let mut numbers = self.here();
        while let Some(older) = asked.join_next().await {
            numbers.add(older.ok()??);
        }
        Some(numbers)
    }

    fn here(&self) -> Numbers {
        let Counts { connections, decoy_failures, .. } = self.counter.counts();
        let (counts, shaping) = (&self.exit.counts, self.counter.shaping());
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Numbers::from([
            (Number::Connections, connections),
            (Number::DecoyFailures, decoy_failures),
            (Number::Connected, of(&counts.connected)),
            (Number::Refused, of(&counts.refused)),
            (Number::Failed, of(&counts.failed)),
            (Number::Limited, of(&counts.limited)),
            (Number::Bytes, self.exit.clients.bytes()),
            (Number::Records, shaping.records),
            (Number::Carried, shaping.carried),
            (Number::PaddingRecords, shaping.padding_records),
            (Number::Padding, shaping.padding),
            (Number::Cover, shaping.cover),
            (Number::HeldMs, u64::try_from(shaping.held.as_millis()).unwrap_or(u64::MAX)),
            (Number::OffSchedule, shaping.off_schedule),
            (Number::OverBudget, shaping.over_budget),
            (Number::Late, shaping.late),
            (Number::Sessions, self.counter.sessions() as u64),
            (Number::Streams, self.exit.clients.streams() as u64),
        ])
    }
}

/// A process before this one.
struct Older {
    channel: Channel,
    known: Mutex<Known>,
}

/// What is known of it.
#[derive(Clone, Copy, Default)]
struct Known {
    counted: Numbers,
    /// It has answered.
    told: bool,
    /// It is gone, and what it counted stays as it is.
    gone: bool,
}

impl Older {
    fn new(channel: &UnixStream) -> Result<Self> {
        let channel = handover::nonblocking(channel.try_clone()?)?;
        Ok(Self { channel, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has counted, if it is gone.
    fn past(&self) -> Numbers {
        let known = self.known();
        if known.gone { known.counted } else { Numbers::default() }
    }

    fn has_told(&self) -> bool {
        let known = self.known();
        known.told || known.gone
    }

    /// What it has counted, gone or not: where it did not answer, what it had counted when it last did, if it ever did.
    fn counted(&self, answer: Option<Numbers>) -> Option<Numbers> {
        let mut known = self.known();
        match answer {
            Some(answer) if !known.gone => {
                (known.counted, known.told) = (answer.past(), true);
                Some(answer)
            }
            _ => (known.told || known.gone).then_some(known.counted),
        }
    }

    async fn ask(&self) -> Option<Numbers> {
        let (own, its) = UnixStream::pair().ok()?;
        handover::ask(&self.channel, its).await.ok()?;
        let mut bytes = [0; LENGTH];
        handover::nonblocking(own).ok()?.read_exact(&mut bytes).await.ok()?;
        Numbers::decode(&bytes)
    }

    /// Waits for its last word, or for its end without one: what it said before is what is known then.
    async fn listen(&self) {
        let mut bytes = [0; LENGTH];
        let last = handover::last_word(&self.channel, &mut bytes).await;
        let mut known = self.known();
        if let Some(last) = last.and_then(|()| Numbers::decode(&bytes)) {
            known.counted = last.past();
        }
        known.gone = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_add_up() {
        let numbers = Numbers(std::array::from_fn(|place| place as u64 + 1));
        let bytes = numbers.encode();
        assert_eq!(Numbers::decode(&bytes), Some(numbers));
        let mut sum = numbers;
        sum.add(numbers.past());
        let some = [Number::Connections, Number::Bytes, Number::Sessions, Number::Streams];
        assert_eq!(some.map(|number| sum[number]), [2, 14, 17, 18]);
        sum.add(Numbers([u64::MAX; COUNT]));
        assert_eq!(sum[Number::Bytes], u64::MAX);
    }

    #[test]
    fn another_versions_numbers_are_not_taken() {
        let mut bytes = Numbers::default().encode();
        bytes[0] = VERSION + 1;
        assert_eq!(Numbers::decode(&bytes), None);
    }
}
