//! Looks names up, each by itself, so that one whose resolver does not answer keeps no other waiting.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::probe::{Family, connect};

/// A lookup that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The addresses of a name, or why they are not known.
pub(super) type Found = Result<BTreeSet<IpAddr>, String>;

/// The lookups that are going on.
#[derive(Default)]
pub(super) struct Lookups {
    names: BTreeSet<String>,
    running: FuturesUnordered<BoxFuture<'static, (String, Found)>>,
}

impl Lookups {
    /// Looks up those of `names` that are not being looked up.
    pub(super) fn begin(&mut self, names: BTreeSet<String>, family: Option<Family>) {
        for name in names {
            if self.names.insert(name.clone()) {
                self.running.push(Box::pin(async move {
                    let found = look_up(&name, family).await;
                    (name, found)
                }));
            }
        }
    }

    /// Waits for the next that ends. For ever, if none goes on.
    pub(super) async fn next(&mut self) -> (String, Found) {
        match self.running.next().await {
            Some((name, found)) => {
                self.names.remove(&name);
                (name, found)
            }
            None => std::future::pending().await,
        }
    }
}

async fn look_up(name: &str, family: Option<Family>) -> Found {
    let found = match timeout(TIMEOUT, connect::addresses_of(name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("the resolver did not answer".to_owned()),
    };
    let found: BTreeSet<_> = found
        .into_iter()
        .map(|address| address.ip())
        .filter(|ip| match family {
            None => true,
            Some(Family::V4) => ip.is_ipv4(),
            Some(Family::V6) => ip.is_ipv6(),
        })
        .collect();
    match found.is_empty() {
        true => Err("it has no address".to_owned()),
        false => Ok(found),
    }
}
