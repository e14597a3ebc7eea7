//! One visit to the site, as the client makes it, without a bridge between.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use qnet_proto::{
    chrome::CHROME_156,
    decoy_tls::{DecoyTls, Said},
    http2::{Answer, Output, PageLoad},
    knock::Field,
    shape::Habit,
    tls::{Opener, Sealer},
    token,
};
use qnet_wire::{key::IdentityKey, name::ServerName};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{timeout, timeout_at},
};

use super::{
    UNASKED,
    error::{ALERT_LENGTH, DecoyError, shown},
};
use crate::{
    driver::now,
    seed::seed,
    tls::{
        Roots, aes_hardware, handshake_with_any_issuer,
        wire::{self, APPLICATION_DATA, HEADER, Next},
    },
};

/// How long a visit may take, from connecting to the last answer. A load is a second or two even on slow lines, and the decoy
/// is near.
const VISIT_LIMIT: Duration = Duration::from_secs(15);
/// How much is asked of the socket at once: one record of the largest size.
const READ_SIZE: usize = HEADER + 16_640;
/// Outer types beside application data (RFC 8446, section 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;

/// Whom to visit.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) address: SocketAddr,
    pub(super) name: &'a ServerName,
    pub(super) roots: &'a Roots,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Fin,
    /// By a reset.
    Reset,
}

/// What came from the site.
pub(super) enum Heard {
    /// A record of application data, of this length; its content is in [`Visit::content`].
    Data(usize),
    /// A record for TLS itself, of this length.
    Other(usize),
    /// An alert.
    Alert,
    /// The end.
    Ended(Ending),
    /// Nothing until the time given.
    Silence,
}

/// A connection to the site, and what was seen on it.
pub(super) struct Visit {
    tcp: TcpStream,
    pub(super) tls: DecoyTls,
    pub(super) load: PageLoad,
    inbox: Vec<u8>,
    pub(super) content: Vec<u8>,
    rng: ChaCha20Rng,
    field: Option<Field>,
    /// What clients would have against the certificate.
    pub(super) doubt: Option<String>,
    pub(super) round_trip: Duration,
    /// The largest length of a record from the site.
    pub(super) largest: usize,
    /// What the lengths of its records show.
    pub(super) habit: Habit,
    /// Bytes of records from the site.
    pub(super) received: usize,
    /// The length of the first record after the last request.
    pub(super) answer_begins: Option<usize>,
}

impl Site<'_> {
    /// Loads the page up to the last answer. `field`: where the last request carries a knock, if it does.
    pub(super) async fn visit(&self, field: Option<Field>) -> Result<Visit, (DecoyError, Option<Visit>)> {
        let limit = DecoyError::TooSlow(VISIT_LIMIT.as_secs());
        let begun = timeout(VISIT_LIMIT, self.connect(field)).await;
        let mut visit = match begun {
            Err(_) => return Err((limit, None)),
            Ok(visit) => visit.map_err(|error| (error, None))?,
        };
        match timeout(VISIT_LIMIT, visit.play()).await {
            Err(_) => Err((limit, Some(visit))),
            Ok(Err(error)) => Err((error, Some(visit))),
            Ok(Ok(())) => Ok(visit),
        }
    }

    /// As [`Self::visit`], without a knock.
    pub(super) async fn plain_visit(&self) -> Result<Visit, DecoyError> {
        self.visit(None).await.map_err(|(error, _)| error)
    }

    async fn connect(&self, field: Option<Field>) -> Result<Visit, DecoyError> {
        let mut rng = ChaCha20Rng::from_seed(seed()?);
        let unreachable = |why| DecoyError::Unreachable { address: self.address, why };
        let mut tcp = TcpStream::connect(self.address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        // Nobody has this key's other half: to the site it is the hello of any client or browser.
        let key = IdentityKey::generate(&mut rng).public();
        let offer = token::offer(&mut rng, &key, self.name, aes_hardware());
        let (done, doubt) = handshake_with_any_issuer(&mut tcp, &offer, self.name, self.roots).await?;
        if done.wants_client_certificate {
            return Err(DecoyError::ClientCertificate);
        }
        let tls = done.tls;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let load = PageLoad::new(&CHROME_156, self.name, "/", field.unwrap_or(Field::Padding), seed);
        let sealer = Sealer::new(tls.suite, tls.up_secret, tls.up_records, tls.up_records);
        let opener = Opener::new(tls.suite, tls.down_secret, tls.down_records, tls.down_records);
        Ok(Visit {
            tcp,
            tls: DecoyTls::new(sealer, opener),
            load: if field.is_some() { load } else { load.without_knock() },
            inbox: tls.unread,
            content: Vec::new(),
            rng,
            field,
            doubt,
            round_trip: tls.round_trip,
            largest: 0,
            habit: Habit::default(),
            received: 0,
            answer_begins: None,
        })
    }
}

impl Visit {
    async fn play(&mut self) -> Result<(), DecoyError> {
        loop {
            self.send_load().await;
            if let Some(error) = self.load.failure() {
                return Err(DecoyError::of_load(error.clone(), self.load.answers()));
            }
            if self.load.answer_ended() {
                return Ok(());
            }
            match self.hear(self.load.deadline()).await? {
                Heard::Data(length) => {
                    self.note_answer(length);
                    self.take_data()?;
                }
                Heard::Other(length) => self.note_answer(length),
                Heard::Silence => {}
                Heard::Alert | Heard::Ended(_) => {
                    return Err(DecoyError::ClosesEarly { answers: self.load.answers() });
                }
            }
        }
    }

    fn note_answer(&mut self, length: usize) {
        if self.load.last_request_made() {
            self.answer_begins.get_or_insert(length);
        }
    }

    /// Gives what was heard to the page load.
    pub(super) fn take_data(&mut self) -> Result<(), DecoyError> {
        self.load
            .on_data(&self.content, now())
            .map_err(|error| DecoyError::of_load(error, self.load.answers()))?;
        match self.load.alternative() {
            Some(value) => Err(DecoyError::AltSvc(shown(value))),
            None => Ok(()),
        }
    }

    /// Sends what the page load has to send.
    pub(super) async fn send_load(&mut self) {
        let mut out = Vec::new();
        while let Some(output) = self.load.poll(now()) {
            let content = match output {
                Output::Record(content) => content,
                Output::Knock(content) => self.with_knock(content),
            };
            self.tls.sealer.seal(APPLICATION_DATA, &content, &mut out);
        }
        self.send(&out).await;
    }

    /// A knock is random to everybody but the bridge; here to it, too.
    fn with_knock(&mut self, mut content: Vec<u8>) -> Vec<u8> {
        let Some(field) = self.field else { return content };
        let at = content.len().saturating_sub(field.len());
        let (mut knock, mut mask) = ([0; 8], [0; 16]);
        self.rng.fill_bytes(&mut knock);
        self.rng.fill_bytes(&mut mask);
        if let Some(place) = content.get_mut(at..) {
            field.write(&knock, &mask, place);
            // The one letter that RFC 6265 does not allow stands in every sixth knock: let this be one of them.
            if let (Field::Cookie, Some(first)) = (field, place.first_mut()) {
                *first = b'\\';
            }
        }
        content
    }

    /// Writes raw bytes. A site that has closed is heard of when it is listened to, with its reason.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.ok();
    }

    /// The next record.
    ///
    /// # Errors
    /// It is none, does not open, or is an alert of the wrong length.
    pub(super) async fn hear(&mut self, until: Option<Instant>) -> Result<Heard, DecoyError> {
        let total = loop {
            match wire::next(&self.inbox) {
                Next::Record(total) => break total,
                Next::Strange => return Err(DecoyError::Broken("what comes is no TLS record")),
                Next::Missing(_) => self.inbox.reserve(READ_SIZE),
            }
            let read = self.tcp.read_buf(&mut self.inbox);
            let read = match until {
                None => read.await,
                Some(until) => match timeout_at(until.into(), read).await {
                    Err(_) => return Ok(Heard::Silence),
                    Ok(read) => read,
                },
            };
            match read {
                Ok(0) => return Ok(Heard::Ended(Ending::Fin)),
                Ok(_) => {}
                Err(_) => return Ok(Heard::Ended(Ending::Reset)),
            }
        };
        let record: Vec<u8> = self.inbox.drain(..total).collect();
        self.open(&record).await
    }

    async fn open(&mut self, record: &[u8]) -> Result<Heard, DecoyError> {
        let length = record.len() - HEADER;
        self.largest = self.largest.max(length);
        self.received += record.len();
        match record.first() {
            Some(&APPLICATION_DATA) => self.habit.note(length),
            Some(&CHANGE_CIPHER_SPEC) => return Ok(Heard::Other(length)),
            Some(&ALERT) => return Err(DecoyError::AlertLength(length)),
            _ => return Err(DecoyError::Broken("a record in clear")),
        }
        let mut owed = Vec::new();
        let said = self.tls.read(record, &mut self.content, &mut owed);
        self.send(&owed).await;
        match said {
            Ok(Said::Data) => Ok(Heard::Data(length)),
            Ok(Said::Nothing) => Ok(Heard::Other(length)),
            Ok(Said::Alert(_)) if length == ALERT_LENGTH => Ok(Heard::Alert),
            Ok(Said::Alert(_)) => Err(DecoyError::AlertLength(length)),
            Ok(Said::Nonsense) | Err(_) => Err(DecoyError::Broken("a record does not open")),
        }
    }

    /// From here on the page stands open: nothing but what is owed goes out.
    pub(super) fn leave_open(&mut self) {
        self.load.give_up();
    }

    /// Listens for one record while the page stands open.
    ///
    /// # Errors
    /// As for [`Self::hear`], and [`DecoyError::Unasked`].
    pub(super) async fn hear_unasked(&mut self, until: Instant) -> Result<Heard, DecoyError> {
        self.send_load().await;
        let heard = self.hear(Some(until)).await?;
        match heard {
            Heard::Data(length) | Heard::Other(length) if length >= UNASKED => {
                return Err(DecoyError::Unasked(length));
            }
            Heard::Data(_) => self.take_data()?,
            _ => {}
        }
        Ok(heard)
    }

    /// The answer to the last request.
    pub(super) fn answer(&self) -> Answer {
        self.load.answer()
    }

    /// Random bytes.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
    }
}
