//! Idle connections: the server's memory for each, after it has echoed once.

use std::io;

use futures::{StreamExt, TryStreamExt, stream};

use super::process;
use super::sample::{Metric, Sample, Trouble};
use super::servers::Running;
use super::visit::{Visitor, Visitors};

/// Visitors that arrive at the same time.
const ARRIVING: usize = 100;

/// Visitors that come and go before memory is measured for the first time.
const WARM_UP: usize = 20;

/// Opens this many `connections` to `server`.
pub async fn measure(server: &Running, connections: usize) -> Result<Sample, Trouble> {
    let visitors = Visitors::of(server)?;
    let trouble = |error: io::Error| error.to_string();
    for visitor in gather(&visitors, WARM_UP).await.map_err(trouble)? {
        visitor.leave().await.map_err(trouble)?;
    }
    let before = process::resident(server.pid());
    let staying = gather(&visitors, connections).await.map_err(trouble)?;
    let after = process::resident(server.pid());
    let mut sample = Sample { right: staying.len() as u64, ..Sample::default() };
    if let Some((before, after)) = before.zip(after) {
        let grown = after.saturating_sub(before) as f64;
        sample.values.insert(Metric::Resident, grown / connections as f64);
    }
    Ok(sample)
}

/// Opens `count` connections and makes one echo on each.
async fn gather(visitors: &Visitors, count: usize) -> io::Result<Vec<Visitor>> {
    let arrivals = stream::iter(0..count).map(|n| async move {
        let mut visitor = visitors.arrive(n).await?;
        visitor.echo().await?;
        Ok(visitor)
    });
    arrivals.buffer_unordered(ARRIVING).try_collect().await
}
