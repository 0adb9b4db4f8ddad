//! Compares the rewriter with RFC 6455 case by case, and with tungstenite on random input. Input is
//! cut at every byte.

use std::io::{self, Cursor, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::prelude::*;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket};

use super::*;
use crate::echo::{Echo, Step, StreamEcho};

/// The buffer of most tests, without its headroom.
const BATCH: usize = 64 * 1024;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame, masked if it has a key.
fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask_bit = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(mask_bit | length as u8),
        length @ 126..65_536 => {
            bytes.push(mask_bit | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(mask_bit | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(key.into_iter().flatten());
    let key = key.unwrap_or_default();
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A client's frame.
fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some([0x37, 0xFA, 0x21, 0x3D]))
}

/// A server's frame.
fn echoed(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, None)
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// What a client gets back for some input.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    output: Vec<u8>,
    /// How the echo ended, if it did: by the peer's Close, or with a code of ours.
    end: Option<Result<PeerEnd, u16>>,
}

/// Feeds input in pieces, as many passes for each as it takes, and appends the farewell if that ends
/// the echo.
fn rewrite(frames: &mut Frames, pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Outcome {
    let mut outcome = Outcome::default();
    for piece in pieces {
        let mut next: Option<Box<[u8]>> = Some(piece.as_ref().into());
        while let Some(input) = next {
            let mut buffer = vec![0xEE; Frames::HEADROOM + input.len()];
            buffer[Frames::HEADROOM..].copy_from_slice(&input);
            let Rewritten { released, output, end, .. } = frames.pass(&mut buffer);
            outcome.output.extend(released);
            outcome.output.extend(&buffer[output]);
            if let Some(end) = end {
                outcome.end = Some(end.map_err(|error| match error {
                    EchoError::Protocol { code, .. } => code,
                    other => panic!("{other}"),
                }));
                outcome.output.extend(frames.farewell(Goodbye::Answer).into_iter().flatten());
                return outcome;
            }
            next = frames.take_unread(BATCH);
            assert!(next.as_ref().is_none_or(|unread| unread.len() < input.len()), "no progress");
        }
    }
    outcome
}

fn whole(input: &[u8], compression: bool) -> Outcome {
    rewrite(&mut Frames::new(compression, BATCH), input.chunks(BATCH))
}

/// The same, one byte at a time.
fn dripped(input: &[u8], compression: bool) -> Outcome {
    rewrite(&mut Frames::new(compression, BATCH), input.chunks(1))
}

/// A case: the client's frames, what comes back, and how it ends.
type Case = (&'static str, Vec<Vec<u8>>, Vec<Vec<u8>>, Option<Result<PeerEnd, u16>>);

fn check(cases: Vec<Case>) {
    for (name, input, output, end) in cases {
        let expected = Outcome { output: output.concat(), end };
        let input = input.concat();
        assert_eq!(whole(&input, false), expected, "{name}");
        assert_eq!(dripped(&input, false), expected, "{name}, byte by byte");
        for cut in 0..input.len().min(300) {
            let (first, second) = input.split_at(cut);
            let outcome = rewrite(&mut Frames::new(false, BATCH), [first, second].iter());
            assert_eq!(outcome, expected, "{name}, cut at {cut}");
        }
    }
}

/// A case in which everything comes back, frame by frame.
fn all_back(name: &'static str, frames: &[(u8, Vec<u8>)]) -> Case {
    let input = frames.iter().map(|(first, payload)| sent(*first, payload)).collect();
    let output = frames.iter().filter(|(first, _)| *first != FIN | PONG).map(|(first, payload)| {
        let first = if *first == FIN | PING { FIN | PONG } else { *first };
        echoed(first, payload)
    });
    (name, input, output.collect(), None)
}

/// A case in which frames come back, until one is answered with a Close frame.
fn failed(name: &'static str, good: &[(u8, Vec<u8>)], bad: Vec<u8>, code: u16) -> Case {
    let (name, mut input, mut output, _) = all_back(name, good);
    input.push(bad);
    // Is ignored.
    input.push(sent(FIN | TEXT, b"too late"));
    output.push(echoed(FIN | CLOSE, &code.to_be_bytes()));
    (name, input, output, Some(Err(code)))
}

#[test]
#[cfg_attr(miri, ignore = "it copies frames of 64 KiB several hundred times")]
fn frames_come_back_as_they_came() {
    check(vec![
        all_back("1.1.1 empty text", &[(FIN | TEXT, vec![])]),
        all_back("1.2.1 empty binary", &[(FIN | BINARY, vec![])]),
        all_back("1.1 text of 125", &[(FIN | TEXT, vec![b'*'; 125])]),
        all_back("1.1 text of 126", &[(FIN | TEXT, vec![b'*'; 126])]),
        all_back("1.2 binary of 127", &[(FIN | BINARY, vec![0xFE; 127])]),
        all_back("1.1 text of 65,535", &[(FIN | TEXT, vec![b'*'; 65_535 - 4])]),
        all_back("1.2 binary of 65,536", &[(FIN | BINARY, vec![0xFE; 65_536])]),
        all_back("2.1 empty ping", &[(FIN | PING, vec![])]),
        all_back("2.3 binary ping", &[(FIN | PING, vec![0, 0xFF, 0xFE])]),
        all_back("2.4 ping of 125", &[(FIN | PING, vec![0xFE; 125])]),
        all_back("2.7 unsolicited pong", &[(FIN | PONG, vec![])]),
        all_back(
            "2.9 pong, then ping",
            &[(FIN | PONG, b"unsolicited".to_vec()), (FIN | PING, b"ping".to_vec())],
        ),
        all_back("2.10 ten pings", &vec![(FIN | PING, b"payload".to_vec()); 10]),
        all_back(
            "5.3 two fragments",
            &[(TEXT, b"fragment1".to_vec()), (FIN, b"fragment2".to_vec())],
        ),
        all_back(
            "5.6 a ping between fragments",
            &[
                (TEXT, b"fragment1".to_vec()),
                (FIN | PING, b"ping".to_vec()),
                (FIN, b"fragment2".to_vec()),
            ],
        ),
        all_back(
            "5.19 fragments and pings",
            &[
                (BINARY, b"1".to_vec()),
                (CONTINUATION, b"2".to_vec()),
                (FIN | PING, b"a".to_vec()),
                (CONTINUATION, b"3".to_vec()),
                (CONTINUATION, vec![]),
                (FIN | PING, b"b".to_vec()),
                (FIN | PONG, b"c".to_vec()),
                (FIN, b"4".to_vec()),
                (FIN | TEXT, b"next".to_vec()),
            ],
        ),
        all_back("6.1 empty fragments", &[(TEXT, vec![]), (CONTINUATION, vec![]), (FIN, vec![])]),
        all_back("6.2 UTF-8", &[(FIN | TEXT, "Hello-µ@ßöäüàá-UTF-8!!".into())]),
        all_back(
            "6.2.3 UTF-8 in fragments of a byte",
            &"κόσμε"
                .bytes()
                .enumerate()
                .map(|(i, byte)| {
                    let last = "κόσμε".len() - 1;
                    (
                        if i == 0 {
                            TEXT
                        } else if i == last {
                            FIN
                        } else {
                            CONTINUATION
                        },
                        vec![byte],
                    )
                })
                .collect::<Vec<_>>(),
        ),
        all_back("6.7 U+0000", &[(FIN | TEXT, vec![0])]),
        all_back("6.9 U+10FFFF", &[(FIN | TEXT, "\u{10FFFF}".into())]),
        all_back("6.22 U+FFFE, a non-character", &[(FIN | TEXT, "\u{FFFE}".into())]),
        all_back("binary is not looked at", &[(FIN | BINARY, vec![0xFF; 300])]),
    ]);
}

#[test]
fn a_violation_is_answered_with_its_close_code() {
    let text = |payload: &[u8]| vec![(FIN | TEXT, payload.to_vec())];
    let hello = || text(b"hello");
    let mut cases = vec![
        failed("2.5 ping of 126", &[], sent(FIN | PING, &[0xFE; 126]), 1002),
        failed("5.1 fragmented ping", &[], sent(PING, b"fragment1"), 1002),
        failed("5.2 fragmented pong", &[], sent(PONG, b"fragment1"), 1002),
        failed("a fragmented close", &[], sent(CLOSE, &close(1000, "")), 1002),
        failed("5.9 nothing to continue", &[], sent(FIN, b"x"), 1002),
        failed("5.11 nothing to continue", &hello(), sent(CONTINUATION, b"x"), 1002),
        failed(
            "5.15 after a whole message",
            &[(TEXT, b"1".to_vec()), (FIN, b"2".to_vec())],
            sent(CONTINUATION, b"3"),
            1002,
        ),
        failed("5.18 text inside text", &[(TEXT, b"1".to_vec())], sent(FIN | TEXT, b"2"), 1002),
        failed("binary inside text", &[(TEXT, b"1".to_vec())], sent(BINARY, b"2"), 1002),
        failed(
            "6.3 invalid UTF-8",
            &hello(),
            sent(FIN | TEXT, b"\xce\xba\xed\xa0\x80edited"),
            1007,
        ),
        failed("6.3.2 in a fragment", &[(TEXT, b"ok".to_vec())], sent(FIN, b"\xed\xa0\x80"), 1007),
        failed("6.6 an incomplete end", &hello(), sent(FIN | TEXT, b"\xce"), 1007),
        failed(
            "6.6 incomplete at the last fragment",
            &[(TEXT, b"\xce".to_vec())],
            sent(FIN, b""),
            1007,
        ),
        failed("6.14 a lone continuation byte", &[], sent(FIN | TEXT, b"\x80"), 1007),
        failed("6.18 overlong", &[], sent(FIN | TEXT, b"\xc0\xaf"), 1007),
        failed("6.21 a surrogate", &[], sent(FIN | TEXT, b"\xed\xa0\x80"), 1007),
        failed("7.3.2 close with half a code", &hello(), sent(FIN | CLOSE, b"a"), 1002),
        failed("7.3.6 close of 126", &[], sent(FIN | CLOSE, &close(1000, &"*".repeat(124))), 1002),
        failed(
            "7.5.1 close with invalid UTF-8",
            &[],
            sent(FIN | CLOSE, &[&1000_u16.to_be_bytes()[..], b"\xce\xba\xed\xa0\x80"].concat()),
            1007,
        ),
        failed("not masked", &hello(), echoed(FIN | TEXT, b"hello"), 1002),
        failed("16 bits of length for 125", &[], length_16(125), 1002),
        failed("64 bits of length for 65,535", &[], length_64(65_535), 1002),
        failed("a length of 64 bits", &[], length_64(1 << 63), 1002),
    ];
    for rsv in [0x10, 0x20, 0x30, 0x40, 0x50, 0x70] {
        cases.push(failed("3 reserved bits", &hello(), sent(FIN | rsv | TEXT, b"x"), 1002));
        cases.push(failed("3 reserved bits", &hello(), sent(FIN | rsv | PING, b"x"), 1002));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(failed("4 a reserved opcode", &hello(), sent(FIN | opcode, b"x"), 1002));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let bad = sent(FIN | CLOSE, &close(code, ""));
        cases.push(failed("7.9 a close code that may not be sent", &hello(), bad, 1002));
    }
    check(cases);
}

/// Headers whose length is not in its shortest form, or longer than allowed.
fn length_16(length: u16) -> Vec<u8> {
    [&[FIN | BINARY, 0x80 | 126][..], &length.to_be_bytes(), &[0; 4]].concat()
}

fn length_64(length: u64) -> Vec<u8> {
    [&[FIN | BINARY, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat()
}

#[test]
fn a_close_is_answered_in_kind_and_is_the_last() {
    let mut cases: Vec<Case> = Vec::new();
    let mut payloads = vec![(vec![], None)];
    for code in [1000, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        payloads.push((close(code, "because grüße"), Some(code)));
    }
    payloads.push((close(1000, &"*".repeat(123)), Some(1000)));
    for (payload, code) in payloads {
        let behind = [sent(FIN | PING, b"x"), sent(FIN | TEXT, b"x"), sent(FIN | CLOSE, b"")];
        let input = [&[sent(FIN | TEXT, b"hi"), sent(FIN | CLOSE, &payload)][..], &behind];
        let output = vec![echoed(FIN | TEXT, b"hi"), echoed(FIN | CLOSE, &payload)];
        cases.push(("7 close", input.concat(), output, Some(Ok(PeerEnd::Close(code)))));
    }
    check(cases);
}

#[test]
fn a_violation_is_seen_at_the_byte_that_shows_it() {
    let cases: [(&[u8], u16); 11] = [
        (&[0x83], 1002),
        (&[0x91], 1002),
        (&[0x09], 1002),
        (&[0x80], 1002),
        (&[0x82, 0x01], 1002),
        (&[0x89, 0xFE], 1002),
        (&[0x82, 0xFF, 0x80], 1002),
        // Lengths that are not encoded in the fewest bytes.
        (&[0x82, 0xFE, 0, 125], 1002),
        (&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], 1002),
        // Invalid UTF-8 in a text of a thousand bytes, and in one of three.
        (&[0x81, 0xFE, 0x03, 0xE8, 0, 0, 0, 0, 0xFF], 1007),
        (&[0x81, 0x83, 0, 0, 0, 0, 0xF4, 0x90], 1007),
    ];
    for (input, code) in cases {
        let mut frames = Frames::new(false, BATCH);
        let (last, before) = input.split_last().unwrap();
        let pieces = before.iter().map(std::slice::from_ref);
        assert_eq!(rewrite(&mut frames, pieces), Outcome::default(), "{input:x?}");
        let outcome = rewrite(&mut frames, [[*last]].iter());
        assert_eq!(outcome.end, Some(Err(code)), "{input:x?}");
        assert_eq!(outcome.output, echoed(FIN | CLOSE, &code.to_be_bytes()), "{input:x?}");
    }
}

#[test]
fn the_log_says_what_was_wrong() {
    let cases: [(&[u8], bool, &str); 13] = [
        (&[0x82, 0x01], false, "1002: a frame is not masked"),
        (&[0x89, 0xFE], false, "1002: a control frame is longer than 125 bytes"),
        (&[0x82, 0xFE, 0, 125], false, "1002: a length is not encoded in the fewest bytes"),
        (&[0x82, 0xFF, 0x80], false, "1002: a frame is longer than 63 bits can say"),
        (&[0xC1], false, "1002: a reserved bit is set"),
        (&[0x83], false, "1002: an opcode is reserved"),
        (&[0x09], false, "1002: a control frame is fragmented"),
        (&[0x80], false, "1002: a continuation has nothing to continue"),
        (&[0x01, 0x80, 0, 0, 0, 0, 0x01], false, "1002: a message begins inside another"),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xFF], false, "1007: text is not UTF-8"),
        (&[0x88, 0x81, 0, 0, 0, 0, 0x03], false, "1002: half a close code"),
        (&[0x88, 0x83, 0, 0, 0, 0, 0x03, 0xE8, 0xFF], false, "1007: a close reason is not UTF-8"),
        (&[0xC1, 0x81, 0, 0, 0, 0, 0xFF], true, "1007: compressed text is not DEFLATE"),
    ];
    for (input, compression, expected) in cases {
        let mut buffer = [&[0; Frames::HEADROOM], input].concat();
        let end = Frames::new(compression, BATCH).pass(&mut buffer).end;
        let error = end.expect(expected).unwrap_err();
        assert_eq!(error.to_string(), format!("protocol violation, closed with {expected}"));
    }
}

#[test]
fn the_headroom_is_the_longest_header() {
    assert_eq!(Frames::HEADROOM, sent(FIN | BINARY, &[0; 65_536]).len() - 65_536);
}

#[test]
fn the_payload_of_the_first_frame_stays_where_it_is() {
    for length in [0, 125, 126, 65_535, 65_536] {
        let frame = sent(FIN | BINARY, &vec![7; length]);
        // So much of its header has come before.
        for cut in [0, 1, frame.len() - length - 1] {
            let mut frames = Frames::new(false, BATCH);
            rewrite(&mut frames, [&frame[..cut]].iter());
            let mut buffer = [&[0; Frames::HEADROOM], &frame[cut..]].concat();
            let begin = Frames::HEADROOM - cut + 4;
            assert_eq!(frames.pass(&mut buffer).output, begin..buffer.len(), "{length}, {cut}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "it copies 12 MiB")]
fn a_frame_of_ten_gibibytes_takes_no_memory() {
    let mut frames = Frames::new(false, BATCH);
    for opcode in [BINARY, TEXT] {
        let length: u64 = 10 << 30;
        let header = [&[opcode, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat();
        let begun = rewrite(&mut frames, [header].iter());
        assert_eq!(begun.output, [&[opcode, 127][..], &length.to_be_bytes()].concat());
        let piece = vec![b'x'; BATCH];
        for _ in 0..100 {
            let passed = rewrite(&mut frames, [&piece].into_iter());
            assert_eq!(passed.output, piece);
            assert_eq!((frames.kept.capacity(), frames.is_at_boundary()), (0, false));
        }
        frames.frame.as_mut().unwrap().left = 1;
        assert_eq!(rewrite(&mut frames, [b"x"].iter()).output, b"x");
        assert!(frames.is_at_boundary());
        assert_eq!(rewrite(&mut frames, [sent(FIN, b"")].iter()).output, echoed(FIN, b""));
    }
}

#[test]
fn an_invalid_byte_in_a_frame_that_is_partly_sent_ends_the_echo_without_a_close_frame() {
    let mut frames = Frames::new(false, 100);
    let text = sent(FIN | TEXT, &[&[b'x'; 200][..], b"\xFF"].concat());
    let (most, last) = text.split_at(text.len() - 1);
    let begun = rewrite(&mut frames, [most].iter());
    assert_eq!(begun.output.len(), 4 + 200);
    let ended = rewrite(&mut frames, [last].iter());
    assert_eq!(ended, Outcome { output: vec![], end: Some(Err(1007)) });
}

#[test]
fn a_text_that_fits_is_sent_when_it_is_complete() {
    let mut frames = Frames::new(false, BATCH);
    let text = sent(FIN | TEXT, &[b'x'; 1000]);
    for byte in &text[..text.len() - 1] {
        assert_eq!(rewrite(&mut frames, [[*byte]].iter()), Outcome::default());
        assert!(frames.is_at_boundary(), "our own frames need not wait");
    }
    let end = rewrite(&mut frames, [&text[text.len() - 1..]].iter());
    assert_eq!(end.output, echoed(FIN | TEXT, &[b'x'; 1000]));
    assert_eq!(frames.kept.capacity(), 0);
}

#[test]
fn a_text_is_held_back_only_if_its_whole_echo_fits() {
    let text = sent(FIN | TEXT, &[b'x'; 200]);
    let whole = echoed(FIN | TEXT, &[b'x'; 200]);
    for arrived in [8, 9, 100, text.len() - 1] {
        let (first, rest) = text.split_at(arrived);
        for (hold_limit, kept) in [(whole.len(), arrived - 4), (whole.len() - 1, 0)] {
            let mut frames = Frames::new(false, hold_limit);
            let begun = rewrite(&mut frames, [first].iter()).output;
            let name = format!("{arrived} bytes arrived, {hold_limit} fit");
            assert_eq!(begun, whole[..arrived - 4 - kept], "{name}");
            assert_eq!(
                [begun, rewrite(&mut frames, [rest].iter()).output].concat(),
                whole,
                "{name}"
            );
        }
    }
}

#[test]
fn our_own_ping_is_a_whole_frame() {
    let ping = Frames::new(false, BATCH).ping().map(Vec::from);
    assert_eq!(ping, Some(echoed(FIN | PING, b"echo-server")));
}

#[test]
fn our_own_close_is_sent_once_and_never_inside_a_frame() {
    let going_away = echoed(FIN | CLOSE, &1001_u16.to_be_bytes());
    let mut frames = Frames::new(false, BATCH);
    let farewell = |frames: &mut Frames| frames.farewell(Goodbye::GoingAway).map(Vec::from);
    assert_eq!(farewell(&mut frames), Some(going_away.clone()));
    let binary = sent(FIN | BINARY, b"hello");
    rewrite(&mut frames, [&binary[..8]].iter());
    assert_eq!(farewell(&mut frames), None);
    rewrite(&mut frames, [&binary[8..]].iter());
    assert_eq!(farewell(&mut frames), Some(going_away));
    rewrite(&mut frames, [sent(FIN | CLOSE, b"")].iter());
    assert_eq!(farewell(&mut frames), None);
}

#[test]
fn nothing_is_sent_after_the_end() {
    let lasts = [
        (sent(FIN | TEXT, b"\xE2\x82"), Err(1007)),
        (sent(FIN | CLOSE, &close(1005, "")), Err(1002)),
        (sent(FIN | CLOSE, &close(1000, "")), Ok(PeerEnd::Close(Some(1000)))),
    ];
    for (last, end) in lasts {
        let mut frames = Frames::new(false, BATCH);
        assert_eq!(rewrite(&mut frames, [last].iter()).end, Some(end));
        for more in [vec![], sent(FIN | TEXT, b"x"), sent(FIN | PING, b"x")] {
            assert_eq!(rewrite(&mut frames, [more].iter()), Outcome::default());
        }
    }
}

#[test]
fn a_close_is_validated_as_a_whole_whatever_the_buffer() {
    let payload = close(1000, &"*".repeat(100));
    for size in [0, 1, 4, 50] {
        let mut frames = Frames::new(false, size);
        let outcome = rewrite(&mut frames, sent(FIN | CLOSE, &payload).chunks(size.max(1)));
        let end = Some(Ok(PeerEnd::Close(Some(1000))));
        assert_eq!(outcome, Outcome { output: echoed(FIN | CLOSE, &payload), end });
    }
}

#[test]
fn payload_is_counted_as_sent_when_it_is_sent() {
    let mut frames = Frames::new(false, BATCH);
    let mut feed = |bytes: &[u8]| {
        rewrite(&mut frames, [bytes].iter());
        let traffic = frames.traffic(Moved::default());
        (traffic.received, traffic.sent, traffic.messages)
    };
    let (text, binary) = (sent(FIN | TEXT, &[b'x'; 100]), sent(FIN | BINARY, &[0; 100]));
    assert_eq!(feed(&text[..50]), (44, 0, 0), "kept");
    assert_eq!(feed(&text[50..]), (100, 100, 1));
    assert_eq!(feed(&binary[..50]), (144, 144, 1), "sent on");
    assert_eq!(feed(&[&binary[50..], &[0xFF][..]].concat()), (200, 200, 2), "then a violation");
}

// ---- Compression.

/// A message, compressed by itself as in RFC 7692 section 7.2.1.
fn compressed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + 1024);
    let mut compress = Compress::new(Compression::default(), false);
    compress.compress_vec(message, &mut bytes, FlushCompress::Sync).unwrap();
    assert_eq!(compress.total_in(), message.len() as u64);
    bytes.truncate(bytes.len() - 4);
    bytes
}

#[test]
fn compressed_messages_come_back_as_they_came() {
    let text = compressed("grüß dich ".repeat(100).as_bytes());
    let (one, two) = text.split_at(text.len() / 2);
    // 32 KiB without a repetition, and then all of it again, from as far back as DEFLATE reaches.
    let far = compressed(&noise().repeat(2));
    let frames: [(u8, &[u8]); 13] = [
        (FIN | RSV1 | TEXT, &text),
        (FIN | TEXT, b"not compressed"),
        (RSV1 | TEXT, one),
        (FIN | PING, b"ping"),
        (CONTINUATION, b""),
        (FIN, two),
        // An empty message, and one of a final block (section 7.2.3).
        (FIN | RSV1 | TEXT, &[0x00]),
        (FIN | RSV1 | TEXT, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
        // The same final block without the empty one that has to follow, and an empty message that is
        // really empty: neither is cut.
        (FIN | RSV1 | TEXT, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        (FIN | RSV1 | TEXT, &[]),
        // Two blocks, the first without compression (section 7.2.3.3, 7.2.3.5).
        (FIN | RSV1 | TEXT, &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]),
        (FIN | RSV1 | TEXT, &far),
        // Binary messages are not inflated.
        (FIN | RSV1 | BINARY, b"\xFF\xFF not DEFLATE"),
    ];
    let input: Vec<u8> = frames.iter().flat_map(|(first, payload)| sent(*first, payload)).collect();
    let (_, _, output, _) = all_back("", &frames.map(|(first, payload)| (first, payload.to_vec())));
    let expected = Outcome { output: output.concat(), end: None };
    assert_eq!(whole(&input, true), expected);
    assert_eq!(dripped(&input, true), expected);
}

/// Letters in which no three stand in a row twice, nearly: more than DEFLATE's window has room for.
fn noise() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 24) as u8 % 26
    };
    std::iter::repeat_with(&mut next).take(32 * 1024).collect()
}

#[test]
fn compressed_text_that_copies_from_before_its_start_is_invalid() {
    // A block of fixed codes: a literal, then a copy from further back than there is anything.
    for payload in [&[0xc2, 0x10, 0x00, 0x00][..], &[0x4a, 0x04, 0x21, 0x00]] {
        let expected =
            Outcome { output: echoed(FIN | CLOSE, &close(1007, "")), end: Some(Err(1007)) };
        let input = sent(FIN | RSV1 | TEXT, payload);
        assert_eq!(whole(&input, true), expected, "{payload:x?}");
        assert_eq!(dripped(&input, true), expected, "{payload:x?}");
        let fragments = [sent(RSV1 | TEXT, &payload[..2]), sent(FIN, &payload[2..])].concat();
        assert_eq!(whole(&fragments, true).end, Some(Err(1007)), "{payload:x?}");
    }
    // An earlier message's text is not there to copy from either.
    let input = [
        sent(FIN | RSV1 | TEXT, &compressed(&noise())),
        sent(FIN | RSV1 | TEXT, &[0xc2, 0x10, 0x00, 0x00]),
    ];
    assert_eq!(whole(&input.concat(), true).end, Some(Err(1007)));
}

#[test]
fn compressed_text_that_is_cut_inside_a_block_is_invalid() {
    let text = compressed(b"Hello, this text goes on for some while, and so does this text.");
    // Whatever is missing of it, even if what has come is whole UTF-8.
    for length in 1..text.len() - 1 {
        let input = sent(FIN | RSV1 | TEXT, &text[..length]);
        assert_eq!(whole(&input, true).end, Some(Err(1007)), "{length} of {}", text.len());
    }
    assert_eq!(whole(&sent(FIN | RSV1 | TEXT, &text), true).end, None);
    // An uncompressed block that announces ten bytes and has five.
    let stored = [0x00, 0x0a, 0x00, 0xf5, 0xff, b'H', b'e', b'l', b'l', b'o'];
    assert_eq!(whole(&sent(FIN | RSV1 | TEXT, &stored), true).end, Some(Err(1007)));
    // The next message is none the worse for it, on a connection of its own.
    assert_eq!(whole(&sent(FIN | RSV1 | TEXT, &compressed(b"x")), true).end, None);
}

#[test]
#[cfg_attr(miri, ignore = "it deflates 64 MiB")]
fn invalid_compressed_text_is_answered_with_its_close_code() {
    let not_utf8 = compressed(b"hello \xFF");
    let mut bomb = vec![0; 1 << 20];
    let mut compress = Compress::new(Compression::best(), false);
    let zeros = vec![0; 64 << 20];
    compress.compress(&zeros, &mut bomb, FlushCompress::Sync).unwrap();
    bomb.truncate(compress.total_out() as usize);
    let cases: [(u8, &[u8], u16); 5] = [
        (FIN | RSV1 | TEXT, &not_utf8, 1007),
        (FIN | RSV1 | TEXT, &compressed(b"\xCE"), 1007),
        (FIN | RSV1 | TEXT, b"\xFF\xFF not DEFLATE", 1007),
        (FIN | RSV1 | TEXT, &bomb, 1009),
        (FIN | RSV1 | PING, b"", 1002),
    ];
    for (first, payload, code) in cases {
        let outcome = whole(&sent(first, payload), true);
        assert_eq!(outcome.end, Some(Err(code)));
        if payload.len() < BATCH {
            assert_eq!(outcome.output, echoed(FIN | CLOSE, &code.to_be_bytes()));
        }
    }
    let continued = [sent(RSV1 | TEXT, &compressed(b"x")), sent(FIN | RSV1, b"")].concat();
    assert_eq!(whole(&continued, true).end, Some(Err(1002)));
}

#[test]
#[cfg_attr(miri, ignore = "it inflates 16 MiB")]
fn text_of_sixteen_mebibytes_may_have_any_compression_ratio() {
    let text = compressed(&vec![b'x'; 16 << 20]);
    let outcome = whole(&sent(FIN | RSV1 | TEXT, &text), true);
    assert_eq!(outcome, Outcome { output: echoed(FIN | RSV1 | TEXT, &text), end: None });
}

/// A block of DEFLATE that has the fixed codes (RFC 1951 section 3.2.6), and no end if `codes` have
/// none. Bits fill a byte from its least significant one on.
fn fixed_block(codes: &str) -> Vec<u8> {
    let bits: Vec<u8> = "010".bytes().chain(codes.bytes()).map(|bit| bit - b'0').collect();
    bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit)).collect()
}

/// What `fixed_block` takes: an x; the length of a match, of 258 bytes or of 3; the distance of a
/// match that repeats the byte before it; the end of the block, and what begins the empty one that
/// every message ends with.
const X: &str = "10101000";
const LENGTH_258: &str = "11000101";
const LENGTH_3: &str = "0000001";
const DISTANCE_1: &str = "00000";
const END: &str = "0000000000";

#[test]
#[cfg_attr(miri, ignore = "it inflates 16 MiB")]
fn text_inflates_to_sixteen_mebibytes_and_a_hundredfold_but_no_further() {
    let most = 75 + 175_761 * 258 + 3;
    let begun = [&X.repeat(75), &[LENGTH_258, DISTANCE_1].concat().repeat(175_761)[..]].concat();
    let matches = [LENGTH_3, DISTANCE_1].concat().repeat(2);
    // Three bytes as they are take as many bits as six bytes of two matches.
    for (last, is_too_much) in [(X.repeat(3), false), (matches, true)] {
        let text = fixed_block(&[&begun, &last, END].concat());
        assert_eq!(most, (16 << 20) + 100 * text.len());
        let text = sent(FIN | RSV1 | TEXT, &text);
        // The ratio is that of what has been inflated so far. Here it is highest at the end, if the
        // last bytes are inflated together.
        let (most, last) = text.split_at(text.len() - 64);
        let pieces = most.chunks(BATCH).chain([last]);
        let outcome = rewrite(&mut Frames::new(true, 0), pieces);
        assert_eq!(outcome.end, is_too_much.then_some(Err(1009)));
    }
}

#[test]
#[cfg_attr(miri, ignore = "it inflates 4 MiB")]
fn a_pass_is_costly_once_it_costs_more_than_64_kibibytes_of_inflated_text() {
    let compressed_xs = |count| sent(FIN | RSV1 | TEXT, &compressed(&vec![b'x'; count]));
    let matches = [LENGTH_258, DISTANCE_1].concat().repeat(32);
    // Frames, how many they are, and how many of the bytes that they inflate to are counted.
    let cases = [
        ("nothing else", vec![], 0, 0),
        ("text that is not compressed", sent(FIN | TEXT, b"xxx"), 1, 0),
        ("binary, which is not inflated", sent(FIN | RSV1 | BINARY, &compressed(b"xxx")), 1, 0),
        ("a ping and a pong", [sent(FIN | PING, b"xxx"), sent(FIN | PONG, b"")].concat(), 2, 0),
        ("another message", compressed_xs(3), 1, 3),
        (
            "a message of an empty final block, and one behind it",
            sent(
                FIN | RSV1 | TEXT,
                &[&[0x03, 0x00], &fixed_block(&[X, END].concat())[..]].concat(),
            ),
            1,
            1,
        ),
        // Its last byte ends in a match that does not fit into the window.
        (
            "a message that goes on",
            sent(RSV1 | TEXT, &fixed_block(&[X, &matches].concat())),
            1,
            1 + 32 * 258,
        ),
    ];
    for (name, input, headers, inflated) in cases {
        for (cost, is_costly) in [(64 * 1024, false), (64 * 1024 + 1, true)] {
            let mut frames = Frames::new(true, BATCH);
            let mut was_costly = |input: &[u8]| {
                let pass = frames.pass(&mut [&[0; Frames::HEADROOM], input].concat());
                assert_eq!(frames.take_unread(BATCH), None, "{name}: all input is parsed");
                pass.was_costly
            };
            let others = compressed_xs(cost - 64 * (1 + headers) - inflated);
            assert_eq!(was_costly(&[others, input.clone()].concat()), is_costly, "{name}");
            assert!(!was_costly(&sent(FIN | PING, b"")), "{name}: each pass is counted by itself");
        }
    }
}

// ---- Passes that stop early.

/// The passes that a batch takes: for each the input, the output, and whether it was costly.
fn passes(frames: &mut Frames, input: &[u8]) -> Vec<(Vec<u8>, Vec<u8>, bool)> {
    let mut passes = Vec::new();
    let mut next: Option<Box<[u8]>> = Some(input.into());
    while let Some(input) = next {
        let mut buffer = [&[0; Frames::HEADROOM], &input[..]].concat();
        let Rewritten { released, output, end, was_costly } = frames.pass(&mut buffer);
        assert!(end.is_none(), "{end:?}");
        next = frames.take_unread(BATCH);
        let read = input.len() - next.as_ref().map_or(0, |unread| unread.len());
        let output = [&released, &buffer[output]].concat();
        passes.push((input[..read].to_vec(), output, was_costly));
    }
    passes
}

#[test]
#[cfg_attr(miri, ignore = "it inflates 16 MiB")]
fn a_compressed_bomb_takes_many_passes_of_bounded_cost() {
    let text = compressed(&vec![b'x'; 16 << 20]);
    assert!((16_000..17_000).contains(&text.len()), "{}", text.len());
    for hold_limit in [0, BATCH] {
        let mut frames = Frames::new(true, hold_limit);
        let passes = passes(&mut frames, &frame(FIN | RSV1 | TEXT, &text, Some([0; 4])));
        let mut inflater = Decompress::new(false);
        let mut inflated = Vec::with_capacity(1 << 20);
        for (i, (input, _, was_costly)) in passes.iter().enumerate() {
            let payload = if i == 0 { &input[8..] } else { &input[..] };
            inflated.clear();
            inflater.decompress_vec(payload, &mut inflated, FlushDecompress::Sync).unwrap();
            // What the limit leaves for the last slice of 128 bytes, and what these inflate to.
            assert!(inflated.len() <= 256 * 1024 + 128 * 1032, "{}", inflated.len());
            let is_last = i + 1 == passes.len();
            assert!(*was_costly || is_last, "pass {i} stops early");
            assert!(inflated.len() >= 256 * 1024 - 64 || is_last, "{}", inflated.len());
        }
        assert!((43..=65).contains(&passes.len()), "{}", passes.len());
        let output: Vec<u8> = passes.into_iter().flat_map(|(_, output, _)| output).collect();
        assert_eq!(output, echoed(FIN | RSV1 | TEXT, &text));
        assert_eq!((frames.is_at_boundary(), frames.traffic(Moved::default()).messages), (true, 1));
    }
}

#[test]
fn a_batch_of_tiny_frames_takes_several_passes() {
    for (first, answer) in [
        (FIN | BINARY, Some(FIN | BINARY)),
        (FIN | TEXT, Some(FIN | TEXT)),
        (FIN | PING, Some(FIN | PONG)),
        (FIN | PONG, None),
    ] {
        let (frame, answer) = (sent(first, b""), answer.map(|first| echoed(first, b"")));
        let answer = answer.unwrap_or_default();
        let passes = passes(&mut Frames::new(false, BATCH), &frame.repeat(10_000));
        // After 4096 headers the limit is reached, and the next header exceeds it.
        let expected = [(4097, true), (4097, true), (10_000 - 2 * 4097, true)];
        let expected = expected
            .map(|(count, was_costly)| (frame.repeat(count), answer.repeat(count), was_costly));
        assert!(passes == expected, "{first:x}");
    }
}

#[test]
fn few_tiny_frames_and_many_of_ordinary_size_take_one_pass_that_is_not_costly() {
    for (payload, count) in [(&b""[..], 1024), (&[b'x'; 64], 4096)] {
        let input = sent(FIN | PING, payload).repeat(count);
        let passes = passes(&mut Frames::new(false, BATCH), &input);
        let length = count * (2 + payload.len());
        assert!(matches!(&passes[..], [(_, output, false)] if output.len() == length));
    }
}

#[test]
fn unread_input_is_taken_in_pieces_of_the_size_that_is_asked_for() {
    assert_eq!(Frames::new(false, 0).take_unread(BATCH), None);
    assert_eq!(Frames::new(false, 0).with_early_input(b"").take_unread(BATCH), None);
    for (most, pieces) in [
        (1, &[&b"a"[..], b"b", b"c", b"d", b"e"][..]),
        (2, &[b"ab", b"cd", b"e"]),
        (4, &[b"abcd", b"e"]),
        (5, &[b"abcde"]),
        (6, &[b"abcde"]),
    ] {
        let mut frames = Frames::new(false, 0).with_early_input(b"abcde");
        for piece in pieces {
            assert_eq!(frames.take_unread(most).as_deref(), Some(*piece));
        }
        assert_eq!(frames.take_unread(most), None);
    }
}

/// How an echo ends, and what it has written by then.
struct Ended {
    outcome: Result<PeerEnd, u16>,
    output: Vec<u8>,
    costly_steps: usize,
}

/// Echoes `early`, which was read with the handshake, and `input`, until the end.
fn echo_to_the_end(early: &[u8], input: &[u8], batch: usize) -> Ended {
    let mut output = Vec::new();
    let mut costly_steps = 0;
    let frames = Frames::new(true, batch).with_early_input(early);
    let mut echo = StreamEcho::framed(tokio::io::join(input, &mut output), batch, frames);
    let mut cx = Context::from_waker(Waker::noop());
    let outcome = loop {
        match echo.poll_step(&mut cx) {
            Poll::Ready(Ok(Step::Moved)) => {}
            Poll::Ready(Ok(Step::Costly)) => costly_steps += 1,
            Poll::Ready(Ok(Step::Ended(end))) => break Ok(end),
            Poll::Ready(Err(EchoError::Protocol { code, .. })) => break Err(code),
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(echo.poll_close(&mut cx, Goodbye::Answer), Poll::Ready(Ok(()))));
    Ended { outcome, output, costly_steps }
}

#[test]
#[cfg_attr(miri, ignore = "it inflates 8 MiB several times")]
fn all_input_is_echoed_in_order_however_many_passes_it_takes() {
    let bomb = compressed(&vec![b'x'; 2 << 20]);
    let mut messages = Vec::new();
    for i in 0..4_u8 {
        messages.push((FIN | RSV1 | TEXT, bomb.clone()));
        messages.push((FIN | BINARY, vec![i; 3]));
        messages.extend(std::iter::repeat_n((FIN | PING, vec![i]), 1000));
        messages.push((RSV1 | TEXT, bomb[..100].to_vec()));
        messages.push((FIN | PONG, vec![]));
        messages.push((FIN, bomb[100..].to_vec()));
    }
    let (_, input, echo, _) = all_back("", &messages);
    let (input, echo) = (input.concat(), echo.concat());
    type Last = (Vec<u8>, Vec<u8>, Result<PeerEnd, u16>);
    let (going, bye) = (sent(FIN | CLOSE, &close(1000, "bye")), close(1000, "bye"));
    // What the peer sends last, what that is answered with, and how the echo ends.
    let lasts: [Last; 4] = [
        (vec![], vec![], Ok(PeerEnd::Truncated)),
        (sent(FIN, b"")[..3].to_vec(), echoed(FIN | CLOSE, &close(1002, "")), Err(1002)),
        (going, echoed(FIN | CLOSE, &bye), Ok(PeerEnd::Close(Some(1000)))),
        (sent(FIN | RSV1 | TEXT, &[0xFF; 300]), echoed(FIN | CLOSE, &close(1007, "")), Err(1007)),
    ];
    for (last, answer, outcome) in lasts {
        let input = [&input[..], &last].concat();
        let expected = [&echo[..], &answer].concat();
        for early in [0, 1, 5000, input.len()] {
            let (early, later) = input.split_at(early);
            for batch in [1000, 4096, 2 * input.len()] {
                let ended = echo_to_the_end(early, later, batch);
                let name = format!("{} bytes early, batches of {batch}, {outcome:?}", early.len());
                assert_eq!(ended.outcome, outcome, "{name}");
                assert!(ended.output == expected, "{name}");
                // 16 MiB are inflated, less than 400 KiB at a time.
                assert!(ended.costly_steps >= 40, "{name}: {}", ended.costly_steps);
            }
        }
    }
}

/// Polls the close until it is done. Returns how many polls were pending; none may be pending
/// without a wake.
fn polls_until_closed(echo: &mut impl Echo) -> usize {
    /// Counts its wakes.
    #[derive(Default)]
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut pending = 0;
    while echo.poll_close(&mut Context::from_waker(&waker), Goodbye::GoingAway).is_pending() {
        pending += 1;
        assert_eq!(wakes.0.load(Ordering::Relaxed), pending);
    }
    pending
}

/// Input, then a pause, and only then the end of the stream.
struct EndsLater<'a> {
    input: &'a [u8],
    has_paused: bool,
}

impl<'a> EndsLater<'a> {
    fn new(input: &'a [u8]) -> Self {
        EndsLater { input, has_paused: false }
    }
}

impl AsyncRead for EndsLater<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.input.is_empty() && !std::mem::replace(&mut self.has_paused, true) {
            return Poll::Pending;
        }
        Pin::new(&mut self.input).poll_read(cx, into)
    }
}

#[test]
#[cfg_attr(miri, ignore = "it inflates 4 MiB")]
fn a_farewell_waits_for_the_answer_behind_costly_input_and_yields_meanwhile() {
    let bomb = sent(FIN | RSV1 | TEXT, &compressed(&vec![b'x'; 4 << 20]));
    let answer = sent(FIN | CLOSE, &close(1001, ""));
    let going_away = echoed(FIN | CLOSE, &close(1001, ""));
    // With the goodbye before the first step, all input is dropped.
    let input = [&bomb[..], &answer, b"is not a frame"].concat();
    let mut output = Vec::new();
    let io = tokio::io::join(EndsLater::new(&input), &mut output);
    let mut echo = StreamEcho::framed(io, BATCH, Frames::new(true, BATCH));
    let pending = polls_until_closed(&mut echo);
    assert!((10..=17).contains(&pending), "{pending}");
    assert_eq!(output, going_away);
    // After the first step, the frame is half sent, and is finished before the farewell.
    let mut output = Vec::new();
    let io = tokio::io::join(EndsLater::new(&input), &mut output);
    let mut echo = StreamEcho::framed(io, BATCH, Frames::new(true, 0));
    let step = echo.poll_step(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(step, Poll::Ready(Ok(Step::Costly))), "{step:?}");
    let pending = polls_until_closed(&mut echo);
    assert!((9..=16).contains(&pending), "{pending}");
    let text = compressed(&vec![b'x'; 4 << 20]);
    let whole = echoed(FIN | RSV1 | TEXT, &text);
    assert_eq!(output, [&whole[..], &going_away].concat());
}

// ---- Against tungstenite.

/// Reads the input, collects the output.
struct Pipe {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.input.read(into)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn websocket(input: Vec<u8>, role: Role) -> WebSocket<Pipe> {
    let pipe = Pipe { input: Cursor::new(input), output: Vec::new() };
    WebSocket::from_raw_socket(pipe, role, None)
}

/// What a client reads from a server's frames: messages, pongs and the close code.
fn seen(output: Vec<u8>) -> (Vec<Message>, Option<u16>) {
    let mut client = websocket(output, Role::Client);
    let mut messages = Vec::new();
    loop {
        match client.read() {
            Ok(Message::Close(close)) => {
                return (messages, Some(close.map_or(1005, |close| close.code.into())));
            }
            Ok(message) => messages.push(message),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return (messages, None);
            }
            Err(error) => panic!("the output is no WebSocket: {error}"),
        }
    }
}

/// What a client reads from tungstenite's own echo. tungstenite does not send a Close frame for its
/// errors, so the close code is derived from them.
fn oracle(input: Vec<u8>) -> (Vec<Message>, Option<u16>) {
    let mut server = websocket(input, Role::Server);
    let error = loop {
        match server.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => server.send(message).unwrap(),
            Ok(_) => {
                let _ = server.flush();
            }
            Err(error) => break error,
        }
    };
    let (messages, code) = seen(server.get_ref().output.clone());
    let told = match error {
        Error::Utf8(_) => Some(1007),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | Error::ConnectionClosed
        | Error::AlreadyClosed => code,
        Error::Protocol(_) => Some(1002),
        error => panic!("{error}"),
    };
    (messages, told)
}

/// A frame, most often a valid one.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => "[a-zäé€😀]{0,40}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..130),
        1 => (120_usize..140).prop_map(|length| vec![b'x'; length]),
        1 => (65_500_usize..65_600).prop_map(|length| vec![b'x'; length]),
    ];
    let first = prop_oneof![
        20 => prop_oneof![
            Just(FIN | TEXT), Just(FIN | BINARY), Just(TEXT), Just(BINARY), Just(CONTINUATION),
            Just(FIN), Just(FIN | PING), Just(FIN | PONG),
        ],
        1 => any::<u8>(),
    ];
    let control = prop_oneof![Just(1000_u16), Just(3000), 990_u16..1014]
        .prop_map(|code| sent(FIN | CLOSE, &close(code, "bye")));
    prop_oneof![
        20 => (first, payload, any::<[u8; 4]>(), 0..50).prop_map(|(first, payload, key, masked)| {
            frame(first, &payload, (masked > 0).then_some(key))
        }),
        1 => control,
    ]
}

/// Frames in an order that is mostly valid: most opcodes are changed to one that is allowed.
fn some_frames() -> impl Strategy<Value = Vec<u8>> {
    (proptest::collection::vec((some_frame(), 0..20), 0..12)).prop_map(|frames| {
        let mut is_open = false;
        let mut input = Vec::new();
        for (mut frame, leave) in frames {
            let opcode = frame[0] & 0x0F;
            if leave > 0 && opcode <= 2 {
                if is_open {
                    frame[0] &= 0xF0;
                } else if opcode == 0 {
                    frame[0] |= TEXT;
                }
                is_open = frame[0] & FIN == 0;
            }
            input.extend(frame);
        }
        input
    })
}

proptest! {
    // Miri takes seconds for each case.
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 300 }))]

    #[test]
    fn the_echo_is_the_same_as_tungstenites(input in some_frames(), pieces in 1_usize..5000) {
        let outcome = whole(&input, false);
        prop_assert_eq!(seen(outcome.output.clone()), oracle(input.clone()));
        let pieces = rewrite(&mut Frames::new(false, BATCH), input.chunks(pieces));
        prop_assert_eq!(pieces, outcome);
    }

    #[test]
    fn garbage_is_never_a_panic(
        input in proptest::collection::vec(any::<u8>(), 0..300),
        pieces in 1_usize..40,
        compression in any::<bool>(),
        hold_limit in 0_usize..200,
    ) {
        let mut frames = Frames::new(compression, hold_limit);
        let outcome = rewrite(&mut frames, input.chunks(pieces));
        prop_assert!(outcome.output.len() <= input.len() + 4);
    }
}
