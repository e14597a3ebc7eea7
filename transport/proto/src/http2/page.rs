//! The client's page load, from the connection preface to the request with the knock.

use std::time::{Duration, Instant};

use qnet_wire::name::ServerName;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::body::{self, MAX_BODY};
use super::connection::{Connection, Event, Fields};
use super::cookies::Jar;
use super::error::LoadError;
use super::extended::Extended;
use super::frame;
use super::html::{self, Found, Icon};
use super::knocking;
use super::plan::{self, Wanted};
use super::request::{self, Context, Dependencies, Resource};
use super::url::Base;
use crate::chrome::Profile;
use crate::knock::Field;

mod loading;

use self::loading::{Loading, Release};

/// Redirects of the page that are followed, as browsers do (Fetch standard, section 4.4).
const MAX_REDIRECTS: u32 = 20;
/// Requests of a load, redirects included: a bound on what a hostile decoy can make a client ask for, above what
/// [`html::MAX_RESOURCES`] needs.
const MAX_REQUESTS: u32 = 200;
/// A load that takes longer is given up. Long enough for a slow line, short enough for a waiting user.
const MAX_LOAD: Duration = Duration::from_secs(60);

/// How long after the decoy's SETTINGS they are acknowledged: Chromium reads on and hands over what came before it writes, in half a
/// millisecond to some. Without that the acknowledgement would stand in the midst of the answer that comes right behind them, where
/// Chromium's seldom stood in what the lab captured.
const READING: (Duration, Duration) = (Duration::from_micros(600), Duration::from_micros(2_500));

/// In one visit of so many the parser reaches a script behind pictures before anything is requested: Chromium's did in 4 of 31 visits.
const AHEAD: u32 = 8;

/// What [`PageLoad::poll`] wants sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The content of exactly one TLS record.
    Record(Vec<u8>),
    /// The same, of the last request: its last 8 bytes are zero padding, or its last 11 a cookie's letters, which the
    /// knock replaces ([`Field`]). Nothing follows it until the proof or [`PageLoad::give_up`].
    Knock(Vec<u8>),
}

/// What the answer to a load's last request came to, for comparing such answers with each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its status (RFC 9110, section 15); 0 before it has come.
    pub status: u16,
    /// How many header fields it has, pseudo-header fields included.
    pub fields: usize,
    /// The length of its body in bytes, as it came.
    pub body: u64,
    /// The error with which the decoy reset it, if it did (RFC 9113, section 7).
    pub reset: Option<u32>,
}

/// One visit to a decoy, as Chrome makes it.
///
/// Contract: call [`poll`](Self::poll) until it gives None, sending each output as one TLS record as it comes; then wait
/// for the decoy's data, for which [`on_data`](Self::on_data), or for [`deadline`](Self::deadline), and poll again. The
/// times given never go back. After an error the load is over: leave the connection as a browser does.
///
/// ```text
/// Begin ─preface─▶ Ask ─HEADERS─▶ Page ─its end─▶ Parsing ─pause─▶ Loading ─all answered─▶ Last ─knock─▶ Knocked
///                   ▲               │ redirect                                                      │ give_up
///                   └───────────────┘                                                              ▼ GivenUp
/// ```
#[derive(Debug)]
pub struct PageLoad {
    pub(super) profile: &'static Profile,
    pub(super) authority: String,
    page: String,
    field: Field,
    pub(super) random: ChaCha8Rng,
    pub(super) connection: Option<Connection>,
    pub(super) dependencies: Dependencies,
    pub(super) jar: Jar,
    asked: Vec<Asked>,
    pub(super) requests: u32,
    redirects: u32,
    step: Step,
    give_up_load: Option<Instant>,
    pub(super) idle: Option<Instant>,
    /// What the decoy is owed waits until then.
    busy_until: Option<Instant>,
    knock: Option<u32>,
    /// The last request is Chrome's own, without room for a knock.
    plain: bool,
    answers: u32,
    answer: Answer,
    failure: Option<LoadError>,
    pub(crate) websocket: Option<Extended>,
}

/// A request without a whole answer.
#[derive(Debug)]
struct Asked {
    stream: u32,
    resource: Resource,
    path: String,
}

#[derive(Debug)]
enum Step {
    /// TLS is up; the preface goes then, which is drawn when it is first asked for.
    Begin {
        at: Option<Instant>,
    },
    Ask,
    Page(Page),
    Parsing {
        until: Instant,
        plan: plan::Plan,
        last: Wanted,
    },
    Loading(Loading),
    Last {
        at: Instant,
        last: Wanted,
    },
    Knocked,
    GivenUp,
}

/// The page as far as it has come.
#[derive(Debug, Default)]
struct Page {
    fields: Fields,
    body: Vec<u8>,
}

impl PageLoad {
    /// A load of `https://authority` + `path`, whose last request leaves room for a knock of the kind `field`. The
    /// pauses are drawn from `seed`. A path that is none of this origin is taken for `/`.
    pub fn new(
        profile: &'static Profile,
        authority: &ServerName,
        path: &str,
        field: Field,
        seed: [u8; 32],
    ) -> Self {
        let authority = authority.as_str().to_owned();
        let page = Base::new(&authority, "/").resolve(path).unwrap_or_else(|| "/".to_owned());
        Self {
            profile,
            authority,
            page,
            field,
            random: ChaCha8Rng::from_seed(seed),
            connection: None,
            dependencies: Dependencies::default(),
            jar: Jar::default(),
            asked: Vec::new(),
            requests: 0,
            redirects: 0,
            step: Step::Begin { at: None },
            give_up_load: None,
            idle: None,
            busy_until: None,
            knock: None,
            plain: false,
            answers: 0,
            answer: Answer::default(),
            failure: None,
            websocket: None,
        }
    }

    /// Makes the load's last request as Chrome itself does: a [`Output::Record`] like the others, with no place for a
    /// knock. For comparing a decoy's answers.
    pub fn without_knock(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Takes decrypted application data from the decoy.
    ///
    /// # Errors
    /// [`LoadError`]: the load cannot reach its knock, or the decoy broke HTTP/2. It is given again at every later call.
    pub fn on_data(&mut self, bytes: &[u8], now: Instant) -> Result<(), LoadError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.idle = Some(now + self.profile.idle);
        if let Some(websocket) = &mut self.websocket {
            websocket.heard(now);
        }
        let mut events = Vec::new();
        let connection = self.connection.get_or_insert_with(|| Connection::new(self.profile, now));
        let greeted = connection.settings_came;
        let mut outcome = connection.on_data(bytes, now, &mut events);
        if connection.settings_came && !greeted {
            self.busy_until = Some(now + draw_early(&mut self.random, READING));
        }
        if outcome.is_ok() && connection.gone_away && self.knock.is_none() {
            outcome = Err(LoadError::GoneAway);
        }
        let outcome =
            outcome.and_then(|()| events.into_iter().try_for_each(|event| self.on_event(event, now)));
        if let Err(error) = &outcome {
            self.failure = Some(error.clone());
        }
        outcome
    }

    /// What is to be sent now, if anything.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        self.connection.get_or_insert_with(|| Connection::new(self.profile, now));
        let end = *self.give_up_load.get_or_insert(now + MAX_LOAD);
        if self.knock.is_none() && self.failure.is_none() && !matches!(self.step, Step::GivenUp) && now >= end
        {
            self.failure = Some(LoadError::TooSlow(MAX_LOAD.as_secs()));
        }
        if self.failure.is_some() {
            return None;
        }
        let output = self.step(now);
        if output.is_some() {
            self.idle = Some(now + self.profile.idle);
        }
        output
    }

    /// When to poll again at the latest, even without data. After [`give_up`](Self::give_up): when to close the
    /// connection, as Chrome closes an idle one, without GOAWAY or close_notify.
    pub fn deadline(&self) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let step = match &self.step {
            Step::GivenUp => return [self.idle, self.owes_at()].into_iter().flatten().min(),
            Step::Knocked => return None,
            Step::Parsing { until, .. } => Some(*until),
            Step::Loading(Loading { release: Release::At(at), .. }) => Some(*at),
            // Not while something is owed or open: then data comes first.
            Step::Last { at, .. } => self.is_quiet().then_some(*at),
            // What is owed goes after the preface.
            Step::Begin { at } => return [*at, self.give_up_load].into_iter().flatten().min(),
            Step::Ask | Step::Page(_) | Step::Loading(_) => None,
        };
        [step, self.give_up_load, self.owes_at()].into_iter().flatten().min()
    }

    /// When the decoy gets what it is owed, if something is and that waits.
    fn owes_at(&self) -> Option<Instant> {
        let owes = self.connection.as_ref().is_some_and(|connection| !connection.owed.is_empty());
        self.busy_until.filter(|_| owes)
    }

    /// Requests made so far.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Requests whose answers are whole, or reset.
    pub fn answers(&self) -> u32 {
        self.answers
    }

    /// Whether the last request was made.
    pub fn last_request_made(&self) -> bool {
        self.knock.is_some()
    }

    /// The last request's answer, as far as it has come.
    pub fn answer(&self) -> Answer {
        self.answer
    }

    /// What the decoy named as an alternative of itself (RFC 7838), if it did: the value of `alt-svc`, or an ALTSVC
    /// frame's payload.
    pub fn alternative(&self) -> Option<&[u8]> {
        self.connection.as_ref()?.alt_svc.as_deref()
    }

    /// Whether the last request was made and its answer is whole, or reset.
    pub fn answer_ended(&self) -> bool {
        match (self.knock, &self.connection) {
            (Some(stream), Some(connection)) => !connection.is_open(stream),
            _ => false,
        }
    }

    /// Whether the decoy announced its end (GOAWAY).
    pub fn gone_away(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.gone_away)
    }

    /// Why the load is over, once it failed.
    pub fn failure(&self) -> Option<&LoadError> {
        self.failure.as_ref()
    }

    /// The load is over, or no proof came: from here on only what Chrome owes is sent, until [`deadline`](Self::deadline), when the
    /// connection is to be closed.
    pub fn give_up(&mut self) {
        self.step = Step::GivenUp;
    }

    /// Whether the load is over, to its last answer.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.step, Step::GivenUp) && self.open() == 0
    }

    fn step(&mut self, now: Instant) -> Option<Output> {
        match &mut self.step {
            Step::Begin { at } => {
                let at = *at
                    .get_or_insert_with(|| now + draw_early(&mut self.random, self.profile.pauses.preface));
                if now < at {
                    return None;
                }
                self.step = Step::Ask;
                return Some(Output::Record(self.preface()));
            }
            Step::Ask if self.redirects == 0 => return Some(self.ask(Resource::Document, now)),
            Step::Knocked => return None,
            _ => {}
        }
        if self.busy_until.is_some_and(|until| now < until) {
            return None;
        }
        self.busy_until = None;
        if let Some(record) = self.connection.as_mut().and_then(|connection| connection.owed.pop_front()) {
            return Some(Output::Record(record));
        }
        if matches!(self.step, Step::Ask) {
            return Some(self.ask(Resource::Redirected, now));
        }
        if let Step::Parsing { until, .. } = &self.step
            && now >= *until
        {
            self.begin_loading();
        }
        if matches!(self.step, Step::Loading(_)) {
            let output = self.load(now);
            if output.is_some() {
                return output;
            }
        }
        self.knock(now)
    }

    /// Asks for the page.
    fn ask(&mut self, resource: Resource, now: Instant) -> Output {
        let path = self.page.clone();
        self.step = Step::Page(Page::default());
        self.request(resource, path, now)
    }

    fn preface(&self) -> Vec<u8> {
        let mut out = frame::PREFACE.to_vec();
        frame::settings(self.profile.settings, &mut out);
        frame::window_update(0, self.profile.connection_increment, &mut out);
        out
    }

    fn latest_stream(&self) -> u32 {
        self.requests * 2 - 1
    }

    fn open(&self) -> usize {
        self.connection.as_ref().map_or(0, Connection::open)
    }

    /// Nothing is owed in either direction: then the knock may go (DESIGN: with nothing outstanding).
    pub(super) fn is_quiet(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            connection.open() == 0
                && connection.owed.is_empty()
                && connection.settings_came
                && connection.settings_taken
        })
    }

    fn knock(&mut self, now: Instant) -> Option<Output> {
        let Step::Last { at, last: (resource, path) } = &self.step else { return None };
        if now < *at || !self.is_quiet() {
            return None;
        }
        let (resource, path) = (*resource, path.clone());
        let headers = self.headers(resource, &path);
        let stream = self.requests * 2 + 1;
        let weight = self.profile.weights[resource.level() as usize];
        let depends_on = self.dependencies.add(stream, resource.level());
        let connection = self.connection.as_mut()?;
        let output = if self.plain {
            let mut block = Vec::new();
            request::encode(&mut connection.encoder, &headers, &mut block);
            Output::Record(request::headers_frame(stream, depends_on, weight, &block))
        } else if let Some(frame) =
            knocking::frame(&connection.encoder, &headers, stream, depends_on, weight, self.field)
        {
            Output::Knock(frame)
        } else {
            self.failure = Some(LoadError::NothingToKnockWith);
            return None;
        };
        connection.opened(stream, now);
        self.requests += 1;
        self.knock = Some(stream);
        self.step = Step::Knocked;
        Some(output)
    }

    fn headers(&self, resource: Resource, path: &str) -> request::Headers {
        let cookies = self.jar.for_path(path);
        let context = Context {
            profile: self.profile,
            authority: &self.authority,
            page: &self.page,
            cookies: &cookies,
        };
        context.headers(resource, path)
    }

    fn request(&mut self, resource: Resource, path: String, now: Instant) -> Output {
        let headers = self.headers(resource, &path);
        let stream = self.requests * 2 + 1;
        let mut block = Vec::new();
        if let Some(connection) = &mut self.connection {
            request::encode(&mut connection.encoder, &headers, &mut block);
            connection.opened(stream, now);
        }
        let depends_on = self.dependencies.add(stream, resource.level());
        let weight = self.profile.weights[resource.level() as usize];
        self.requests += 1;
        self.asked.push(Asked { stream, resource, path });
        Output::Record(request::headers_frame(stream, depends_on, weight, &block))
    }

    fn on_event(&mut self, event: Event, now: Instant) -> Result<(), LoadError> {
        let event = match &mut self.websocket {
            Some(websocket) => match websocket.on_event(event) {
                None => return Ok(()),
                Some(another) => another,
            },
            None => event,
        };
        match event {
            Event::Headers { stream, fields, end } => self.on_headers(stream, fields, end, now),
            Event::Data { stream, data, end } => {
                if self.knock == Some(stream) {
                    self.answer.body += data.len() as u64;
                }
                if let Step::Page(page) = &mut self.step {
                    let room = MAX_BODY - page.body.len();
                    page.body.extend_from_slice(&data[..data.len().min(room)]);
                }
                if end { self.on_end(stream, now) } else { Ok(()) }
            }
            Event::Reset { stream, code } => {
                if matches!(self.step, Step::Page(_)) {
                    return Err(LoadError::Refused(code));
                }
                if self.knock == Some(stream) {
                    self.answer.reset = Some(code);
                }
                self.answers += 1;
                self.forget(stream);
                Ok(())
            }
        }
    }

    fn on_headers(&mut self, stream: u32, fields: Fields, end: bool, now: Instant) -> Result<(), LoadError> {
        if self.knock == Some(stream) && fields.status >= 200 {
            self.answer.status = fields.status;
            self.answer.fields = fields.count;
        }
        let Some(asked) = self.asked.iter().find(|asked| asked.stream == stream) else { return Ok(()) };
        for cookie in &fields.cookies {
            self.jar.set(cookie, &self.authority, &asked.path);
        }
        // Neither informational answers nor trailers say anything about the body.
        if fields.status >= 200 {
            let (resource, path) = (asked.resource, asked.path.clone());
            if let Step::Page(page) = &mut self.step {
                page.fields = fields;
            } else if let Some(to) = redirect(&fields, &self.authority, &path).flatten()
                && let Step::Loading(loading) = &mut self.step
                && self.requests < MAX_REQUESTS
            {
                loading.now.push_front((resource, to));
            }
        }
        if end { self.on_end(stream, now) } else { Ok(()) }
    }

    fn forget(&mut self, stream: u32) {
        self.asked.retain(|asked| asked.stream != stream);
        self.dependencies.remove(stream);
    }

    fn on_end(&mut self, stream: u32, now: Instant) -> Result<(), LoadError> {
        self.answers += 1;
        self.forget(stream);
        let Step::Page(page) = &mut self.step else { return Ok(()) };
        let page = std::mem::take(page);
        if let Some(to) = redirect(&page.fields, &self.authority, &self.page) {
            self.redirects += 1;
            if self.redirects > MAX_REDIRECTS {
                return Err(LoadError::RedirectLoop);
            }
            self.page = to.ok_or(LoadError::RedirectedAway)?;
            self.step = Step::Ask;
            return Ok(());
        }
        let found = self.read(page);
        let ahead = self.random.next_u32().is_multiple_of(AHEAD);
        let mut plan = plan::plan(self.profile, found.resources, ahead);
        let last = match found.icon {
            Icon::Default => (Resource::Icon, "/favicon.ico".to_owned()),
            Icon::At(path) => (Resource::Icon, path),
            // Then the load's last subresource is held back until nothing else is outstanding.
            Icon::Elsewhere => match plan.rest.pop().or_else(|| plan.burst.pop()) {
                Some(last) => last,
                None if self.plain => {
                    self.give_up();
                    return Ok(());
                }
                None => return Err(LoadError::NothingToKnockWith),
            },
        };
        let pauses = &self.profile.pauses;
        self.step = if plan.burst.is_empty() && plan.rest.is_empty() {
            Step::Last { at: now + draw(&mut self.random, pauses.icon_alone), last }
        } else {
            Step::Parsing { until: now + draw(&mut self.random, pauses.parse), plan, last }
        };
        Ok(())
    }

    fn read(&self, page: Page) -> Found {
        let is_html = {
            let kind = page.fields.content_type.to_ascii_lowercase();
            kind.is_empty() || kind.starts_with(b"text/html") || kind.starts_with(b"application/xhtml+xml")
        };
        if !is_html {
            return Found { resources: Vec::new(), icon: Icon::Default };
        }
        let codings = String::from_utf8_lossy(&page.fields.content_encoding).into_owned();
        let html = body::decode(page.body, &codings);
        html::discover(&html, self.profile, &self.authority, &self.page)
    }
}

/// Where an answer sends the client: None, nowhere; Some(None), to another origin.
fn redirect(fields: &Fields, authority: &str, from: &str) -> Option<Option<String>> {
    if !matches!(fields.status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = fields.location.as_ref()?;
    Some(Base::new(authority, from).resolve(&String::from_utf8_lossy(location)))
}

/// A duration drawn uniformly from a range.
pub(super) fn draw(random: &mut ChaCha8Rng, (low, high): (Duration, Duration)) -> Duration {
    let width = high.saturating_sub(low).as_micros().max(1);
    low + Duration::from_micros(random.next_u64() % u64::try_from(width).unwrap_or(u64::MAX))
}

/// A duration from a range, of which six in ten are from its first quarter: a task's turn comes soon, or the processor is busy. Of
/// Chromium's pauses between Finished and preface, from 0.6 ms on, half were below 1.0 to 1.6 ms (before five servers, 75
/// connections each, November 2026).
fn draw_early(random: &mut ChaCha8Rng, (low, high): (Duration, Duration)) -> Duration {
    let [one, other] = [(); 2].map(|()| f64::from(random.next_u32()) / f64::from(u32::MAX));
    low + high.saturating_sub(low).mul_f64(one * other)
}

#[cfg(test)]
mod tests;
