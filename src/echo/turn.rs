//! How a task that could go on gives up its turn.

use std::pin::pin;
use std::task::Context;

use futures::Future;

/// Has the task woken once the runtime has asked the kernel for events. The caller then returns
/// `Pending`. A wake of oneself would come before that, some sixty times over, and the sockets of
/// others would wait.
pub(crate) fn yield_turn(cx: &mut Context<'_>) {
    let yielded = pin!(tokio::task::yield_now()).poll(cx);
    debug_assert!(yielded.is_pending(), "yield_now is pending once");
}
