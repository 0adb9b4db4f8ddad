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

/// The longest handshake message. The longest that may come is a ClientHello, for a renegotiation.
const MAX_HANDSHAKE: usize = 0xFFFF;

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
    /// close_notify or a fatal alert was sent, behind which nothing may come.
    has_closed: bool,
    idle_records: u8,
    warnings: u8,
    has_renegotiated: bool,
    /// The beginning of a handshake message that is divided among records.
    message: Vec<u8>,
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
            message: Vec::new(),
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
        if self.is_tls13() && content != ContentType::ApplicationData {
            // Once there are keys, all records look like this (RFC 8446 section 5.2).
            let expect_types = vec![ContentType::ApplicationData];
            return Err(Breach::unexpected(Error::InappropriateMessage {
                expect_types,
                got_type: content,
            }));
        }
        let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
        let opaque = InboundOpaqueMessage::new(content, version, body);
        let opened = self.decrypter.decrypt(opaque, self.read_number).map_err(breach)?;
        self.read_number += 1;
        if opened.payload.is_empty() {
            self.count_idle(PeerMisbehaved::TooManyEmptyFragments)?;
        }
        if !self.message.is_empty() && opened.typ != ContentType::Handshake {
            return Err(Breach::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        match opened.typ {
            ContentType::ApplicationData if opened.payload.is_empty() => Ok(Opened::Nothing),
            ContentType::ApplicationData => {
                self.idle_records = 0;
                let start = opened.payload.as_ptr().addr() - start;
                Ok(Opened::Data(start..start + opened.payload.len()))
            }
            ContentType::Alert => {
                let alert = <[u8; 2]>::try_from(opened.payload);
                self.take_alert(alert.ok())
            }
            ContentType::Handshake => {
                self.message.extend_from_slice(opened.payload);
                self.take_messages()
            }
            got_type => Err(Breach::unexpected(Error::InappropriateMessage {
                expect_types: vec![ContentType::ApplicationData, ContentType::Handshake],
                got_type,
            })),
        }
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

    /// Takes the handshake messages that are complete. Few are allowed, so most are refused at their
    /// first byte.
    fn take_messages(&mut self) -> Result<Opened, Breach> {
        let allowed = match self.is_tls13() {
            true => HandshakeType::KeyUpdate,
            false => HandshakeType::ClientHello,
        };
        let mut declined = None;
        while let Some(&first) = self.message.first() {
            let got_type = HandshakeType::from(first);
            if got_type != allowed {
                return Err(Breach::unexpected(Error::InappropriateHandshakeMessage {
                    expect_types: vec![allowed],
                    got_type,
                }));
            }
            let Some(&[_, a, b, c]) = self.message.first_chunk() else { break };
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_HANDSHAKE || self.is_tls13() && length != 1 {
                let error = match self.is_tls13() {
                    true => InvalidMessage::InvalidKeyUpdate,
                    false => InvalidMessage::HandshakePayloadTooLarge,
                };
                return Err(Breach::new(AlertDescription::DecodeError, error));
            }
            if self.message.len() < 4 + length {
                break;
            }
            match self.is_tls13() {
                true => self.take_key_update()?,
                false => {
                    self.take_renegotiation(4 + length)?;
                    declined = Some(AlertDescription::NoRenegotiation);
                }
            }
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(declined.map_or(Opened::Nothing, Opened::Declined))
    }

    /// RFC 8446 section 4.6.3.
    fn take_key_update(&mut self) -> Result<(), Breach> {
        let &[_, _, _, _, is_asked] = &self.message[..] else {
            return Err(Breach::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment));
        };
        self.message.clear();
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
        Ok(())
    }

    /// A ClientHello of `length` bytes is declined, once (RFC 5246 section 7.2.2).
    fn take_renegotiation(&mut self, length: usize) -> Result<(), Breach> {
        self.message.drain(..length);
        if std::mem::replace(&mut self.has_renegotiated, true) {
            return Err(Breach::unexpected(PeerMisbehaved::TooManyRenegotiationRequests));
        }
        Ok(())
    }
}

/// Sending.
impl Records {
    /// Whether [`Records::renew_keys`] has to come before the next data.
    pub(super) fn needs_new_keys(&self) -> bool {
        self.owes_key_update || self.write_number >= self.write_limit
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

    /// A record with a warning.
    pub(super) fn seal_warning(&mut self, alert: AlertDescription) -> Result<Vec<u8>, Error> {
        self.seal(ContentType::Alert, &[1, alert.into()])
    }

    /// The last record: close_notify, or an alert that is fatal. `None` if there was one before.
    pub(super) fn seal_last(&mut self, alert: AlertDescription) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.has_closed, true) {
            return None;
        }
        let level = if alert == AlertDescription::CloseNotify { 1 } else { 2 };
        self.seal(ContentType::Alert, &[level, alert.into()]).ok()
    }

    /// The key counts as used up.
    #[cfg(test)]
    pub(super) fn exhaust_key(&mut self) {
        self.write_limit = self.write_number;
    }

    fn seal(&mut self, content: ContentType, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
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

fn limit(suite: SupportedCipherSuite) -> u64 {
    let common: &CipherSuiteCommon = match suite {
        SupportedCipherSuite::Tls12(suite) => &suite.common,
        SupportedCipherSuite::Tls13(suite) => &suite.common,
    };
    common.confidentiality_limit
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
