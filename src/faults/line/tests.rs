//! The line with a stream that notes each write.

use std::future::poll_fn;

use super::*;
use crate::config::Fault;
use crate::faults::Alarms;

/// The writes that a stream took, each of at most so many bytes; `None` if it takes nothing now.
#[derive(Debug, Default)]
struct Writes {
    all: Vec<Vec<u8>>,
    is_full: bool,
}

impl AsyncWrite for Writes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_full {
            return Poll::Pending;
        }
        self.all.push(bytes.to_vec());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Way {
    line: Line,
    alarm: Alarm,
    writes: Writes,
}

impl Way {
    fn with(faults: &[Fault]) -> Way {
        let mut plan = Plan::default();
        plan.extend(faults);
        let (alarms, watch) = Alarms::new().unwrap();
        tokio::spawn(watch);
        let line = Line::new(&plan, Chance::of(1, 0, 1));
        Way { line, alarm: Alarm::of(&alarms), writes: Writes::default() }
    }

    /// Polls once; how many writes there were.
    async fn poll_once(&mut self, hurry: bool) -> (bool, usize) {
        let before = self.writes.all.len();
        let sent = poll_fn(|cx| {
            let Way { line, alarm, writes } = self;
            Poll::Ready(line.poll_send(cx, writes, alarm, hurry).is_ready())
        });
        (sent.await, self.writes.all.len() - before)
    }

    async fn send_all(&mut self) -> Vec<u8> {
        poll_fn(|cx| self.line.poll_send(cx, &mut self.writes, &mut self.alarm, false))
            .await
            .unwrap();
        self.writes.all.concat()
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test]
async fn what_entered_together_leaves_together_however_many_pieces_it_has() {
    let mut way = Way::with(&[Fault::Delay(millis(300))]);
    let start = Instant::now();
    for number in 0..20 {
        way.line.push(vec![number]);
    }
    assert_eq!(way.poll_once(false).await, (false, 0));
    poll_fn(|cx| way.alarm.poll_until(cx, start + millis(301))).await;
    // A pause for each piece would have let one of them through.
    assert_eq!(way.poll_once(false).await, (true, 20));
    assert!(way.line.is_empty() && way.line.held() == 0);
}

#[tokio::test]
async fn nothing_overtakes_and_nothing_is_early() {
    let mut way = Way::with(&[Fault::Delay(millis(5)), Fault::Jitter(millis(20))]);
    let start = Instant::now();
    let bytes: Vec<u8> = (0..200).collect();
    bytes.chunks(3).for_each(|piece| way.line.push(piece.to_vec()));
    assert_eq!(way.send_all().await, bytes);
    assert!(start.elapsed() >= millis(5 + 10), "the greatest of 67 jitters");
}

#[tokio::test]
async fn a_write_is_no_longer_than_a_slice_and_a_poll_has_few_of_them() {
    let mut way = Way::with(&[Fault::Slice(10.try_into().unwrap())]);
    way.line.push(vec![7; 1005]);
    assert_eq!(way.poll_once(false).await, (false, WRITES_PER_POLL));
    assert_eq!(way.send_all().await, [7; 1005]);
    assert!(way.writes.all[..100].iter().all(|write| write.len() == 10));
    assert_eq!(way.writes.all[100].len(), 5);
}

#[tokio::test]
async fn a_rate_lets_as_many_bytes_through_as_its_time_allows() {
    let mut way = Way::with(&[Fault::Rate(100_000.try_into().unwrap())]);
    way.line.push(vec![7; 5_000]);
    let start = Instant::now();
    let (_, writes) = way.poll_once(false).await;
    assert!((1..=6).contains(&writes), "the first beat, and at most the slack: {writes}");
    assert_eq!(way.writes.all[0].len(), 400);
    way.send_all().await;
    let least = Duration::from_secs_f64((5_000 - 400) as f64 / 100_000.0);
    assert!(start.elapsed() >= least.saturating_sub(SLACK), "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_may_be_on_the_way_is_bounded_by_its_bytes_and_their_number() {
    for (faults, most) in [
        (&[Fault::Delay(Duration::from_secs(9))][..], MOST),
        (&[Fault::Slice(10.try_into().unwrap())], UNDELAYED),
        (&[Fault::Rate(1000.try_into().unwrap())], 1000),
        (&[Fault::Rate(1000.try_into().unwrap()), Fault::Delay(Duration::from_secs(9))], 10_000),
        (&[Fault::Rate(1.try_into().unwrap())], 1),
    ] {
        for piece in [1, 10_000] {
            let mut way = Way::with(faults);
            while way.line.room() > 0 {
                let length = piece.min(way.line.room());
                way.line.push(vec![0; length]);
            }
            assert!(way.line.held() < most + piece.min(most) + OVERHEAD, "{faults:?}");
            assert!(way.line.chunks.len() <= most / OVERHEAD + 1, "{faults:?}");
        }
    }
}

#[tokio::test]
async fn a_hurry_knows_neither_delay_nor_rate_but_waits_for_the_stream() {
    let day = Duration::from_secs(24 * 60 * 60);
    let mut way = Way::with(&[Fault::Delay(day), Fault::Rate(1.try_into().unwrap())]);
    way.line.push(vec![7; 500]);
    assert_eq!(way.poll_once(false).await, (false, 0));
    way.writes.is_full = true;
    assert_eq!(way.poll_once(true).await, (false, 0));
    way.writes.is_full = false;
    assert_eq!(way.poll_once(true).await, (true, 1));
    assert_eq!(way.line.backlog(), 0);
}

#[tokio::test]
async fn a_slow_stream_has_no_debt_to_the_rate_that_it_could_catch_up_in_one_burst() {
    let mut way = Way::with(&[Fault::Rate(100_000.try_into().unwrap())]);
    way.line.push(vec![7; 400]);
    way.send_all().await;
    poll_fn(|cx| way.alarm.poll_until(cx, Instant::now() + Duration::ZERO)).await;
    let later = Instant::now() + millis(200);
    poll_fn(|cx| way.alarm.poll_until(cx, later)).await;
    way.line.push(vec![7; 20_000]);
    let (_, writes) = way.poll_once(false).await;
    // 200 ms have passed unused; at most the slack of 20 ms is caught up.
    assert!(writes * 400 <= 2_000 + 400, "{writes}");
}
