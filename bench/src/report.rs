//! Medians, ranges and ratios as a Markdown table, and the machine they were measured on.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::measure::Figure;

/// Every round of one transport.
#[derive(Clone)]
pub struct Series {
    /// What the table's column is called.
    pub name: String,
    /// One list of figures a round, all in the same order.
    pub rounds: Vec<Vec<Figure>>,
}

impl Series {
    /// The middle one of a figure's values.
    #[must_use]
    pub fn median(&self, figure: &str) -> Option<f64> {
        self.spread(figure).map(|spread| spread.median)
    }

    fn spread(&self, figure: &str) -> Option<Spread> {
        let row = self.rounds.first()?.iter().position(|(name, _)| *name == figure)?;
        Some(Spread::of(self, row))
    }
}

/// A table of everybody's figures, without ratios.
#[must_use]
pub fn beside(series: &[Series]) -> String {
    let Some(first) = series.first() else { return String::new() };
    let mut table = format!("| median (lowest to highest of {} rounds) |", first.rounds.len());
    for one in series {
        let _ = write!(table, " {} |", one.name);
    }
    let _ = write!(table, "\n|---|{}\n", "--:|".repeat(series.len()));
    for (row, (name, _)) in first.rounds.first().into_iter().flatten().enumerate() {
        let _ = write!(table, "| {name} |");
        for one in series {
            let _ = write!(table, " {} |", Spread::of(one, row));
        }
        table.push('\n');
    }
    table
}

/// The figures that [`plot`] shows.
const PLOTTED: [&str; 4] =
    ["up: CPU, both (s/GB)", "down: CPU, both (s/GB)", "up: one stream (MB/s)", "down: one stream (MB/s)"];

/// Bars with their ranges as SVG, a panel for each of some figures.
#[must_use]
pub fn plot(series: &[Series]) -> String {
    let height = 30 + 20 * series.len();
    let mut body = String::new();
    for (panel, figure) in PLOTTED.iter().enumerate() {
        let top = panel * height;
        let spreads: Vec<_> = series.iter().filter_map(|one| Some((one, one.spread(figure)?))).collect();
        let most = spreads.iter().map(|(_, spread)| spread.highest).fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(body, r#"<text x="8" y="{}" font-weight="bold">{figure}</text>"#, top + 18);
        for (line, (one, spread)) in spreads.iter().enumerate() {
            let y = top + 26 + 20 * line;
            let [low, middle, high] =
                [spread.lowest, spread.median, spread.highest].map(|value| 120.0 + 420.0 * value / most);
            let fill = if one.name.starts_with("qnet") { "#2a6fb0" } else { "#9a9a9a" };
            let _ = writeln!(
                body,
                concat!(
                    r##"<text x="112" y="{base}" text-anchor="end">{name}</text>"##,
                    r##"<rect x="120" y="{y}" width="{width:.1}" height="14" fill="{fill}"/>"##,
                    r##"<path d="M{low:.1} {centre}H{high:.1}" stroke="#222" stroke-width="2"/>"##,
                    r##"<text x="{end:.1}" y="{base}">{spread}</text>"##
                ),
                base = y + 12,
                name = one.name,
                y = y,
                width = middle - 120.0,
                fill = fill,
                low = low,
                centre = y + 7,
                high = high,
                end = high + 6.0,
                spread = spread,
            );
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        PLOTTED.len() * height
    )
}

/// The table. The first series is what the others are compared with.
#[must_use]
pub fn table(series: &[Series]) -> String {
    let Some((base, others)) = series.split_first() else { return String::new() };
    let mut table = format!("| median (lowest to highest of {} rounds) | {} |", base.rounds.len(), base.name);
    for other in others {
        let _ = write!(table, " {} | {0} / {} |", other.name, base.name);
    }
    let columns = 2 + 2 * others.len();
    let _ = write!(table, "\n|---|{}\n", "--:|".repeat(columns - 1));
    let names = base.rounds.first().into_iter().flatten().map(|(name, _)| *name);
    for (row, name) in names.enumerate() {
        let base = Spread::of(base, row);
        let _ = write!(table, "| {name} | {base} |");
        for other in others {
            let other = Spread::of(other, row);
            let _ = write!(table, " {other} | {} |", ratio(other.median, base.median));
        }
        table.push('\n');
    }
    table
}

/// Of each figure in these rows, by their names, one series' median by the other's; rows that are not there, or say nothing, are left
/// out.
#[must_use]
pub fn ratios<'a>(of: &Series, by: &Series, rows: &[&'a str]) -> Vec<(&'a str, f64)> {
    let place = |row: &str| by.rounds.first()?.iter().position(|(name, _)| *name == row);
    let ratio = |row: &'a str| {
        let at = place(row)?;
        let ratio = Spread::of(of, at).median / Spread::of(by, at).median;
        ratio.is_finite().then_some((row, ratio))
    };
    rows.iter().filter_map(|row| ratio(row)).collect()
}

/// A ratio says nothing where what it divides by is noise around nothing.
fn ratio(value: f64, base: f64) -> String {
    if base < 0.01 || value < 0.0 { "–".into() } else { format!("{:.2}", value / base) }
}

struct Spread {
    lowest: f64,
    median: f64,
    highest: f64,
}

impl Spread {
    fn of(series: &Series, row: usize) -> Self {
        let figures = series.rounds.iter().filter_map(|round| round.get(row));
        let mut values: Vec<f64> = figures.map(|(_, value)| *value).collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (upper, lower) = (at(values.len() / 2), at(values.len().saturating_sub(1) / 2));
        Self {
            lowest: at(0),
            median: f64::midpoint(upper, lower),
            highest: at(values.len().saturating_sub(1)),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Three figures are more than a shared machine repeats.
        let digits = if self.median.abs() >= 100.0 {
            0
        } else if self.median.abs() >= 10.0 {
            1
        } else {
            2
        };
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.lowest, self.highest)
    }
}

/// What was measured on, in one paragraph.
#[must_use]
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        field(&cpus, "model name").or_else(|| field(&cpus, "CPU part")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let aes = if field(&cpus, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "aes")) {
        "with AES instructions"
    } else {
        "AES instructions not reported"
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: u64 =
        field(&memory, "MemTotal").and_then(|total| total.trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    format!(
        "{model}, {cores} cores, {aes}, {} GiB of memory, Linux {}, {}.",
        kilobytes >> 20,
        said_by("uname", &["-r"]),
        said_by("date", &["-u", "+%Y-%m-%d"])
    )
}

fn field<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(label))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "?".into(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

#[cfg(test)]
mod tests {
    use super::{Series, machine, ratios, table};

    #[test]
    fn the_table_holds_medians_ranges_and_ratios() {
        let series = |name: &str, values: &[f64]| Series {
            name: name.into(),
            rounds: values.iter().map(|value| vec![("speed", *value), ("kept", -value)]).collect(),
        };
        let table = table(&[series("obfs4", &[30.0, 10.0, 20.0]), series("qnet", &[90.0, 60.0, 300.0])]);
        let expected = "\
| median (lowest to highest of 3 rounds) | obfs4 | qnet | qnet / obfs4 |
|---|--:|--:|--:|
| speed | 20.0 (10.0 to 30.0) | 90.0 (60.0 to 300.0) | 4.50 |
| kept | -20.0 (-30.0 to -10.0) | -90.0 (-300.0 to -60.0) | – |
";
        assert_eq!(table, expected);
    }

    #[test]
    fn ratios_are_those_of_medians() {
        let series = |values: &[f64]| Series {
            name: "any".into(),
            rounds: values.iter().map(|value| vec![("other", 1.0), ("speed", *value)]).collect(),
        };
        let (shaped, bare) = (series(&[94.0, 10.0, 500.0]), series(&[100.0, 700.0, 90.0]));
        assert_eq!(ratios(&shaped, &bare, &["speed", "absent"]), [("speed", 0.94)]);
        assert_eq!(ratios(&shaped, &series(&[0.0]), &["speed"]), []);
    }

    #[test]
    fn an_even_number_of_rounds_has_a_median() {
        let rounds = [1.0, 2.0, 3.0, 10.0].map(|value| vec![("time", value)]).to_vec();
        assert!(table(&[Series { name: "x".into(), rounds }]).contains("| time | 2.50 (1.00 to 10.00) |"));
    }

    #[test]
    fn the_machine_is_described() {
        assert!(machine().contains(" cores, "));
    }
}
