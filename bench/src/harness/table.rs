//! A comparison as a table: Markdown, and aligned for a terminal.

use std::fmt::Write;

use super::rounds::{Comparison, Ratio, Row};
use super::sample::Metric;
use super::servers::Which;

/// The table, and remarks below it.
pub fn of(comparison: &Comparison) -> String {
    let rows = &comparison.rows;
    let metrics: Vec<Metric> = metrics(rows);
    let mut lines = vec![heading(comparison, &metrics)];
    lines.extend(rows.iter().map(|row| cells(row, comparison, &metrics)));
    let mut text = aligned(&lines);
    for row in rows {
        let name = row.which.name();
        if row.lost > 0 {
            let _ = writeln!(text, "\n{name}: {} came back late or not at all.", row.lost);
        }
        if let Some(wrong) = &row.wrong {
            let _ = writeln!(text, "\n{name}: {wrong}.");
        }
    }
    text
}

/// The metrics that any row has.
fn metrics(rows: &[Row]) -> Vec<Metric> {
    let mut metrics: Vec<_> = rows.iter().flat_map(|row| row.values.keys().copied()).collect();
    if metrics.contains(&Metric::Syscalls) {
        // Where they are not counted, the table shows that.
        metrics.push(Metric::Instructions);
    }
    metrics.sort_unstable();
    metrics.dedup();
    metrics
}

fn heading(comparison: &Comparison, metrics: &[Metric]) -> Vec<String> {
    let mut heading = vec!["server".to_owned()];
    heading.extend(metrics.iter().map(|metric| metric.heading().to_owned()));
    if comparison.rows.len() > 1 {
        let whose = match &comparison.rows[0].which {
            Which::Ours => "our".to_owned(),
            other => format!("{}'s", other.name()),
        };
        let ratio = |metric: &Metric| format!("{whose} {} ÷ its", metric.noun());
        heading.extend(comparison.compared.iter().map(ratio));
    }
    heading
}

fn cells(row: &Row, comparison: &Comparison, metrics: &[Metric]) -> Vec<String> {
    let mut cells = vec![row.which.name().to_owned()];
    let value = |metric: &Metric| row.values.get(metric).map(|value| metric.show(*value));
    cells.extend(metrics.iter().map(|metric| value(metric).unwrap_or_else(|| "-".to_owned())));
    if comparison.rows.len() > 1 {
        let ratio = |metric: &Metric| row.ratios.get(metric).map(shown).unwrap_or_default();
        cells.extend(comparison.compared.iter().map(ratio));
    }
    cells
}

/// A ratio's median and its extremes.
pub fn shown(ratio: &Ratio) -> String {
    let Ratio { median, min, max } = ratio;
    format!("{median:.2} ({min:.2}–{max:.2})")
}

/// Aligns names left and numbers right.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines[0].len();
    let length = |cell: &String| cell.chars().count();
    let width = |column: usize| lines.iter().map(|line| length(&line[column])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "| {cell:<width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if n == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width);
                let _ = match column {
                    0 => write!(text, "|-{dashes}-"),
                    _ => write!(text, "|-{dashes}:"),
                };
            }
            text.push_str("|\n");
        }
    }
    text
}
