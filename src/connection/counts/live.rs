//! What each session has echoed so far, for whoever asks while it lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::echo::Traffic;

/// What one session has echoed so far. Only the session writes the traffic, so that a store without
/// a lock prefix is enough; it has its cache lines for itself, since sessions of different threads
/// are allocated side by side. Aligned to 128 bytes because processors prefetch cache lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(in crate::connection) struct Live {
    received: AtomicU64,
    sent: AtomicU64,
    messages: AtomicU64,
    /// Its place among the sessions. It is written under their lock.
    at: AtomicUsize,
}

impl Live {
    /// Publishes what has gone through so far.
    #[inline]
    pub(in crate::connection) fn set(&self, traffic: Traffic) {
        self.received.store(traffic.received, Ordering::Relaxed);
        self.sent.store(traffic.sent, Ordering::Relaxed);
        self.messages.store(traffic.messages, Ordering::Relaxed);
    }

    fn get(&self) -> Traffic {
        Traffic {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
        }
    }
}

/// The sessions that live.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Arc<Live>>);

impl Sessions {
    pub(super) fn add(&mut self) -> Arc<Live> {
        let live = Arc::new(Live { at: self.0.len().into(), ..Live::default() });
        self.0.push(Arc::clone(&live));
        live
    }

    pub(super) fn remove(&mut self, live: &Live) {
        let at = live.at.load(Ordering::Relaxed);
        self.0.swap_remove(at);
        // The last one has taken its place.
        if let Some(moved) = self.0.get(at) {
            moved.at.store(at, Ordering::Relaxed);
        }
        if self.0.len() < self.0.capacity() / 4 {
            // A flood of connections must not be paid for when it is over.
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    /// What all of them have echoed so far.
    pub(super) fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for live in &self.0 {
            sum += live.get();
        }
        sum
    }
}
