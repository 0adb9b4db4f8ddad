//! Charts of processor time: the subject's divided by the other servers', one line a case, on one
//! logarithmic axis. As text it fits a terminal of 80 columns and 40 lines, and as SVG a screen.

use std::fmt::Write;

use super::rounds::{Comparison, Ratio};
use super::sample::Metric;
use super::servers::Which;
use crate::controls::Control;

/// The ends of the axis. What is beyond stands at the end.
const LEAST: f64 = 0.05;
const MOST: f64 = 2.0;
const TICKS: [f64; 6] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

/// A case, and the servers that it has a ratio for.
struct Line<'a> {
    label: &'a str,
    marks: Vec<(Mark<'a>, Ratio)>,
}

/// How a server is shown.
#[derive(Clone, Copy, PartialEq)]
struct Mark<'a> {
    letter: char,
    colour: &'static str,
    name: &'a str,
}

impl<'a> Mark<'a> {
    fn of(which: &'a Which) -> Mark<'a> {
        let (letter, colour) = match which {
            Which::Control(Control::Epoll | Control::Mmsg) => ('e', "#cf5b2e"),
            Which::Control(Control::Uring) => ('u', "#8250df"),
            Which::Control(Control::OpenSsl) => ('o', "#bf8700"),
            Which::Control(Control::Classic | Control::Datagrams) => ('c', "#6e9fd8"),
            Which::Control(Control::Rustls) => ('r', "#6e9fd8"),
            Which::Control(Control::Tungstenite) => ('t', "#6e9fd8"),
            Which::Control(Control::TungsteniteTuned) => ('T', "#2f6fb5"),
            Which::OursOver(_) => ('p', "#2da44e"),
            Which::Ours => ('s', "#2da44e"),
            Which::Build(..) => ('b', "#6e7781"),
        };
        Mark { letter, colour, name: which.name() }
    }
}

/// What the axis shows.
fn title(comparisons: &[Comparison]) -> String {
    let subject = comparisons.first().map_or("", |first| first.rows[0].which.name());
    format!("Processor time of {subject} ÷ that of the other: median, range; less is better")
}

fn lines(comparisons: &[Comparison]) -> Vec<Line<'_>> {
    let lines = comparisons.iter().map(|comparison| {
        let marks = comparison.rows.iter().filter_map(|row| {
            let ratio = row.ratios.get(&Metric::Cpu)?;
            Some((Mark::of(&row.which), *ratio))
        });
        Line { label: &comparison.label, marks: marks.collect() }
    });
    lines.filter(|line| !line.marks.is_empty()).collect()
}

/// The marks that occur, each once.
fn legend<'a>(lines: &[Line<'a>]) -> Vec<Mark<'a>> {
    let mut marks: Vec<Mark> = Vec::new();
    for (mark, _) in lines.iter().flat_map(|line| &line.marks) {
        if !marks.contains(mark) {
            marks.push(*mark);
        }
    }
    marks
}

/// Where a ratio is, from 0 to 1.
fn place(ratio: f64) -> f64 {
    (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln()
}

/// The columns of the axis, and of the labels in front of it.
const AXIS: usize = 49;
const LABEL: usize = 30;

/// The chart for a terminal.
pub fn text(comparisons: &[Comparison]) -> String {
    let lines = lines(comparisons);
    if lines.is_empty() {
        return String::new();
    }
    let column = |ratio: f64| (place(ratio) * (AXIS - 1) as f64).round() as usize;
    let mut ticks = vec![' '; AXIS + 3];
    for tick in TICKS {
        let shown = if tick < 0.1 { format!("{tick:.2}") } else { format!("{tick:.1}") };
        // The number's middle stands above its place.
        let from = column(tick).saturating_sub(1);
        ticks.splice(from..from + shown.len(), shown.chars());
    }
    let ticks: String = ticks.into_iter().collect();
    let mut text = format!("{}\n{:LABEL$}{}\n", title(comparisons), "", ticks.trim_end());
    for Line { label, marks } in &lines {
        let mut cells = vec![' '; AXIS];
        cells[column(1.0)] = '│';
        for (_, ratio) in marks {
            cells[column(ratio.min)..=column(ratio.max)].fill('-');
        }
        for (mark, ratio) in marks {
            let cell = &mut cells[column(ratio.median)];
            // Two servers at one place.
            *cell = if cell.is_alphabetic() { '*' } else { mark.letter };
        }
        let cells: String = cells.into_iter().collect();
        let _ = writeln!(text, "{label:<LABEL$}{}", cells.trim_end());
    }
    let mut width = 0;
    for mark in legend(&lines) {
        let entry = format!("{} {}", mark.letter, mark.name);
        let gap = if width == 0 { "" } else { ", " };
        if width + gap.len() + entry.len() > LABEL + AXIS {
            let _ = write!(text, "\n{entry}");
            width = entry.len();
        } else {
            let _ = write!(text, "{gap}{entry}");
            width += gap.len() + entry.len();
        }
    }
    text.push_str("; * two of them\n");
    text
}

const WIDTH: f64 = 860.0;
const STEP: f64 = 20.0;
/// Where the axis begins, and how long it is.
const LEFT: f64 = 210.0;
const LENGTH: f64 = 630.0;

const STYLE: &str = "\
text { fill: #24292f } .label { text-anchor: end } .tick { text-anchor: middle; font-size: 11px }
.grid { stroke: #d0d7de } .one { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #30363d } .one { stroke: #e6edf3 } }";

/// The chart as SVG, readable on light and dark backgrounds.
pub fn svg(comparisons: &[Comparison]) -> String {
    let lines = lines(comparisons);
    let x = |ratio: f64| LEFT + LENGTH * place(ratio);
    let (top, mut body) = (3.2 * STEP, String::new());
    let bottom = top + lines.len() as f64 * STEP;
    for tick in TICKS {
        let (x, class) = (x(tick), if tick == 1.0 { "one" } else { "grid" });
        let (above, shown) =
            (top - 6.0, if tick == 1.0 { "1.0".to_owned() } else { tick.to_string() });
        let _ = writeln!(
            body,
            r#"<line class="{class}" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>
<text class="tick" x="{x:.1}" y="{above}">{shown}</text>"#
        );
    }
    for (n, Line { label, marks }) in lines.iter().enumerate() {
        let y = top + (n as f64 + 0.5) * STEP;
        let (label, end, base) = (escaped(label), LEFT - 8.0, y + 4.5);
        let _ = writeln!(body, r#"<text class="label" x="{end}" y="{base}">{label}</text>"#);
        for (Mark { colour, name, .. }, ratio) in marks {
            let [from, at, to] = [ratio.min, ratio.median, ratio.max].map(x);
            let title = escaped(&format!("{name}: {}", super::table::shown(ratio)));
            let _ = writeln!(
                body,
                r#"<g stroke="{colour}" fill="{colour}"><title>{title}</title><line x1="{from:.1}" x2="{to:.1}" y1="{y}" y2="{y}" stroke-width="2"/><circle cx="{at:.1}" cy="{y}" r="5"/></g>"#
            );
        }
    }
    let mut right = LEFT;
    for Mark { colour, name, .. } in legend(&lines) {
        let (y, base, name_at) = (1.5 * STEP, 1.5 * STEP + 4.5, right + 9.0);
        let name_shown = escaped(name);
        let _ = writeln!(
            body,
            r#"<circle cx="{right}" cy="{y}" r="5" fill="{colour}"/><text x="{name_at}" y="{base}" font-size="11">{name_shown}</text>"#
        );
        right += 26.0 + 6.0 * name.len() as f64;
    }
    let (height, title) = (bottom + 0.5 * STEP, escaped(&title(comparisons)));
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">
<style>
{STYLE}
</style>
<text x="8" y="16">{title}</text>
{body}</svg>
"#
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
