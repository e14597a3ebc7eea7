//! Which subresources of a page Chrome requests: what its preload scanner sees in the HTML.
//!
//! What only running scripts, applying style sheets or laying out a page reveals is left out: scripts' requests,
//! backgrounds, fonts of style sheets, frames.

use std::collections::HashSet;

use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};

use super::request::Resource;
use super::url::Base;
use crate::chrome::Profile;

/// Subresources requested at most. A page with more is loaded in part; the bridge's check of a decoy says so.
pub(crate) const MAX_RESOURCES: usize = 100;
/// Tags looked at, at most: a bound on the time a page takes, about 2 MiB of the shortest tags.
const MAX_TOKENS: usize = 1_000_000;

/// Where a page's icon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Icon {
    /// The page names none: `/favicon.ico`.
    Default,
    /// The page names one of its own origin.
    At(String),
    /// The icon is no request to this origin: `data:`, or another's.
    Elsewhere,
}

/// What a page asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Subresources of the same origin in document order, each path once.
    pub(crate) resources: Vec<(Resource, String)>,
    pub(crate) icon: Icon,
}

/// Reads a page, `path` being its own. HTML never fails: what does not parse is text.
pub(crate) fn discover(html: &[u8], profile: &Profile, authority: &str, path: &str) -> Found {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    let mut scan = Scan::new(profile, authority, path);
    for token in Tokenizer::new_with_emitter(html, emitter).flatten().take(MAX_TOKENS) {
        match token {
            Token::StartTag(tag) => scan.start(&tag),
            Token::EndTag(tag) if tag.name.as_slice() == b"template" => {
                scan.templates = scan.templates.saturating_sub(1);
            }
            _ => {}
        }
        if scan.found.len() >= MAX_RESOURCES {
            break;
        }
    }
    Found { resources: scan.found, icon: scan.icon }
}

struct Scan<'a> {
    profile: &'a Profile,
    base: Base<'a>,
    based: bool,
    templates: usize,
    images: usize,
    found: Vec<(Resource, String)>,
    seen: HashSet<String>,
    icon: Icon,
}

impl<'a> Scan<'a> {
    fn new(profile: &'a Profile, authority: &'a str, path: &str) -> Self {
        Self {
            profile,
            base: Base::new(authority, path),
            based: false,
            templates: 0,
            images: 0,
            found: Vec::new(),
            seen: HashSet::new(),
            icon: Icon::Default,
        }
    }

    fn start(&mut self, tag: &StartTag<()>) {
        let name = tag.name.as_slice();
        if name == b"template" {
            self.templates += 1;
        }
        if self.templates > 0 {
            return;
        }
        match name {
            b"base" => {
                if let (false, Some(href)) = (self.based, attribute(tag, "href")) {
                    self.base = self.base.rebase(&href);
                    self.based = true;
                }
            }
            b"link" => self.link(tag),
            b"script" => self.script(tag),
            b"img" => self.image(attribute(tag, "src")),
            b"video" => self.image(attribute(tag, "poster")),
            b"input" if is(tag, "type", "image") => self.image(attribute(tag, "src")),
            _ => {}
        }
    }

    fn link(&mut self, tag: &StartTag<()>) {
        let Some(href) = attribute(tag, "href") else { return };
        let rel = attribute(tag, "rel").unwrap_or_default().to_ascii_lowercase();
        let has = |wanted: &str| rel.split_ascii_whitespace().any(|word| word == wanted);
        if has("stylesheet") {
            let css = attribute(tag, "type")
                .is_none_or(|kind| kind.is_empty() || kind.eq_ignore_ascii_case("text/css"));
            if css && attribute(tag, "disabled").is_none() {
                let applies =
                    !has("alternate") && media_applies(&attribute(tag, "media").unwrap_or_default());
                self.add(if applies { Resource::Style } else { Resource::StyleElsewhere }, &href);
            }
        } else if has("icon") {
            self.icon = self.base.resolve(&href).map_or(Icon::Elsewhere, Icon::At);
        } else if has("modulepreload") {
            self.add(Resource::Module, &href);
        } else if has("preload") {
            match attribute(tag, "as").unwrap_or_default().to_ascii_lowercase().as_str() {
                "style" => self.add(Resource::Style, &href),
                "script" => self.add(Resource::Script, &href),
                "image" => self.add(Resource::LaterImage, &href),
                "font" if attribute(tag, "crossorigin").is_some() => self.add(Resource::Font, &href),
                _ => {}
            }
        }
    }

    fn script(&mut self, tag: &StartTag<()>) {
        let Some(src) = attribute(tag, "src") else { return };
        let kind = attribute(tag, "type").unwrap_or_default().to_ascii_lowercase();
        let lazy = attribute(tag, "async").is_some() || attribute(tag, "defer").is_some();
        let resource = match kind.as_str() {
            "module" if attribute(tag, "async").is_none() => Resource::Module,
            ""
            | "text/javascript"
            | "application/javascript"
            | "text/ecmascript"
            | "application/ecmascript" => {
                if attribute(tag, "nomodule").is_some() {
                    return;
                }
                match (lazy, self.images) {
                    (true, _) => Resource::LazyScript,
                    (false, 0) => Resource::Script,
                    (false, _) => Resource::LateScript,
                }
            }
            _ => return,
        };
        self.add(resource, &src);
    }

    fn image(&mut self, src: Option<String>) {
        let Some(src) = src else { return };
        let early = self.images < self.profile.early_images;
        self.images += 1;
        self.add(if early { Resource::Image } else { Resource::LaterImage }, &src);
    }

    fn add(&mut self, resource: Resource, href: &str) {
        if let Some(path) = self.base.resolve(href)
            && self.seen.insert(path.clone())
        {
            self.found.push((resource, path));
        }
    }
}

fn attribute(tag: &StartTag<()>, name: &str) -> Option<String> {
    tag.attributes.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value.as_slice()).into_owned())
}

fn is(tag: &StartTag<()>, name: &str, wanted: &str) -> bool {
    attribute(tag, name).is_some_and(|value| value.eq_ignore_ascii_case(wanted))
}

/// Whether a media list applies to a large screen, as far as its words tell.
fn media_applies(media: &str) -> bool {
    let media = media.to_ascii_lowercase();
    media.trim().is_empty()
        || media.split(',').any(|query| {
            let elsewhere =
                ["print", "speech", "not ", "max-width", "max-device-width", "prefers-color-scheme: dark"];
            !elsewhere.iter().any(|word| query.contains(word))
        })
}
