//! A timer for a deadline that keeps moving: one for each connection, whatever its timeouts.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Future;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project_lite::pin_project! {
    /// A timer whose deadline moves later all the time, and costs nothing when it does.
    ///
    /// Each message puts a connection's idle deadline off. To tell the runtime's timers each time
    /// would cost more than the echo; so the timer stays where it was armed, and when it fires the
    /// deadline of that moment is compared and armed instead.
    #[derive(Default)]
    pub(crate) struct Deadline {
        #[pin]
        timer: Option<Sleep>,
    }
}

impl Deadline {
    /// Ready once `deadline` has passed; the task is woken then.
    pub(crate) fn poll_passed(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        deadline: Instant,
    ) -> Poll<()> {
        let mut this = self.project();
        loop {
            if let Some(timer) = this.timer.as_mut().as_pin_mut()
                && timer.deadline() <= deadline
            {
                if !timer.is_elapsed() {
                    return Poll::Pending;
                }
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
            }
            match this.timer.as_mut().as_pin_mut() {
                Some(timer) => timer.reset(deadline),
                None => this.timer.set(Some(sleep_until(deadline))),
            }
            // Polling is what arms it, so the task's budget must not prevent that.
            let timer = this.timer.as_mut().as_pin_mut().expect("it has just been set");
            ready!(Pin::new(&mut unconstrained(timer)).poll(cx));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn poll_once(mut deadline: Pin<&mut Deadline>, at: Instant) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(deadline.as_mut().poll_passed(cx, at))).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_later_is_met_at_its_last_place() {
        let start = Instant::now();
        let mut deadline = pin!(Deadline::default());
        let mut wakes = 0;
        poll_fn(|cx| {
            wakes += 1;
            // As if a message came just before each wake, until ten have come.
            let last_message = (Instant::now() - start).min(9 * SECOND);
            deadline.as_mut().poll_passed(cx, start + last_message + SECOND)
        })
        .await;
        assert_eq!((Instant::now() - start).as_secs(), 10);
        assert!(wakes <= 12, "{wakes} wakes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_earlier_is_met_there() {
        let start = Instant::now();
        let mut deadline = pin!(Deadline::default());
        assert!(poll_once(deadline.as_mut(), start + 100 * SECOND).await.is_pending());
        assert!(poll_once(deadline.as_mut(), start + SECOND).await.is_pending());
        tokio::time::advance(2 * SECOND).await;
        assert!(poll_once(deadline.as_mut(), start + SECOND).await.is_ready());
    }
}
