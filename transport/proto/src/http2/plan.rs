//! In which order and groups Chrome requests a page's subresources.
//!
//! As captured: what is urgent goes at once, in document order, and with it no more than two of the less urgent, the
//! most urgent of them first. The rest waits: for the scripts and style sheets that block the parser, where the
//! page has such scripts before its images, and otherwise for a moment only. A script among those two becomes urgent when the
//! parser reaches it, after that moment; where the parser is there first, it is urgent from the start.

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

/// Sorts subresources, given in document order. `ahead`: the parser, where nothing blocks it, reached the late scripts before anything was
/// requested.
pub(crate) fn plan(profile: &Profile, found: Vec<Wanted>, ahead: bool) -> Plan {
    let blocked = found.iter().any(|(resource, _)| *resource == Resource::Script);
    let reached = ahead && !blocked;
    let urgent = |resource: Resource| {
        resource.level() <= Level::Medium && (reached || resource != Resource::LateScript)
    };
    let (mut burst, mut rest): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(resource, _)| urgent(*resource));
    // A late script's urgency comes only when the parser has reached it: until then it is as an image.
    rest.sort_by_key(
        |(resource, _)| if *resource == Resource::LateScript { Level::Low } else { resource.level() },
    );
    let mut late = rest.split_off(rest.len().min(profile.early_limit));
    burst.extend(rest.into_iter().map(|(resource, path)| match resource {
        Resource::LateScript => (Resource::EarlyScript, path),
        _ => (resource, path),
    }));
    late.sort_by_key(|(resource, _)| resource.level());
    Plan { burst, rest: late, blocked }
}

/// Whether the answer to such a request is awaited by the parser.
pub(crate) fn blocks(resource: Resource) -> bool {
    matches!(resource, Resource::Style | Resource::Script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chrome::CHROME_156;

    fn names(wanted: &[Wanted]) -> Vec<&str> {
        wanted.iter().map(|(_, path)| path.as_str()).collect()
    }

    fn sorted(found: &[(Resource, &str)], ahead: bool) -> Plan {
        let found = found.iter().map(|(resource, path)| (*resource, (*path).to_owned())).collect();
        plan(&CHROME_156, found, ahead)
    }

    fn planned(found: &[(Resource, &str)]) -> Plan {
        sorted(found, false)
    }

    #[test]
    fn a_script_that_the_parser_has_reached_goes_before_pictures() {
        use Resource::{Image, LateScript, LaterImage, Script, Style};
        let small = sorted(&[(Style, "s"), (LaterImage, "a"), (Image, "b"), (LateScript, "j")], true);
        assert_eq!((names(&small.burst), small.rest.len()), (vec!["s", "j", "b", "a"], 0));
        assert_eq!(small.burst[1].0, LateScript);
        let behind = [(Script, "h"), (Image, "a"), (Image, "b"), (Image, "c"), (LateScript, "j")];
        assert_eq!(sorted(&behind, true), sorted(&behind, false));
    }

    #[test]
    fn as_captured() {
        use Resource::{
            EarlyScript, Image, LateScript, LaterImage, LazyScript, Module, Script, Style, StyleElsewhere,
        };
        let many = planned(&[
            (Style, "s1"),
            (StyleElsewhere, "s2"),
            (Script, "j1"),
            (LazyScript, "j2"),
            (LazyScript, "j3"),
            (Module, "j4"),
            (Image, "i1"),
            (Image, "i2"),
            (Image, "i3"),
            (LateScript, "j5"),
        ]);
        assert_eq!(names(&many.burst), ["s1", "j1", "j4", "i1", "i2"]);
        assert_eq!(names(&many.rest), ["j5", "i3", "j2", "j3", "s2"]);
        assert!(many.blocked);
        let basic = planned(&[(Style, "s"), (Image, "a"), (Image, "b"), (LateScript, "j")]);
        assert_eq!(names(&basic.burst), ["s", "a", "b"]);
        assert_eq!(names(&basic.rest), ["j"]);
        assert!(!basic.blocked);
        // Two PRIORITY frames follow for the script, where it is still awaited.
        let small = planned(&[(Style, "s"), (LaterImage, "a"), (Image, "b"), (LateScript, "j")]);
        assert_eq!((names(&small.burst), names(&small.rest)), (vec!["s", "b", "j"], vec!["a"]));
        assert_eq!(small.burst[2].0, EarlyScript);
        let defer = planned(&[(LazyScript, "j")]);
        assert_eq!((names(&defer.burst), defer.rest.len()), (vec!["j"], 0));
    }
}
