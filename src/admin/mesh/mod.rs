//! The matrix of a mesh: what this host knows of its peers, and what they know of theirs.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | the two paths: the row of this host, and the page that is made of all rows |
//! | `row` | what one host knows, as JSON |
//! | `collect` | asks the peers for their rows |
//! | `page` | draws the page |

mod collect;
mod page;
mod row;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::probe::Board;
use row::Row;

pub(super) use page::CONTENT_SECURITY_POLICY;

/// How long a page is good for: whoever asks meanwhile gets the same, so that many who look ask the
/// peers no more often than one.
const FRESH: Duration = Duration::from_secs(2);

/// The mesh as one host sees it.
#[derive(Debug)]
pub(super) struct Mesh {
    board: Board,
    /// Where the peers serve their rows. `None`: they are not asked.
    peers_port: Option<u16>,
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Mesh {
    pub(super) fn new(board: Board, peers_port: Option<u16>) -> Self {
        Mesh { board, peers_port, last: Mutex::default() }
    }

    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    /// What this host knows.
    pub(super) fn row(&self) -> String {
        Row::of(&self.board).to_json()
    }

    /// The page. Only one at a time is made.
    pub(super) async fn page(&self) -> Arc<str> {
        let mut last = self.last.lock().await;
        if let Some((made, page)) = &*last
            && made.elapsed() < FRESH
        {
            return Arc::clone(page);
        }
        let own = Row::of(&self.board);
        let others = match self.peers_port {
            Some(port) => collect::rows(&self.board.members(), port).await,
            None => Vec::new(),
        };
        let page: Arc<str> = page::draw(own, others, SystemTime::now()).into();
        *last = Some((Instant::now(), Arc::clone(&page)));
        page
    }
}
