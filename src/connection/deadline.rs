//! A timer for a deadline that keeps moving. A connection has one for all its timeouts.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Future;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project_lite::pin_project! {
    /// A timer whose deadline can move later at no cost.
    ///
    /// Each message postpones a connection's idle deadline. To reset the runtime's timer each time
    /// would cost more than the echo. So the timer stays armed as it is, and when it fires it is
    /// armed for the deadline of that moment.
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
            // The first poll arms the timer, so a used up coop budget must not prevent it.
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
    async fn a_deadline_that_moves_later_passes_at_its_last_value() {
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
    async fn a_deadline_that_moves_earlier_passes_there() {
        let start = Instant::now();
        let mut deadline = pin!(Deadline::default());
        assert!(poll_once(deadline.as_mut(), start + 100 * SECOND).await.is_pending());
        assert!(poll_once(deadline.as_mut(), start + SECOND).await.is_pending());
        tokio::time::advance(2 * SECOND).await;
        assert!(poll_once(deadline.as_mut(), start + SECOND).await.is_ready());
    }
}
