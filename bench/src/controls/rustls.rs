//! A loop over tokio-rustls, written with care: a buffer of 8 KiB, and a flush after each write.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificates::certs;

pub fn serve() -> io::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(settings()?));
    super::runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        super::announce(listener.local_addr()?)?;
        loop {
            let (socket, _) = listener.accept().await?;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client's error ends only its own connection.
                let _ = echo(acceptor, socket).await;
            });
        }
    })
}

async fn echo(acceptor: TlsAcceptor, socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut stream = acceptor.accept(socket).await?;
    let mut buffer = vec![0; 8 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => stream.write_all(&buffer[..length]).await?,
        }
        stream.flush().await?;
    }
}

fn settings() -> io::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certs("server.pem"))
        .and_then(Iterator::collect)
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(certs("server.key")).map_err(io::Error::other)?;
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)
}
