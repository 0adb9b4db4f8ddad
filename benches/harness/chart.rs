//! A chart of the processor time of the other servers for an echo, in multiples of ours.

use std::fmt::Write;

use super::pairs::{Comparison, Ratio, Row};
use super::sample::Metric;
use super::table;

const WIDTH: f64 = 860.0;
const LINE: f64 = 22.0;
/// Where bars begin, and the length of a bar for a ratio of 1.
const LEFT: f64 = 190.0;
const UNIT: f64 = 150.0;
/// Longer bars are cut here. The number beside them is exact.
const LONGEST: f64 = 3.5;
const NUMBERS: f64 = LEFT + UNIT * LONGEST + 10.0;

const STYLE: &str = "\
text { fill: #24292f } .case { font-weight: bold } .name { text-anchor: end }
.bar { fill: #6e9fd8 } .spread { stroke: #24292f } .ours { stroke: #cf5b2e; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .spread { stroke: #e6edf3 } }";

/// The chart as SVG, readable on light and dark backgrounds.
pub fn of(comparisons: &[Comparison]) -> String {
    let mut body = String::new();
    let mut y = 2.0 * LINE;
    for comparison in comparisons {
        let bars: Vec<_> =
            comparison.rows.iter().filter_map(|row| Some((row, inverse(row)?))).collect();
        if bars.is_empty() {
            continue;
        }
        let name = escaped(&comparison.case);
        let _ = writeln!(body, r#"<text class="case" x="8" y="{y}">{name}</text>"#);
        let top = y + 5.0;
        for (row, ratio) in bars {
            y += LINE;
            bar(&mut body, y, row, ratio);
        }
        let (one, bottom) = (LEFT + UNIT, y + 5.0);
        let _ = writeln!(
            body,
            r#"<line class="ours" x1="{one}" x2="{one}" y1="{top}" y2="{bottom}"/>"#
        );
        y += 1.5 * LINE;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="13">
<style>
{STYLE}
</style>
<text x="8" y="18">Processor time of an echo, as a multiple of echo-server's (dashed): median and range of the pairs.</text>
{body}</svg>
"#
    )
}

/// Theirs divided by ours.
fn inverse(row: &Row) -> Option<Ratio> {
    let Ratio { median, min, max } = *row.ratios.get(&Metric::Cpu)?;
    (min > 0.0).then(|| Ratio { median: 1.0 / median, min: 1.0 / max, max: 1.0 / min })
}

fn bar(body: &mut String, y: f64, row: &Row, ratio: Ratio) {
    let length = |value: f64| UNIT * value.min(LONGEST);
    let (name_end, top, middle) = (LEFT - 8.0, y - 11.5, y - 4.5);
    let name = escaped(row.which.name());
    let bar = length(ratio.median);
    let (from, to) = (LEFT + length(ratio.min), LEFT + length(ratio.max));
    let number = table::shown(&ratio);
    let _ = writeln!(
        body,
        r#"<text class="name" x="{name_end}" y="{y}">{name}</text>
<rect class="bar" x="{LEFT}" y="{top}" width="{bar:.1}" height="14"/>
<line class="spread" x1="{from:.1}" x2="{to:.1}" y1="{middle}" y2="{middle}"/>
<text x="{NUMBERS}" y="{y}">{number}</text>"#
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
