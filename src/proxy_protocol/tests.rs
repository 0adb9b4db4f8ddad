//! Compares the parser with the specification case by case, and with the encoder on random headers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::parse::{End, FIXED_LENGTH, HeaderError, MAX_BLOCK};
use super::*;

const VERSION_2_TCP4: [u8; 2] = [0x21, 0x11];

/// A version 2 header with this version, command, family and protocol, whose length is right.
fn version_2(kinds: [u8; 2], block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&SIGNATURE, &kinds[..], &length, block].concat()
}

/// The block of a header for IPv4: 192.0.2.1:61000 to 203.0.113.9:443, and `tlvs`.
fn ipv4_block(tlvs: &[u8]) -> Vec<u8> {
    [&[192, 0, 2, 1, 203, 0, 113, 9, 0xEE, 0x48, 0x01, 0xBB], tlvs].concat()
}

fn tcp(source: &str, destination: &str) -> Addresses {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Addresses::Ip { source, destination, transport: Transport::Stream }
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// The header that all of `bytes` are.
fn parsed(bytes: &[u8]) -> Header {
    let (header, length) = parse(bytes).unwrap().unwrap();
    assert_eq!(length, bytes.len());
    header
}

/// The TLVs of a header for IPv4 that has these.
fn parsed_tlvs(tlvs: &[u8]) -> Result<Tlvs, HeaderError> {
    let bytes = version_2(VERSION_2_TCP4, &ipv4_block(tlvs));
    parse(&bytes).map(|parsed| parsed.unwrap().0.tlvs)
}

/// What is said of `bytes` as they come one by one: nothing, then the same to the end.
fn verdict_byte_by_byte(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let verdicts = (0..=bytes.len()).map(|length| parse(&bytes[..length]));
    let mut decided = verdicts.skip_while(|verdict| *verdict == Ok(None));
    let first = decided.next().unwrap_or(Ok(None));
    for later in decided {
        assert_eq!(first, later, "{bytes:x?}");
    }
    first
}

#[test]
fn the_example_of_version_1_is_parsed_and_what_follows_is_left() {
    let header = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    let bytes = [&header[..], b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"].concat();
    let (parsed, length) = parse(&bytes).unwrap().unwrap();
    assert_eq!(length, header.len());
    assert_eq!(parsed.addresses, tcp("192.168.0.1:56324", "192.168.0.11:443"));
    assert_eq!((parsed.version, parsed.command), (Version::One, Command::Proxy));
    assert_eq!(parsed.client(), Some(([192, 168, 0, 1], 56324).into()));
}

#[test]
fn the_longest_lines_of_version_1_are_parsed() {
    let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(line.len(), 56);
    assert_eq!(parsed(line).addresses, tcp("255.255.255.255:65535", "255.255.255.255:65535"));
    let ffff = ["ffff"; 8].join(":");
    let line = format!("PROXY TCP6 {ffff} {ffff} 65535 65535\r\n");
    assert_eq!(line.len(), 104);
    let address = format!("[{ffff}]:65535");
    assert_eq!(parsed(line.as_bytes()).addresses, tcp(&address, &address));
    let line = format!("PROXY UNKNOWN {ffff} {ffff} 65535 65535\r\n");
    assert_eq!(line.len(), 107);
    assert_eq!(parsed(line.as_bytes()).addresses, Addresses::Unspecified);
}

#[test]
fn ipv6_addresses_of_version_1_are_parsed_in_every_form() {
    for (text, address) in [
        ("2001:db8::1", "2001:db8::1"),
        ("2001:0DB8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("::", "::"),
        ("::ffff:c000:201", "::ffff:192.0.2.1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ] {
        let line = format!("PROXY TCP6 {text} ::1 1 0\r\n");
        let expected = tcp(&format!("[{address}]:1"), "[::1]:0");
        assert_eq!(parsed(line.as_bytes()).addresses, expected, "{text}");
    }
}

#[test]
fn an_unknown_line_is_a_header_whatever_it_holds_up_to_its_end() {
    for line in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN \r\n",
        b"PROXY UNKNOWN \xFF\0 a\rb\nc \r\r\n",
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n",
    ] {
        let header = parsed(line);
        assert_eq!((header.client(), header.addresses), (None, Addresses::Unspecified));
        verdict_byte_by_byte(line).unwrap().unwrap();
    }
}

#[test]
fn a_version_1_line_that_is_not_exact_is_refused() {
    use HeaderError::*;
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(long.len(), 108);
    let ffff = ["ffff"; 8].join(":");
    let padded = format!("PROXY TCP6 {ffff} {ffff} 65535 65535    \r\n");
    for (line, error) in [
        ("PROXY\tTCP4", Signature { position: 6, byte: 9 }),
        ("PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Keyword),
        ("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", Keyword),
        ("PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", Keyword),
        ("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", Keyword),
        ("PROXY TCP4\r\n", Keyword),
        ("PROXY UNKNOWNS\r\n", Keyword),
        ("PROXY UNKNOWN\n", Keyword),
        ("PROXY \r\n", Keyword),
        ("PROXY TCP4 \r\n", Fields),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", Fields),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", Fields),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", Fields),
        ("PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", Fields),
        ("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", Fields),
        ("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", Ipv4(End::Source)),
        ("PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", Ipv4(End::Source)),
        ("PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n", Ipv4(End::Source)),
        ("PROXY TCP4 0xC0.0.2.1 192.0.2.2 1 2\r\n", Ipv4(End::Source)),
        ("PROXY TCP4 192.0.2.1 ::1 1 2\r\n", Ipv4(End::Destination)),
        ("PROXY TCP4 192.0.2.1 é 1 2\r\n", Ipv4(End::Destination)),
        ("PROXY TCP6 ::1 192.0.2.1 1 2\r\n", Ipv6(End::Destination)),
        ("PROXY TCP6 ::1%lo ::1 1 2\r\n", Ipv6(End::Source)),
        ("PROXY TCP6 [::1] ::1 1 2\r\n", Ipv6(End::Source)),
        ("PROXY TCP6 1::2::3 ::1 1 2\r\n", Ipv6(End::Source)),
        ("PROXY TCP6 00001::1 ::1 1 2\r\n", Ipv6(End::Source)),
        ("PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n", Ipv6(End::Source)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", Port(End::Source)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 00 2\r\n", Port(End::Source)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", Port(End::Source)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", Port(End::Source)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n", Port(End::Destination)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\t\r\n", Port(End::Destination)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", LineEnding),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n", LineEnding),
        ("PROXY TCP4 192.0.2.1\r192.0.2.2 1 2\r\n", LineEnding),
        (&long, LineTooLong),
        (&padded, LineTooLong),
    ] {
        assert_eq!(verdict_byte_by_byte(line.as_bytes()), Err(error), "{line:?}");
    }
}

#[test]
fn a_line_without_an_end_is_refused_at_its_107th_byte() {
    for start in ["PROXY UNKNOWN ", "PROXY TCP4 "] {
        let line = format!("{start}{}", "1".repeat(200));
        assert_eq!(parse(&line.as_bytes()[..106]), Ok(None));
        assert_eq!(parse(&line.as_bytes()[..107]), Err(HeaderError::LineTooLong));
        // Nor does a CR at the end help, since the LF would be too much.
        let line = format!("{}\r\n", &line[..106]);
        assert_eq!(parse(&line.as_bytes()[..106]), Ok(None));
        assert_eq!(parse(&line.as_bytes()[..107]), Err(HeaderError::LineTooLong));
        assert_eq!(parse(line.as_bytes()), Err(HeaderError::LineTooLong));
    }
}

#[test]
fn the_first_byte_that_fits_neither_signature_is_an_error_at_once() {
    for (bytes, position, byte) in [
        (&b"\x16\x03\x01"[..], 1, 0x16),
        (b"GET / HTTP/1.1\r\n", 1, b'G'),
        (b"PRI * HTTP/2.0\r\n", 3, b'I'),
        (b"PROXYTCP4", 6, b'T'),
        (b"\r\n\r\n\r\n", 5, b'\r'),
        (b"\r\n\r\n\0\r\nQUIT\r", 12, b'\r'),
        (b"\n", 1, b'\n'),
    ] {
        let error = HeaderError::Signature { position, byte };
        assert_eq!(parse(&bytes[..position]), Err(error), "{bytes:x?}");
        assert_eq!(parse(&bytes[..position - 1]), Ok(None), "{bytes:x?}");
        assert_eq!(verdict_byte_by_byte(bytes), Err(error));
    }
}

#[test]
fn the_addresses_of_version_2_are_parsed() {
    let ipv4 = ipv4_block(b"");
    let (source, destination) = ("192.0.2.1:61000", "203.0.113.9:443");
    let header = parsed(&version_2([0x21, 0x11], &ipv4));
    assert_eq!(header.addresses, tcp(source, destination));
    assert_eq!((header.version, header.command), (Version::Two, Command::Proxy));
    assert_eq!(header.tlvs, Tlvs::default());
    let header = parsed(&version_2([0x21, 0x12], &ipv4));
    assert_eq!(header.client(), Some(source.parse().unwrap()));
    let is_datagram = |addresses: &Addresses| {
        matches!(addresses, Addresses::Ip { transport: Transport::Datagram, .. })
    };
    assert!(is_datagram(&header.addresses));

    let mut ipv6 = [0; 36];
    (ipv6[0], ipv6[15], ipv6[16], ipv6[33], ipv6[35]) = (0xFE, 1, 0x20, 7, 9);
    assert_eq!(parsed(&version_2([0x21, 0x21], &ipv6)).addresses, tcp("[fe00::1]:7", "[2000::]:9"));
    assert!(is_datagram(&parsed(&version_2([0x21, 0x22], &ipv6)).addresses));

    let mut unix = [0; 216];
    unix[..9].copy_from_slice(b"/run/a\0ed");
    unix[108..113].copy_from_slice(b"\0na\0m");
    let header = parsed(&version_2([0x21, 0x31], &unix));
    let (source, destination) = (b"/run/a".to_vec(), b"\0na\0m".to_vec());
    let transport = Transport::Stream;
    assert_eq!(header.addresses, Addresses::Unix { source, destination, transport });
    assert_eq!(header.client(), None);
    // All 108 bytes may be used, without a NUL.
    let full = parsed(&version_2([0x21, 0x32], &[b'x'; 216])).addresses;
    let (source, destination) = (vec![b'x'; 108], vec![b'x'; 108]);
    assert_eq!(full, Addresses::Unix { source, destination, transport: Transport::Datagram });
}

#[test]
fn local_keeps_nothing_of_a_forged_block_and_ignores_its_family() {
    let bad_checksum = ipv4_block(&tlv(kind::CRC32C, &[1, 2, 3, 4]));
    for (family, block) in [
        (0, &b""[..]),
        (0x11, &ipv4_block(&tlv(kind::AUTHORITY, b"forged"))),
        (0x11, &bad_checksum),
        (0x21, b"short"),
        (0, b"\xFF\xFF\xFF no TLV"),
        (0xFF, b"nobody knows"),
    ] {
        let bytes = version_2([0x20, family], block);
        let header = parsed(&bytes);
        assert_eq!(header.command, Command::Local);
        assert_eq!((header.client(), header.addresses), (None, Addresses::Unspecified));
        assert_eq!(header.tlvs, Tlvs::default());
        verdict_byte_by_byte(&bytes).unwrap().unwrap();
    }
}

#[test]
fn unspec_has_no_addresses_but_may_have_tlvs() {
    let authority = tlv(kind::AUTHORITY, b"example.com");
    let header = parsed(&version_2([0x21, 0], &authority));
    assert_eq!((header.client(), &header.addresses), (None, &Addresses::Unspecified));
    assert_eq!(header.tlvs.authority.as_deref(), Some(&b"example.com"[..]));
    // The address 3.0.4.1 looks like a checksum, and a wrong one.
    let unsure = parsed(&version_2([0x21, 0], &tlv(kind::CRC32C, &[1, 2, 3, 4])));
    assert_eq!(unsure.tlvs, Tlvs::default());
    // What is not TLVs is ignored, as are the addresses that half a kind may announce.
    for (family, block) in [
        (0, &ipv4_block(b"")[..]),
        (0, b"x"),
        (0x10, &ipv4_block(&authority)),
        (0x20, b""),
        (0x30, b"x"),
        (0x01, &authority),
        (0x02, b""),
    ] {
        let header = parsed(&version_2([0x21, family], block));
        assert_eq!((header.client(), header.addresses), (None, Addresses::Unspecified));
        assert_eq!(header.tlvs, Tlvs::default());
    }
}

#[test]
fn what_version_2_does_not_define_is_refused() {
    use HeaderError::*;
    let block = ipv4_block(b"");
    for (bytes, error) in [
        (version_2([0x22, 0x11], &block), Command(2)),
        (version_2([0x2F, 0x11], &block), Command(15)),
        (version_2([0x11, 0x11], &block), Version(1)),
        (version_2([0x31, 0x11], &block), Version(3)),
        (version_2([0x00, 0x11], &block), Version(0)),
        (version_2([0x21, 0x41], &block), Family(4)),
        (version_2([0x21, 0xF0], &block), Family(15)),
        (version_2([0x21, 0x13], &block), Protocol(3)),
        (version_2([0x21, 0x0F], &block), Protocol(15)),
        (version_2([0x21, 0x11], &block[..11]), AddressesCut { needed: 12, found: 11 }),
        (version_2([0x21, 0x11], b""), AddressesCut { needed: 12, found: 0 }),
        (version_2([0x21, 0x21], &[0; 35]), AddressesCut { needed: 36, found: 35 }),
        (version_2([0x21, 0x31], &[0; 215]), AddressesCut { needed: 216, found: 215 }),
        (version_2([0x21, 0x12], &[0; 4097]), BlockTooLong(4097)),
        (version_2([0x20, 0], &[0; 65_535]), BlockTooLong(65_535)),
    ] {
        // It is said before the block has come.
        assert_eq!(parse(&bytes[..16]), Err(error));
        assert_eq!(parse(&bytes), Err(error));
        assert_eq!(verdict_byte_by_byte(&bytes[..bytes.len().min(300)]), Err(error));
    }
    let longest = version_2([0x20, 0], &[0; 4096]);
    assert_eq!(longest.len(), FIXED_LENGTH + MAX_BLOCK);
    parsed(&longest);
}

#[test]
fn a_tlv_that_reaches_beyond_its_end_is_refused() {
    use HeaderError::*;
    let ssl = |value: &[u8]| tlv(kind::SSL, &[&[1, 0, 0, 0, 0][..], value].concat());
    for (tlvs, error) in [
        (&[kind::ALPN][..], TlvCut),
        (&[kind::ALPN, 0], TlvCut),
        (&[kind::ALPN, 0, 1], TlvCut),
        (&[kind::NOOP, 0xFF, 0xFF, 0], TlvCut),
        (&[&tlv(kind::NOOP, b"")[..], &[0]].concat(), TlvCut),
        (&tlv(kind::SSL, &[1, 0, 0, 0]), SslCut(4)),
        (&ssl(&[kind::SSL_CN]), SslTlvCut),
        // It fits the block, but not the TLV that it is in.
        (&[&ssl(&[kind::SSL_CN, 0, 3])[..], &tlv(kind::NOOP, b"")].concat(), SslTlvCut),
        (&tlv(kind::UNIQUE_ID, &[0; 129]), UniqueId(129)),
    ] {
        assert_eq!(parsed_tlvs(tlvs), Err(error), "{tlvs:x?}");
    }
    assert_eq!(parsed_tlvs(b"").unwrap(), Tlvs::default());
    assert_eq!(parsed_tlvs(&ssl(b"")).unwrap().ssl, Some(Ssl { client: 1, ..Ssl::default() }));
}

#[test]
fn a_checksum_is_verified_wherever_it_stands() {
    let (noop, alpn) = (tlv(kind::NOOP, &[7; 5]), tlv(kind::ALPN, b"h2"));
    let zeros = tlv(kind::CRC32C, &[0; 4]);
    for (before, after) in [(&b""[..], &b""[..]), (&noop, &alpn), (&alpn, b""), (b"", &noop)] {
        let block = ipv4_block(&[before, &zeros, after].concat());
        let mut bytes = version_2(VERSION_2_TCP4, &block);
        let at = bytes.len() - after.len() - 4;
        let checksum = crc32c::crc32c(&[&bytes]);
        bytes[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
        assert!(parsed(&bytes).tlvs.crc32c);
        // Any bit of the header that is flipped is found, if it remains one.
        for bit in 16 * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some((header, _))) = parse(&damaged) {
                // Then the checksum's own type is damaged, and there is none.
                assert!(!header.tlvs.crc32c && bit / 8 == at - 3, "bit {bit} of {bytes:x?}");
            }
        }
    }
    for (tlvs, error) in [
        (tlv(kind::CRC32C, &[0; 4]), HeaderError::Checksum),
        (tlv(kind::CRC32C, &[0; 3]), HeaderError::ChecksumLength(3)),
        (tlv(kind::CRC32C, &[0; 5]), HeaderError::ChecksumLength(5)),
        ([&zeros[..], &zeros].concat(), HeaderError::ChecksumTwice),
    ] {
        assert_eq!(parsed_tlvs(&tlvs), Err(error));
    }
}

/// The first bytes of a `ClientHello`, in one segment with the header.
#[test]
fn a_header_ends_exactly_where_tls_begins() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03";
    let addresses = tcp("192.0.2.1:1", "192.0.2.2:2");
    let (proxy, local) = (Command::Proxy, Command::Local);
    for header in [
        encode::version_1(&addresses),
        encode::version_1(&Addresses::Unspecified),
        encode::version_2(proxy, &addresses, &[]).unwrap(),
        encode::version_2(local, &Addresses::Unspecified, &[]).unwrap(),
    ] {
        let bytes = [&header[..], hello].concat();
        let (_, length) = parse(&bytes).unwrap().unwrap();
        assert_eq!(&bytes[length..], hello);
        let (_, length) = verdict_byte_by_byte(&bytes).unwrap().unwrap();
        assert_eq!(length, header.len());
    }
}

#[test]
fn every_error_is_a_line_that_ends_a_sentence() {
    use HeaderError::*;
    for (error, text) in [
        (
            Signature { position: 1, byte: 0x16 },
            "its byte 1 is 0x16, which is in neither version's signature there",
        ),
        (LineTooLong, "it is longer than 107 bytes, and no version 1 header may be"),
        (
            BlockTooLong(65_535),
            "its length field says 65535 bytes, and this server takes 4096 at most",
        ),
        (Command(2), "its command is 0x2, and only 0 (LOCAL) and 1 (PROXY) are assigned"),
        (
            Ipv4(End::Destination),
            "its destination address is no IPv4 address as TCP4 has it: four numbers without \
             leading zeros",
        ),
        (Checksum, "the checksum (CRC32C) is wrong"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn version_1_is_written_as_the_specification_has_it() {
    for (addresses, line) in [
        (tcp("192.0.2.1:0", "192.0.2.2:65535"), "PROXY TCP4 192.0.2.1 192.0.2.2 0 65535\r\n"),
        (tcp("[2001:db8::1]:1", "[::]:2"), "PROXY TCP6 2001:db8::1 :: 1 2\r\n"),
        (
            Addresses::ip(
                "192.0.2.1:1".parse().unwrap(),
                "[2001:db8::1%7]:2".parse().unwrap(),
                Transport::Stream,
            ),
            "PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n",
        ),
        (
            Addresses::ip(
                "[::ffff:192.0.2.1]:1".parse().unwrap(),
                "192.0.2.2:2".parse().unwrap(),
                Transport::Stream,
            ),
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        ),
        (Addresses::Unspecified, "PROXY UNKNOWN\r\n"),
    ] {
        assert_eq!(String::from_utf8(encode::version_1(&addresses)).unwrap(), line);
    }
}

#[test]
fn version_2_is_written_as_the_specification_has_it() {
    let addresses = tcp("192.0.2.1:61000", "203.0.113.9:443");
    let alpn = Tlv { kind: kind::ALPN, value: b"h2".to_vec() };
    let bytes = encode::version_2(Command::Proxy, &addresses, &[alpn]).unwrap();
    let tlvs = [&tlv(kind::ALPN, b"h2")[..], &tlv(kind::CRC32C, &bytes[bytes.len() - 4..])];
    assert_eq!(bytes, version_2(VERSION_2_TCP4, &ipv4_block(&tlvs.concat())));
    let local = encode::version_2(Command::Local, &Addresses::Unspecified, &[]).unwrap();
    assert_eq!(local[12..19], [0x20, 0, 0, 7, kind::CRC32C, 0, 4]);
    let long = Tlv { kind: 0xE0, value: vec![0; 65_520] };
    let error = encode::version_2(Command::Proxy, &addresses, &[long]).unwrap_err();
    assert!(error.to_string().contains("65535"), "{error}");
}

fn some_transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Stream), Just(Transport::Datagram)]
}

/// A path, or a name of the abstract namespace, or none.
fn some_unix_name() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), vec(1..=u8::MAX, 0..108)).prop_map(|(is_abstract, mut name)| {
        if is_abstract && !name.is_empty() {
            name.insert(0, 0);
        }
        name
    })
}

fn some_addresses() -> impl Strategy<Value = Addresses> {
    let unix = (some_unix_name(), some_unix_name(), some_transport());
    prop_oneof![
        1 => Just(Addresses::Unspecified),
        4 => (any::<[([u8; 4], u16); 2]>(), some_transport()).prop_map(|([from, to], transport)| {
            Addresses::ip(from.into(), to.into(), transport)
        }),
        4 => (any::<[([u8; 16], u16); 2]>(), some_transport()).prop_map(|([from, to], transport)| {
            Addresses::ip(from.into(), to.into(), transport)
        }),
        2 => unix.prop_map(|(source, destination, transport)| {
            Addresses::Unix { source, destination, transport }
        }),
    ]
}

fn some_tlvs() -> impl Strategy<Value = Tlvs> {
    fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(vec(any::<u8>(), 0..40))
    }
    let names = (value(), value(), proptest::option::of(vec(any::<u8>(), 0..=128)), value());
    let ssl = (any::<(u8, u32)>(), proptest::array::uniform8(value()));
    let ssl = ssl.prop_map(|((client, verify), fields)| {
        let [version, cn, cipher, sig_alg, key_alg, group, sig_scheme, client_cert] = fields;
        let names = Ssl { version, cn, cipher, sig_alg, ..Ssl::default() };
        Ssl { client, verify, key_alg, group, sig_scheme, client_cert, ..names }
    });
    let clouds = (value(), any::<Option<u32>>(), any::<Option<u64>>());
    // Types that are neither assigned nor a cloud's.
    let other =
        (0x40..=0x5F_u8, vec(any::<u8>(), 0..40)).prop_map(|(kind, value)| Tlv { kind, value });
    (names, proptest::option::of(ssl), clouds, vec(other, 0..4)).prop_map(
        |((alpn, authority, unique_id, netns), ssl, clouds, others)| {
            let (aws_vpce_id, azure_link_id, gcp_psc_id) = clouds;
            let names = Tlvs { alpn, authority, unique_id, netns, crc32c: true, ..Tlvs::default() };
            Tlvs { ssl, aws_vpce_id, azure_link_id, gcp_psc_id, others, ..names }
        },
    )
}

/// TLVs as they stand in a header, but for the checksum.
pub(super) fn to_list(tlvs: &Tlvs) -> Vec<Tlv> {
    let mut list = Vec::new();
    let mut push = |kind, value: Option<Vec<u8>>| {
        list.extend(value.map(|value| Tlv { kind, value }));
    };
    push(kind::ALPN, tlvs.alpn.clone());
    push(kind::AUTHORITY, tlvs.authority.clone());
    push(kind::UNIQUE_ID, tlvs.unique_id.clone());
    push(kind::NETNS, tlvs.netns.clone());
    push(kind::SSL, tlvs.ssl.as_ref().map(ssl_value));
    let with_subtype = |subtype: u8, value: &[u8]| [&[subtype], value].concat();
    push(kind::AWS, tlvs.aws_vpce_id.as_ref().map(|id| with_subtype(kind::AWS_VPCE_ID, id)));
    let azure = tlvs.azure_link_id.map(u32::to_le_bytes);
    push(kind::AZURE, azure.map(|id| with_subtype(kind::AZURE_LINK_ID, &id)));
    push(kind::GCP, tlvs.gcp_psc_id.map(|id| id.to_be_bytes().to_vec()));
    list.extend(tlvs.others.iter().cloned());
    list
}

fn ssl_value(ssl: &Ssl) -> Vec<u8> {
    let mut bytes = vec![ssl.client];
    bytes.extend(ssl.verify.to_be_bytes());
    for (kind, value) in [
        (kind::SSL_VERSION, &ssl.version),
        (kind::SSL_CN, &ssl.cn),
        (kind::SSL_CIPHER, &ssl.cipher),
        (kind::SSL_SIG_ALG, &ssl.sig_alg),
        (kind::SSL_KEY_ALG, &ssl.key_alg),
        (kind::SSL_GROUP, &ssl.group),
        (kind::SSL_SIG_SCHEME, &ssl.sig_scheme),
        (kind::SSL_CLIENT_CERT, &ssl.client_cert),
    ] {
        bytes.extend(value.iter().flat_map(|value| tlv(kind, value)));
    }
    bytes
}

/// What lets random bytes reach far into the parser.
const STARTS: &[&[u8]] = &[
    b"",
    &SIGNATURE,
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
    b"PROXY ",
    b"PROXY TCP4 ",
    b"PROXY TCP6 ::1 ",
    b"PROXY UNKNOWN",
];

proptest! {
    #[test]
    fn a_header_is_parsed_as_it_was_written(
        addresses in some_addresses(),
        tlvs in some_tlvs(),
        behind in vec(any::<u8>(), 0..30),
    ) {
        let bytes = encode::version_2(Command::Proxy, &addresses, &to_list(&tlvs)).unwrap();
        let (version, command) = (Version::Two, Command::Proxy);
        let header = Header { version, command, addresses, tlvs };
        for length in 0..bytes.len() {
            prop_assert_eq!(parse(&bytes[..length]), Ok(None));
        }
        let whole = [&bytes[..], &behind].concat();
        prop_assert_eq!(parse(&whole), Ok(Some((header.clone(), bytes.len()))));

        let bytes = encode::version_1(&header.addresses);
        let addresses = match header.addresses {
            ip @ Addresses::Ip { transport: Transport::Stream, .. } => ip,
            _ => Addresses::Unspecified,
        };
        let header = Header { version: Version::One, command, addresses, tlvs: Tlvs::default() };
        for length in 0..bytes.len() {
            prop_assert_eq!(parse(&bytes[..length]), Ok(None));
        }
        let whole = [&bytes[..], &behind].concat();
        prop_assert_eq!(parse(&whole), Ok(Some((header, bytes.len()))));
    }

    #[test]
    fn more_bytes_never_change_what_was_said(
        start in select(STARTS),
        rest in prop_oneof![vec(any::<u8>(), 0..300), vec(select(&b"\r\n 1"[..]), 0..120)],
    ) {
        let _ = verdict_byte_by_byte(&[start, &rest].concat());
    }
}
