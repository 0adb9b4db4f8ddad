//! The report as files, in `target/bench/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::rounds::{Comparison, Row};
use super::{chart, summary, table};

/// The names of the files.
pub const NAMES: &str = "results.json, results.md, summary.md, cpu.svg";

/// Writes all files, and returns their directory.
pub fn write(setting: &str, comparisons: &[Comparison]) -> io::Result<PathBuf> {
    // CARGO_TARGET_TMPDIR is in the target directory.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target"));
    let directory = target.join("bench");
    fs::create_dir_all(&directory)?;
    let cases: Vec<Value> = comparisons.iter().map(json_of).collect();
    let json = json!({ "setting": setting, "cases": cases });
    fs::write(directory.join("results.json"), format!("{json:#}\n"))?;
    fs::write(directory.join("results.md"), markdown(setting, comparisons))?;
    fs::write(directory.join("cpu.svg"), chart::svg(comparisons))?;
    fs::write(directory.join("summary.md"), format!("{setting}\n\n{}", summary::of(comparisons)))?;
    Ok(directory)
}

fn markdown(setting: &str, comparisons: &[Comparison]) -> String {
    let section =
        |comparison: &Comparison| format!("\n### {}\n\n{}", comparison.case, table::of(comparison));
    let sections: String = comparisons.iter().map(section).collect();
    format!("{setting}\n{sections}")
}

fn json_of(comparison: &Comparison) -> Value {
    let rows: Vec<Value> = comparison.rows.iter().map(row).collect();
    json!({ "case": comparison.case, "servers": rows })
}

fn row(row: &Row) -> Value {
    let value =
        |(metric, value): (&super::sample::Metric, &f64)| (metric.key().to_owned(), json!(value));
    let mut object: Map<String, Value> = row.values.iter().map(value).collect();
    object.insert("server".to_owned(), json!(row.which.name()));
    object.insert("lost".to_owned(), json!(row.lost));
    let ratios = row.ratios.iter().map(|(metric, ratio)| {
        let ratio = json!({ "median": ratio.median, "min": ratio.min, "max": ratio.max });
        (metric.key().to_owned(), ratio)
    });
    let ratios: Map<String, Value> = ratios.collect();
    if !ratios.is_empty() {
        object.insert("subject_by_this".to_owned(), Value::Object(ratios));
    }
    Value::Object(object)
}
