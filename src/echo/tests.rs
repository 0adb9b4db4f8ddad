//! The stream echo on a scripted transport that splits, delays, refuses and fails at every point.
//! The output is a prefix of the input, and all of it unless the transport failed.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::{Carrier, Echo, Goodbye, LowerStream, PeerEnd, Step, StreamEcho};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the transport does when it is next asked to read, write, flush or shut down.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Moves at most this many bytes.
    Moves(usize),
    /// Returns `Pending`, and wakes the task at once.
    NotNow,
    Fails,
}

/// Plays its answers, one a call. When they are used up, every call succeeds.
#[derive(Debug)]
struct Scripted {
    input: VecDeque<u8>,
    output: Vec<u8>,
    /// Written, but lost unless a flush follows.
    buffered: Vec<u8>,
    reads: VecDeque<Answer>,
    writes: VecDeque<Answer>,
    flushes: VecDeque<Answer>,
    is_shut_down: bool,
    failed: bool,
}

impl Scripted {
    fn next(
        queue: impl Fn(&mut Self) -> &mut VecDeque<Answer>,
        this: &mut Self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match queue(this).pop_front() {
            None => Poll::Ready(Ok(usize::MAX)),
            Some(Answer::Moves(most)) => Poll::Ready(Ok(most)),
            Some(Answer::NotNow) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Answer::Fails) => {
                this.failed = true;
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = std::task::ready!(Scripted::next(|this| &mut this.reads, &mut self, cx))?;
        let length = most.min(into.remaining()).min(self.input.len());
        for byte in self.input.drain(..length) {
            into.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl LowerStream for &mut Scripted {}

impl Carrier for &mut Scripted {
    fn lower(&mut self) -> &mut dyn LowerStream {
        self
    }
}

impl<R, W> LowerStream for tokio::io::Join<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: Unpin + Send,
{
}

impl<R, W> Carrier for tokio::io::Join<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    fn lower(&mut self) -> &mut dyn LowerStream {
        self
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        assert!(!self.is_shut_down, "nothing is written after the farewell");
        let most = std::task::ready!(Scripted::next(|this| &mut this.writes, &mut self, cx))?;
        let length = most.min(bytes.len());
        self.buffered.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Scripted::next(|this| &mut this.flushes, &mut self, cx))?;
        let Scripted { output, buffered, .. } = &mut *self;
        output.append(buffered);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Scripted::next(|this| &mut this.flushes, &mut self, cx))?;
        self.is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// A waker that records whether it was called.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls until ready. A `Pending` without a wake would be a hang, and fails the test.
fn drive<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    loop {
        if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        assert!(flag.0.swap(false, Ordering::Relaxed), "pending, and nobody will wake it");
    }
}

fn answers(can_fail: bool) -> impl Strategy<Value = VecDeque<Answer>> {
    let fails = if can_fail { 1 } else { 0 };
    let answer = prop_oneof![
        8 => (1_usize..300).prop_map(Answer::Moves),
        8 => Just(Answer::NotNow),
        fails => Just(Answer::Fails),
    ];
    prop::collection::vec(answer, 0..60).prop_map(VecDeque::from)
}

fn transport(can_fail: bool) -> impl Strategy<Value = Scripted> {
    let input = prop::collection::vec(any::<u8>(), 0..3000);
    (input, answers(can_fail), answers(can_fail), answers(can_fail)).prop_map(
        |(input, reads, writes, flushes)| Scripted {
            input: input.into(),
            output: Vec::new(),
            buffered: Vec::new(),
            reads,
            writes,
            flushes,
            is_shut_down: false,
            failed: false,
        },
    )
}

proptest! {
    #[test]
    fn everything_comes_back(mut transport in transport(false), batch in 1_usize..200) {
        let input: Vec<u8> = transport.input.iter().copied().collect();
        let mut echo = StreamEcho::new(&mut transport, batch);
        let end = loop {
            match drive(|cx| echo.poll_step(cx)).expect("the transport does not fail") {
                Step::Moved | Step::Costly => {}
                Step::Ended(end) => break end,
            }
        };
        prop_assert_eq!(end, PeerEnd::EndOfStream);
        prop_assert!(!echo.owes());
        drive(|cx| echo.poll_close(cx, Goodbye::Answer)).expect("the transport does not fail");
        let traffic = echo.traffic();
        prop_assert_eq!((traffic.received, traffic.sent), (input.len() as u64, input.len() as u64));
        prop_assert!(transport.is_shut_down);
        prop_assert_eq!(transport.output, input);
    }

    #[test]
    fn the_output_is_a_prefix_of_the_input(mut transport in transport(true), batch in 1_usize..200) {
        let input: Vec<u8> = transport.input.iter().copied().collect();
        let mut echo = StreamEcho::new(&mut transport, batch);
        let outcome = loop {
            match drive(|cx| echo.poll_step(cx)) {
                Ok(Step::Moved | Step::Costly) => {}
                Ok(Step::Ended(_)) => break drive(|cx| echo.poll_close(cx, Goodbye::Answer)),
                Err(error) => break Err(error),
            }
        };
        transport.output.append(&mut transport.buffered);
        prop_assert!(input.starts_with(&transport.output));
        if transport.failed {
            // After the farewell everything has been sent, so the linger may fail.
            prop_assert!(outcome.is_err() || transport.is_shut_down);
        } else {
            prop_assert!(outcome.is_ok());
            prop_assert_eq!(transport.output, input);
        }
    }

    /// A goodbye can come at any step, and everything that was read is still sent.
    #[test]
    fn a_goodbye_loses_nothing_that_was_read(
        mut transport in transport(false),
        batch in 1_usize..200,
        polls in 0_usize..60,
    ) {
        let input: Vec<u8> = transport.input.iter().copied().collect();
        let mut echo = StreamEcho::new(&mut transport, batch);
        for _ in 0..polls {
            let waker = Waker::from(Arc::new(Flag::default()));
            let _ = echo.poll_step(&mut Context::from_waker(&waker));
        }
        let received = echo.traffic().received as usize;
        drive(|cx| echo.poll_close(cx, Goodbye::GoingAway)).expect("the transport does not fail");
        prop_assert!(transport.is_shut_down);
        prop_assert_eq!(&transport.output[..], &input[..received]);
    }
}
