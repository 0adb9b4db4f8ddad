//! The matrix of a mesh: what this host knows of its peers, and what they know of theirs.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | the two paths: the row of this host, and the page that is made of all rows |
//! | `row` | what one host knows, as JSON |
//! | `collect` | asks the peers for their rows |
//! | `picture` | puts the rows together: which address is which host |
//! | `down` | what is down, in few words |
//! | `page`, `text` | draw the page |

mod collect;
mod down;
mod page;
mod picture;
mod row;
mod text;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::probe::Board;
use picture::{Names, Picture};
use row::Row;

pub(super) use page::{CONTENT_SECURITY_POLICY, Page};

/// How long a page is good for: whoever asks meanwhile gets the same, so that many who look ask the
/// peers no more often than one.
const FRESH: Duration = Duration::from_secs(2);

/// The mesh as one host sees it.
#[derive(Debug)]
pub(super) struct Mesh {
    board: Board,
    /// Where the peers serve their rows. `None`: they are not asked.
    peers_port: Option<u16>,
    last: Mutex<Option<Last>>,
}

/// The page that was made last.
#[derive(Debug)]
struct Last {
    made: Instant,
    page: Arc<Page>,
    names: Names,
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
    pub(super) async fn page(&self) -> Arc<Page> {
        let mut last = self.last.lock().await;
        if let Some(Last { made, page, .. }) = &*last
            && made.elapsed() < FRESH
        {
            return Arc::clone(page);
        }
        let own = Row::of(&self.board);
        let others = match self.peers_port {
            Some(port) => collect::rows(&self.board.members(), port).await,
            None => Vec::new(),
        };
        let before = last.as_ref().map(|last| last.names.clone()).unwrap_or_default();
        let picture = Picture::new(own, others, &before);
        let page = Arc::new(Page::draw(&picture, SystemTime::now()));
        *last = Some(Last { made: Instant::now(), page: Arc::clone(&page), names: picture.names });
        page
    }
}
