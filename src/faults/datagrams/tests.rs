//! The way of datagrams that misbehave, without sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, advance};

use super::transit::{MOST_BYTES, MOST_REPLIES};
use super::{Detour, HOLD, Tally};
use crate::config::{FaultPolicy, Protocol};
use crate::echo::{Reply, Way};
use crate::faults::{Alarms, Faults};

const MS: Duration = Duration::from_millis(1);

fn faults(group: &str) -> Arc<Faults> {
    let policy = FaultPolicy { groups: vec![group.parse().unwrap()], ..FaultPolicy::default() };
    Arc::new(Faults::new(&policy, Duration::MAX, 1, vec![Arc::new(Alarms::default())]))
}

/// The way of a socket of its own.
fn detour(faults: &Arc<Faults>) -> Detour {
    Detour::new(Arc::clone(faults), 0, Arc::new(Tally::default()))
}

fn peer(number: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], number))
}

/// Takes a datagram of one flow that holds `bytes`.
fn take(detour: &mut Detour, bytes: impl Into<Vec<u8>>) {
    take_of(detour, 1, bytes);
}

fn take_of(detour: &mut Detour, flow: u16, bytes: impl Into<Vec<u8>>) {
    detour.take(Reply::to(peer(flow), bytes.into()), || true);
}

/// Takes numbered datagrams.
fn take_all(detour: &mut Detour, numbers: std::ops::Range<u8>) {
    numbers.for_each(|number| take(detour, [number]));
}

/// What leaves now.
fn leaving(detour: &mut Detour) -> Vec<Vec<u8>> {
    released(detour, false)
}

fn released(detour: &mut Detour, hurry: bool) -> Vec<Vec<u8>> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut all = Vec::new();
    while let Poll::Ready(Some(reply)) = detour.poll_next(&mut cx, hurry) {
        all.push(reply.bytes.clone());
        detour.pop();
    }
    all
}

/// The first bytes of what leaves now.
fn numbers(detour: &mut Detour) -> Vec<u8> {
    leaving(detour).iter().map(|bytes| bytes[0]).collect()
}

fn shown(detour: &Detour) -> String {
    detour.tally.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_delay_takes_no_bandwidth() {
    let mut detour = detour(&faults("udp:delay=50ms"));
    take_all(&mut detour, 0..100);
    advance(20 * MS).await;
    take_all(&mut detour, 100..200);
    advance(29 * MS).await;
    assert!(leaving(&mut detour).is_empty());
    advance(MS).await;
    assert_eq!(numbers(&mut detour), (0..100).collect::<Vec<_>>());
    advance(19 * MS).await;
    assert!(leaving(&mut detour).is_empty());
    advance(MS).await;
    assert_eq!(numbers(&mut detour), (100..200).collect::<Vec<_>>());
    assert_eq!(shown(&detour), "delay 200");
}

#[tokio::test(start_paused = true)]
async fn jitter_lets_datagrams_overtake_each_other_and_ends() {
    let mut detour = detour(&faults("udp:delay=50ms,jitter=50ms"));
    take_all(&mut detour, 0..100);
    advance(50 * MS - Duration::from_micros(1)).await;
    assert!(leaving(&mut detour).is_empty());
    advance(25 * MS).await;
    let mut order = numbers(&mut detour);
    assert!((30..70).contains(&order.len()), "{order:?}");
    advance(25 * MS + Duration::from_micros(1)).await;
    order.extend(numbers(&mut detour));
    assert!(!order.is_sorted());
    order.sort();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_rate_lets_each_flow_wait_for_a_second_at_most() {
    let mut detour = detour(&faults("udp:rate=1000"));
    for number in 0..20 {
        take(&mut detour, [number; 100]);
    }
    take_of(&mut detour, 2, [77; 100]);
    // The first ones of two flows leave at once.
    assert_eq!(numbers(&mut detour), [0, 77]);
    advance(99 * MS).await;
    assert!(leaving(&mut detour).is_empty());
    for number in 1..=10 {
        advance(if number == 1 { MS } else { 100 * MS }).await;
        assert_eq!(numbers(&mut detour), [number]);
    }
    assert_eq!(shown(&detour), "rate 9");
    // What has not been used for a while is no credit.
    advance(Duration::from_secs(100)).await;
    take(&mut detour, [1; 100]);
    take(&mut detour, [2; 100]);
    assert_eq!(numbers(&mut detour), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_added_to_what_a_rate_takes() {
    let mut detour = detour(&faults("udp:rate=1000,delay=500ms"));
    take(&mut detour, [1; 100]);
    take(&mut detour, [2; 100]);
    advance(500 * MS).await;
    assert_eq!(numbers(&mut detour), [1]);
    advance(100 * MS).await;
    assert_eq!(numbers(&mut detour), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_datagram_leaves_right_behind_the_next_one() {
    let faults = faults("udp:reorder=50%");
    let mut detour = detour(&faults);
    take_all(&mut detour, 0..200);
    let order = numbers(&mut detour);
    advance(HOLD).await;
    let rest = numbers(&mut detour);
    // The first flow's decisions, from the same source.
    let plan = faults.plan_of(Protocol::Udp, 1);
    let mut fates = super::fate::Fates::new(&plan, faults.chance(Protocol::Udp, 1));
    let (mut expected, mut held) = (Vec::new(), Vec::new());
    for number in 0..200 {
        if fates.next().is_overtaken {
            held.push(number);
        } else {
            expected.push(number);
            expected.extend(held.drain(..).rev());
        }
    }
    assert_eq!((order, rest), (expected, held));
}

#[tokio::test(start_paused = true)]
async fn a_datagram_that_none_overtakes_leaves_after_a_while() {
    for (group, delay) in [
        ("udp:reorder=100%", Duration::ZERO),
        ("udp:reorder=100%,delay=1s", Duration::from_secs(1)),
    ] {
        let mut detour = detour(&faults(group));
        take_all(&mut detour, 0..3);
        advance(HOLD - MS).await;
        assert!(leaving(&mut detour).is_empty());
        advance(MS).await;
        if !delay.is_zero() {
            assert!(leaving(&mut detour).is_empty());
            advance(delay - MS).await;
            assert!(leaving(&mut detour).is_empty());
            advance(MS).await;
        }
        assert_eq!(numbers(&mut detour), [0, 1, 2], "{group}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_datagram_that_is_not_held_any_more_is_not_overtaken() {
    // The first one of the flow is to be overtaken, and the second one is not.
    let group = "udp:reorder=50%,delay=1s";
    let begins = |flow: &u16| {
        let faults = faults(group);
        let plan = faults.plan_of(Protocol::Udp, u64::from(*flow));
        let chance = faults.chance(Protocol::Udp, u64::from(*flow));
        let mut fates = super::fate::Fates::new(&plan, chance);
        fates.next().is_overtaken && !fates.next().is_overtaken
    };
    let flow = (1..100).find(begins).expect("one of four is like that");
    for (pause, order) in [(HOLD - MS, [2, 1]), (HOLD + MS, [1, 2])] {
        let mut detour = detour(&faults(group));
        (1..flow).for_each(|before| take_of(&mut detour, before, [0]));
        advance(Duration::from_secs(10)).await;
        leaving(&mut detour);
        take_of(&mut detour, flow, [1]);
        advance(pause).await;
        assert!(leaving(&mut detour).is_empty());
        take_of(&mut detour, flow, [2]);
        advance(Duration::from_secs(2)).await;
        leaving(&mut detour).into_iter().zip(order).for_each(|(bytes, number)| {
            assert_eq!(bytes, [number], "{pause:?}");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_datagram_is_doubled_if_the_rules_allow_it() {
    let mut detour = detour(&faults("udp:duplicate=100%"));
    for (number, allowed) in [(1, true), (2, false), (3, true)] {
        detour.take(Reply::to(peer(1), vec![number]), || allowed);
    }
    assert_eq!(numbers(&mut detour), [1, 1, 2, 3, 3]);
    assert_eq!(shown(&detour), "duplicate 2");
}

#[tokio::test(start_paused = true)]
async fn one_bit_is_flipped_and_never_one_of_nothing() {
    let faults = faults("udp:corrupt=100%");
    let mut detour = detour(&faults);
    for _ in 0..1000 {
        take(&mut detour, [0; 100]);
    }
    take(&mut detour, []);
    let all = leaving(&mut detour);
    let (empty, all) = all.split_last().unwrap();
    assert!(empty.is_empty());
    let mut places = vec![0; 100];
    for bytes in all {
        let flipped: Vec<_> = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).collect();
        let [(place, byte)] = flipped[..] else { panic!("{bytes:?}") };
        assert_eq!(byte.count_ones(), 1);
        places[place] += 1;
    }
    assert!(places.iter().all(|times| *times < 40), "{places:?}");
    assert_eq!(shown(&detour), "corrupt 1000");
    let counted: Vec<_> =
        faults.counts(Protocol::Udp).into_iter().filter(|(.., times)| *times > 0).collect();
    assert_eq!(counted, [(Protocol::Udp, "corrupt", 1000)]);
}

#[tokio::test(start_paused = true)]
async fn in_a_hurry_all_leave_in_the_order_of_their_times() {
    let mut detour = detour(&faults("udp:delay=1h,reorder=10%"));
    take_all(&mut detour, 0..50);
    assert!(leaving(&mut detour).is_empty());
    let mut all: Vec<_> = released(&mut detour, true).iter().map(|bytes| bytes[0]).collect();
    all.sort();
    assert_eq!(all, (0..50).collect::<Vec<_>>());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(detour.poll_next(&mut cx, false), Poll::Ready(None)));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_bounded() {
    let mut detour = detour(&faults("udp:delay=1h"));
    for _ in 0..MOST_REPLIES + 10 {
        take(&mut detour, [1]);
    }
    assert_eq!(released(&mut detour, true).len(), MOST_REPLIES);
    assert!(shown(&detour).contains("rate 10"), "{}", shown(&detour));
    let size = 60_000;
    for _ in 0..MOST_BYTES / size + 5 {
        take(&mut detour, vec![1; size]);
    }
    assert_eq!(released(&mut detour, true).len(), MOST_BYTES / size);
    take(&mut detour, [1]);
    assert_eq!(released(&mut detour, true).len(), 1, "there is room again");
}

#[tokio::test(start_paused = true)]
async fn what_leaves_at_once_needs_no_room() {
    let mut detour = detour(&faults("udp:delay=1h,share=50%"));
    // Some flows are late, and fill the way. The others are not late.
    let mut at_once = 0;
    for flow in 1..=12 {
        for _ in 0..MOST_REPLIES {
            take_of(&mut detour, flow, [flow as u8]);
        }
        at_once += leaving(&mut detour).len();
    }
    assert!(at_once > 0 && at_once.is_multiple_of(MOST_REPLIES), "{at_once}");
    assert_eq!(released(&mut detour, true).len(), MOST_REPLIES);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_flows_misbehaves_over_all_sockets() {
    let faults = faults("udp:drop=100%,share=30%");
    let mut sockets = [detour(&faults), detour(&faults)];
    // Flows of two sockets that are counted together are as the same flows of one.
    for flow in 1..=10_000 {
        take_of(&mut sockets[usize::from(flow % 3 == 0)], flow, flow.to_be_bytes());
    }
    let mut passed: Vec<_> = sockets.iter_mut().flat_map(leaving).collect();
    passed.sort();
    let mut one = detour(&self::faults("udp:drop=100%,share=30%"));
    (1..=10_000).for_each(|flow| take_of(&mut one, flow, flow.to_be_bytes()));
    assert_eq!(passed, leaving(&mut one));
    // Four standard deviations of sqrt(10,000 · 0.3 · 0.7).
    assert!((6817..=7183).contains(&passed.len()), "{}", passed.len());
}

#[tokio::test]
async fn a_reply_leaves_at_its_time() {
    let (alarms, watch) = Alarms::new().unwrap();
    tokio::spawn(watch);
    let policy =
        FaultPolicy { groups: vec!["udp:delay=30ms".parse().unwrap()], ..FaultPolicy::default() };
    let mut detour = detour(&Arc::new(Faults::new(&policy, Duration::MAX, 1, vec![alarms])));
    let start = Instant::now();
    take(&mut detour, [1]);
    let bytes = std::future::poll_fn(|cx| {
        detour.poll_next(cx, false).map(|reply| reply.map(|reply| reply.bytes.clone()))
    });
    assert_eq!(bytes.await, Some(vec![1]));
    assert!(start.elapsed() >= 30 * MS);
}
