//! After HANDOVER: the bridge as the decoy's only client.

use std::time::{Duration, Instant};

use qnet_wire::name::ServerName;

use crate::{
    bridge::{DecoyFacts, inner::Context},
    decoy_tls::{DecoyTls, Said},
    frame::Handover,
    http2::Keeper,
    scan::{self, APPLICATION_DATA},
    tls::{Opener, Sealer, Secret, Suite},
};

/// How long a tunnel must be silent before a request puts the decoy's idle timer where an observer would expect it.
const QUIET: Duration = Duration::from_millis(50);
/// The interval of requests under load while the decoy's idle limit is not known; no server seen closes sooner.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(2);
/// How long before the idle limit a busy tunnel's request goes out.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a tunnel whose client waits for credit counts as in use, and so does one whose data the client does not take where the
/// decoy's page has no body to stand still: a web server gives an upload as long (nginx: `client_body_timeout`, 60 s).
const STALLED: Duration = Duration::from_secs(60);
/// Requests before the decoy's own limit at which the end is announced.
const ANNOUNCE: u32 = 20;
/// How long before the end of the decoy's lifetime the carrier's end is announced, but no more than a tenth of it: time for
/// what is open to come to its end, and for another carrier.
const ANNOUNCE_BEFORE: Duration = Duration::from_secs(60);
/// Requests without an answer at which no more are made: the decoy is stuck.
const MAX_OUTSTANDING: u32 = 8;
/// A carrier should be able to live this long within the decoy's number of requests.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// What a record of the decoy's means for the carrier.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing the client should see.
    Nothing,
    /// GOAWAY: a record of this length.
    GoAway(usize),
    /// The end of a download that stood still, which the client's connection outlives: a record of this length.
    GaveUp(usize),
    /// An alert.
    Alert([u8; 2]),
    /// It has lost its patience with a client whose socket is full.
    Closes,
    /// It does not open or makes no sense.
    Broken,
}

/// What of a tunnel stands still, as far as the bridge can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standstill {
    /// Nothing: there is nothing to send, or it has just gone.
    None,
    /// Data waits for the client, who withholds room or credit.
    Download,
    /// The client seems to wait for credit, which somebody withholds.
    Upload,
}

/// How many of the decoy's own protected records went by in each direction.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// TLS and HTTP/2 with the decoy, and when to ask it for something.
pub(super) struct Keeping {
    tls: DecoyTls,
    keeper: Keeper,
    scratch: Vec<u8>,
    said_goodbye: bool,
    last_request: Instant,
    last_traffic: Instant,
    /// Traffic since the last request.
    owed: bool,
    /// Since the last traffic the decoy was made to see a download that stands still.
    shown: bool,
    /// Requests that may be made on silence alone: they refill over [`LIFETIME`], so that a talkative tunnel does not use up
    /// the decoy's number of requests.
    allowance: f64,
    allowance_at: Instant,
}

impl Keeping {
    /// `None`: what was handed over cannot be true.
    pub(super) fn new(
        handover: &Handover,
        counts: Counts,
        name: &ServerName,
        facts: &DecoyFacts,
        now: Instant,
    ) -> Option<Self> {
        let Counts { up, down } = counts;
        let suite = Suite::try_from(handover.suite).ok()?;
        if handover.up_first > up || handover.down_first > down {
            return None;
        }
        let up_secret = Secret::new(suite, &handover.up_secret)?;
        let down_secret = Secret::new(suite, &handover.down_secret)?;
        Some(Self {
            tls: DecoyTls::new(
                Sealer::new(suite, up_secret, handover.up_first, up),
                Opener::new(suite, down_secret, handover.down_first, down),
            ),
            keeper: Keeper::new(handover.requests, name, "/"),
            scratch: Vec::new(),
            said_goodbye: false,
            last_request: now,
            last_traffic: now,
            owed: true,
            shown: false,
            allowance: burst(facts),
            allowance_at: now,
        })
    }

    /// Follows the KeyUpdates among the records that the decoy sent after message 2: the client read them, if it did, after
    /// HANDOVER. `None`: one does not open under the keys that were handed over.
    pub(super) fn catch_up(
        &mut self,
        missed: &[(u64, Vec<u8>)],
        counts: Counts,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        for (index, record) in missed {
            self.tls.opener.go_to(*index);
            self.tls.read(record, &mut self.scratch, out).ok()?;
        }
        self.tls.opener.go_to(counts.down);
        Some(())
    }

    /// The decoy's next record may begin inside a frame, the tail of the knock's answer: asks it for a mark after which frames
    /// can be told. `random`: what the mark is known by.
    pub(super) fn find_frames(&mut self, random: [u8; 8], out: &mut Vec<u8>) {
        let mut ping = Vec::new();
        self.keeper.find_frames(random, &mut ping);
        self.tls.sealer.seal(APPLICATION_DATA, &ping, out);
    }

    /// A whole record from the decoy; what it owes in return is appended to `out`.
    pub(super) fn record(&mut self, outer: u8, record: &[u8], out: &mut Vec<u8>) -> Word {
        if outer != APPLICATION_DATA {
            // In clear there is only a change of cipher spec left over, or an alert of a server that lost its keys.
            return if outer == scan::CHANGE_CIPHER_SPEC { Word::Nothing } else { Word::Broken };
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let word = match self.tls.read(record, &mut scratch, out) {
            Ok(Said::Nothing) => Word::Nothing,
            Ok(Said::Data) => self.data(&scratch, record.len() - scan::HEADER_LEN, out),
            Ok(Said::Alert(alert)) => Word::Alert(alert),
            Ok(Said::Nonsense) | Err(_) => Word::Broken,
        };
        self.scratch = scratch;
        word
    }

    fn data(&mut self, content: &[u8], length: usize, out: &mut Vec<u8>) -> Word {
        let mut reply = Vec::new();
        if self.keeper.on_data(content, &mut reply).is_err() {
            return Word::Broken;
        }
        if !reply.is_empty() {
            self.tls.sealer.seal(APPLICATION_DATA, &reply, out);
        }
        if self.keeper.going_away() && !self.said_goodbye {
            self.said_goodbye = true;
            return Word::GoAway(length);
        }
        if self.keeper.take_gave_up() && !self.owed {
            return Word::GaveUp(length);
        }
        Word::Nothing
    }

    /// An alert of the client's, sealed anew for the decoy.
    pub(super) fn alert(&mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        self.tls.sealer.seal(scan::ALERT, &alert, out);
    }

    /// The tunnel carried something.
    pub(super) fn traffic(&mut self, now: Instant) {
        self.last_traffic = now;
        self.owed = true;
        self.shown = false;
    }

    /// Whether the decoy sees a download that stands still.
    pub(super) fn shows_standstill(&self) -> bool {
        self.shown && !self.owed
    }

    /// When [`Keeping::on_timer`] has something to do.
    pub(super) fn deadline(
        &self,
        facts: &DecoyFacts,
        standstill: impl FnOnce() -> Standstill,
    ) -> Option<Instant> {
        if self.keeper.withholds() && self.owed {
            return Some(self.last_traffic);
        }
        if self.shown || self.exhausted(facts) || self.keeper.outstanding() >= MAX_OUTSTANDING {
            return None;
        }
        let busy = self.last_request + interval(facts);
        let missing = (1.0 - self.allowance).max(0.0) / rate(facts);
        let allowed = self.allowance_at + Duration::from_secs_f64(missing);
        let quiet = (self.last_traffic + QUIET).max(allowed);
        if self.owed {
            return Some(quiet.min(busy));
        }
        match standstill() {
            Standstill::None => None,
            Standstill::Download if !self.keeper.is_bodiless() => Some(quiet),
            Standstill::Download | Standstill::Upload => {
                Some(busy).filter(|at| *at < self.last_traffic + STALLED)
            }
        }
    }

    /// Makes a request if it is time.
    ///
    /// One for a page that it does not let come, where a download stands still: what a server does about that, and when, is then the
    /// decoy's to show (docs/decisions/0020-the-decoy-decides-on-a-standstill.md).
    pub(super) fn on_timer(
        &mut self,
        facts: &DecoyFacts,
        standstill: Standstill,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let elapsed = now.saturating_duration_since(self.allowance_at).as_secs_f64();
        self.allowance = (self.allowance + elapsed * rate(facts)).min(burst(facts));
        self.allowance_at = now;
        if self.deadline(facts, || standstill).is_none_or(|at| at > now) {
            return;
        }
        self.last_request = now;
        let mut said = Vec::new();
        if self.keeper.withholds() {
            self.keeper.release(&mut said);
        } else {
            self.allowance = (self.allowance - 1.0).max(0.0);
            self.owed = false;
            let silent = self.last_traffic + QUIET <= now;
            self.shown = silent && standstill == Standstill::Download && !self.keeper.is_bodiless();
            if self.shown {
                self.keeper.withhold(&mut said);
            } else {
                self.keeper.request(&mut said);
            }
        }
        self.tls.sealer.seal(APPLICATION_DATA, &said, out);
    }

    /// Whether the carrier's end should be announced: the decoy's number of requests or its connection's time is nearly used
    /// up.
    pub(super) fn nearly_over(&self, context: &Context<'_>) -> bool {
        self.keeper.requests().saturating_add(ANNOUNCE) >= context.facts.max_requests
            || last_call(context.facts, context.began).is_some_and(|at| at <= context.now)
    }

    /// One request is left for the decoy to answer; making it would end the connection without warning.
    fn exhausted(&self, facts: &DecoyFacts) -> bool {
        self.keeper.requests().saturating_add(1) >= facts.max_requests
    }

    pub(super) fn shrink(&mut self) {
        self.scratch = Vec::new();
    }
}

/// Whether a record of type 23 has a KeyUpdate's length: five bytes of a message of its own, the inner type and the tag (RFC 8446,
/// section 4.6.3). No HTTP/2 frame is as short.
pub(super) fn may_be_key_update(record: &[u8]) -> bool {
    record.len() == scan::HEADER_LEN + 5 + 17
}

/// When the end of a connection that `began` then is announced, where its lifetime is known.
pub(super) fn last_call(facts: &DecoyFacts, began: Option<Instant>) -> Option<Instant> {
    let lifetime = facts.lifetime?;
    began?.checked_add(lifetime - (lifetime / 10).min(ANNOUNCE_BEFORE))
}

fn interval(facts: &DecoyFacts) -> Duration {
    match facts.idle_limit {
        Some(limit) => limit.saturating_sub(MARGIN).max(limit / 2),
        None => UNKNOWN_LIMIT,
    }
}

/// Requests on silence a second.
fn rate(facts: &DecoyFacts) -> f64 {
    (f64::from(facts.max_requests) / LIFETIME.as_secs_f64()).max(0.01)
}

/// Requests on silence at once.
fn burst(facts: &DecoyFacts) -> f64 {
    (f64::from(facts.max_requests) / 10.0).max(1.0)
}
