//! A summary as text.

use std::fmt;
use std::time::Duration;

use super::{Phase, SUBSTANTIAL, Summary, Times};

/// How many buckets the histogram has at most, and how wide its longest bar is.
const BUCKETS: usize = 16;
const BAR: u64 = 40;

/// The percentiles of a load's table. A high one means nothing unless there are values beyond it.
const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { sent, received, lost, .. } = self;
        let (percent, seconds) = (Percent(self.lost_percent()), self.elapsed.as_secs_f64());
        write!(f, "{sent} sent, {received} received, {lost} lost ({percent}) in {seconds:.3} s")?;
        self.faults(f)?;
        if f.alternate() {
            self.table(f)?;
        } else {
            self.lines(f)?;
        }
        self.delays(f)?;
        self.errors.iter().try_for_each(|(reason, failures)| {
            write!(f, "\n{}: ", Often(failures.count))?;
            match &failures.ending {
                Some(ending) => ending.fmt(f),
                None => f.write_str(reason),
            }
        })
    }
}

impl Summary {
    /// What was wrong with messages, if anything was.
    fn faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = [
            (self.late, "late"),
            (self.corrupted, "corrupted"),
            (self.duplicated, "duplicated"),
            (self.reordered, "reordered"),
            (self.unanswered, "still in flight when stopped"),
            (self.unsent, "due but not sent"),
        ];
        let mut separator = "\n";
        for (count, name) in faults {
            if count > 0 {
                write!(f, "{separator}{count} {name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }

    /// The times of a ping: a line for each kind.
    fn lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in Phase::ALL {
            let times = self.phase(phase);
            // That of the only connection was told when it was established.
            if times.count() > 1 {
                write!(f, "\n{}: ", name(phase))?;
                line(f, times)?;
            }
        }
        if self.rtt.count() > 0 {
            f.write_str("\nrtt: ")?;
            line(f, &self.rtt)?;
        }
        if let Some(jitter) = self.jitter() {
            write!(f, ", jitter {}", Ms(jitter))?;
        }
        if !self.rtt.is_exact() {
            f.write_str("\npercentiles are rounded to three digits, everything else is exact")?;
        }
        Ok(())
    }

    /// The times of a load: a table, and a histogram.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let bytes = Bytes(self.bytes_received() as f64 / seconds);
        write!(f, "\n{:.0} messages/s, {bytes}/s each way", self.rate())?;
        if self.rtt.count() == 0 {
            return Ok(());
        }
        let shown: Vec<_> = PERCENTILES
            .into_iter()
            .filter(|percent| {
                let beyond = self.rtt.count() as f64 * (100.0 - percent) / 100.0;
                *percent <= 99.0 || beyond >= 1.0
            })
            .collect();
        write!(f, "\n\n{:10}{:>11}{:>11}", "ms", "min", "mean")?;
        for percent in &shown {
            write!(f, "{:>11}", Percentile(*percent).to_string())?;
        }
        write!(f, "{:>11}{:>11}", "max", "stddev")?;
        let phases = Phase::ALL.map(|phase| (name(phase), self.phase(phase)));
        for (name, times) in phases.into_iter().chain([("round trip", &self.rtt)]) {
            if times.count() == 0 {
                continue;
            }
            write!(f, "\n{name:10}")?;
            let percentiles = shown.iter().map(|percent| times.percentile(*percent));
            let before = [times.min(), times.mean()].into_iter();
            for time in before.chain(percentiles).chain([times.max(), times.stddev()]) {
                write!(f, "{:>11.3}", time.unwrap_or_default().as_secs_f64() * 1000.0)?;
            }
        }
        if !self.rtt.is_exact() {
            f.write_str("\npercentiles are rounded to three digits, everything else is exact")?;
        }
        f.write_str("\n")?;
        histogram(f, &self.rtt)
    }

    /// What delayed the probe itself.
    fn delays(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reconnects > 0 {
            let (times, gap) = (Often(self.reconnects), self.disconnected.as_secs_f64());
            write!(f, "\nreconnected {times}, without a connection for {gap:.3} s")?;
        }
        // If that few messages were late, the schedule was kept as far as anybody can tell.
        if let (Some(p99), Some(max)) = (self.late_by_percentile(99.0), self.late_by_max())
            && p99 > SUBSTANTIAL
        {
            let late = self.lateness.substantial;
            write!(f, "\nthe probe was late by p99 {}, max {}; ", Ms(p99), Ms(max))?;
            write!(f, "{late} left more than {} after they were due", Ms(SUBSTANTIAL))?;
        }
        Ok(())
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolve => "name",
        Phase::Connect => "connect",
        Phase::Tls => "TLS",
        Phase::Upgrade => "upgrade",
    }
}

fn line(f: &mut fmt::Formatter<'_>, times: &Times) -> fmt::Result {
    let figures = [
        ("min", times.min()),
        ("mean", times.mean()),
        ("median", times.percentile(50.0)),
        ("p90", times.percentile(90.0)),
        ("p99", times.percentile(99.0)),
        ("max", times.max()),
        ("stddev", times.stddev()),
    ];
    let mut separator = "";
    for (name, time) in figures {
        write!(f, "{separator}{name} {}", Ms(time.unwrap_or_default()))?;
        separator = ", ";
    }
    Ok(())
}

/// A line for each bucket: its bounds, its count and a bar.
fn histogram(f: &mut fmt::Formatter<'_>, times: &Times) -> fmt::Result {
    let buckets = times.histogram(BUCKETS);
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0).max(1);
    // As many digits as the narrowest bucket needs.
    let ms = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1000.0);
    let width = buckets.last().map_or(0, |bucket| ms(bucket.to).len());
    let digits = most.to_string().len();
    for bucket in buckets {
        let (from, to, count) = (ms(bucket.from), ms(bucket.to), bucket.count);
        // What is there, is seen.
        let bar = (count * BAR).div_ceil(most) as usize;
        write!(f, "\n{from:>width$} to {to:>width$} ms {count:>digits$}")?;
        if bar > 0 {
            write!(f, " {}", "\u{25a0}".repeat(bar))?;
        }
    }
    Ok(())
}

/// A time in milliseconds.
struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// A number of bytes.
struct Bytes(f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut units = ["B", "KiB", "MiB", "GiB"].into_iter();
        let (mut number, mut unit) = (self.0, units.next().unwrap_or_default());
        for larger in units {
            if number < 1024.0 {
                break;
            }
            (number, unit) = (number / 1024.0, larger);
        }
        write!(f, "{number:.1} {unit}")
    }
}

/// A share. Neither is a little shown as nothing, nor nearly everything as all.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0.0 => f.write_str("0%"),
            100.0 => f.write_str("100%"),
            percent if percent < 0.01 => f.write_str("<0.01%"),
            percent if percent > 99.99 => f.write_str(">99.99%"),
            percent if !(1.0..=99.0).contains(&percent) => write!(f, "{percent:.2}%"),
            percent => write!(f, "{percent:.1}%"),
        }
    }
}

struct Percentile(f64);

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            50.0 => f.write_str("median"),
            percent => write!(f, "p{percent}"),
        }
    }
}

/// How often something happened.
struct Often(u64);

impl fmt::Display for Often {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            times => write!(f, "{times} times"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ns(nanoseconds: u64) -> Duration {
        Duration::from_nanos(nanoseconds)
    }

    #[test]
    fn what_the_probe_is_late_by_is_shown_when_it_matters() {
        let mut summary = Summary::new(64);
        assert_eq!((summary.late_by_max(), summary.late_by_percentile(99.0)), (None, None));
        for _ in 0..99 {
            summary.record_lateness(ns(20_000));
        }
        summary.record_lateness(ns(7_000_001));
        assert_eq!((summary.sent_late(), summary.late_by_max()), (1, Some(ns(7_000_001))));
        // One in a hundred is as much as the 99th percentile passes over.
        assert!(!summary.to_string().contains("late by"), "{summary}");
        summary.record_lateness(ns(7_000_000));
        assert!(
            summary.to_string().ends_with(
                "\nthe probe was late by p99 7.000 ms, max 7.000 ms; 2 left more than 1.000 ms after \
                 they were due"
            ),
            "{summary}"
        );
    }

    #[test]
    fn people_read_what_there_is_and_nothing_else() {
        let mut summary = Summary::new(64);
        assert_eq!(summary.to_string(), "0 sent, 0 received, 0 lost (0%) in 0.000 s");
        (summary.sent, summary.received, summary.lost) = (4, 2, 1);
        (summary.unanswered, summary.unsent, summary.reordered) = (1, 4, 1);
        summary.record_in_order(ns(1_500_000));
        summary.record_in_order(ns(2_500_000));
        summary.fail("closed by the other side".to_owned());
        summary.reconnected(ns(1_234_000_000));
        assert_eq!(
            summary.to_string(),
            "4 sent, 2 received, 1 lost (33.3%) in 0.000 s\n\
             1 reordered, 1 still in flight when stopped, 4 due but not sent\n\
             rtt: min 1.500 ms, mean 2.000 ms, median 1.500 ms, p90 2.500 ms, p99 2.500 ms, \
             max 2.500 ms, stddev 0.500 ms, jitter 1.000 ms\n\
             reconnected once, without a connection for 1.234 s\n\
             once: closed by the other side"
        );
    }

    #[test]
    fn a_load_has_a_table_and_a_histogram() {
        let mut summary = Summary::new(1024);
        (summary.sent, summary.received, summary.elapsed) = (2000, 2000, Duration::from_secs(2));
        for n in 0..2000 {
            summary.record(ns(if n < 1500 {
                200_000
            } else if n < 1999 {
                300_000
            } else {
                345_678
            }));
        }
        assert_eq!(
            format!("{summary:#}"),
            "2000 sent, 2000 received, 0 lost (0%) in 2.000 s\n\
             1000 messages/s, 1000.0 KiB/s each way\n\n\
             ms                min       mean     median        p90        p99      p99.9        max     stddev\n\
             round trip      0.200      0.225      0.200      0.300      0.300      0.300      0.346      0.043\n\n\
             0.200 to 0.220 ms 1500 \u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\n\
             0.220 to 0.240 ms    0\n\
             0.240 to 0.270 ms    0\n\
             0.270 to 0.300 ms    0\n\
             0.300 to 0.330 ms  499 \u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\u{25a0}\n\
             0.330 to 0.360 ms    1 \u{25a0}"
        );
    }

    #[test]
    fn a_share_is_neither_nothing_nor_all_unless_it_is() {
        for (percent, text) in [
            (0.0, "0%"),
            (0.001, "<0.01%"),
            (0.5, "0.50%"),
            (12.34, "12.3%"),
            (99.5, "99.50%"),
            (99.999, ">99.99%"),
            (100.0, "100%"),
        ] {
            assert_eq!(Percent(percent).to_string(), text);
        }
    }
}
