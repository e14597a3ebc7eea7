//! The page: everything in one file, plots drawn as SVG.

use std::fmt::Write as _;

use super::{Outcome, Report, figures, plots, role, said};
use crate::capture::Capture;

/// Light and dark as the reader's system says; tables scroll on a narrow screen, plots shrink.
const STYLE: &str = ":root{color-scheme:light dark;--text:#222;--faint:#666;--back:#fff;--line:#ddd;--plot:#fafafa;--bad:#fdd;--good:#f4fbf4;\
--up:#2a6fbb;--down:#c0602a;--c2:#3a8f4d;--c3:#8a4fbf;--c4:#777}\
@media(prefers-color-scheme:dark){:root{--text:#ddd;--faint:#999;--back:#181a1b;--line:#3a3d40;--plot:#202325;--bad:#5a2328;--good:#1d2a20;\
--up:#6ba6e8;--down:#e0925f;--c2:#73c486;--c3:#bb8fe6;--c4:#999}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:var(--text);background:var(--back)}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;margin:.5em 0 1.5em}td,th{border-bottom:1px solid var(--line);\
padding:.25em .5em;text-align:left;vertical-align:top}td{overflow-wrap:anywhere;min-width:6em}.bad{background:var(--bad)}\
.good{background:var(--good)}small,figcaption{color:var(--faint)}svg{display:block;width:100%;min-height:110px;max-height:60vh;background:var(--plot);\
border:1px solid var(--line)}figure{margin:0 0 1em}rect{stroke-width:0}text{font-size:14px;fill:var(--text)}\
polyline,.range{fill:none;stroke-width:2;vector-effect:non-scaling-stroke}.range{stroke:var(--text);stroke-width:1}\
.up,.c0{fill:var(--up);color:var(--up);stroke:var(--up)}.down,.c1{fill:var(--down);color:var(--down);stroke:var(--down)}\
.c2{color:var(--c2);stroke:var(--c2)}.c3{color:var(--c3);stroke:var(--c3)}.c4{color:var(--c4);stroke:var(--c4)}polyline{fill:none!important}\
@media(max-width:600px){body{margin:1em 0;padding:0 .6em}h2{font-size:1.15em}td,th{padding:.2em .3em}}";

pub(super) fn page(report: &Report, captures: &[Capture]) -> String {
    let mut html = format!(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>QNet before the detectors</title><style>{STYLE}</style>\
         <h1>QNet before the detectors</h1>"
    );
    let failures = report.failures();
    if failures.is_empty() {
        html.push_str("<p>Every control holds, and no detector that QNet must pass flags it.</p>");
    }
    for failure in failures {
        let _ = write!(html, "<p class=\"bad\">{}</p>", escape(&failure));
    }
    for retried in &report.retried {
        let _ = write!(html, "<p><small>{}</small></p>", escape(&retried.told()));
    }
    report.outcomes.iter().for_each(|one| outcome(&mut html, one));
    if !captures.is_empty() {
        html.push_str("<h2>What was captured</h2><p>Of each first connection, above the middle the client's, below it the server's.</p>");
    }
    for capture in captures {
        let _ = write!(
            html,
            "<details><summary>{}, {} connections</summary>{}</details>",
            escape(&capture.title()),
            capture.connections.len(),
            plots::capture(capture)
        );
    }
    html
}

/// One detector: what it does and by what, its verdicts, and what can be drawn.
fn outcome(html: &mut String, outcome: &Outcome) {
    let about = &outcome.about;
    let _ = write!(
        html,
        "<h2>{}. {}</h2><p>{}</p><p><small>{}</small></p><ul>",
        about.number,
        escape(about.name),
        escape(about.rule),
        escape(about.source)
    );
    for threshold in &about.thresholds {
        let line = format!("{}: {} ({})", threshold.what, threshold.value, threshold.source);
        let _ = write!(html, "<li><small>{}</small>", escape(&line));
    }
    html.push_str("</ul>");
    if let Some(error) = &outcome.error {
        let _ = write!(html, "<p class=\"bad\">Could not run: {}</p>", escape(error));
    }
    html.push_str("<div class=wide><table><tr><th>what<th>as<th>verdict<th>figures");
    for verdict in &outcome.verdicts {
        let _ = write!(
            html,
            "<tr class=\"{}\"><td>{}<td>{}<td>{}<td>{}<br>{}",
            if verdict.holds() { "good" } else { "bad" },
            escape(&verdict.what),
            role(verdict.role),
            said(verdict),
            escape(&figures(&verdict.figures)),
            escape(&verdict.note)
        );
    }
    html.push_str("</table></div>");
    let rows: Vec<_> =
        outcome.verdicts.iter().map(|verdict| (verdict.what.as_str(), verdict.figures.as_slice())).collect();
    html.push_str(&plots::ranges(&rows));
    outcome.plots.iter().for_each(|plot| html.push_str(&plots::plot(plot)));
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
