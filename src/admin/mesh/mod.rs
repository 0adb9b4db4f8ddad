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

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::probe::Board;
use picture::{Names, Picture};
use row::{Known, Row};

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
    /// Held by who makes a page.
    making: tokio::sync::Mutex<()>,
}

/// The page that was made last.
#[derive(Debug, Clone)]
struct Last {
    made: Instant,
    page: Arc<Page>,
    names: Names,
}

impl Mesh {
    pub(super) fn new(board: Board, peers_port: Option<u16>) -> Self {
        Mesh { board, peers_port, last: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    /// What this host knows.
    pub(super) fn row(&self) -> String {
        Row::of(&self.board).to_json()
    }

    /// The page. Only one at a time is made; who asks meanwhile gets the one before, and holds no place
    /// at the endpoint while somebody else's peers are waited for.
    pub(super) async fn page(&self) -> Arc<Page> {
        let is_fresh = |last: &Last| last.made.elapsed() < FRESH;
        let shown = self.last();
        if let Some(last) = shown.filter(is_fresh) {
            return last.page;
        }
        let _making = match self.making.try_lock() {
            Ok(making) => making,
            Err(_) => match self.last() {
                Some(last) => return last.page,
                None => self.making.lock().await,
            },
        };
        // Who held it may have just made one.
        let last = self.last();
        if let Some(last) = last.clone().filter(is_fresh) {
            return last.page;
        }
        let own = Row::of(&self.board);
        let members = self.board.members();
        let known = Known {
            addresses: members.iter().chain(&own.own).copied().collect(),
            targets: own.cells.iter().map(|cell| cell.target.clone()).collect(),
        };
        let others = match self.peers_port {
            Some(port) => collect::rows(&members, &known, port).await,
            None => Vec::new(),
        };
        let before = last.map(|last| last.names).unwrap_or_default();
        let picture = Picture::new(own, others, &before);
        let page = Arc::new(Page::draw(&picture, SystemTime::now()));
        let names = picture.names;
        let made = Last { made: Instant::now(), page: Arc::clone(&page), names };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        page
    }

    fn last(&self) -> Option<Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
