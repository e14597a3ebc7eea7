//! Tables and plots.

use std::fmt::Write as _;

use super::Outcome;
use super::ladder::{Ladder, Step};
use super::streams::{Streams, Writes};
use crate::goals::Goal;

/// What an axis without a lower end begins at: below what any figure here says.
const LEAST: f64 = 1e-3;

/// All tables.
#[must_use]
pub fn tables(outcome: &Outcome, goals: &[Goal]) -> String {
    let mut text = format!("{}\n", outcome.machine);
    for ladder in &outcome.ladders {
        text += &connections(ladder);
    }
    if !outcome.streams.is_empty() {
        text += &streams(&outcome.streams);
    }
    if !outcome.writes.is_empty() {
        text += &writes(&outcome.writes);
    }
    if !goals.is_empty() {
        text += "\n## Goals\n\n| goal | measured | |\n|---|--:|---|\n";
        for Goal { what, measured, holds } in goals {
            let said = if *holds { "holds" } else { "**does not hold**" };
            let _ = writeln!(text, "| {what} | {measured} | {said} |");
        }
    }
    text
}

/// A figure of a step, as the table has it.
type Cell = fn(&Step) -> String;

/// The rows of the table of connections.
const ROWS: [(&str, Cell); 22] = [
    ("set-ups a second", rate),
    ("first echoed byte, median (ms)", |step| format!("{:.0}", step.set_up_ms[0])),
    ("CPU of a set-up, bridge (ms)", |step| per(step, step.set_up.bridge)),
    ("CPU of a set-up, client (ms)", |step| per(step, step.set_up.client)),
    ("CPU of a set-up, nginx (ms)", |step| per(step, step.set_up.decoy)),
    ("bridge, resident (MiB)", |step| memory(step.held[0].resident)),
    ("bridge, proportional (MiB)", |step| memory(step.held[0].proportional)),
    ("bridge, a connection (KiB)", |step| each(step.each[0])),
    ("client, a connection (KiB)", |step| each(step.each[1])),
    ("nginx, a connection (KiB)", |step| each(step.each[2])),
    ("kernel's slabs, all ends of a connection (KiB)", |step| each(step.kernel_each)),
    ("bridge's descriptors", |step| step.held[0].descriptors.to_string()),
    ("at rest: bridge's CPU (% of a core)", |step| percent(step.rest.bridge)),
    ("at rest: nginx's CPU (% of a core)", |step| percent(step.rest.decoy)),
    ("echo, median (ms)", |step| format!("{:.2}", step.echo.p50)),
    ("echo, p99 (ms)", |step| format!("{:.2}", step.echo.p99)),
    ("echo, slowest (ms)", |step| format!("{:.0}", step.echo.most)),
    ("echoes", |step| step.echo.count.to_string()),
    ("of these sent over 50 ms late", |step| step.echo.late.to_string()),
    ("CPU of an echo, bridge (µs)", |step| echo_us(step, step.echo.used.bridge)),
    ("failures", |step| step.failures.values().sum::<u64>().to_string()),
    ("sessions without a carrier at the end", |step| step.without_carrier.to_string()),
];

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per(step: &Step, seconds: f64) -> String {
    format!("{:.2}", seconds * 1e3 / step.added.max(1) as f64)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(step: &Step) -> String {
    format!("{:.0}", step.added as f64 / step.seconds.max(1e-9))
}

fn percent(seconds: f64) -> String {
    format!("{:.1}", seconds * 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn memory(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn each(bytes: f64) -> String {
    format!("{:.1}", bytes / 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn echo_us(step: &Step, seconds: f64) -> String {
    format!("{:.0}", seconds * 1e6 / step.echo.count.max(1) as f64)
}

fn connections(ladder: &Ladder) -> String {
    let mut text = format!(
        "\n## Connections, {}\n\nEach is a session of its own. Echoes are of {} bytes, {} a second of all connections together.\n\n| connections |",
        if ladder.brief { "with a stream for each message" } else { "with a stream that stays" },
        ladder.load.bytes,
        ladder.load.rate
    );
    for step in &ladder.steps {
        let _ = write!(text, " {} |", step.connections);
    }
    let _ = writeln!(text, "\n|---|{}", "--:|".repeat(ladder.steps.len()));
    for (name, cell) in ROWS {
        let _ = write!(text, "| {name} |");
        for step in &ladder.steps {
            let _ = write!(text, " {} |", cell(step));
        }
        text.push('\n');
    }
    if let Some(minute) = &ladder.minute {
        let _ = writeln!(
            text,
            "\nThen a byte a minute of each for two minutes: {} echoes, median {:.1} ms, p99 {:.1} ms; the bridge used {:.1} % of a core.",
            minute.count,
            minute.p50,
            minute.p99,
            minute.used.bridge / minute.seconds * 100.0
        );
    }
    for (what, count) in &ladder.failures {
        let _ = writeln!(text, "\n{count} × {what}");
    }
    if let Some(stopped) = &ladder.stopped {
        let _ = writeln!(text, "\nIt ended early: {stopped}.");
    }
    for warning in &ladder.warnings {
        let _ = writeln!(text, "\nThe bridge warned: {warning}");
    }
    text
}

fn streams(all: &[Streams]) -> String {
    let mut text = String::from(
        "\n## Streams in one session\n\n| streams | bridge, each (KiB) | client, each (KiB) | CPU of opening one, bridge (µs) | client (µs) | down, together (MB/s) | Jain's index | that got something in 3 s |\n|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for one in all {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {:.3} | {} |",
            one.open,
            one.each[0] / 1024.0,
            one.each[1] / 1024.0,
            one.opening_us[0],
            one.opening_us[1],
            one.megabytes_a_second,
            one.jain,
            one.moved
        );
    }
    for one in all {
        if let Some(why) = &one.refused {
            let _ = writeln!(text, "\nOf {} wanted, {} were to be had: {why}.", one.wanted, one.open);
        }
    }
    text
}

fn writes(all: &[Writes]) -> String {
    let mut text = String::from(
        "\n## Sizes of writes\n\nOne stream upward; medians of rounds in turns.\n\n| bytes | relay (MB/s) | QNet (MB/s) | ratio | relay, CPU (s/GB) | QNet, CPU (s/GB) | ratio |\n|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for relay in all.iter().filter(|one| one.name == "relay") {
        let Some(own) = all.iter().find(|one| one.name == "qnet" && one.bytes == relay.bytes) else {
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
            relay.bytes,
            relay.megabytes_a_second,
            own.megabytes_a_second,
            own.megabytes_a_second / relay.megabytes_a_second,
            relay.cpu,
            own.cpu,
            own.cpu / relay.cpu
        );
    }
    text
}

/// A line of a plot.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// What is plotted: a panel's title, and its lines.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn panels(outcome: &Outcome) -> Vec<(&'static str, Vec<Line<'static>>)> {
    let steps = outcome.ladders.iter().filter(|ladder| !ladder.brief).flat_map(|ladder| &ladder.steps);
    let by = |what: &dyn Fn(&Step) -> f64| {
        steps.clone().map(|step| (step.connections as f64, what(step))).collect::<Vec<_>>()
    };
    let of = |name: &str, what: &dyn Fn(&Writes) -> f64| {
        let own = outcome.writes.iter().filter(|one| one.name == name);
        own.map(|one| (one.bytes as f64, what(one))).collect::<Vec<_>>()
    };
    let streams = |what: &dyn Fn(&Streams) -> f64| {
        outcome.streams.iter().map(|one| (one.open as f64, what(one))).collect::<Vec<_>>()
    };
    let line = |name, points| Line { name, points };
    vec![
        (
            "memory a connection (KiB)",
            vec![
                line("bridge", by(&|step| step.each[0] / 1024.0)),
                line("nginx", by(&|step| step.each[2] / 1024.0)),
            ],
        ),
        (
            "CPU of a set-up (ms)",
            vec![
                line("bridge", by(&|step| step.set_up.bridge * 1e3 / step.added.max(1) as f64)),
                line("client", by(&|step| step.set_up.client * 1e3 / step.added.max(1) as f64)),
            ],
        ),
        (
            "echo under the same load (ms)",
            vec![line("median", by(&|step| step.echo.p50)), line("p99", by(&|step| step.echo.p99))],
        ),
        (
            "streams: CPU of opening one (µs)",
            vec![
                line("bridge", streams(&|one| one.opening_us[0])),
                line("client", streams(&|one| one.opening_us[1])),
            ],
        ),
        (
            "writes: CPU (s/GB)",
            vec![line("qnet", of("qnet", &|one| one.cpu)), line("relay", of("relay", &|one| one.cpu))],
        ),
        (
            "writes: one stream (MB/s)",
            vec![
                line("qnet", of("qnet", &|one| one.megabytes_a_second)),
                line("relay", of("relay", &|one| one.megabytes_a_second)),
            ],
        ),
    ]
}

/// Panels with logarithmic axes as SVG.
#[must_use]
pub fn plot(outcome: &Outcome) -> String {
    let panels = panels(outcome);
    let mut body = String::new();
    let mut shown = 0_u32;
    for (title, lines) in &panels {
        if lines.iter().all(|line| line.points.len() > 1) {
            body += &panel(title, lines, [f64::from(shown % 2) * 360.0, f64::from(shown / 2) * 200.0]);
            shown += 1;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        shown.div_ceil(2) * 200
    )
}

fn panel(title: &str, lines: &[Line], [left, top]: [f64; 2]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values
            .map(|value| value.max(LEAST).log10())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        [low.floor(), high.ceil().max(low.floor() + 1.0)]
    };
    let across = ends(&mut all().map(|(x, _)| *x));
    let upward = ends(&mut all().map(|(_, y)| *y));
    let place = |value: f64, [low, high]: [f64; 2]| (value.max(LEAST).log10() - low) / (high - low);
    let x = |value: f64| left + 60.0 + 270.0 * place(value, across);
    let y = |value: f64| top + 165.0 - 130.0 * place(value, upward);
    let mut text =
        format!("<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{title}</text>\n", left + 8.0, top + 18.0);
    text += &grid([across, upward], [left, top], &x, &y);
    for (number, line) in lines.iter().enumerate() {
        let colour = if number == 0 { "#2a6fb0" } else { "#9a9a9a" };
        let points: Vec<_> =
            line.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for point in &points {
            if let Some((x, y)) = point.split_once(',') {
                let _ = writeln!(text, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "two lines")]
        let shift = number as f64 * 50.0;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" fill=\"{colour}\">{}</text>",
            left + 240.0 + shift,
            top + 18.0,
            line.name
        );
    }
    text
}

/// Lines at the powers of ten.
fn grid(
    [across, upward]: [[f64; 2]; 2],
    [left, top]: [f64; 2],
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) -> String {
    let mut text = String::new();
    for (ends, flat) in [(across, true), (upward, false)] {
        let mut power = ends[0];
        while power <= ends[1] {
            let value = 10_f64.powf(power);
            let label = if power.abs() > 3.5 { format!("10^{power:.0}") } else { format!("{value}") };
            let _ = if flat {
                writeln!(
                    text,
                    "<path d=\"M{x:.1} {}V{}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                    top + 35.0,
                    top + 165.0,
                    top + 180.0,
                    x = x(value)
                )
            } else {
                writeln!(
                    text,
                    "<path d=\"M{} {y:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                    left + 60.0,
                    left + 330.0,
                    left + 55.0,
                    y(value) + 4.0,
                    y = y(value)
                )
            };
            power += 1.0;
        }
    }
    text
}
