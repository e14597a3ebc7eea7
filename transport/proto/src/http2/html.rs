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

/// The area of a picture that Chrome does not hurry for, CSS pixels: 96 by 96 is one, as captured, and 160 by 160 none;
/// Chromium's limit lies between.
const SMALL_IMAGE: u32 = 10_000;

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
    /// Those of them that are not said to be small.
    large_images: usize,
    found: Vec<(Resource, String)>,
    seen: HashSet<String>,
    icon: Icon,
    icon_rank: u32,
}

impl<'a> Scan<'a> {
    fn new(profile: &'a Profile, authority: &'a str, path: &str) -> Self {
        Self {
            profile,
            base: Base::new(authority, path),
            based: false,
            templates: 0,
            images: 0,
            large_images: 0,
            found: Vec::new(),
            seen: HashSet::new(),
            icon: Icon::Default,
            icon_rank: 0,
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
            b"img" => self.image(attribute(tag, "src"), is_small(tag)),
            b"video" => self.image(attribute(tag, "poster"), false),
            b"input" if is(tag, "type", "image") => self.image(attribute(tag, "src"), is_small(tag)),
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
            let rank = icon_rank(tag, &href);
            if rank >= self.icon_rank {
                self.icon_rank = rank;
                self.icon = self.base.resolve(&href).map_or(Icon::Elsewhere, Icon::At);
            }
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

    fn image(&mut self, src: Option<String>, small: bool) {
        let Some(src) = src else { return };
        let early = !small && self.large_images < self.profile.early_images;
        self.images += 1;
        self.large_images += usize::from(!small);
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

/// Whether an image's tag says that it takes no more than [`SMALL_IMAGE`]: Chrome puts such a one behind the others.
fn is_small(tag: &StartTag<()>) -> bool {
    let side = |name| attribute(tag, name)?.trim().parse::<u32>().ok();
    let area = side("width").zip(side("height")).map(|(width, height)| width.saturating_mul(height));
    area.is_some_and(|area| area > 0 && area <= SMALL_IMAGE)
}

fn attribute(tag: &StartTag<()>, name: &str) -> Option<String> {
    tag.attributes.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value.as_slice()).into_owned())
}

fn is(tag: &StartTag<()>, name: &str, wanted: &str) -> bool {
    attribute(tag, name).is_some_and(|value| value.eq_ignore_ascii_case(wanted))
}

/// How much Chrome likes an icon, as captured from pages with several: a drawing of any size, one of unknown size, one that
/// has 16 and 32 pixels, 32, 16, and otherwise the smallest. The latest of equals wins.
fn icon_rank(tag: &StartTag<()>, href: &str) -> u32 {
    let sizes = attribute(tag, "sizes").unwrap_or_default().to_ascii_lowercase();
    let path = href.split(['?', '#']).next().unwrap_or_default();
    if is(tag, "type", "image/svg+xml")
        || path.ends_with(".svg")
        || sizes.split_whitespace().any(|size| size == "any")
    {
        return 5_000;
    }
    let widths: Vec<u32> =
        sizes.split_whitespace().filter_map(|size| size.split_once('x')?.0.parse().ok()).collect();
    match (widths.contains(&16), widths.contains(&32), widths.iter().min()) {
        (.., None) => 4_000,
        (true, true, _) => 3_000,
        (false, true, _) => 2_500,
        (true, false, _) => 2_000,
        (false, false, Some(width)) => 1_500_u32.saturating_sub(*width),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chrome::CHROME_156;
    use proptest::prelude::*;

    fn found(html: &str) -> Found {
        discover(html.as_bytes(), &CHROME_156, "www.example.com", "/dir/page.html")
    }

    fn resources(html: &str) -> Vec<(Resource, String)> {
        found(html).resources
    }

    fn one(resource: Resource, path: &str) -> Vec<(Resource, String)> {
        vec![(resource, path.to_owned())]
    }

    #[test]
    fn what_chrome_was_seen_to_request() {
        // The page of the capture "many".
        let html = r#"<!doctype html><html><head><meta charset=utf-8><title>t</title>
            <link rel="icon" href="/static/icons/icon-32.png" type="image/png"><link rel="stylesheet" href="/s1.css">
            <link rel="stylesheet" href="s2.css" media="print"><script src="/j1.js"></script>
            <script src="/j2.js" defer></script><script src="/j3.js" async></script>
            <script type="module" src="/j4.js"></script></head><body><p>hello</p><img src="/i1.png"><img src="/i2.png">
            <script src="/j5.js"></script></body></html>"#;
        let wanted = [
            (Resource::Style, "/s1.css"),
            (Resource::StyleElsewhere, "/dir/s2.css"),
            (Resource::Script, "/j1.js"),
            (Resource::LazyScript, "/j2.js"),
            (Resource::LazyScript, "/j3.js"),
            (Resource::Module, "/j4.js"),
            (Resource::Image, "/i1.png"),
            (Resource::Image, "/i2.png"),
            (Resource::LateScript, "/j5.js"),
        ];
        let got = found(html);
        assert_eq!(got.resources, wanted.map(|(resource, path)| (resource, path.to_owned())));
        assert_eq!(got.icon, Icon::At("/static/icons/icon-32.png".into()));
    }

    #[test]
    fn what_is_no_request() {
        for html in [
            "<!-- <img src=a.png> -->",
            "<script>document.write('<img src=a.png>'); fetch('/x')</script>",
            "<style>a{background:url(a.png)}</style><title><img src=a.png></title><textarea><img src=a.png></textarea>",
            "<noscript><img src=a.png></noscript>",
            "<template><img src=a.png><template></template><script src=a.js></script></template>",
            "<img src=https://other.example/a.png><script src=//other.example/a.js></script>",
            "<img src=data:image/png;base64,AA==><img src=''><img>",
            "<script src=a.json type=application/json></script><script nomodule src=a.js></script>",
            "<link rel=stylesheet href=a.css disabled><link rel=stylesheet type=text/less href=a.less>",
            "<link rel=canonical href=/x><link rel=preload as=fetch href=/x><link rel=preload as=font href=/f>",
            "<a href=/x><iframe src=/x></iframe>",
            "<img src=a.png",
        ] {
            assert_eq!(resources(html), [], "{html}");
        }
    }

    #[test]
    fn each_once_and_in_its_kind() {
        assert_eq!(resources("<IMG SRC='a.png'><img src=\"a.png\">"), one(Resource::Image, "/dir/a.png"));
        assert_eq!(resources("<img src='/a?x=1&amp;y=2'>"), one(Resource::Image, "/a?x=1&y=2"));
        assert_eq!(resources("<base href=/b/><base href=/c/><img src=a>"), one(Resource::Image, "/b/a"));
        assert_eq!(resources("<video poster=/a.png>"), one(Resource::Image, "/a.png"));
        assert_eq!(resources("<input type=IMAGE src=/a.png>"), one(Resource::Image, "/a.png"));
        assert_eq!(resources("<link rel=modulepreload href=/a.js>"), one(Resource::Module, "/a.js"));
        assert_eq!(resources("<link rel=preload as=image href=/a>"), one(Resource::LaterImage, "/a"));
        assert_eq!(resources("<link rel=preload as=font crossorigin href=/f>"), one(Resource::Font, "/f"));
        assert_eq!(resources("<template></template><img src=/a.png>"), one(Resource::Image, "/a.png"));
        let many: String = (0..8).map(|i| format!("<img src=/{i}.png>")).collect();
        let late = resources(&many).iter().filter(|(resource, _)| *resource == Resource::LaterImage).count();
        assert_eq!(late, 3, "the first five are early");
    }

    #[test]
    fn style_sheets_for_other_media() {
        let kind = |media: &str| resources(&format!("<link rel=stylesheet media='{media}' href=/a>"))[0].0;
        for media in ["", "all", "screen", "(min-width: 600px)", "print, screen"] {
            assert_eq!(kind(media), Resource::Style, "{media}");
        }
        for media in ["print", "(max-width: 600px)", "(prefers-color-scheme: dark)"] {
            assert_eq!(kind(media), Resource::StyleElsewhere, "{media}");
        }
    }

    #[test]
    fn the_icon_chrome_chose() {
        let icon = |links: &[(&str, &str)]| {
            let html: String =
                links.iter().map(|(path, more)| format!("<link rel=icon href={path} {more}>")).collect();
            found(&html).icon
        };
        let at = |path: &str| Icon::At(path.to_owned());
        assert_eq!(icon(&[]), Icon::Default);
        assert_eq!(icon(&[("/a", ""), ("/b", "")]), at("/b"));
        assert_eq!(icon(&[("/32", "sizes=32x32"), ("/16", "sizes=16x16")]), at("/32"));
        assert_eq!(
            icon(&[("/16", "sizes=16x16"), ("/32", "sizes=32x32"), ("/192", "sizes=192x192")]),
            at("/32")
        );
        assert_eq!(icon(&[("/16", "sizes=16x16"), ("/48", "sizes=48x48")]), at("/16"));
        assert_eq!(icon(&[("/48", "sizes=48x48"), ("/192", "sizes=192x192")]), at("/48"));
        assert_eq!(icon(&[("/u", ""), ("/16", "sizes=16x16")]), at("/u"));
        assert_eq!(icon(&[("/ico", "sizes='16x16 32x32 48x48'"), ("/32", "sizes=32x32")]), at("/ico"));
        assert_eq!(icon(&[("/a.svg", ""), ("/32", "sizes=32x32")]), at("/a.svg"));
        assert_eq!(icon(&[("data:,", "")]), Icon::Elsewhere);
        assert_eq!(found("<link rel='shortcut icon' href=/x>").icon, at("/x"));
        assert_eq!(found("<link rel=apple-touch-icon href=/x>").icon, Icon::Default);
    }

    #[test]
    fn pages_are_bounded() {
        let many: String = (0..1000).map(|i| format!("<img src=/{i}.png>")).collect();
        assert_eq!(resources(&many).len(), MAX_RESOURCES);
        // Deep and broken markup of the largest size is read in good time.
        for piece in ["<template>", "<a b=c ", "<!--", "&#x", "<script>"] {
            let _ = found(&piece.repeat(200_000));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(html in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = discover(&html, &CHROME_156, "www.example.com", "/");
        }

        #[test]
        fn any_markup_never_panics(html in "(<(img|link|base|script|template|video)( (src|href|rel|sizes|as)=['\"]?[a-z0-9./:?# -]{0,9}['\"]?){0,4}>?){0,9}") {
            for (_, path) in resources(&html) {
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
