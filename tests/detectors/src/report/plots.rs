//! Plots as SVG, drawn by classes that the page's style colours for light and dark.

use std::fmt::Write as _;

use crate::capture::{Capture, SEGMENT, Way, bursts};
use crate::detector::{Figure, Plot};

/// A plot's size in its own units; the page stretches it to its width.
const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 160.0;

/// Packets and bursts drawn of one connection: its beginning is what detectors look at.
const DRAWN: usize = 400;
const BURSTS: usize = 60;

/// A histogram's bins, of so many bytes each: a cell's 514 falls into every eighth or so.
const BIN: usize = 64;

/// The longest protected record (RFC 8446, section 5.2), bytes.
const LONGEST: usize = 16_640;

/// Steps drawn of a distribution function.
const STEPS: usize = 200;

/// Room around points, for their numbers.
const MARGIN: f64 = 24.0;

/// A row of a bar chart.
const ROW: f64 = 26.0;

/// Where a bar chart's names end.
const NAMES: f64 = 380.0;

/// What a capture showed: its first connection's packets one by one and by time, its bursts, and all records' lengths.
pub(super) fn capture(capture: &Capture) -> String {
    let Some(connection) = capture.connections.first() else { return String::new() };
    let packets: Vec<_> = connection.packets.iter().take(DRAWN).collect();
    let step = WIDTH / packets.len().max(1) as f64;
    let one_by_one = packets
        .iter()
        .zip(0u32..)
        .map(|(packet, place)| (f64::from(place) * step, packet.way, packet.bytes as f64 / SEGMENT as f64));
    let end = packets.last().map_or(1.0, |packet| packet.at).max(1e-3);
    let by_time = packets
        .iter()
        .map(|packet| (packet.at / end * (WIDTH - 3.0), packet.way, packet.bytes as f64 / SEGMENT as f64));
    let all: Vec<_> = bursts(connection.packets.iter().map(|packet| (packet.way, packet.bytes)))
        .into_iter()
        .take(BURSTS)
        .collect();
    let most = all.iter().map(|burst| burst.bytes).max().map_or(1.0, |most| (most as f64).ln_1p());
    let width = WIDTH / all.len().max(1) as f64;
    let in_bursts = all
        .iter()
        .zip(0u32..)
        .map(|(burst, place)| (f64::from(place) * width, burst.way, (burst.bytes as f64).ln_1p() / most));
    [
        titled("packets, one after the other", &mirrored(one_by_one, step.min(8.0) * 0.8)),
        titled(&format!("packets by time, {end:.2} s"), &mirrored(by_time, 2.0)),
        titled("bursts, logarithm of bytes", &mirrored(in_bursts, width.min(20.0) * 0.8)),
        titled("lengths of protected records, 0 to 16,640 bytes, logarithm of how many", &histogram(capture)),
    ]
    .concat()
}

/// Bars above a middle line for the client, below it for the server, of heights from 0 to 1.
fn mirrored(bars: impl Iterator<Item = (f64, Way, f64)>, width: f64) -> String {
    let mut svg = open(HEIGHT);
    for (x, way, height) in bars {
        let height = height.min(1.0) * (HEIGHT / 2.0 - 4.0);
        let (class, y) = match way {
            Way::Up => ("up", HEIGHT / 2.0 - height),
            Way::Down => ("down", HEIGHT / 2.0),
        };
        bar(&mut svg, class, [x, y, width.max(0.4), height]);
    }
    svg.push_str("</svg>");
    svg
}

/// How often protected records have which length, on a logarithmic scale.
fn histogram(capture: &Capture) -> String {
    let mut svg = open(HEIGHT);
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
            let height = (*count as f64 + 1.0).ln() / most.max(1e-9) * (HEIGHT - 6.0);
            bar(&mut svg, class, [(number as f64 + shift) * step, HEIGHT - height, step * 0.45, height]);
        }
    }
    svg.push_str("</svg>");
    svg
}

pub(super) fn plot(plot: &Plot) -> String {
    match plot {
        Plot::Distributions { title, samples } => distributions(title, samples),
        Plot::Points { title, axes, points } => scattered(title, *axes, points),
    }
}

/// Points with numbers, which a list below gives names. Both axes begin at 0 or below.
fn scattered(title: &str, axes: [&str; 2], points: &[(String, [f64; 2])]) -> String {
    let span = |axis: usize| {
        let values = || points.iter().filter_map(move |(_, point)| point.get(axis).copied());
        let (least, most) = (values().fold(0.0, f64::min), values().fold(0.0, f64::max));
        (least, (most - least).max(1e-9))
    };
    let ([(left, wide), (low, high)], height) = ([span(0), span(1)], 2.0 * HEIGHT);
    let mut svg = open(height).replace(" preserveAspectRatio=\"none\"", "");
    let mut legend = String::new();
    for (number, (name, [x, y])) in points.iter().enumerate() {
        let (name, number) = (super::page::escape(name), number + 1);
        let (right, down) = (
            MARGIN + (x - left) / wide * (WIDTH - 2.0 * MARGIN),
            height - MARGIN - (y - low) / high * (height - 2.0 * MARGIN),
        );
        let _ = write!(
            svg,
            "<circle class=\"up\" cx=\"{right:.1}\" cy=\"{down:.1}\" r=\"4\"><title>{name}: {x:.2}, {y:.2}</title></circle>\
             <text x=\"{:.1}\" y=\"{:.1}\">{number}</text>",
            right + 6.0,
            down + 4.0
        );
        let _ = write!(legend, "{number} {name} ({x:.2}, {y:.2}); ");
    }
    svg.push_str("</svg>");
    let [right, upwards] = axes;
    let title = format!(
        "{title}: to the right {right}, {left:.2} to {:.2}; upwards {upwards}, {low:.2} to {:.2}",
        left + wide,
        low + high
    );
    titled(&title, &(svg + "<small>" + legend.trim_end_matches("; ") + "</small>"))
}

/// Empirical distribution functions, from the 1st to the 99th percentile of all: a straggler would press the rest into a corner.
fn distributions(title: &str, samples: &[(String, Vec<f64>)]) -> String {
    let sort = |sample: &[f64]| {
        let mut sorted = sample.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let all = sort(&samples.iter().flat_map(|(_, sample)| sample.iter().copied()).collect::<Vec<_>>());
    let (Some(least), Some(most)) =
        (all.get(all.len() / 100), all.get(all.len().saturating_sub(1) * 99 / 100))
    else {
        return String::new();
    };
    let scale = WIDTH / (most - least).max(1e-9);
    let mut svg = open(HEIGHT);
    let mut legend = String::new();
    for (number, (name, sample)) in samples.iter().enumerate() {
        let sorted = sort(sample);
        let points: Vec<String> = (0..=STEPS)
            .filter_map(|step| {
                let place = sorted.len().saturating_sub(1) * step / STEPS;
                let x = (sorted.get(place)? - least) * scale;
                let y = HEIGHT - 4.0 - (HEIGHT - 8.0) * step as f64 / STEPS as f64;
                Some(format!("{:.1},{y:.1}", x.clamp(0.0, WIDTH)))
            })
            .collect();
        let _ = write!(svg, "<polyline class=\"c{number}\" points=\"{}\"/>", points.join(" "));
        let _ = write!(legend, "<span class=\"c{number}\">&#9632;</span> {} ", super::page::escape(name));
    }
    svg.push_str("</svg>");
    titled(&format!("{title}, {least:.2} to {most:.2}"), &(svg + &legend))
}

/// Ranges from 0 to 1 as bars with the least and the greatest of each.
pub(super) fn ranges(rows: &[(&str, &[Figure])]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .flat_map(|(what, figures)| {
            Figure::ranges(figures).into_iter().map(move |(name, range)| (format!("{what}: {name}"), range))
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut svg = open(ROW * rows.len() as f64);
    svg = svg.replace(" preserveAspectRatio=\"none\"", "");
    let scale = WIDTH - NAMES - 10.0;
    for (place, (name, [mean, least, most])) in rows.iter().enumerate() {
        let y = place as f64 * ROW;
        let _ = write!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + ROW * 0.65, super::page::escape(name));
        bar(&mut svg, "up", [NAMES, y + 4.0, mean * scale, ROW - 8.0]);
        let (from, to, middle) = (NAMES + least * scale, NAMES + most * scale, y + ROW / 2.0);
        let _ = write!(
            svg,
            "<path class=\"range\" d=\"M{from:.1} {middle:.1}H{to:.1}M{from:.1} {:.1}v8M{to:.1} {:.1}v8\"/>",
            middle - 4.0,
            middle - 4.0
        );
    }
    svg.push_str("</svg>");
    titled("means, and the least and greatest of the folds, from 0 to 1", &svg)
}

fn bar(svg: &mut String, class: &str, [x, y, width, height]: [f64; 4]) {
    let _ = write!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
    );
}

fn titled(title: &str, drawn: &str) -> String {
    format!("<figure><figcaption>{}</figcaption>{drawn}</figure>", super::page::escape(title))
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\">")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_where_they_belong_and_have_names() {
        let points = vec![("plain <TLS>".to_owned(), [0.0, 0.5]), ("QNet".to_owned(), [40.0, 1.0])];
        let axes = ["bytes more, %", "accuracy"];
        let drawn = plot(&Plot::Points { title: "accuracy".into(), axes, points });
        // Upwards from 0: the half of what is 1, and that at the top and right.
        assert!(drawn.contains("cx=\"24.0\" cy=\"160.0\""), "{drawn}");
        assert!(drawn.contains("cx=\"976.0\" cy=\"24.0\""), "{drawn}");
        assert!(drawn.contains("1 plain &lt;TLS&gt; (0.00, 0.50); 2 QNet (40.00, 1.00)"), "{drawn}");
        let none = Plot::Points { title: "accuracy".into(), axes, points: Vec::new() };
        assert!(plot(&none).contains("</svg>"));
    }

    #[test]
    fn a_distribution_of_nothing_is_not_drawn() {
        let samples = |values: &[f64]| Plot::Distributions {
            title: "lengths".into(),
            samples: vec![("QNet".into(), values.to_vec())],
        };
        assert_eq!(plot(&samples(&[])), "");
        let drawn = plot(&samples(&[26.0, 26.0, 488.0]));
        assert!(drawn.contains("<polyline class=\"c0\"") && drawn.contains("QNet"), "{drawn}");
    }
}
