//! What is done with a connection once its page is loaded.

use std::time::Duration;

use qnet_proto::{
    http2::{Answer, Keeper, LoadError},
    knock::Field,
};
use tokio::time::timeout;

use super::{
    MIN_ANSWER, MIN_REQUESTS, MOST_REQUESTS,
    error::DecoyError,
    visit::{Heard, Site, Visit},
};
use crate::{
    driver::now,
    tls::wire::{APPLICATION_DATA, HEADER},
};

/// How long the open page is watched at once; the rest of its life is watched by the slow part.
const WATCH: Duration = Duration::from_millis(200);
/// Requests without an answer while they are counted: what every server takes at once (lighttpd takes 8).
const AT_ONCE: u32 = 8;
/// A server that does not answer for so long answers no more.
pub(super) const SILENT: Duration = Duration::from_secs(3);
/// All requests together.
const COUNT_LIMIT: Duration = Duration::from_secs(60);
/// The content of a record that does not open; long enough to be one.
const SPOILED: u8 = 40;

/// Watches an open page for a moment.
pub(super) async fn watch(visit: &mut Visit) -> Result<(), DecoyError> {
    let until = now() + WATCH;
    visit.leave_open();
    loop {
        match visit.hear_unasked(until).await? {
            Heard::Silence => return Ok(()),
            Heard::Alert | Heard::Ended(_) => {
                return Err(DecoyError::ClosesEarly { answers: visit.load.answers() });
            }
            Heard::Data(_) | Heard::Other(_) => {}
        }
    }
}

/// How many requests a connection serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Requests {
    pub(super) answered: u32,
    pub(super) limited: bool,
}

/// Makes requests until there are enough of them or the site ends the connection.
pub(super) async fn count_requests(site: &Site<'_>, visit: &mut Visit) -> Result<Requests, DecoyError> {
    let loaded = visit.load.requests();
    let mut keeper = Keeper::new(loaded, site.name, "/");
    timeout(COUNT_LIMIT, ask(&mut keeper, visit))
        .await
        .map_err(|_| DecoyError::TooSlow(COUNT_LIMIT.as_secs()))??;
    let answered = loaded + keeper.answered();
    if answered < MIN_REQUESTS {
        return Err(DecoyError::FewRequests(answered));
    }
    Ok(Requests { answered, limited: answered < MOST_REQUESTS })
}

async fn ask(keeper: &mut Keeper, visit: &mut Visit) -> Result<(), DecoyError> {
    let mut plain = Vec::new();
    loop {
        while keeper.outstanding() < AT_ONCE && keeper.requests() < MOST_REQUESTS && !keeper.going_away() {
            keeper.request(&mut plain);
        }
        if !plain.is_empty() {
            let mut out = Vec::new();
            visit.tls.sealer.seal(APPLICATION_DATA, &plain, &mut out);
            plain.clear();
            visit.send(&out).await;
        }
        if keeper.outstanding() == 0 {
            return Ok(());
        }
        match visit.hear(Some(now() + SILENT)).await? {
            Heard::Data(_) => keeper
                .on_data(&visit.content, &mut plain)
                .map_err(|_| DecoyError::Broken("a frame that is not HTTP/2's"))?,
            Heard::Other(_) => {}
            // What it answered so far is what it answers.
            Heard::Alert | Heard::Ended(_) | Heard::Silence => return Ok(()),
        }
    }
}

/// Sends a record that does not open and listens to what the site says to that: [`Visit::hear`] looks at the alert.
pub(super) async fn spoil(visit: &mut Visit) -> Result<(), DecoyError> {
    let mut record = [0; HEADER + SPOILED as usize];
    visit.fill(&mut record);
    record[..HEADER].copy_from_slice(&[APPLICATION_DATA, 3, 3, 0, SPOILED]);
    visit.send(&record).await;
    let until = now() + SILENT;
    loop {
        match visit.hear(Some(until)).await? {
            Heard::Alert | Heard::Ended(_) | Heard::Silence => return Ok(()),
            Heard::Data(_) | Heard::Other(_) => {}
        }
    }
}

/// Visits with a knock, which may change nothing in the answer. The inner error says in which way this form of the knock
/// shows; it is not the last word, since there are two forms.
pub(super) async fn knock(
    site: &Site<'_>,
    field: Field,
    plain: &[Answer],
) -> Result<Result<Visit, String>, DecoyError> {
    match site.visit(field.into()).await {
        Ok(visit) => {
            if let Some(how) = difference(plain, visit.answer()) {
                return Ok(Err(how));
            }
            match visit.answer_begins {
                Some(length) if length < MIN_ANSWER => Err(DecoyError::ShortAnswer(length)),
                _ => Ok(Ok(visit)),
            }
        }
        // Before its last request this visit is like the others, which went well.
        Err((error, Some(visit))) if visit.load.last_request_made() => Ok(Err(error.to_string())),
        Err((DecoyError::Load(LoadError::NothingToKnockWith), _)) => {
            Ok(Err("it does not fit into the request".into()))
        }
        Err((error, _)) => Err(error),
    }
}

/// In what an answer differs from those without a knock; only what those have in common counts.
fn difference(plain: &[Answer], knocked: Answer) -> Option<String> {
    let [first, others @ ..] = plain else { return None };
    let differs = |of: &dyn Fn(&Answer) -> u64| {
        others.iter().all(|other| of(other) == of(first)) && of(&knocked) != of(first)
    };
    if let Some(code) = knocked.reset.filter(|_| plain.iter().all(|answer| answer.reset.is_none())) {
        return Some(format!("it refuses it, HTTP/2 error {code}"));
    }
    let of_status = |answer: &Answer| u64::from(answer.status);
    if differs(&of_status) {
        return Some(format!("status {} instead of {}", knocked.status, first.status));
    }
    if differs(&|answer| answer.fields as u64) {
        return Some(format!("{} header fields instead of {}", knocked.fields, first.fields));
    }
    if differs(&|answer| answer.body) {
        return Some(format!("{} bytes instead of {}", knocked.body, first.body));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Answer = Answer { status: 200, fields: 8, body: 500, reset: None };

    #[test]
    fn only_what_the_plain_answers_share_is_compared() {
        let other_body = Answer { body: 501, ..PLAIN };
        assert_eq!(difference(&[PLAIN, PLAIN], PLAIN), None);
        assert_eq!(difference(&[PLAIN, PLAIN], other_body).as_deref(), Some("501 bytes instead of 500"));
        assert_eq!(difference(&[PLAIN, other_body], Answer { body: 502, ..PLAIN }), None);
        let refused = Answer { status: 400, ..PLAIN };
        assert_eq!(difference(&[PLAIN, other_body], refused).as_deref(), Some("status 400 instead of 200"));
        let more = Answer { fields: 9, ..PLAIN };
        assert_eq!(difference(&[PLAIN, PLAIN], more).as_deref(), Some("9 header fields instead of 8"));
        let reset = Answer { reset: Some(1), ..PLAIN };
        assert_eq!(difference(&[PLAIN, PLAIN], reset).as_deref(), Some("it refuses it, HTTP/2 error 1"));
    }
}
