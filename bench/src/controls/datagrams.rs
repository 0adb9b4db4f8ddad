//! UDP as in tokio's documentation: one datagram in, one out.

use std::io;

use tokio::net::UdpSocket;

pub fn serve() -> io::Result<()> {
    super::runtime()?.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        super::announce(socket.local_addr()?)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            socket.send_to(&buffer[..length], from).await?;
        }
    })
}
