//! Fingerprints that are published, and the rules that they show nothing of.

use proptest::prelude::*;

use super::super::client_hello;
use super::super::client_hello::tests::{Hello, alpn, list, server_name, some_hello, versions};
use super::*;

/// A captured hello whose fingerprint is published.
pub(in crate::tls) struct Published {
    ja4: Ja4,
    pub(in crate::tls) records: Vec<u8>,
}

pub(in crate::tls) fn published() -> Vec<Published> {
    let lines = include_str!("hellos.txt").lines();
    let lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let hello = |lines: &[&str]| Published {
        ja4: Ja4 { hash: lines[0].to_owned(), raw: lines[1].to_owned() },
        records: data_encoding::HEXLOWER.decode(lines[2].as_bytes()).unwrap(),
    };
    lines.chunks_exact(3).map(hello).collect()
}

#[test]
fn captured_hellos_have_the_fingerprints_that_are_published() {
    let published = published();
    assert_eq!(published.len(), 9);
    for Published { ja4, records } in published {
        assert_eq!(fingerprint(&client_hello::parse(&records).unwrap()), ja4);
    }
}

const CIPHERS: [u16; 15] = [
    0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C,
    0x009D, 0x002F, 0x0035,
];

/// The hello of the published description.
fn example() -> Hello {
    let extensions = [
        0x001B, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002D, 0x000D, 0x0005, 0x0023, 0x0012,
        0x002B, 0xFF01, 0x000B, 0x000A, 0x0015,
    ];
    let body = |kind| match kind {
        extension::SERVER_NAME => server_name(b"a.test"),
        extension::ALPN => alpn(&[b"h2", b"http/1.1"]),
        extension::SUPPORTED_VERSIONS => versions(&[0x0303, 0x0304]),
        extension::SIGNATURE_ALGORITHMS => {
            list(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601])
        }
        _ => vec![],
    };
    Hello::new(&CIPHERS, &extensions.map(|kind| (kind, body(kind))))
}

#[test]
fn the_published_example_has_its_fingerprint() {
    let ja4 = fingerprint(&example().parse());
    assert_eq!(ja4.hash, "t13d1516h2_8daaf6152771_e5627efa2ab1");
    assert_eq!(
        ja4.raw,
        "t13d1516h2_002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,cca9_\
         0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01_\
         0403,0804,0401,0503,0805,0501,0806,0601"
    );
}

#[test]
fn without_signature_algorithms_there_is_no_underscore_before_them() {
    let mut hello = example();
    for (kind, body) in &mut hello.extensions {
        if *kind == extension::SIGNATURE_ALGORITHMS {
            *body = list(&[]);
        }
    }
    let ja4 = fingerprint(&hello.parse());
    assert_eq!(ja4.hash, "t13d1516h2_8daaf6152771_6d807ffa2a79");
    assert!(ja4.raw.ends_with(",4469,ff01"), "{}", ja4.raw);
}

#[test]
fn empty_lists_have_zeros_in_place_of_a_hash() {
    let ja4 = fingerprint(&Hello::new(&[], &[]).parse());
    assert_eq!(ja4.hash, "t12i000000_000000000000_000000000000");
    assert_eq!(ja4.raw, "t12i000000__");
    let both = [(extension::SERVER_NAME, vec![]), (extension::ALPN, alpn(&[b"h2"]))];
    let ja4 = fingerprint(&Hello::new(&[0x0A0A], &both).parse());
    assert_eq!(ja4.hash, "t12d0002h2_000000000000_000000000000");
}

#[test]
fn the_version_is_the_highest_that_is_offered() {
    let told = |hello: Hello| fingerprint(&hello.parse()).hash[1..3].to_owned();
    for (version, expected) in [
        (0x0304, "13"),
        (0x0303, "12"),
        (0x0302, "11"),
        (0x0301, "10"),
        (0x0300, "s3"),
        (0x0002, "s2"),
        (0xFEFF, "d1"),
        (0xFEFD, "d2"),
        (0xFEFC, "d3"),
        (0x0305, "00"),
        (0x7F17, "00"),
    ] {
        assert_eq!(told(Hello { version, ..Hello::new(&[1], &[]) }), expected);
        let offered = [(extension::SUPPORTED_VERSIONS, versions(&[0x0002, version, 0xFAFA]))];
        assert_eq!(told(Hello { version: 0x0301, ..Hello::new(&[1], &offered) }), expected);
    }
    let grease = [(extension::SUPPORTED_VERSIONS, versions(&[0x1A1A]))];
    assert_eq!(told(Hello::new(&[1], &grease)), "00");
}

#[test]
fn counts_end_at_99() {
    let counts = |ciphers, extensions| {
        let hello = Hello::new(&vec![0x1301; ciphers], &vec![(5, vec![]); extensions]);
        fingerprint(&hello.parse()).hash[4..8].to_owned()
    };
    assert_eq!(counts(5, 98), "0598");
    assert_eq!(counts(99, 100), "9999");
    assert_eq!(counts(1000, 1), "9901");
}

#[test]
fn the_first_protocol_is_told_by_its_first_and_last_character() {
    let told = |names: &[&[u8]]| {
        let offered = [(extension::ALPN, alpn(names))];
        fingerprint(&Hello::new(&[1], &offered).parse()).hash[8..10].to_owned()
    };
    for (name, expected) in [
        (&b"h2"[..], "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"Zed9", "Z9"),
        (b"", "00"),
        (b"\xAB", "ab"),
        (b"\x20", "20"),
        (b"\xAB\xCD", "ad"),
        (b"\x20\x61", "21"),
        (b"\x30\xAB", "3b"),
        (b"\x61\x20", "60"),
        (b"\x30\x31\xAB\xCD", "3d"),
        (b"\x30\xAB\xCD\x31", "01"),
        (b"-a", "21"),
        // What is between the first and the last does not matter, and these are no GREASE.
        (b"a-b", "ab"),
        (b"\x0A\x0A\x0A", "0a"),
        (b"\x0A\x1A", "0a"),
    ] {
        assert_eq!(told(&[name, b"other"]), expected, "{name:?}");
    }
    assert_eq!(told(&[]), "00");
    assert_eq!(told(&[b"\x0A\x0A", b"JJ", b"h3"]), "h3");
    assert_eq!(told(&[b"\xFA\xFA"]), "00");
}

#[test]
fn an_order_that_a_client_draws_makes_no_difference() {
    let mut hello = example();
    hello.ciphers.reverse();
    hello.extensions.reverse();
    assert_eq!(fingerprint(&hello.parse()), fingerprint(&example().parse()));
    for (kind, body) in &mut hello.extensions {
        if *kind == extension::SIGNATURE_ALGORITHMS {
            *body = list(&[0x0601, 0x0806]);
        }
    }
    let ja4 = fingerprint(&hello.parse());
    assert!(ja4.raw.ends_with("_0601,0806"), "{}", ja4.raw);
}

/// The same hello with a GREASE value more, at some place.
fn with_grease(hello: &Hello, nibble: u8, which: usize, at: usize) -> Hello {
    let mut hello = hello.clone();
    let value = u16::from_be_bytes([nibble << 4 | 0x0A; 2]);
    let insert = |into: &mut Vec<u16>| into.insert(at % (into.len() + 1), value);
    let position = |wanted| hello.extensions.iter().position(|(kind, _)| *kind == wanted);
    match which {
        0 => insert(&mut hello.ciphers),
        1 => {
            let at = at % (hello.extensions.len() + 1);
            hello.extensions.insert(at, (value, vec![0; at % 3]));
        }
        2 => {
            if let Some(position) = position(extension::SUPPORTED_VERSIONS) {
                let mut offered: Vec<u16> = hello.parse().supported_versions().collect();
                insert(&mut offered);
                hello.extensions[position].1 = versions(&offered);
            }
        }
        3 => {
            if let Some(position) = position(extension::SIGNATURE_ALGORITHMS) {
                let mut offered: Vec<u16> = hello.parse().signature_algorithms().collect();
                insert(&mut offered);
                hello.extensions[position].1 = list(&offered);
            }
        }
        _ => {
            if let Some(position) = position(extension::ALPN) {
                let parsed = hello.parse();
                let mut names: Vec<&[u8]> = parsed.alpn().collect();
                let value = value.to_be_bytes();
                names.insert(at % (names.len() + 1), &value);
                hello.extensions[position].1 = alpn(&names);
            }
        }
    }
    hello
}

proptest! {
    #[test]
    fn grease_makes_no_difference_anywhere(
        hello in some_hello(),
        grease in proptest::collection::vec((0..16_u8, 0..5_usize, any::<usize>()), 1..9),
    ) {
        let expected = fingerprint(&hello.parse());
        let greased = grease.iter().fold(hello, |hello, (nibble, which, at)| {
            with_grease(&hello, *nibble, *which, *at)
        });
        prop_assert_eq!(fingerprint(&greased.parse()), expected);
    }
}
