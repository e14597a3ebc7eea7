//! In which order and groups Chrome requests a page's subresources.
//!
//! As captured: what is urgent goes at once, in document order, and with it no more than two of the less urgent, the
//! most urgent of them first. The rest waits: for the scripts and style sheets that block the parser, where the
//! page has such scripts before its images, and otherwise for a moment only.

use super::request::{Level, Resource};
use crate::chrome::Profile;

/// One subresource to request.
pub(crate) type Wanted = (Resource, String);

/// A page's subresources in two groups.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Requested in one burst.
    pub(crate) burst: Vec<Wanted>,
    /// Requested after it, in this order.
    pub(crate) rest: Vec<Wanted>,
    /// `rest` waits for the burst's answers to what blocks the parser.
    pub(crate) blocked: bool,
}

/// Sorts subresources, given in document order.
pub(crate) fn plan(profile: &Profile, found: Vec<Wanted>) -> Plan {
    let blocked = found.iter().any(|(resource, _)| *resource == Resource::Script);
    let urgent = |resource: Resource| resource.level() <= Level::Medium && resource != Resource::LateScript;
    let (mut burst, mut rest): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(resource, _)| urgent(*resource));
    // A late script's urgency comes only when the parser has reached it: until then it is as an image.
    rest.sort_by_key(
        |(resource, _)| if *resource == Resource::LateScript { Level::Low } else { resource.level() },
    );
    let early = rest.len().min(profile.early_limit);
    let late = rest.split_off(early);
    let (scripts, early): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|(resource, _)| *resource == Resource::LateScript);
    burst.extend(early);
    let mut rest = scripts;
    rest.extend(late);
    rest.sort_by_key(|(resource, _)| resource.level());
    Plan { burst, rest, blocked }
}

/// Whether the answer to such a request is awaited by the parser.
pub(crate) fn blocks(resource: Resource) -> bool {
    matches!(resource, Resource::Style | Resource::Script)
}
