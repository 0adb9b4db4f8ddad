//! Hellos made by hand and by rustls, whole, split, cut and damaged.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::noise::Noise;
use crate::tls::ja4;

/// The `supported_groups` extension (RFC 8446 section 4.2.7).
const SUPPORTED_GROUPS: u16 = 10;

/// A `ClientHello` to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tls) struct Hello {
    pub(in crate::tls) version: u16,
    pub(in crate::tls) ciphers: Vec<u16>,
    pub(in crate::tls) extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    pub(in crate::tls) fn new(ciphers: &[u16], extensions: &[(u16, Vec<u8>)]) -> Self {
        Hello { version: 0x0303, ciphers: ciphers.to_vec(), extensions: extensions.to_vec() }
    }

    /// The handshake message.
    pub(in crate::tls) fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend([3, 1, 2, 3]);
        body.extend(vector_u16(&bytes(&self.ciphers)));
        body.extend([1, 0]);
        if !self.extensions.is_empty() {
            let extension = |(kind, body): &(u16, Vec<u8>)| {
                [&kind.to_be_bytes()[..], &vector_u16(body)].concat()
            };
            let all: Vec<u8> = self.extensions.iter().flat_map(extension).collect();
            body.extend(vector_u16(&all));
        }
        handshake(CLIENT_HELLO, &body)
    }

    pub(in crate::tls) fn parse(&self) -> ClientHello {
        parse(&records(&self.message(), 1 << 14)).expect("a ClientHello")
    }
}

/// The body of an extension that is one list of numbers.
pub(in crate::tls) fn list(numbers: &[u16]) -> Vec<u8> {
    vector_u16(&bytes(numbers))
}

/// The body of `supported_versions`.
pub(in crate::tls) fn versions(numbers: &[u16]) -> Vec<u8> {
    [&[numbers.len() as u8 * 2], &bytes(numbers)[..]].concat()
}

/// The body of the ALPN extension.
pub(in crate::tls) fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let names: Vec<u8> =
        names.iter().flat_map(|name| [&[name.len() as u8], *name].concat()).collect();
    vector_u16(&names)
}

/// The body of `server_name`.
pub(in crate::tls) fn server_name(name: &[u8]) -> Vec<u8> {
    vector_u16(&[&[0], &vector_u16(name)[..]].concat())
}

fn bytes(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn vector_u16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a vector of less than 64 KiB");
    [&length.to_be_bytes(), bytes].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &vector_u16(payload)].concat()
}

/// The message in records of `size` bytes each.
pub(in crate::tls) fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|fragment| record(HANDSHAKE, fragment)).collect()
}

/// The message in records that end at these places.
fn split(message: &[u8], ends: &[usize]) -> Vec<u8> {
    let mut ends: Vec<usize> = ends.iter().map(|end| end % message.len()).collect();
    ends.extend([0, message.len()]);
    ends.sort_unstable();
    ends.dedup();
    ends.windows(2).flat_map(|ends| record(HANDSHAKE, &message[ends[0]..ends[1]])).collect()
}

/// A hello with everything that has an accessor.
fn full() -> Hello {
    Hello::new(
        &[0x1A1A, 0x1302, 0x1301],
        &[
            (0x2A2A, vec![0]),
            (extension::SIGNATURE_ALGORITHMS, list(&[0x0804, 0x0403])),
            (extension::SERVER_NAME, server_name(b"echo.test")),
            (extension::ALPN, alpn(&[b"h2", b"http/1.1"])),
            (extension::SUPPORTED_VERSIONS, versions(&[0x3A3A, 0x0304, 0x0303])),
            (SUPPORTED_GROUPS, list(&[0x4A4A, 0x11EC, 29])),
        ],
    )
}

#[test]
fn a_hello_is_read_in_the_order_of_the_client() {
    let hello = full().parse();
    assert_eq!(hello.legacy_version(), 0x0303);
    assert_eq!(hello.cipher_suites().collect::<Vec<_>>(), [0x1A1A, 0x1302, 0x1301]);
    let kinds: Vec<u16> = hello.extensions().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [0x2A2A, 13, 0, 16, 43, 10]);
    assert_eq!(hello.extension(0x2A2A), Some(&[0][..]));
    assert_eq!(hello.extension(51), None);
    assert_eq!(hello.sni(), Some("echo.test"));
    assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    assert_eq!(hello.supported_versions().collect::<Vec<_>>(), [0x3A3A, 0x0304, 0x0303]);
    assert_eq!(hello.signature_algorithms().collect::<Vec<_>>(), [0x0804, 0x0403]);
}

#[test]
fn a_hello_of_rustls_is_read() {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"one".to_vec(), b"another".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let mut records = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut records).unwrap();
    let hello = parse(&records).expect("a ClientHello");
    assert_eq!(hello.sni(), Some("localhost"));
    assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"one"[..], b"another"]);
    assert_eq!(hello.supported_versions().collect::<Vec<_>>(), [0x0304, 0x0303]);
}

#[test]
fn a_hello_without_extensions_is_read() {
    let hello = Hello { version: 0x0301, ..Hello::new(&[0x0005], &[]) }.parse();
    assert_eq!((hello.legacy_version(), hello.extensions().count()), (0x0301, 0));
    assert_eq!((hello.sni(), hello.alpn().next()), (None, None));
    assert_eq!(hello.supported_versions().count(), 0);
    assert_eq!(hello.signature_algorithms().count(), 0);
}

#[test]
fn a_server_name_that_is_no_host_name_is_none() {
    let sni = |body: Vec<u8>| {
        let hello = Hello::new(&[1], &[(extension::SERVER_NAME, body)]).parse();
        hello.sni().map(str::to_owned)
    };
    let other = [&[9][..], &vector_u16(b"other")].concat();
    let host = [&[0][..], &vector_u16(b"host")].concat();
    assert_eq!(sni(vector_u16(&[&other[..], &host].concat())).as_deref(), Some("host"));
    for body in [vec![], vec![0, 0], vec![0, 9, 0, 0, 1], vector_u16(&other), server_name(b"\xFF")]
    {
        assert_eq!(sni(body.clone()), None, "{body:?}");
    }
}

#[test]
fn what_follows_a_hello_is_ignored() {
    let message = full().message();
    let behind_it = [&message[..], &[20, 0, 0, 1, 1]].concat();
    let records = [record(HANDSHAKE, &behind_it), record(20, &[1]), b"and more".to_vec()].concat();
    assert_eq!(parse(&records), Some(full().parse()));
}

#[test]
fn a_hello_that_is_cut_anywhere_is_none() {
    let whole = records(&full().message(), 50);
    for length in 0..whole.len() {
        assert_eq!(parse(&whole[..length]), None, "{length} bytes");
    }
}

#[test]
fn what_is_no_hello_is_none() {
    let message = full().message();
    let (one, other) = message.split_at(3);
    let fragments =
        |between: &[u8]| [&record(HANDSHAKE, one)[..], between, &record(HANDSHAKE, other)].concat();
    assert_eq!(parse(&fragments(&[])), Some(full().parse()));
    let body = &message[4..];
    let hello = |body: &[u8]| record(HANDSHAKE, &handshake(CLIENT_HELLO, body));
    assert_eq!(parse(&hello(body)), Some(full().parse()));
    let with_session_id = |length: u8| {
        let id = vec![0; length.into()];
        [&body[..34], &[length], &id, &body[38..]].concat()
    };
    assert!(parse(&hello(&with_session_id(32))).is_some());
    let odd = [&body[..38], &[0, 5], &body[40..]].concat();
    let no_extensions = Hello::new(&[1], &[]).message()[4..].to_vec();
    assert!(parse(&hello(&no_extensions)).is_some());
    let with = |extensions: &[u8]| hello(&[&no_extensions[..], extensions].concat());
    assert!(parse(&with(&[0, 5, 0, 9, 0, 1, 7])).is_some());
    for (bytes, what) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "HTTP"),
        (record(21, &[2, 40]), "an alert"),
        (record(HANDSHAKE, &handshake(2, body)), "a ServerHello"),
        (fragments(&record(HANDSHAKE, &[])), "an empty fragment"),
        (fragments(&record(20, &[1])), "a ChangeCipherSpec between two fragments"),
        (record(23, &message), "application data"),
        (hello(&with_session_id(33)), "a session id of 33 bytes"),
        (hello(&odd), "half a cipher suite"),
        (hello(&[body, &[0]].concat()), "a byte behind the extensions"),
        (with(&[0, 6, 0, 9, 0, 1, 7]), "fewer extensions than announced"),
        (with(&[0, 5, 0, 9, 0, 2, 7]), "an extension that is cut"),
        (with(&[0, 6, 0, 9, 0, 1, 7, 0]), "half an extension's type"),
    ] {
        assert_eq!(parse(&bytes), None, "{what}");
    }
}

#[test]
fn a_hello_may_have_64_kib() {
    let fixed = full().message().len();
    let room = LONGEST - (fixed - 4);
    let mut padded = full();
    padded.extensions.push((21, vec![0; room - 4]));
    let mut many = full();
    many.extensions.extend(vec![(99, vec![]); room / 4]);
    let mut ciphers = full();
    ciphers.ciphers.extend(vec![5; room / 2]);
    for hello in [padded, many, ciphers] {
        let message = hello.message();
        assert!(message.len() > LONGEST, "{} bytes", message.len());
        let expected = hello.parse();
        assert_eq!(parse(&records(&message, 1)), Some(expected.clone()));
        assert_eq!(expected.extensions().count(), hello.extensions.len());
        assert_eq!(expected.cipher_suites().count(), hello.ciphers.len());
        let ja4 = ja4::fingerprint(&expected);
        assert!(ja4.raw.len() < 200 * 1024, "{} bytes", ja4.raw.len());
    }
    let mut larger = records(&full().message(), 1 << 14);
    // The message's length, now 64 KiB.
    larger[6..9].copy_from_slice(&[1, 0, 0]);
    larger.extend(records(&vec![0; 0x10000], 1 << 14));
    assert_eq!(parse(&larger), None);
}

/// Reads everything that there is to read, and checks what is always so.
fn exercise(records: &[u8]) -> Option<ClientHello> {
    let hello = parse(records)?;
    let _ = (hello.sni(), hello.alpn().count());
    let ja4 = ja4::fingerprint(&hello);
    assert_eq!(ja4.hash.len(), 36, "{ja4:?}");
    assert_eq!(ja4.raw.as_bytes()[..11], ja4.hash.as_bytes()[..11], "{ja4:?}");
    Some(hello)
}

/// A hello whose lists are drawn.
pub(in crate::tls) fn some_hello() -> impl Strategy<Value = Hello> {
    use proptest::collection::vec;
    let number = || any::<u16>().prop_filter("not GREASE", |number| !is_grease(*number));
    let name = vec(any::<u8>(), 0..9).prop_filter("not GREASE", |name| !is_grease_name(name));
    let extension = prop_oneof![
        4 => (number(), vec(any::<u8>(), 0..20)),
        1 => vec(number(), 0..6)
            .prop_map(|numbers| (extension::SUPPORTED_VERSIONS, versions(&numbers))),
        1 => vec(number(), 0..6)
            .prop_map(|numbers| (extension::SIGNATURE_ALGORITHMS, list(&numbers))),
        1 => vec(number(), 0..6).prop_map(|numbers| (SUPPORTED_GROUPS, list(&numbers))),
        1 => vec(name, 0..4).prop_map(|names| {
            let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            (extension::ALPN, alpn(&names))
        }),
        1 => "[a-z.]{0,20}".prop_map(|name| (extension::SERVER_NAME, server_name(name.as_bytes()))),
    ];
    let parts = (number(), vec(number(), 0..120), vec(extension, 0..30));
    parts.prop_map(|(version, ciphers, extensions)| Hello { version, ciphers, extensions })
}

proptest! {
    #[test]
    fn where_records_end_makes_no_difference(
        hello in some_hello(),
        ends in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let message = hello.message();
        prop_assert_eq!(exercise(&split(&message, &ends)), Some(hello.parse()));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        exercise(&bytes);
        exercise(&record(HANDSHAKE, &bytes));
        exercise(&record(HANDSHAKE, &handshake(CLIENT_HELLO, &bytes)));
    }

    #[test]
    fn damaged_hellos_are_read_without_panic(
        hello in some_hello(),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..9),
    ) {
        let mut bytes = records(&hello.message(), 1 << 14);
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        exercise(&bytes);
    }
}

/// Changes a message in a few places: bytes, lengths, and whole pieces.
fn damage(noise: &mut Noise, message: &mut Vec<u8>) {
    for _ in 0..noise.below(6) {
        let at = noise.below(message.len());
        let length = noise.below(message.len() - at).min(300);
        match noise.below(6) {
            0 => message[at] = noise.next() as u8,
            1 => message[at] ^= 1 << noise.below(8),
            2 => message[at] = message[at].wrapping_add(1),
            3 => drop(message.drain(at..at + length)),
            4 => {
                let piece = message[at..at + length].to_vec();
                let to = noise.below(message.len());
                message.splice(to..to, piece);
            }
            _ => {
                let random: Vec<u8> = (0..length).map(|_| noise.next() as u8).collect();
                message.splice(at..at + length, random);
            }
        }
        if message.is_empty() {
            message.push(CLIENT_HELLO);
        }
    }
}

/// `ECHO_FUZZ_SEED` repeats a run.
#[test]
#[ignore = "takes ten minutes"]
fn ten_minutes_of_damaged_hellos_are_read_without_panic() {
    let seed = std::env::var("ECHO_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = seed.unwrap_or(now.as_nanos() as u64 | 1);
    println!("ECHO_FUZZ_SEED={seed}");
    let mut noise = Noise(seed);
    let published = ja4::tests::published().into_iter().map(|hello| hello.records[5..].to_vec());
    let seeds: Vec<Vec<u8>> = published.chain([full().message()]).collect();
    let begin = Instant::now();
    let (mut executions, mut read) = (0_u64, 0_u64);
    while begin.elapsed() < Duration::from_secs(600) {
        for _ in 0..1000 {
            let mut message = seeds[noise.below(seeds.len())].clone();
            damage(&mut noise, &mut message);
            if noise.below(4) > 0 && message.len() >= 4 {
                // A header that agrees lets more of them reach what is behind it.
                let length = (message.len() as u32 - 4).to_be_bytes();
                message[..4].copy_from_slice(&[CLIENT_HELLO, length[1], length[2], length[3]]);
            }
            let ends: Vec<usize> = (0..noise.below(4)).map(|_| noise.below(1 << 16)).collect();
            let mut bytes = split(&message, &ends);
            let whole = exercise(&bytes);
            assert_eq!(whole, exercise(&records(&message, 1 << 14)));
            read += u64::from(whole.is_some());
            damage(&mut noise, &mut bytes);
            exercise(&bytes);
            executions += 3;
        }
    }
    println!("{executions} executions; {read} of the damaged hellos were read");
}

#[test]
fn grease_is_told_from_names() {
    assert!(is_grease_name(&[0x1A, 0x1A]) && is_grease_name(&[0xFA, 0xFA]));
    assert!(
        !is_grease_name(&[0x1A, 0x2A]) && !is_grease_name(b"h2") && !is_grease_name(&[0x1B, 0x1B])
    );
}
