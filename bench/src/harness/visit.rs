//! A client that connects, echoes and closes. The probe cannot do this: its connections last as
//! long as their load, and come from one address.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use echo_server::Protocol;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::sample::Trouble;
use super::servers::Running;
use crate::certificates::certs;

/// Connections from one address. Linux has 28,000 ephemeral ports for each.
const PER_ADDRESS: usize = 10_000;

pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

trait ByteStream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream for T {}

/// The clients of one server.
pub struct Visitors {
    protocol: Protocol,
    address: SocketAddr,
    connector: TlsConnector,
}

/// A connected client.
pub struct Visitor {
    stream: Box<dyn ByteStream>,
    is_web_socket: bool,
}

impl Visitors {
    pub fn of(server: &Running) -> Result<Visitors, Trouble> {
        let config = trust().map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Visitors { protocol: server.protocol, address: server.address, connector })
    }

    /// Connects visitor `n`, including the handshakes of the protocol.
    pub async fn arrive(&self, n: usize) -> io::Result<Visitor> {
        let socket = TcpSocket::new_v4()?;
        // The port is chosen on connecting. On binding, the kernel's search for a free port takes
        // ever longer: seconds in total for 10,000 connections.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        let from = Ipv4Addr::from_bits(0x7F00_0002 + (n / PER_ADDRESS) as u32);
        socket.bind(SocketAddr::new(from.into(), 0))?;
        let tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let mut stream: Box<dyn ByteStream> = Box::new(tcp);
        if self.protocol.is_over_tls() {
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            stream = Box::new(self.connector.connect(name, stream).await?);
        }
        let is_web_socket = matches!(self.protocol, Protocol::Ws | Protocol::Wss);
        if is_web_socket {
            stream.write_all(REQUEST).await?;
            stream.flush().await?;
            upgraded(&mut stream).await?;
        }
        Ok(Visitor { stream, is_web_socket })
    }
}

impl Visitor {
    /// Sends 64 bytes, and waits for their echo.
    pub async fn echo(&mut self) -> io::Result<()> {
        // A WebSocket frame has a masking key of zeros.
        let (request, reply): (&[u8], &[u8]) = match self.is_web_socket {
            true => (&[0x82, 0x80 | 64, 0, 0, 0, 0], &[0x82, 64]),
            false => (&[], &[]),
        };
        let message: [u8; 64] = std::array::from_fn(|i| i as u8);
        self.stream.write_all(&[request, &message].concat()).await?;
        self.stream.flush().await?;
        let mut echo = vec![0; reply.len() + message.len()];
        self.stream.read_exact(&mut echo).await?;
        match echo.strip_prefix(reply) {
            Some(payload) if payload == message => Ok(()),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "the echo differs")),
        }
    }

    /// Closes as the protocol prescribes, and waits until the server does too.
    pub async fn leave(mut self) -> io::Result<()> {
        if self.is_web_socket {
            let code = 1000_u16.to_be_bytes();
            self.stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, code[0], code[1]]).await?;
            self.stream.flush().await?;
        } else {
            self.stream.shutdown().await?;
        }
        // Only the server's own farewell is left to read.
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await?;
        Ok(())
    }
}

/// Reads the head of the HTTP response, and no byte more.
pub async fn upgraded(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        // The server sends nothing after the head before it gets a frame.
        match stream.read(&mut buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    if head.starts_with(b"HTTP/1.1 101 ") { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Settings that trust the test CA. Sessions are not resumed, so each handshake is a full one.
pub fn trust() -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(certs("ca.pem")).map_err(io::Error::other)? {
        roots.add(root.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}
