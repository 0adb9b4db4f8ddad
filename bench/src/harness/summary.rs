//! All comparisons in one table: a line for each pair of servers.

use super::rounds::{Comparison, Row};
use super::sample::Metric;
use super::{table, targets};

const HEADING: [&str; 9] = [
    "load",
    "subject",
    "against",
    "CPU ÷ its",
    "target",
    "calls each, its",
    "instructions, its",
    "p50, p99, p99.9, µs",
    "its",
];

/// The table.
pub fn of(comparisons: &[Comparison]) -> String {
    let mut lines = vec![HEADING.map(str::to_owned).to_vec()];
    for comparison in comparisons {
        let [subject, rivals @ ..] = &comparison.rows[..] else { continue };
        lines.extend(rivals.iter().map(|rival| line(comparison, subject, rival)));
    }
    table::aligned(&lines)
}

fn line(comparison: &Comparison, subject: &Row, rival: &Row) -> Vec<String> {
    let shown = |row: &Row, metric: Metric| match row.values.get(&metric) {
        Some(value) => metric.show(*value),
        None => "-".to_owned(),
    };
    let both = |metric: Metric| format!("{}, {}", shown(subject, metric), shown(rival, metric));
    let times =
        |row: &Row| [Metric::P50, Metric::P99, Metric::P999].map(|metric| shown(row, metric));
    // Where processor time is not what is compared, it is what the case is about: memory, or a start.
    let (metric, ratio) = match comparison.compared {
        [first, ..] => (*first, rival.ratios.get(first)),
        [] => (Metric::Cpu, None),
    };
    let target = targets::of(&comparison.label, &rival.which);
    let noun = if metric == Metric::Cpu { String::new() } else { format!("{} ", metric.noun()) };
    vec![
        comparison.label.clone(),
        subject.which.name().to_owned(),
        rival.which.name().to_owned(),
        ratio.map_or("-".to_owned(), |ratio| noun + &table::shown(ratio)),
        target.map_or(String::new(), |target| format!("{target:.2}")),
        both(Metric::Syscalls),
        both(Metric::Instructions),
        times(subject).join(", "),
        times(rival).join(", "),
    ]
}
