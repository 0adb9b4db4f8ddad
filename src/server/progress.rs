//! Whether the threads that run sessions still poll their tasks, for health checks and watchdogs. It
//! costs nothing until somebody asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Tells whether the threads of a [`Server`](crate::Server) make progress: each is handed an empty
/// task, and makes progress if it runs that task in time. All clones share what they have asked.
#[derive(Debug, Clone)]
pub struct Progress {
    threads: Arc<[Thread]>,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// The last task that the runtime was handed. While it has not run, nobody hands over another:
    /// a stuck thread must not collect one for each time that somebody asks.
    question: Mutex<Option<Question>>,
}

/// Completes when the task has run, with `true`, or when its runtime was dropped, with `false`.
type Question = Shared<BoxFuture<'static, bool>>;

impl Progress {
    pub(super) fn of(runtimes: Vec<&Handle>) -> Self {
        let thread =
            |runtime| Thread { runtime: Handle::clone(runtime), question: Mutex::default() };
        Progress { threads: runtimes.into_iter().map(thread).collect() }
    }

    /// The index of the first thread that does not run a new task within `patience`, or whose
    /// runtime was dropped; `None` as soon as all have run theirs.
    /// If the server runs in one runtime of several threads, the answer is about them together.
    ///
    /// # Panics
    /// If called outside a tokio runtime whose timers are enabled.
    pub async fn stalled(&self, patience: Duration) -> Option<usize> {
        let answers = self.threads.iter().map(|thread| timeout(patience, thread.ask()));
        let answers = join_all(answers).await;
        answers.into_iter().position(|answer| answer != Ok(true))
    }
}

impl Thread {
    fn ask(&self) -> Question {
        let mut question = self.question.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = question.as_ref().filter(|question| question.peek().is_none()) {
            return pending.clone();
        }
        let task = self.runtime.spawn(async {});
        let asked = task.map(|ran| ran.is_ok()).boxed().shared();
        *question = Some(asked.clone());
        asked
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A runtime that a thread of its own drives until the sender is dropped.
    fn runtime() -> (Handle, oneshot::Sender<()>, thread::JoinHandle<()>) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let driving = thread::spawn(move || drop(runtime.block_on(stopped)));
        (handle, stop, driving)
    }

    #[tokio::test]
    async fn a_stuck_thread_makes_no_progress_until_it_goes_on() {
        let (first, _stop, _) = runtime();
        let progress = Progress::of(vec![&first]);
        assert_eq!(progress.stalled(LONG).await, None);

        let (release, released) = mpsc::channel::<()>();
        let (enter, entered) = oneshot::channel();
        first.spawn(async move {
            enter.send(()).unwrap();
            // Blocks its thread, as a bug would.
            let _ = released.recv();
        });
        entered.await.unwrap();
        for _ in 0..10 {
            assert_eq!(progress.stalled(Duration::from_millis(1)).await, Some(0));
        }
        assert_eq!(first.metrics().global_queue_depth(), 1, "one question, however often asked");

        drop(release);
        assert_eq!(progress.stalled(LONG).await, None);
    }

    #[tokio::test]
    async fn a_thread_whose_runtime_is_gone_makes_no_progress() {
        let ((first, _stop, _), (second, stop, driving)) = (runtime(), runtime());
        let progress = Progress::of(vec![&first, &second]);
        assert_eq!(progress.stalled(LONG).await, None);
        drop(stop);
        driving.join().unwrap();
        assert_eq!(progress.stalled(LONG).await, Some(1));
    }

    #[test]
    fn a_question_that_nobody_waits_for_any_more_is_answered_to_the_next_who_asks() {
        let runtime: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let progress = Progress::of(vec![runtime.handle()]);
        drop(progress.threads[0].ask());
        assert_eq!(runtime.block_on(progress.stalled(LONG)), None);
    }
}
