//! Headers that were valid until something happened to them.
//!
//! `cargo test --lib proxy_protocol` tries some thousands. `cargo test --lib proxy_protocol --
//! --ignored` goes on for a minute, or for `ECHO_FUZZ_TIME`, and prints its seed and how many it has
//! tried. `ECHO_FUZZ_SEED` repeats a run.

use std::time::{Duration, Instant, SystemTime};

use super::parse::{FIXED_LENGTH, MAX_BLOCK};
use super::tests::to_list;
use super::*;
use crate::noise::Noise;

/// With so many bytes, the parser has decided.
const MAX_LENGTH: usize = FIXED_LENGTH + MAX_BLOCK;

fn one_of<T: Copy>(noise: &mut Noise, choices: &[T]) -> T {
    choices[noise.below(choices.len())]
}

/// Every type that the parser knows, and some that it does not.
const KINDS: [u8; 13] = [
    kind::ALPN,
    kind::AUTHORITY,
    kind::NOOP,
    kind::UNIQUE_ID,
    kind::SSL,
    kind::NETNS,
    kind::GCP,
    kind::AWS,
    kind::AZURE,
    0,
    0x06,
    0xF0,
    0xFF,
];

fn some_value(noise: &mut Noise, kind: u8) -> Vec<u8> {
    let length = one_of(noise, &[0, 1, 4, 5, 8, 9, 30, 128, 129, 300]);
    let mut value = noise.bytes(length);
    match kind {
        kind::SSL if noise.below(4) > 0 => {
            value.truncate(5);
            for _ in 0..noise.below(10) {
                let length = noise.below(20);
                value.push(0x20 + noise.below(10) as u8);
                value.extend((length as u16).to_be_bytes());
                value.extend(noise.bytes(length));
            }
        }
        kind::AWS | kind::AZURE if noise.below(4) > 0 && !value.is_empty() => value[0] = 1,
        _ => {}
    }
    value
}

fn some_addresses(noise: &mut Noise) -> Addresses {
    let transport = one_of(noise, &[Transport::Stream, Transport::Datagram]);
    let ip = |noise: &mut Noise| -> SocketAddr {
        let bytes = noise.bytes(16);
        let v4: [u8; 4] = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let v6: [u8; 16] = std::array::from_fn(|at| if bytes[15] & 1 == 0 { bytes[at] } else { 0 });
        let port = noise.next() as u16;
        if noise.below(2) == 0 { (v4, port).into() } else { (v6, port).into() }
    };
    match noise.below(6) {
        0 => Addresses::Unspecified,
        1 => {
            let (source, destination) = (noise.below(109), noise.below(109));
            let (source, destination) = (noise.bytes(source), noise.bytes(destination));
            Addresses::Unix { source, destination, transport }
        }
        _ => Addresses::ip(ip(noise), ip(noise), transport),
    }
}

fn some_header(noise: &mut Noise) -> Vec<u8> {
    let addresses = some_addresses(noise);
    if noise.below(3) == 0 {
        return encode::version_1(&addresses);
    }
    let command = if noise.below(6) == 0 { Command::Local } else { Command::Proxy };
    let mut tlvs = Vec::new();
    for _ in 0..noise.below(6) {
        let kind = one_of(noise, &KINDS);
        tlvs.push(Tlv { kind, value: some_value(noise, kind) });
    }
    encode::version_2(command, &addresses, &tlvs).unwrap()
}

/// What may happen to a header: to its structure, or to any byte.
fn mutate(noise: &mut Noise, bytes: &mut Vec<u8>) {
    let at = noise.below(bytes.len());
    match noise.below(12) {
        0 => bytes[at] = noise.next() as u8,
        1 => bytes[at] ^= 1 << noise.below(8),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..(at + noise.below(20)).min(bytes.len()))),
        4 => {
            let length = noise.below(40);
            let inserted = noise.bytes(length);
            bytes.splice(at..at, inserted);
        }
        5 => bytes.extend_from_within(at..),
        // Version, command, family, protocol, length.
        6 if bytes.len() >= 16 => bytes[12 + noise.below(4)] = noise.next() as u8,
        7 if bytes.len() >= 16 => {
            let length = bytes.len() as u16 - 16;
            let off = one_of(noise, &[0, 1, 0xFFFF, 3, 7, 0xFFF9, 0x1000]);
            bytes[14..16].copy_from_slice(&length.wrapping_add(off).to_be_bytes());
        }
        // A type or a length of a TLV, perhaps.
        8 => bytes[at] = one_of(noise, &KINDS),
        9 => bytes[at] = one_of(noise, &[0, 1, 2, 3, 4, 5, 0x20, 0x7F, 0xFF]),
        // What separates the fields of version 1.
        10 => bytes[at] = one_of(noise, b" \r\n0.:+-9"),
        _ => {
            let inserted = one_of(noise, b" \r\n0.:+-9");
            bytes.insert(at, inserted);
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

/// Makes the checksum right again, if the last seven bytes of the header are one, so that what is
/// behind its verification is reached, too.
fn mend(bytes: &mut [u8]) {
    let Some(&[high, low]) = bytes.get(14..16) else { return };
    let end = 16 + usize::from(u16::from_be_bytes([high, low]));
    let Some(header) = bytes.get_mut(..end) else { return };
    let Some((rest, checksum)) = header.split_last_chunk_mut::<4>() else { return };
    if rest.ends_with(&[kind::CRC32C, 0, 4]) {
        *checksum = [0; 4];
        let sum = crc32c::crc32c(&[rest, checksum]);
        *checksum = sum.to_be_bytes();
    }
}

/// What must be true of every input.
fn examine(noise: &mut Noise, bytes: &[u8]) {
    let whole = parse(bytes);
    for _ in 0..4 {
        let cut = noise.below(bytes.len() + 1);
        let verdict = parse(&bytes[..cut]);
        match &verdict {
            Ok(None) => assert!(cut < MAX_LENGTH, "{bytes:x?} at {cut}"),
            decided => assert_eq!(*decided, whole, "{bytes:x?} at {cut}"),
        }
    }
    let Ok(Some((header, length))) = &whole else {
        assert!(whole.is_err() || bytes.len() < MAX_LENGTH, "{bytes:x?}");
        return;
    };
    assert_eq!(parse(&bytes[..*length]), whole, "{bytes:x?}");
    assert_eq!(parse(&bytes[..length - 1]), Ok(None), "{bytes:x?}");
    if header.command == Command::Local || header.client().is_none() {
        return;
    }
    // Written anew, it says the same, and that its checksum is right.
    let written = match header.version {
        Version::One => encode::version_1(&header.addresses),
        Version::Two => {
            encode::version_2(header.command, &header.addresses, &to_list(&header.tlvs)).unwrap()
        }
    };
    if written.len() > MAX_LENGTH {
        return;
    }
    let mut expected = header.clone();
    expected.tlvs.crc32c = header.version == Version::Two;
    assert_eq!(parse(&written), Ok(Some((expected, written.len()))), "{bytes:x?}");
}

/// Goes on until `time` is over or `most` inputs were tried. Returns how many there were, and how many
/// of them were headers.
fn fuzz(seed: u64, most: u64, time: Duration) -> (u64, u64) {
    let mut noise = Noise(seed | 1);
    let began = Instant::now();
    let (mut tried, mut valid) = (0, 0);
    while tried < most && (tried % 1024 != 0 || began.elapsed() < time) {
        let mut bytes = some_header(&mut noise);
        for _ in 0..noise.below(5) {
            mutate(&mut noise, &mut bytes);
        }
        if noise.below(2) == 0 {
            mend(&mut bytes);
        }
        examine(&mut noise, &bytes);
        valid += u64::from(matches!(parse(&bytes), Ok(Some(_))));
        tried += 1;
    }
    (tried, valid)
}

#[test]
fn a_header_that_something_happened_to_is_parsed_or_refused() {
    let (tried, valid) = fuzz(0x5EED, 20_000, Duration::MAX);
    // Both ways are taken often.
    assert!(valid > tried / 5 && valid < tried * 4 / 5, "{valid} of {tried}");
}

#[test]
#[ignore = "takes a minute, or ECHO_FUZZ_TIME"]
fn a_header_that_something_happened_to_is_parsed_or_refused_for_a_long_time() {
    let variable = |name| std::env::var(name).ok();
    let time = variable("ECHO_FUZZ_TIME").map(|text| humantime::parse_duration(&text).unwrap());
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = variable("ECHO_FUZZ_SEED")
        .map_or_else(|| now().as_nanos() as u64, |text| text.parse().unwrap());
    println!("ECHO_FUZZ_SEED={seed}");
    let (tried, valid) = fuzz(seed, u64::MAX, time.unwrap_or(Duration::from_secs(60)));
    println!("{tried} inputs, {valid} of them headers");
}
