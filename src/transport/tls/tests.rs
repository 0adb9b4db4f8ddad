//! A client of rustls, and records made by hand, against our record layer, over a stream that gives
//! and takes as little at a time as it is told.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures::Future;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundPlainMessage,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    AlertDescription, ClientConfig, ClientConnection, ContentType, Error, HandshakeKind,
    HandshakeType, InvalidMessage, PeerMisbehaved, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedCipherSuite, SupportedProtocolVersion,
};

use super::handshake;
use super::record::{self, MAX_PLAINTEXT, Records};
use super::stream::TlsStream;
use super::wire::Wire;
use crate::connection::costly::CostlyTurn;
use crate::echo::{Carrier, Echo, EchoError, Goodbye, LowerStream, Step, StreamEcho};

/// The server's end of a connection, whose other end is the test.
#[derive(Clone, Default)]
struct Near(Arc<Mutex<Script>>);

/// What passes over it, and in which pieces.
#[derive(Default)]
struct Script {
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// The most bytes that one call moves. Behind each call that moves some is one that moves none.
    piece: usize,
    is_read_over: bool,
    is_write_over: bool,
    /// Nothing more is taken from the server.
    is_stuck: bool,
    has_fin: bool,
    has_answered_fin: bool,
    reads: usize,
}

impl Near {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
}

impl LowerStream for Near {}

impl AsyncRead for Near {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut script = self.script();
        script.reads += 1;
        let length = script.piece.min(into.remaining()).min(script.to_server.len());
        if length == 0 && script.has_fin {
            return Poll::Ready(Ok(()));
        }
        script.is_read_over = !script.is_read_over && length > 0;
        if !script.is_read_over {
            return Poll::Pending;
        }
        let taken: Vec<u8> = script.to_server.drain(..length).collect();
        into.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Near {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut script = self.script();
        script.is_write_over = !script.is_write_over;
        if !script.is_write_over || script.is_stuck {
            return Poll::Pending;
        }
        let length = script.piece.min(bytes.len());
        script.to_client.extend(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.script().has_answered_fin = true;
        Poll::Ready(Ok(()))
    }
}

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("certs").join(name)
}

fn server_config() -> Arc<ServerConfig> {
    Arc::new(server_config_with(aws_lc_rs::default_provider()))
}

fn server_config_with(provider: CryptoProvider) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(file("server.pem")).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.enable_secret_extraction = true;
    config
}

fn client(suite: SupportedCipherSuite) -> ClientConnection {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    client_with(Arc::new(client_config(provider)))
}

fn client_with(config: Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap()
}

/// For the version of the provider's first suite.
fn client_config(provider: CryptoProvider) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let authorities = CertificateDer::pem_file_iter(file("ca.pem")).unwrap();
    roots.add_parsable_certificates(authorities.map(Result::unwrap));
    let versions: &[&SupportedProtocolVersion] = &[provider.cipher_suites[0].version()];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_secret_extraction = true;
    config
}

/// All suites that go with the certificate's key.
fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let all = aws_lc_rs::ALL_CIPHER_SUITES.iter().copied();
    all.filter(|suite| !suite.suite().as_str().unwrap().contains("RSA"))
}

fn poll<T>(work: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    work.poll(&mut Context::from_waker(Waker::noop()))
}

/// Moves what both have to send.
fn exchange(client: &mut ClientConnection, near: &Near) {
    let mut script = near.script();
    while client.wants_write() {
        client.write_tls(&mut script.to_server).unwrap();
    }
    while !script.to_client.is_empty() {
        client.read_tls(&mut script.to_client).unwrap();
        client.process_new_packets().unwrap();
    }
}

/// A connection whose handshake is done, over a stream that moves `piece` bytes at a time.
fn connect(suite: SupportedCipherSuite, piece: usize) -> (TlsStream<Near>, ClientConnection, Near) {
    let mut client = client(suite);
    let near = Near::default();
    near.script().piece = piece;
    let stream = connect_with(&mut client, &near, server_config()).unwrap();
    (stream, client, near)
}

fn connect_with(
    client: &mut ClientConnection,
    near: &Near,
    config: Arc<ServerConfig>,
) -> io::Result<TlsStream<Near>> {
    let mut wire = Wire::new(near.clone(), Vec::new());
    let tls = {
        let mut work = pin!(async {
            assert!(handshake::read_hello(&mut wire).await.is_ok());
            handshake::accept(&mut wire, config).await
        });
        loop {
            exchange(client, near);
            if let Poll::Ready(tls) = poll(work.as_mut()) {
                break tls?;
            }
        }
    };
    exchange(client, near);
    Ok(TlsStream::new(wire, Records::take_over(tls).unwrap()))
}

fn new_suite() -> SupportedCipherSuite {
    suites().find(|suite| suite.version() == &TLS13).unwrap()
}

/// Runs `test` with every suite, and in pieces of several sizes.
fn each(mut test: impl FnMut(TlsStream<Near>, ClientConnection, Near)) {
    for suite in suites() {
        for piece in [1, 7, 1000, usize::MAX] {
            let (stream, client, near) = connect(suite, piece);
            test(stream, client, near);
        }
    }
}

/// Echoes until the stream gives nothing more, and returns how it ended, if it has.
fn echo(stream: &mut TlsStream<Near>, near: &Near, size: usize) -> Option<io::Result<()>> {
    let mut buffer = vec![0; size];
    loop {
        let has_more = !near.script().to_server.is_empty();
        let read = match poll(pin!(stream.read(&mut buffer))) {
            Poll::Pending if has_more || stream.end_step() => continue,
            Poll::Pending => return None,
            Poll::Ready(Ok(0)) => return Some(Ok(())),
            Poll::Ready(Err(error)) => return Some(Err(error)),
            Poll::Ready(Ok(read)) => read,
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            if let Poll::Ready(written) = poll(pin!(stream.write(rest))) {
                rest = &rest[written.unwrap()..];
            }
        }
        finish(stream);
    }
}

fn finish(stream: &mut TlsStream<Near>) {
    while poll(pin!(stream.flush())).is_pending() {}
}

fn shut_down(stream: &mut TlsStream<Near>) {
    while poll(pin!(stream.shutdown())).is_pending() {}
}

/// What a failed read says.
fn failure(end: Option<io::Result<()>>) -> (io::ErrorKind, Option<Error>) {
    let error = end.expect("the stream has ended").expect_err("it has failed");
    let kind = error.kind();
    (kind, error.into_inner().and_then(|inner| inner.downcast().ok()).map(|error| *error))
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

/// Has the client send `data`, echoes, and compares.
fn is_echoed(
    stream: &mut TlsStream<Near>,
    client: &mut ClientConnection,
    near: &Near,
    data: &[u8],
) {
    client.set_buffer_limit(None);
    client.writer().write_all(data).unwrap();
    exchange(client, near);
    assert!(echo(stream, near, 64 * 1024).is_none());
    let mut received = Vec::new();
    // It takes no more than a little at a time.
    while received.len() < data.len() {
        exchange_some(client, near);
        let mut piece = [0; 4096];
        match client.reader().read(&mut piece) {
            Ok(length) => received.extend_from_slice(&piece[..length]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert!(received == data);
}

/// Like [`exchange`], for a client that has to be read from meanwhile.
fn exchange_some(client: &mut ClientConnection, near: &Near) {
    let mut script = near.script();
    if client.wants_read() && !script.to_client.is_empty() {
        client.read_tls(&mut script.to_client).unwrap();
        client.process_new_packets().unwrap();
    }
}

#[test]
fn every_size_is_echoed_in_every_piece_and_an_idle_connection_holds_nothing() {
    each(|mut stream, mut client, near| {
        let sizes = [1, 2, 100, MAX_PLAINTEXT - 1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 70_000];
        // Small pieces take long.
        let piece = near.script().piece;
        for &size in sizes.iter().filter(|&&size| size / piece < 1000) {
            is_echoed(&mut stream, &mut client, &near, &noise(size));
            assert_eq!(stream.lower().held(true), 0);
        }
    });
}

#[test]
fn a_small_buffer_gets_a_record_in_pieces() {
    let (mut stream, mut client, near) = connect(suites().next().unwrap(), usize::MAX);
    client.writer().write_all(&noise(50_000)).unwrap();
    exchange(&mut client, &near);
    let mut read = Vec::new();
    let mut buffer = [0; 777];
    while read.len() < 50_000 {
        if let Poll::Ready(length) = poll(pin!(stream.read(&mut buffer))) {
            read.extend_from_slice(&buffer[..length.unwrap()]);
        }
    }
    assert!(read == noise(50_000));
}

#[test]
fn a_client_may_change_its_keys_and_ask_for_ours() {
    each(|mut stream, mut client, near| {
        if client.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return;
        }
        for _ in 0..3 {
            client.refresh_traffic_keys().unwrap();
            // Twice before there is anything to answer with: one answer is enough.
            client.refresh_traffic_keys().unwrap();
            is_echoed(&mut stream, &mut client, &near, &noise(100));
        }
    });
}

#[test]
fn our_keys_are_changed_before_they_have_encrypted_too_much() {
    each(|mut stream, mut client, near| {
        if client.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return;
        }
        stream.records.exhaust_key(0);
        is_echoed(&mut stream, &mut client, &near, &noise(40_000));
        assert!(!stream.records.needs_new_keys());
        is_echoed(&mut stream, &mut client, &near, &noise(40_000));
    });
}

#[test]
fn tls_1_2_ends_in_order_when_its_key_is_used_up() {
    each_raw(|mut stream, mut raw| {
        if raw.is_tls13 {
            return;
        }
        stream.records.exhaust_key(2);
        let data = noise(40_000);
        let written = poll(pin!(stream.write(&data)));
        assert!(matches!(written, Poll::Ready(Ok(length)) if length == 2 * MAX_PLAINTEXT));
        finish(&mut stream);
        let Poll::Ready(Err(error)) = poll(pin!(stream.write(&data))) else { unreachable!() };
        assert!(error.to_string().contains("no way to renew"), "{error}");
        finish(&mut stream);
        let (first, second) = data[..2 * MAX_PLAINTEXT].split_at(MAX_PLAINTEXT);
        let close = (ContentType::Alert, vec![1, 0]);
        assert_eq!(raw.received(), [(DATA, first.to_vec()), (DATA, second.to_vec()), close]);
        assert!(matches!(poll(pin!(stream.write(&data))), Poll::Ready(Err(_))));
    });
}

#[test]
fn close_notify_ends_the_input_behind_all_data_and_is_answered() {
    each(|mut stream, mut client, near| {
        client.writer().write_all(b"the last words").unwrap();
        client.send_close_notify();
        exchange(&mut client, &near);
        assert!(matches!(echo(&mut stream, &near, 4096), Some(Ok(()))));
        let reads = near.script().reads;
        assert!(matches!(echo(&mut stream, &near, 4096), Some(Ok(()))), "it stays ended");
        assert_eq!(near.script().reads, reads, "nothing more is read");
        shut_down(&mut stream);
        assert!(near.script().has_answered_fin);
        exchange(&mut client, &near);
        let mut words = Vec::new();
        // Without close_notify this would be an error.
        client.reader().read_to_end(&mut words).unwrap();
        assert_eq!(words, b"the last words");
    });
}

#[test]
fn an_end_without_close_notify_is_told_apart() {
    each(|mut stream, mut client, near| {
        client.writer().write_all(b"cut").unwrap();
        exchange(&mut client, &near);
        // Half a record stands behind it.
        near.script().to_server.extend([0x17, 3, 3, 0, 100, 1, 2, 3]);
        near.script().has_fin = true;
        assert_eq!(failure(echo(&mut stream, &near, 4096)).0, io::ErrorKind::UnexpectedEof);
    });
}

/// A client that makes records by hand.
struct Raw {
    encrypter: Box<dyn MessageEncrypter>,
    number: u64,
    decrypter: Box<dyn MessageDecrypter>,
    read_number: u64,
    near: Near,
    is_tls13: bool,
}

impl Raw {
    fn new(client: ClientConnection, near: &Near) -> Self {
        let suite = client.negotiated_cipher_suite().unwrap();
        let secrets = client.dangerous_extract_secrets().unwrap();
        let mut encrypter = record::encrypter(suite, secrets.tx.1).unwrap();
        if secrets.tx.0 > 0 {
            let first = record::plain(ContentType::ApplicationData, &[]);
            encrypter.encrypt(first, 0).unwrap();
        }
        Raw {
            encrypter,
            number: secrets.tx.0,
            decrypter: record::decrypter(suite, secrets.rx.1).unwrap(),
            read_number: secrets.rx.0,
            near: near.clone(),
            is_tls13: suite.version() == &TLS13,
        }
    }

    fn sealed(&mut self, typ: ContentType, bytes: &[u8]) -> Vec<u8> {
        let (version, payload) = (ProtocolVersion::TLSv1_2, bytes.into());
        let plain = OutboundPlainMessage { typ, version, payload };
        self.number += 1;
        self.encrypter.encrypt(plain, self.number - 1).unwrap().encode()
    }

    fn send(&mut self, typ: ContentType, bytes: &[u8]) {
        let record = self.sealed(typ, bytes);
        self.near.script().to_server.extend(record);
    }

    /// What the server has sent.
    fn received(&mut self) -> Vec<(ContentType, Vec<u8>)> {
        let mut bytes: Vec<u8> = self.near.script().to_client.drain(..).collect();
        let mut rest = &mut bytes[..];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = record::length(rest).unwrap().unwrap();
            let (record, behind) = rest.split_at_mut(length);
            rest = behind;
            let (typ, version) = (ContentType::from(record[0]), ProtocolVersion::TLSv1_2);
            let opaque = InboundOpaqueMessage::new(typ, version, &mut record[5..]);
            let opened = self.decrypter.decrypt(opaque, self.read_number).unwrap();
            self.read_number += 1;
            messages.push((opened.typ, opened.payload.to_vec()));
        }
        messages
    }
}

/// Runs `test` with hand-made records: with every suite, and in pieces of several sizes.
fn each_raw(mut test: impl FnMut(TlsStream<Near>, Raw)) {
    each(|stream, client, near| test(stream, Raw::new(client, &near)));
}

const DATA: ContentType = ContentType::ApplicationData;

#[test]
fn data_behind_close_notify_means_nothing() {
    each_raw(|mut stream, mut raw| {
        raw.send(DATA, b"before");
        raw.send(ContentType::Alert, &[1, 0]);
        raw.send(DATA, b"behind");
        raw.near.script().to_server.extend(b"not even a record");
        assert!(matches!(echo(&mut stream, &raw.near, 4096), Some(Ok(()))));
        shut_down(&mut stream);
        let close = (ContentType::Alert, vec![1, 0]);
        assert_eq!(raw.received(), [(DATA, b"before".to_vec()), close]);
    });
}

#[test]
fn empty_records_are_skipped_but_not_without_end() {
    each_raw(|mut stream, mut raw| {
        for _ in 0..3 {
            for _ in 0..32 {
                raw.send(DATA, b"");
            }
            raw.send(DATA, b"x");
        }
        assert!(echo(&mut stream, &raw.near, 4096).is_none());
        let echoed: Vec<u8> = raw.received().into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(echoed, b"xxx");
        for _ in 0..33 {
            raw.send(DATA, b"");
        }
        let error = Some(PeerMisbehaved::TooManyEmptyFragments.into());
        assert_eq!(
            failure(echo(&mut stream, &raw.near, 4096)),
            (io::ErrorKind::InvalidData, error)
        );
    });
}

/// Has the client send `records` behind data, and expects the echo of the data, then `alert`, and
/// nothing behind it.
fn is_refused(
    mut stream: TlsStream<Near>,
    mut raw: Raw,
    records: impl FnOnce(&mut Raw) -> Vec<u8>,
    error: &Error,
    alert: Option<AlertDescription>,
) {
    raw.send(DATA, b"data");
    let records = records(&mut raw);
    raw.near.script().to_server.extend(records);
    let refused = failure(echo(&mut stream, &raw.near, 4096));
    assert_eq!(refused, (io::ErrorKind::InvalidData, Some(error.clone())));
    shut_down(&mut stream);
    // A fatal alert is the last word, and one of the client's is answered with a FIN alone.
    let last = alert.map(|alert| (ContentType::Alert, vec![2, alert.into()]));
    let expected: Vec<_> = [(DATA, b"data".to_vec())].into_iter().chain(last).collect();
    assert_eq!(raw.received(), expected, "{error:?}");
}

#[test]
fn a_breach_of_the_protocol_is_told_behind_the_echo_of_what_came_before() {
    use AlertDescription::{
        BadRecordMac, DecodeError, IllegalParameter, RecordOverflow, UnexpectedMessage,
    };
    type Case = (fn(&mut Raw) -> Vec<u8>, Error, Option<AlertDescription>);
    fn invalid(error: InvalidMessage) -> Error {
        Error::InvalidMessage(error)
    }
    fn handshake(first: u8, is_tls13: bool) -> Error {
        let expect_types =
            vec![if is_tls13 { HandshakeType::KeyUpdate } else { HandshakeType::ClientHello }];
        Error::InappropriateHandshakeMessage { expect_types, got_type: first.into() }
    }
    let both: [Case; 13] = [
        (|raw| altered(raw.sealed(DATA, b"x")), Error::DecryptError, Some(BadRecordMac)),
        (|_| vec![0x17, 3, 3, 0, 3, 1, 2, 3], Error::DecryptError, Some(BadRecordMac)),
        (
            |_| {
                b"GET / HTTP/1.1

"
                .to_vec()
            },
            invalid(InvalidMessage::InvalidContentType),
            Some(DecodeError),
        ),
        (
            |_| vec![0x17, 2, 0, 0, 1, 0],
            invalid(InvalidMessage::UnknownProtocolVersion),
            Some(DecodeError),
        ),
        (
            |_| vec![0x17, 3, 3, 0x48, 1],
            invalid(InvalidMessage::MessageTooLarge),
            Some(DecodeError),
        ),
        (
            |_| vec![0x15, 3, 3, 0, 0],
            invalid(InvalidMessage::InvalidEmptyPayload),
            Some(DecodeError),
        ),
        (
            |raw| raw.sealed(DATA, &[0; MAX_PLAINTEXT + 1]),
            Error::PeerSentOversizedRecord,
            Some(RecordOverflow),
        ),
        (
            |raw| raw.sealed(ContentType::Alert, &[2, 80]),
            Error::AlertReceived(AlertDescription::InternalError),
            None,
        ),
        (
            |raw| raw.sealed(ContentType::Alert, &[3, 80]),
            Error::AlertReceived(AlertDescription::InternalError),
            Some(IllegalParameter),
        ),
        (
            |raw| raw.sealed(ContentType::Alert, &[2]),
            invalid(InvalidMessage::MissingData("Alert")),
            Some(DecodeError),
        ),
        (
            |raw| raw.sealed(ContentType::Alert, &[]),
            Error::InappropriateMessage { expect_types: vec![DATA], got_type: ContentType::Alert },
            Some(UnexpectedMessage),
        ),
        (
            |raw| raw.sealed(ContentType::Handshake, &[]),
            Error::InappropriateMessage {
                expect_types: vec![DATA],
                got_type: ContentType::Handshake,
            },
            Some(UnexpectedMessage),
        ),
        (
            |raw| {
                let first = if raw.is_tls13 { 24 } else { 1 };
                let mut both = raw.sealed(ContentType::Handshake, &[first, 0]);
                both.extend(raw.sealed(DATA, b"x"));
                both
            },
            PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into(),
            Some(UnexpectedMessage),
        ),
    ];
    let new: [Case; 7] = [
        (
            |raw| raw.sealed(ContentType::Handshake, &[11, 0]),
            handshake(11, true),
            Some(UnexpectedMessage),
        ),
        (
            |raw| raw.sealed(ContentType::Handshake, &[24, 0, 0, 2, 0, 0]),
            invalid(InvalidMessage::InvalidKeyUpdate),
            Some(DecodeError),
        ),
        (
            |raw| raw.sealed(ContentType::Handshake, &[24, 0, 0, 1, 2]),
            invalid(InvalidMessage::InvalidKeyUpdate),
            Some(IllegalParameter),
        ),
        (
            |raw| raw.sealed(ContentType::Handshake, &[24, 0, 0, 1, 0, 24]),
            PeerMisbehaved::KeyEpochWithPendingFragment.into(),
            Some(UnexpectedMessage),
        ),
        (
            |raw| raw.sealed(ContentType::Alert, &[1, 100]),
            Error::AlertReceived(AlertDescription::NoRenegotiation),
            Some(DecodeError),
        ),
        (
            |_| vec![0x14, 3, 3, 0, 1, 1],
            Error::InappropriateMessage {
                expect_types: vec![DATA],
                got_type: ContentType::ChangeCipherSpec,
            },
            Some(UnexpectedMessage),
        ),
        (
            |_| vec![0x15, 3, 3, 0, 2, 2, 40],
            Error::InappropriateMessage { expect_types: vec![DATA], got_type: ContentType::Alert },
            Some(UnexpectedMessage),
        ),
    ];
    let old: [Case; 4] = [
        (
            |raw| raw.sealed(ContentType::Handshake, &[11, 0]),
            handshake(11, false),
            Some(UnexpectedMessage),
        ),
        (
            |raw| raw.sealed(ContentType::Handshake, &[1, 1, 0, 0]),
            invalid(InvalidMessage::HandshakePayloadTooLarge),
            Some(DecodeError),
        ),
        (
            |_| vec![0x14, 3, 3, 0, 1, 1],
            Error::InappropriateMessage {
                expect_types: vec![DATA, ContentType::Handshake],
                got_type: ContentType::ChangeCipherSpec,
            },
            Some(UnexpectedMessage),
        ),
        (
            |raw| raw.sealed(ContentType::ChangeCipherSpec, &[1]),
            Error::InappropriateMessage {
                expect_types: vec![DATA, ContentType::Handshake],
                got_type: ContentType::ChangeCipherSpec,
            },
            Some(UnexpectedMessage),
        ),
    ];
    for suite in suites() {
        let own = if suite.version() == &TLS13 { &new[..] } else { &old[..] };
        for (records, error, alert) in both.iter().chain(own) {
            for piece in [1, usize::MAX] {
                let (stream, client, near) = connect(suite, piece);
                is_refused(stream, Raw::new(client, &near), records, error, *alert);
            }
        }
    }
}

fn altered(mut record: Vec<u8>) -> Vec<u8> {
    *record.last_mut().unwrap() ^= 1;
    record
}

#[test]
fn warnings_are_taken_but_not_without_end() {
    each_raw(|mut stream, mut raw| {
        // user_canceled, which TLS 1.3 has, too.
        for _ in 0..4 {
            raw.send(ContentType::Alert, &[1, 90]);
        }
        raw.send(DATA, b"x");
        assert!(echo(&mut stream, &raw.near, 4096).is_none());
        assert_eq!(raw.received(), [(DATA, b"x".to_vec())]);
        raw.send(ContentType::Alert, &[1, 90]);
        let error = Some(PeerMisbehaved::TooManyWarningAlertsReceived.into());
        assert_eq!(
            failure(echo(&mut stream, &raw.near, 4096)),
            (io::ErrorKind::InvalidData, error)
        );
    });
}

#[test]
fn a_key_update_may_come_in_two_records_and_not_forever() {
    each_raw(|mut stream, mut raw| {
        if !raw.is_tls13 {
            return;
        }
        raw.send(ContentType::Handshake, &[24, 0]);
        raw.send(ContentType::Handshake, &[0, 1, 0]);
        // The next record is sealed with the old key, which the server has left.
        raw.send(DATA, b"x");
        let error = Some(Error::DecryptError);
        assert_eq!(
            failure(echo(&mut stream, &raw.near, 4096)),
            (io::ErrorKind::InvalidData, error)
        );
    });
    each(|mut stream, mut client, near| {
        if client.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return;
        }
        for _ in 0..33 {
            client.refresh_traffic_keys().unwrap();
        }
        exchange(&mut client, &near);
        let error = Some(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        assert_eq!(failure(echo(&mut stream, &near, 4096)), (io::ErrorKind::InvalidData, error));
    });
}

#[test]
fn a_renegotiation_is_declined_once_and_refused_then() {
    each_raw(|mut stream, mut raw| {
        if raw.is_tls13 {
            return;
        }
        let hello = [&[1, 0, 0, 200][..], &[0; 200]].concat();
        raw.send(ContentType::Handshake, &hello[..3]);
        raw.send(ContentType::Handshake, &hello[3..]);
        assert!(echo(&mut stream, &raw.near, 4096).is_none());
        finish(&mut stream);
        assert_eq!(raw.received(), [(ContentType::Alert, vec![1, 100])]);
        raw.send(DATA, b"x");
        assert!(echo(&mut stream, &raw.near, 4096).is_none());
        assert_eq!(raw.received(), [(DATA, b"x".to_vec())]);
        raw.send(ContentType::Handshake, &hello);
        let error = Some(PeerMisbehaved::TooManyRenegotiationRequests.into());
        assert_eq!(
            failure(echo(&mut stream, &raw.near, 4096)),
            (io::ErrorKind::InvalidData, error)
        );
    });
}

#[test]
fn a_client_that_takes_nothing_is_owed_one_write_and_no_more() {
    for suite in suites() {
        let (mut stream, _client, near) = connect(suite, usize::MAX);
        let data = noise(200_000);
        near.script().is_stuck = true;
        let first = poll(pin!(stream.write(&data)));
        assert!(matches!(first, Poll::Ready(Ok(65_536))));
        for _ in 0..3 {
            assert!(poll(pin!(stream.write(&data))).is_pending());
            assert!(poll(pin!(stream.flush())).is_pending());
        }
        assert!((65_536..70_000).contains(&stream.lower().held(false)));
    }
}

type TlsEcho = StreamEcho<TlsStream<Near>>;

/// The first step that does something.
fn first_step(echo: &mut TlsEcho) -> Result<Step, EchoError> {
    loop {
        if let Poll::Ready(done) = step(echo) {
            return done;
        }
    }
}

fn step(echo: &mut TlsEcho) -> Poll<Result<Step, EchoError>> {
    echo.poll_step(&mut Context::from_waker(Waker::noop()))
}

/// Steps until `received` bytes were echoed in all, and returns how many steps were costly.
fn steps_to(echo: &mut TlsEcho, near: &Near, received: u64) -> usize {
    let mut costly = 0;
    for _ in 0..10_000 {
        match step(echo) {
            Poll::Ready(Ok(Step::Costly)) => costly += 1,
            Poll::Ready(Ok(Step::Moved)) => {}
            Poll::Pending if echo.owes() || !near.script().to_server.is_empty() => {}
            Poll::Pending => {
                assert_eq!(echo.moved().inward, received);
                return costly;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("{:?} after many steps", echo.moved());
}

#[test]
fn a_step_ends_behind_a_few_changes_of_keys() {
    let (stream, mut client, near) = connect(new_suite(), usize::MAX);
    for _ in 0..100 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(b"x").unwrap();
    }
    exchange(&mut client, &near);
    let mut echo = StreamEcho::new(stream, 64 * 1024);
    assert!(matches!(first_step(&mut echo), Ok(Step::Costly)));
    assert!((1..=8).contains(&echo.moved().inward), "{:?}", echo.moved());
    assert!(steps_to(&mut echo, &near, 100) >= 11);
    // The same without any data, which has to come to its end, too.
    for _ in 0..20 {
        client.refresh_traffic_keys().unwrap();
    }
    exchange(&mut client, &near);
    assert!(steps_to(&mut echo, &near, 100) >= 2);
    client.writer().write_all(b"x").unwrap();
    exchange(&mut client, &near);
    assert_eq!(steps_to(&mut echo, &near, 101), 0);
}

#[test]
fn a_step_ends_behind_many_records_with_little_in_them() {
    for suite in suites() {
        let (stream, client, near) = connect(suite, usize::MAX);
        let mut raw = Raw::new(client, &near);
        let mut echo = StreamEcho::new(stream, 64 * 1024);
        for _ in 0..100 {
            for _ in 0..32 {
                raw.send(DATA, b"");
            }
            raw.send(DATA, b"x");
        }
        assert!(matches!(first_step(&mut echo), Ok(Step::Costly)));
        assert!((1..=40).contains(&echo.moved().inward), "{:?}", echo.moved());
        steps_to(&mut echo, &near, 100);
    }
}

/// Says goodbye until our FIN is sent.
fn close(echo: &mut TlsEcho, near: &Near) {
    for _ in 0..1000 {
        let _ = echo.poll_close(&mut Context::from_waker(Waker::noop()), Goodbye::Answer);
        if near.script().has_answered_fin {
            return;
        }
    }
    panic!("no FIN is sent");
}

/// Steps until reading has failed.
fn steps_to_failure(echo: &mut TlsEcho) -> io::Error {
    for _ in 0..10_000 {
        match step(echo) {
            Poll::Ready(Err(EchoError::Read(error))) => return error,
            Poll::Ready(Ok(Step::Moved)) | Poll::Pending => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("reading does not fail");
}

#[test]
fn an_alert_is_sent_behind_the_echo_and_nothing_behind_the_alert() {
    each_raw(|stream, mut raw| {
        let mut echo = StreamEcho::new(stream, 64 * 1024);
        raw.send(DATA, b"data");
        raw.send(DATA, b"more");
        let bad = altered(raw.sealed(DATA, b"x"));
        raw.near.script().to_server.extend(bad);
        raw.send(DATA, b"behind");
        assert_eq!(steps_to_failure(&mut echo).kind(), io::ErrorKind::InvalidData);
        close(&mut echo, &raw.near);
        let mut received = raw.received();
        let alert = (ContentType::Alert, vec![2, AlertDescription::BadRecordMac.into()]);
        assert_eq!(received.pop(), Some(alert));
        assert!(received.iter().all(|(typ, _)| *typ == DATA));
        let data: Vec<u8> = received.into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(data, b"datamore");
    });
}

#[test]
fn a_fatal_alert_is_answered_with_a_fin_alone() {
    each_raw(|stream, mut raw| {
        let mut echo = StreamEcho::new(stream, 64 * 1024);
        raw.send(ContentType::Alert, &[2, 80]);
        let error = steps_to_failure(&mut echo);
        close(&mut echo, &raw.near);
        assert_eq!(raw.received(), []);
        let error = error.into_inner().and_then(|inner| inner.downcast().ok());
        assert_eq!(error, Some(Box::new(Error::AlertReceived(AlertDescription::InternalError))));
    });
    // The same if it comes with data.
    let (stream, client, near) = connect(new_suite(), usize::MAX);
    let mut raw = Raw::new(client, &near);
    let mut echo = StreamEcho::new(stream, 64 * 1024);
    raw.send(DATA, b"data");
    raw.send(ContentType::Alert, &[2, 80]);
    steps_to_failure(&mut echo);
    close(&mut echo, &near);
    assert_eq!(raw.received(), []);
}

#[test]
fn the_beginning_of_a_record_is_held_and_counted() {
    for suite in suites() {
        let (stream, client, near) = connect(suite, usize::MAX);
        let mut raw = Raw::new(client, &near);
        let mut echo = StreamEcho::new(stream, 64 * 1024);
        let record = raw.sealed(DATA, &noise(16_000));
        let (beginning, rest) = record.split_at(15_000);
        near.script().to_server.extend(beginning);
        steps_to(&mut echo, &near, 0);
        assert!(echo.holds());
        assert!((15_000..16_000).contains(&echo.held()), "{}", echo.held());
        near.script().to_server.extend(rest);
        steps_to(&mut echo, &near, 16_000);
        assert!(!echo.holds());
        assert_eq!(echo.held(), 0);
    }
}

#[test]
fn a_renegotiation_of_the_greatest_length_is_counted_down() {
    each_raw(|mut stream, mut raw| {
        // One byte at a time takes long.
        if raw.is_tls13 || raw.near.script().piece < 1000 {
            return;
        }
        let hello = [&[1, 0, 0xFF, 0xFF][..], &[7; 0xFFFF]].concat();
        let (last, before) = hello.split_last().unwrap();
        for part in before.chunks(MAX_PLAINTEXT) {
            raw.send(ContentType::Handshake, part);
        }
        assert!(echo(&mut stream, &raw.near, 4096).is_none());
        assert_eq!(raw.received(), []);
        assert_eq!(stream.lower().held(true), 0);
        raw.send(ContentType::Handshake, &[*last]);
        assert!(echo(&mut stream, &raw.near, 4096).is_none());
        finish(&mut stream);
        assert_eq!(raw.received(), [(ContentType::Alert, vec![1, 100])]);
        raw.send(DATA, b"x");
        assert!(echo(&mut stream, &raw.near, 4096).is_none());
        assert_eq!(raw.received(), [(DATA, b"x".to_vec())]);
    });
}

#[test]
fn each_record_of_a_handshake_is_answered_in_a_turn() {
    let mut of_server = aws_lc_rs::default_provider();
    of_server.kx_groups = vec![aws_lc_rs::kx_group::SECP256R1];
    let of_server = Arc::new(server_config_with(of_server));
    let mut of_client = aws_lc_rs::default_provider();
    // The server knows the second alone, and asks for it with a HelloRetryRequest.
    of_client.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    of_client.cipher_suites = vec![new_suite()];
    let mut client = client_with(Arc::new(client_config(of_client)));
    let near = Near::default();
    near.script().piece = usize::MAX;
    let mut wire = Wire::new(near.clone(), Vec::new());
    let mut work = pin!(async {
        assert!(handshake::read_hello(&mut wire).await.is_ok());
        handshake::accept(&mut wire, of_server).await
    });
    let mut answers = 0;
    while client.is_handshaking() || answers < 3 {
        exchange(&mut client, &near);
        // What the client answers.
        exchange(&mut client, &near);
        let mut other = CostlyTurn::default();
        let turn = other.poll(&mut Context::from_waker(Waker::noop()));
        assert!(turn.is_ready(), "who waits for the client keeps no turn");
        for _ in 0..10 {
            assert!(poll(work.as_mut()).is_pending());
        }
        assert_eq!(near.script().to_client.len(), 0, "another one has the turn");
        drop(other);
        // It is polled once more, which ends the turn.
        let mut is_answered = false;
        for _ in 0..100 {
            if is_answered {
                break;
            }
            is_answered = !near.script().to_client.is_empty();
            if poll(work.as_mut()).is_ready() {
                assert_eq!(answers, 2, "the last one is that to the client's Finished");
                is_answered = true;
            }
        }
        assert!(is_answered, "{answers} before");
        answers += 1;
    }
    let kind = Some(HandshakeKind::FullWithHelloRetryRequest);
    assert_eq!((answers, client.handshake_kind()), (3, kind));
}

#[test]
fn early_data_for_another_server_is_skipped() {
    for (count, size) in [(20, 100), (60, 100), (10, 500), (5, 1000), (1, 16_000)] {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![new_suite()];
        let mut config = client_config(provider);
        config.enable_early_data = true;
        let config = Arc::new(config);
        let mut other = server_config_with(aws_lc_rs::default_provider());
        other.max_early_data_size = 16 * 1024;
        let near = Near::default();
        near.script().piece = usize::MAX;
        let mut client = client_with(Arc::clone(&config));
        connect_with(&mut client, &near, Arc::new(other)).unwrap();

        let near = Near::default();
        near.script().piece = usize::MAX;
        let mut client = client_with(config);
        for _ in 0..count {
            client.early_data().unwrap().write_all(&noise(size)).unwrap();
        }
        let mut stream = connect_with(&mut client, &near, server_config())
            .unwrap_or_else(|error| panic!("{count} x {size}: {error}"));
        assert!(!client.is_early_data_accepted());
        is_echoed(&mut stream, &mut client, &near, b"data");
    }
}

#[test]
fn a_finished_message_in_a_heartbeat_is_refused() {
    let mut client = client(new_suite());
    let near = Near::default();
    near.script().piece = usize::MAX;
    let mut wire = Wire::new(near.clone(), Vec::new());
    let mut work = Box::pin(async {
        assert!(handshake::read_hello(&mut wire).await.is_ok());
        handshake::accept(&mut wire, server_config()).await.err()
    });
    while client.is_handshaking() {
        exchange(&mut client, &near);
        assert!(poll(work.as_mut()).is_pending());
    }
    client.writer().write_all(b"data").unwrap();
    exchange(&mut client, &near);
    {
        let mut script = near.script();
        let bytes = script.to_server.make_contiguous();
        // A ChangeCipherSpec stands before it.
        let ccs = if bytes[0] == 20 { 6 } else { 0 };
        assert_eq!(bytes[ccs], 23);
        bytes[ccs] = 24;
    }
    let error = loop {
        if let Poll::Ready(error) = poll(work.as_mut()) {
            break error.expect("it is refused");
        }
    };
    assert_eq!(
        failure(Some(Err(error))).1,
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType))
    );
    drop(work);
    // The alert is there.
    let (_, unsent) = wire.into_parts();
    assert_eq!(unsent.first(), Some(&23));
}

#[test]
fn data_that_comes_with_the_last_handshake_message_is_echoed() {
    for suite in suites() {
        let (mut client, near) = (client(suite), Near::default());
        near.script().piece = usize::MAX;
        // It leaves as soon as the client may send it.
        client.writer().write_all(b"data").unwrap();
        let mut stream = connect_with(&mut client, &near, server_config()).unwrap();
        // In TLS 1.2 that is later.
        exchange(&mut client, &near);
        assert!(echo(&mut stream, &near, 4096).is_none());
        exchange(&mut client, &near);
        let mut data = [0; 4];
        client.reader().read_exact(&mut data).unwrap();
        assert_eq!(&data, b"data");
    }
}
