//! Measures one server right after the other, repeatedly, and takes ratios within each round.

use std::collections::BTreeMap;

use super::plan::Case;
use super::sample::{Metric, Sample, Trouble};
use super::servers::Which;

/// The answers to one question.
pub struct Comparison {
    pub case: String,
    /// The same, shorter.
    pub label: String,
    /// The metrics that have ratios.
    pub compared: &'static [Metric],
    /// The subject's first, which is ours unless the case says otherwise.
    pub rows: Vec<Row>,
}

/// A server's answers.
pub struct Row {
    pub which: Which,
    /// The median of all its measurements.
    pub values: BTreeMap<Metric, f64>,
    /// The subject's divided by this one's, within rounds.
    pub ratios: BTreeMap<Metric, Ratio>,
    pub lost: u64,
    pub wrong: Option<String>,
}

/// How a ratio came out over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// Measures the subject and its rivals one right after the other, `rounds` times. The subject has a
/// rival on either side, and rivals take turns in the places beside it.
pub fn compare(
    case: &Case,
    rounds: usize,
    measure: impl Fn(&Which) -> Result<Sample, Trouble>,
) -> Result<Comparison, Trouble> {
    let (subject, rivals) = (&case.subject, case.rivals.len());
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); rivals];
    for round in 0..rounds {
        let mut order: Vec<Option<usize>> = (0..rivals).map(Some).collect();
        order.rotate_left(round % rivals.max(1));
        // A single rival comes first every other time.
        order.insert(if rivals > 1 { 1 } else { round % 2 * rivals }, None);
        let mut found = vec![Sample::default(); rivals];
        let mut our = Sample::default();
        for one in order {
            match one {
                Some(rival) => found[rival] = measure(&case.rivals[rival])?,
                None => our = measure(subject)?,
            }
        }
        for (pairs, their) in theirs.iter_mut().zip(found) {
            pairs.push((our.clone(), their));
        }
        ours.push(our);
    }
    let mut rows = vec![Row::of(subject.clone(), &ours, BTreeMap::new())];
    for (rival, pairs) in case.rivals.iter().zip(theirs) {
        let ratio = |metric: &Metric| Some((*metric, Ratio::of(*metric, &pairs)?));
        let ratios = case.compared.iter().filter_map(ratio).collect();
        let samples: Vec<_> = pairs.into_iter().map(|(_, sample)| sample).collect();
        rows.push(Row::of(rival.clone(), &samples, ratios));
    }
    let (name, label) = (case.name.clone(), case.label.clone());
    Ok(Comparison { case: name, label, compared: case.compared, rows })
}

impl Row {
    fn of(which: Which, samples: &[Sample], ratios: BTreeMap<Metric, Ratio>) -> Row {
        let mut all = BTreeMap::<Metric, Vec<f64>>::new();
        for (metric, value) in samples.iter().flat_map(|sample| &sample.values) {
            all.entry(*metric).or_default().push(*value);
        }
        let medians = all.into_iter().map(|(metric, values)| (metric, median(values)));
        Row {
            which,
            values: medians.collect(),
            ratios,
            lost: samples.iter().map(|sample| sample.lost).sum(),
            wrong: samples.iter().find_map(|sample| sample.wrong.clone()),
        }
    }
}

impl Ratio {
    /// The subject's divided by theirs. `None` if either has no value.
    fn of(metric: Metric, pairs: &[(Sample, Sample)]) -> Option<Ratio> {
        let ratio = |(ours, theirs): &(Sample, Sample)| {
            let (ours, theirs) = (ours.values.get(&metric)?, theirs.values.get(&metric)?);
            (*theirs > 0.0).then(|| ours / theirs)
        };
        let ratios: Vec<f64> = pairs.iter().filter_map(ratio).collect();
        let min = ratios.iter().copied().reduce(f64::min)?;
        let max = ratios.iter().copied().reduce(f64::max)?;
        Some(Ratio { median: median(ratios), min, max })
    }
}

/// The median of at least one value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    f64::midpoint(values[low], values[high])
}
