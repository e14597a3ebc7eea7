//! Until the proof: the visit, as the browser makes it, with the knock at its end.

use std::time::{Duration, Instant};

use crate::{
    Ended,
    client::{Start, goodbye},
    decoy_tls::{DecoyTls, Said},
    http2::{Output, PageLoad},
    knock::{Field, KnockKey, UpHash},
    noise,
    record::{Cipher, RecordOpener, RecordSealer},
    scan::{APPLICATION_DATA, HEADER_LEN},
    sizes::Lengths,
    tls::{Opener, Sealer},
    token::Token,
};

/// Beyond two round trips, how long after the answer's end a proof may come.
const PROOF_GRACE: Duration = Duration::from_secs(1);

struct Sent {
    record: Vec<u8>,
    /// When to stop waiting for the proof, once the answer has ended.
    until: Option<Instant>,
}

/// The page load, under the decoy's keys.
pub(super) struct Load {
    pub(super) h2: PageLoad,
    pub(super) tls: DecoyTls,
    pub(super) up_lengths: Lengths,
    token: Token,
    key: KnockKey,
    up: UpHash,
    field: Field,
    sent: Option<Sent>,
    pub(super) round_trip: Duration,
    /// The user was told that there will be no tunnel.
    pub(super) alone: bool,
}

/// What a record from the decoy, or from the bridge, was.
pub(super) enum Read {
    Nothing,
    /// The proof, with what both sides now share.
    Proof(Box<Proof>),
    /// The decoy ends the connection; answer with these bytes and a FIN.
    Ends,
    /// It does not open: somebody is on the wire.
    Tampered,
    /// The load cannot go on.
    Fails(Ended),
}

/// The keys after the proof.
pub(super) struct Proof {
    pub(super) sealer: RecordSealer,
    pub(super) opener: RecordOpener,
    pub(super) prologue: Vec<u8>,
}

impl Load {
    pub(super) fn new(start: &Start, key: KnockKey, seed: [u8; 32]) -> Self {
        let mut up = UpHash::new();
        up.update(&start.tls.sent);
        let sealer = Sealer::new(
            start.tls.suite,
            start.tls.up_secret.clone(),
            start.tls.up_records,
            start.tls.up_records,
        );
        let opener = Opener::new(
            start.tls.suite,
            start.tls.down_secret.clone(),
            start.tls.down_records,
            start.tls.down_records,
        );
        Self {
            h2: PageLoad::new(&crate::chrome::CHROME_156, &start.name, &start.path, start.field, seed),
            tls: DecoyTls::new(sealer, opener),
            up_lengths: Lengths::default(),
            token: start.token.clone(),
            key,
            up,
            field: start.field,
            sent: None,
            round_trip: start.tls.round_trip,
            alone: false,
        }
    }

    /// Sends what the page load has to send. Silent between knock and proof.
    pub(super) fn send(&mut self, out: &mut Vec<u8>, now: Instant) -> Vec<usize> {
        let mut cuts = Vec::new();
        while self.sent.is_none() || self.alone {
            match self.h2.poll(now) {
                None => return cuts,
                Some(Output::Record(content)) => {
                    let start = out.len();
                    self.tls.sealer.seal(APPLICATION_DATA, &content, out);
                    self.up.update(&out[start..]);
                    self.up_lengths.note(out.len() - start - HEADER_LEN);
                }
                Some(Output::Knock(content)) => self.knock(content, out),
            }
            cuts.push(out.len());
        }
        cuts
    }

    fn knock(&mut self, mut content: Vec<u8>, out: &mut Vec<u8>) {
        let (up, key, field) = (&self.up, &self.key, self.field);
        let start = out.len();
        self.tls.sealer.seal_with(
            APPLICATION_DATA,
            &mut content,
            field.len(),
            |before, keystream, plain| field.write(&up.knock(key, before), keystream, plain),
            out,
        );
        self.up_lengths.note(out.len() - start - HEADER_LEN);
        self.sent = Some(Sent { record: out[start..].to_vec(), until: None });
    }

    /// A whole record from the wire. `index`: how many of outer type 23 came before it.
    pub(super) fn record(
        &mut self,
        outer: u8,
        record: &[u8],
        index: u64,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
        now: Instant,
    ) -> Read {
        if outer != APPLICATION_DATA {
            return Read::Tampered;
        }
        let owed = out.len();
        let said = self.tls.read(record, scratch, out);
        // The answer to a KeyUpdate is among what the knock is made over.
        self.up.update(&out[owed..]);
        match said {
            Ok(Said::Nothing) => Read::Nothing,
            Ok(Said::Data) => self.data(scratch, now),
            Ok(Said::Alert(alert)) => {
                goodbye(alert, |content| self.tls.sealer.seal(APPLICATION_DATA, content, out));
                Read::Ends
            }
            Ok(Said::Nonsense) => Read::Tampered,
            Err(_) => self.proof(record, index, scratch),
        }
    }

    fn data(&mut self, content: &[u8], now: Instant) -> Read {
        if self.h2.on_data(content, now).is_err() && !self.alone {
            return Read::Fails(if self.sent.is_some() { Ended::NoProof } else { Ended::Load });
        }
        if let Some(sent) = &mut self.sent
            && self.h2.answer_ended()
        {
            sent.until.get_or_insert(now + 2 * self.round_trip + PROOF_GRACE);
        }
        if self.h2.gone_away() { Read::Ends } else { Read::Nothing }
    }

    fn proof(&mut self, record: &[u8], index: u64, scratch: &mut Vec<u8>) -> Read {
        let Some(sent) = self.sent.as_ref().filter(|_| !self.alone) else { return Read::Tampered };
        let Some(n) = record.get(HEADER_LEN..HEADER_LEN + 32).and_then(|n| <[u8; 32]>::try_from(n).ok())
        else {
            return Read::Tampered;
        };
        let (up, down) = self.key.proof_keys(&n);
        let mut opener = RecordOpener::new(Cipher::ChaCha20Poly1305, &down.key, down.iv, index);
        if opener.open_proof(record, scratch).is_err() {
            return Read::Tampered;
        }
        let up_index = self.tls.sealer.direction().next_index();
        let sealer = RecordSealer::new(Cipher::ChaCha20Poly1305, &up.key, up.iv, up_index);
        let prologue = noise::prologue(self.key.salt(), self.token.as_bytes(), &sent.record, record);
        Read::Proof(Box::new(Proof { sealer, opener, prologue }))
    }

    /// When [`Load::send`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.sent.as_ref().filter(|_| !self.alone).and_then(|sent| sent.until);
        let silent = self.sent.is_some() && !self.alone;
        let load = if silent { None } else { self.h2.deadline() };
        [waiting, load].into_iter().flatten().min()
    }

    /// True if the proof is overdue.
    pub(super) fn overdue(&self, now: Instant) -> bool {
        !self.alone && self.sent.as_ref().and_then(|sent| sent.until).is_some_and(|until| until <= now)
    }

    /// A page left open for so long is closed.
    pub(super) fn idled_out(&self, now: Instant) -> bool {
        self.alone && self.h2.deadline().is_some_and(|at| at <= now)
    }

    /// Whether the load cannot reach its knock.
    pub(super) fn has_failed(&self) -> bool {
        !self.alone && self.h2.failure().is_some()
    }

    /// Whether the knock was sent.
    pub(super) fn knocked(&self) -> bool {
        self.sent.is_some()
    }

    /// No tunnel will come: go on as the browser whose page is loaded.
    pub(super) fn leave_alone(&mut self) {
        self.alone = true;
        self.h2.give_up();
    }
}
