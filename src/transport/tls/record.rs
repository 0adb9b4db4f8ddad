//! The record layer of an established connection (RFC 8446 section 5, RFC 5246 section 6): records in
//! and out, and the few messages that may still come: alerts, and handshake messages about keys.
//!
//! rustls performs the handshake, derives all keys, and encrypts and decrypts each record. What it
//! does between the two costs a copy of each record into a new vector, and 4 KiB for an idle
//! connection. Its API for TLS in the kernel (`rustls::kernel`) hands a connection over after the
//! handshake to whoever carries the records, and here that is this module: a record is decrypted
//! where it was read.

use std::ops::Range;

use tokio_rustls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundPlainMessage,
};
use tokio_rustls::rustls::kernel::KernelConnection;
use tokio_rustls::rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use tokio_rustls::rustls::{
    AlertDescription, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error,
    HandshakeType, InvalidMessage, PeerMisbehaved, ProtocolVersion, SupportedCipherSuite,
};

/// Type, version and length in front of each record.
const HEADER: usize = 5;

/// The most plaintext in a record.
pub(super) const MAX_PLAINTEXT: usize = 16 * 1024;

/// The most that a record may announce: what TLS 1.2 lets a cipher add (RFC 5246 section 6.2.3).
/// The decrypter of TLS 1.3 allows less.
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 2048;

/// The largest record.
pub(super) const LARGEST: usize = HEADER + MAX_CIPHERTEXT;

/// How many records in a row may carry no data. rustls and BoringSSL have this limit, too, for empty
/// records and for key updates: each costs us work, and brings us nothing.
const MAX_IDLE_RECORDS: u8 = 32;

/// How many warnings a client may send. rustls and BoringSSL have this limit, too.
const MAX_WARNINGS: u8 = 4;

/// What is in a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Application data, at this place in the record.
    Data(Range<usize>),
    /// Nothing for the application.
    Nothing,
    /// Nothing for the application; the client has changed its keys.
    NewKeys,
    /// Nothing for the application, but a wish that this warning declines.
    Declined(AlertDescription),
    /// close_notify.
    End,
}

/// What is wrong with a record, and the alert that tells the client.
#[derive(Debug)]
pub(super) struct Breach {
    pub(super) error: Error,
    pub(super) alert: Option<AlertDescription>,
}

impl Breach {
    fn new(alert: AlertDescription, error: impl Into<Error>) -> Self {
        Breach { error: error.into(), alert: Some(alert) }
    }

    fn unexpected(error: impl Into<Error>) -> Self {
        Breach::new(AlertDescription::UnexpectedMessage, error)
    }
}

/// The length of the record at the start of `bytes`, with its header, or what is wrong with its
/// header. `None` while that is incomplete.
pub(super) fn length(bytes: &[u8]) -> Option<Result<usize, Breach>> {
    let &[content, major, _, high, low] = bytes.first_chunk()?;
    let invalid = |error: InvalidMessage| Err(Breach::new(AlertDescription::DecodeError, error));
    let length = usize::from(u16::from_be_bytes([high, low]));
    Some(match ContentType::from(content) {
        ContentType::Unknown(_) | ContentType::Heartbeat => {
            invalid(InvalidMessage::InvalidContentType)
        }
        _ if major != 3 => invalid(InvalidMessage::UnknownProtocolVersion),
        ContentType::ApplicationData if length == 0 => Ok(HEADER),
        _ if length == 0 => invalid(InvalidMessage::InvalidEmptyPayload),
        _ if length > MAX_CIPHERTEXT => invalid(InvalidMessage::MessageTooLarge),
        _ => Ok(HEADER + length),
    })
}

/// The record layer of one connection.
pub(super) struct Records {
    decrypter: Box<dyn MessageDecrypter>,
    /// The number of the next record that comes.
    read_number: u64,
    encrypter: Box<dyn MessageEncrypter>,
    /// The number of the next record that is sent.
    write_number: u64,
    /// How many records the key may encrypt.
    write_limit: u64,
    /// Makes new keys.
    keys: Box<KernelConnection<ServerConnectionData>>,
    /// The client has new keys, and asks for ours before more data is sent (RFC 8446 section 4.6.3).
    owes_key_update: bool,
    /// close_notify or a fatal alert was sent, or a fatal one received. Nothing may be sent any more.
    has_closed: bool,
    idle_records: u8,
    warnings: u8,
    has_renegotiated: bool,
    message: Message,
}

impl Records {
    /// Takes over a connection whose handshake is done, and that has nothing left to send.
    pub(super) fn take_over(tls: UnbufferedServerConnection) -> Result<Self, Error> {
        let (secrets, keys) = tls.dangerous_into_kernel_connection()?;
        let suite = keys.negotiated_cipher_suite();
        let (write_number, tx) = secrets.tx;
        let (read_number, rx) = secrets.rx;
        let mut encrypter = encrypter(suite, tx)?;
        if write_number > 0 {
            // aws-lc's keys for TLS check that no nonce repeats. They take the first nonce for that
            // of record 0, and compare all others with it. So they are shown that; what comes of it
            // is never sent.
            encrypter.encrypt(plain(ContentType::ApplicationData, &[]), 0)?;
        }
        Ok(Records {
            decrypter: decrypter(suite, rx)?,
            read_number,
            encrypter,
            write_number,
            write_limit: limit(suite),
            keys: Box::new(keys),
            owes_key_update: false,
            has_closed: false,
            idle_records: 0,
            warnings: 0,
            has_renegotiated: false,
            message: Message::default(),
        })
    }

    fn is_tls13(&self) -> bool {
        self.keys.protocol_version() == ProtocolVersion::TLSv1_3
    }

    /// Decrypts one record where it stands, and takes note of what it says.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Breach> {
        let start = record.as_ptr().addr();
        let (header, body) = record.split_at_mut(HEADER);
        let content = ContentType::from(header[0]);
        if content != ContentType::ApplicationData {
            self.check_type(content)?;
        }
        let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
        let opaque = InboundOpaqueMessage::new(content, version, body);
        let opened = self.decrypter.decrypt(opaque, self.read_number).map_err(breach)?;
        self.read_number += 1;
        if opened.payload.is_empty() {
            self.count_idle(PeerMisbehaved::TooManyEmptyFragments)?;
        }
        if self.message.is_begun() && opened.typ != ContentType::Handshake {
            return Err(Breach::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        match opened.typ {
            ContentType::ApplicationData if opened.payload.is_empty() => Ok(Opened::Nothing),
            ContentType::ApplicationData => {
                self.idle_records = 0;
                let start = opened.payload.as_ptr().addr() - start;
                Ok(Opened::Data(start..start + opened.payload.len()))
            }
            // RFC 8446 section 5.4.
            ContentType::Alert | ContentType::Handshake if opened.payload.is_empty() => {
                Err(Breach::unexpected(Error::InappropriateMessage {
                    expect_types: vec![ContentType::ApplicationData],
                    got_type: opened.typ,
                }))
            }
            ContentType::Alert => {
                let alert = <[u8; 2]>::try_from(opened.payload);
                self.take_alert(alert.ok())
            }
            ContentType::Handshake => self.take_messages(opened.payload),
            got_type => Err(Breach::unexpected(Error::InappropriateMessage {
                expect_types: vec![ContentType::ApplicationData, ContentType::Handshake],
                got_type,
            })),
        }
    }

    /// Refuses records that cannot be meant to be decrypted.
    #[cold]
    fn check_type(&self, content: ContentType) -> Result<(), Breach> {
        let expect_types = match content {
            // Once there are keys, all records look like this (RFC 8446 section 5.2).
            _ if self.is_tls13() => vec![ContentType::ApplicationData],
            // It announces keys, and those there are cannot be changed.
            ContentType::ChangeCipherSpec => {
                vec![ContentType::ApplicationData, ContentType::Handshake]
            }
            _ => return Ok(()),
        };
        Err(Breach::unexpected(Error::InappropriateMessage { expect_types, got_type: content }))
    }

    fn count_idle(&mut self, too_many: PeerMisbehaved) -> Result<(), Breach> {
        self.idle_records += 1;
        match self.idle_records {
            ..=MAX_IDLE_RECORDS => Ok(()),
            _ => Err(Breach::unexpected(too_many)),
        }
    }

    fn take_alert(&mut self, alert: Option<[u8; 2]>) -> Result<Opened, Breach> {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let Some([level, description]) = alert else {
            let error = InvalidMessage::MissingData("Alert");
            return Err(Breach::new(AlertDescription::DecodeError, error));
        };
        let description = AlertDescription::from(description);
        let error = Error::AlertReceived(description);
        match level {
            // The level means nothing any more (RFC 8446 section 6).
            WARNING | FATAL if description == AlertDescription::CloseNotify => Ok(Opened::End),
            FATAL => Err(Breach { error, alert: None }),
            WARNING if self.warnings == MAX_WARNINGS => {
                Err(Breach::unexpected(PeerMisbehaved::TooManyWarningAlertsReceived))
            }
            // TLS 1.3 knows one more that is none, which some clients send in front of close_notify.
            WARNING if !self.is_tls13() || description == AlertDescription::UserCanceled => {
                self.warnings += 1;
                Ok(Opened::Nothing)
            }
            WARNING => Err(Breach::new(AlertDescription::DecodeError, error)),
            _ => Err(Breach::new(AlertDescription::IllegalParameter, error)),
        }
    }

    /// Takes a record of handshake messages. Few messages are allowed, so most are refused at their
    /// first byte.
    fn take_messages(&mut self, mut payload: &[u8]) -> Result<Opened, Breach> {
        let mut outcome = Opened::Nothing;
        while let Some((&byte, rest)) = payload.split_first() {
            if let Some(left) = self.message.left() {
                let length = payload.len().min(left);
                let (body, behind) = payload.split_at(length);
                payload = behind;
                self.message.left -= length as u16;
                self.message.last = body[length - 1];
            } else {
                payload = rest;
                self.take_header(byte)?;
            }
            if self.message.left() == Some(0) {
                self.message.known = 0;
                outcome = match self.is_tls13() {
                    true => self.take_key_update(self.message.last, payload)?,
                    false => self.take_renegotiation()?,
                };
            }
        }
        Ok(outcome)
    }

    /// Takes the next byte of a message's header.
    fn take_header(&mut self, byte: u8) -> Result<(), Breach> {
        let is_tls13 = self.is_tls13();
        let message = &mut self.message;
        message.header[usize::from(message.known)] = byte;
        message.known += 1;
        let allowed = match is_tls13 {
            true => HandshakeType::KeyUpdate,
            false => HandshakeType::ClientHello,
        };
        let [first, a, b, c] = message.header;
        let got_type = HandshakeType::from(first);
        if got_type != allowed {
            return Err(Breach::unexpected(Error::InappropriateHandshakeMessage {
                expect_types: vec![allowed],
                got_type,
            }));
        }
        if message.known == 4 {
            let length = u32::from_be_bytes([0, a, b, c]);
            message.left = match u16::try_from(length) {
                Ok(length) if !is_tls13 || length == 1 => length,
                _ => {
                    let error = match is_tls13 {
                        true => InvalidMessage::InvalidKeyUpdate,
                        false => InvalidMessage::HandshakePayloadTooLarge,
                    };
                    return Err(Breach::new(AlertDescription::DecodeError, error));
                }
            };
        }
        Ok(())
    }

    /// RFC 8446 section 4.6.3. Nothing may stand behind it in its record, since that would have to
    /// be encrypted with the new key.
    fn take_key_update(&mut self, is_asked: u8, behind: &[u8]) -> Result<Opened, Breach> {
        if !behind.is_empty() {
            return Err(Breach::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment));
        }
        self.count_idle(PeerMisbehaved::TooManyKeyUpdateRequests)?;
        match is_asked {
            0 => {}
            1 => self.owes_key_update = true,
            _ => {
                let error = InvalidMessage::InvalidKeyUpdate;
                return Err(Breach::new(AlertDescription::IllegalParameter, error));
            }
        }
        let renewed = self.keys.update_rx_secret().and_then(|(number, secrets)| {
            Ok((number, decrypter(self.keys.negotiated_cipher_suite(), secrets)?))
        });
        (self.read_number, self.decrypter) = renewed.map_err(breach)?;
        Ok(Opened::NewKeys)
    }

    /// A ClientHello is declined, once (RFC 5246 section 7.2.2).
    fn take_renegotiation(&mut self) -> Result<Opened, Breach> {
        if std::mem::replace(&mut self.has_renegotiated, true) {
            return Err(Breach::unexpected(PeerMisbehaved::TooManyRenegotiationRequests));
        }
        Ok(Opened::Declined(AlertDescription::NoRenegotiation))
    }
}

/// How much of a handshake message has come. It may be divided among records, but nothing in it
/// matters to us except its last byte, so it is never put together.
#[derive(Debug, Default)]
struct Message {
    header: [u8; 4],
    /// How many bytes of the header have come.
    known: u8,
    /// How many bytes behind the header are to come.
    left: u16,
    last: u8,
}

impl Message {
    fn is_begun(&self) -> bool {
        self.known > 0
    }

    /// How many bytes are to come behind the header, once that is there.
    fn left(&self) -> Option<usize> {
        (self.known == 4).then_some(usize::from(self.left))
    }
}

/// Sending.
impl Records {
    /// Whether [`Records::renew_keys`] has to come before the next data, or no data may come at all.
    pub(super) fn needs_new_keys(&self) -> bool {
        self.owes_key_update || self.write_number >= self.write_limit
    }

    /// Whether nothing may be sent any more.
    pub(super) fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Nothing is sent any more.
    pub(super) fn close(&mut self) {
        self.has_closed = true;
        // Then there is but one thing to ask for each record of data.
        self.write_limit = 0;
    }

    /// A record that announces new keys. All that is sealed from now on is sealed with them.
    pub(super) fn renew_keys(&mut self) -> Result<Vec<u8>, Error> {
        /// KeyUpdate, which asks for none in return.
        const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
        // TLS 1.2 has no such message, and this is its error for that.
        let (number, secrets) = self.keys.update_tx_secret()?;
        let record = self.seal(ContentType::Handshake, &KEY_UPDATE)?;
        self.encrypter = encrypter(self.keys.negotiated_cipher_suite(), secrets)?;
        (self.write_number, self.owes_key_update) = (number, false);
        self.write_limit = limit(self.keys.negotiated_cipher_suite());
        Ok(record)
    }

    /// A record of data, at most [`MAX_PLAINTEXT`] bytes of it.
    pub(super) fn seal_data(&mut self, data: &[u8]) -> Result<Vec<u8>, Error> {
        self.seal(ContentType::ApplicationData, data)
    }

    /// A record with a warning. `None` behind the last record.
    pub(super) fn seal_warning(&mut self, alert: AlertDescription) -> Option<Vec<u8>> {
        if self.has_closed {
            return None;
        }
        self.seal(ContentType::Alert, &[1, alert.into()]).ok()
    }

    /// The last record: close_notify, or an alert that is fatal. `None` if there was one before.
    pub(super) fn seal_last(&mut self, alert: AlertDescription) -> Option<Vec<u8>> {
        if self.has_closed {
            return None;
        }
        let level = if alert == AlertDescription::CloseNotify { 1 } else { 2 };
        let record = self.seal(ContentType::Alert, &[level, alert.into()]).ok();
        self.close();
        record
    }

    /// The key counts as used up behind so many records.
    #[cfg(test)]
    pub(super) fn exhaust_key(&mut self, behind: u64) {
        self.write_limit = self.write_number + behind;
    }

    fn seal(&mut self, content: ContentType, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        debug_assert!(!self.has_closed, "nothing is sent behind the last record");
        let record = self.encrypter.encrypt(plain(content, plaintext), self.write_number)?;
        self.write_number += 1;
        Ok(record.encode())
    }
}

pub(super) fn plain(typ: ContentType, bytes: &[u8]) -> OutboundPlainMessage<'_> {
    // What stands in each record, whichever version was negotiated.
    OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload: bytes.into() }
}

/// What rustls finds wrong with a record, and the alert that RFC 8446 section 6.2 has for it.
fn breach(error: Error) -> Breach {
    let alert = match error {
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    };
    Breach::new(alert, error)
}

/// How many records of data a key may encrypt. What it may encrypt beyond that is for a KeyUpdate or a
/// declined renegotiation, and for the last record.
fn limit(suite: SupportedCipherSuite) -> u64 {
    const RESERVE: u64 = 2;
    let common: &CipherSuiteCommon = match suite {
        SupportedCipherSuite::Tls12(suite) => &suite.common,
        SupportedCipherSuite::Tls13(suite) => &suite.common,
    };
    common.confidentiality_limit.saturating_sub(RESERVE)
}

pub(super) fn encrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    let (key, iv) = key_and_iv(secrets)?;
    Ok(match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            let (iv, explicit) = iv.as_ref().split_at(fixed);
            suite.aead_alg.encrypter(key, iv, explicit)
        }
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
    })
}

pub(super) fn decrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, Error> {
    let (key, iv) = key_and_iv(secrets)?;
    Ok(match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
        }
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
    })
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("an unknown kind of key".to_owned())),
    }
}
