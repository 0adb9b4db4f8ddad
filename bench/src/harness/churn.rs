//! Churn: connections that connect, echo once and close.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::counter::{COUNTING, Counted, Counter};
use super::process;
use super::sample::{Metric, Sample, Trouble};
use super::servers::Running;
use super::visit::Visitors;

/// Visitors at a time.
const AT_A_TIME: usize = 50;

/// How long a server is warmed up.
const WARM_UP: Duration = Duration::from_millis(300);

/// Visits `server` for this many `seconds`.
pub async fn measure(server: &Running, seconds: f64) -> Result<Sample, Trouble> {
    let visits = Visits { visitors: Visitors::of(server)?, count: Cell::new(0) };
    let duration = Duration::from_secs_f64(seconds);
    visits.until(Instant::now() + duration.min(WARM_UP)).await?;
    let (before, began, cpu) =
        (visits.count.get(), Instant::now(), process::cpu_time(server.pid()));
    let mut times = visits.until(began + duration).await?;
    let (count, took) = (visits.count.get() - before, began.elapsed());
    let mut sample = Sample { right: count as u64, ..Sample::default() };
    sample.values.insert(Metric::Rate, count as f64 / took.as_secs_f64());
    if let Some((from, to)) = cpu.zip(process::cpu_time(server.pid())) {
        let spent = to.saturating_sub(from).as_nanos() as f64;
        sample.values.insert(Metric::Cpu, spent / count.max(1) as f64);
    }
    times.sort_unstable();
    for (metric, part) in [(Metric::P50, 0.5), (Metric::P99, 0.99), (Metric::P999, 0.999)] {
        if let Some(time) = times.get((times.len() as f64 * part) as usize) {
            sample.values.insert(metric, time.as_nanos() as f64);
        }
    }
    Ok(sample)
}

/// What `server` does for a visit. `None` if it cannot be counted.
pub async fn count(server: &Running, counter: Counter) -> Result<Option<(Counted, u64)>, Trouble> {
    let visits = Visits { visitors: Visitors::of(server)?, count: Cell::new(0) };
    visits.until(Instant::now() + WARM_UP).await?;
    let Some(counting) = counter.attach(server.pid()) else { return Ok(None) };
    let visited = visits.until(Instant::now() + COUNTING).await?.len();
    Ok(counting.detach().map(|counted| (counted, visited as u64)))
}

struct Visits {
    visitors: Visitors,
    count: Cell<usize>,
}

impl Visits {
    /// Makes visits until `end`, several at a time. Returns how long each took.
    async fn until(&self, end: Instant) -> Result<Vec<Duration>, Trouble> {
        let queues = (0..AT_A_TIME).map(|_| async {
            let mut times = Vec::new();
            while Instant::now() < end {
                let (n, began) = (self.count.get(), Instant::now());
                self.count.set(n + 1);
                let mut visitor = self.visitors.arrive(n).await?;
                visitor.echo().await?;
                visitor.leave().await?;
                times.push(began.elapsed());
            }
            Ok(times)
        });
        let times: std::io::Result<Vec<Vec<_>>> = join_all(queues).await.into_iter().collect();
        Ok(times.map_err(|error| error.to_string())?.concat())
    }
}
