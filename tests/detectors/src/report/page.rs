//! The page: everything in one file, plots drawn as SVG.

use std::fmt::Write as _;

use super::{Report, number, role};
use crate::capture::{Capture, Way};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;width:100%;margin:.5em 0 1.5em}td,th{border-bottom:1px solid #ddd;padding:.25em .5em;text-align:left;\
vertical-align:top}.bad{background:#fdd}.good{background:#f4fbf4}small{color:#666}svg{background:#fafafa;border:1px solid #ddd}\
figure{margin:0 0 1.5em}.up{fill:#2a6fbb;stroke:#2a6fbb}.down{fill:#c0602a;stroke:#c0602a}";

/// A plot's size, pixels.
const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 160.0;

/// Packets drawn of one connection: its beginning is what detectors look at.
const DRAWN: usize = 400;

/// A histogram's bins, of so many bytes each: a cell's 514 falls into every eighth or so.
const BIN: usize = 64;

/// The longest protected record (RFC 8446, section 5.2), bytes.
const LONGEST: usize = 16_640;

pub(super) fn page(report: &Report, captures: &[Capture]) -> String {
    let mut html = format!(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><title>QNet before the detectors</title><style>{STYLE}</style>\
         <h1>QNet before the detectors</h1>"
    );
    let failures = report.failures();
    if failures.is_empty() {
        html.push_str("<p>Every control holds, and no detector that QNet must pass flags it.</p>");
    }
    for failure in failures {
        let _ = write!(html, "<p class=\"bad\">{}</p>", escape(&failure));
    }
    for outcome in &report.outcomes {
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
        html.push_str("</ul><table><tr><th>what<th>as<th>verdict<th>figures");
        for verdict in &outcome.verdicts {
            let figures: Vec<String> = verdict
                .figures
                .iter()
                .map(|figure| format!("{} {}", figure.name, number(figure.value)))
                .collect();
            let _ = write!(
                html,
                "<tr class=\"{}\"><td>{}<td>{}<td>{}<td>{}<br>{}",
                if verdict.holds() { "good" } else { "bad" },
                escape(&verdict.what),
                role(verdict.role),
                if verdict.flagged { "flagged" } else { "passes" },
                escape(&figures.join(", ")),
                escape(&verdict.note)
            );
        }
        html.push_str("</table>");
    }
    html.push_str("<h2>What was captured</h2><p>Above the line the client's packets, below the server's, by their place in the connection; \
                   then the lengths of protected records. Blue is up, brown down.</p>");
    for capture in captures {
        let _ = write!(
            html,
            "<figure><figcaption>{}, {} connections</figcaption>{}{}</figure>",
            escape(&capture.title()),
            capture.connections.len(),
            packets(capture),
            histogram(capture)
        );
    }
    html
}

/// The first connection's packets, one bar each.
fn packets(capture: &Capture) -> String {
    let Some(connection) = capture.connections.first() else { return String::new() };
    let drawn: Vec<_> = connection.packets.iter().take(DRAWN).collect();
    let step = WIDTH / drawn.len().max(1) as f64;
    let mut svg = svg();
    for (number, packet) in drawn.iter().enumerate() {
        let height = packet.bytes as f64 / crate::capture::SEGMENT as f64 * (HEIGHT / 2.0 - 4.0);
        let (class, y) = match packet.way {
            Way::Up => ("up", HEIGHT / 2.0 - height),
            Way::Down => ("down", HEIGHT / 2.0),
        };
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" stroke-width=\"0\"/>",
            number as f64 * step,
            (step * 0.8).min(8.0)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// How often protected records have which length, on a logarithmic scale.
fn histogram(capture: &Capture) -> String {
    let mut svg = svg();
    for (way, class, shift) in [(Way::Up, "up", 0.0), (Way::Down, "down", 0.45)] {
        let mut bins = vec![0usize; LONGEST / BIN + 1];
        for record in capture.connections.iter().flat_map(|one| one.data(way)) {
            if let Some(bin) = bins.get_mut(record.length / BIN) {
                *bin += 1;
            }
        }
        let step = WIDTH / bins.len() as f64;
        let most = bins.iter().max().map_or(1.0, |most| (*most as f64 + 1.0).ln());
        for (number, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let height = (*count as f64 + 1.0).ln() / most * (HEIGHT - 6.0);
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" stroke-width=\"0\"/>",
                (number as f64 + shift) * step,
                HEIGHT - height,
                step * 0.45
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

fn svg() -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"100%\" height=\"{HEIGHT}\" preserveAspectRatio=\"none\">"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
