//! The loop of every tutorial: a task for each connection, a small buffer, and no TCP_NODELAY.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub fn serve() -> io::Result<()> {
    super::runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        super::announce(listener.local_addr()?)?;
        loop {
            let (mut socket, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                loop {
                    let length = match socket.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(length) => length,
                    };
                    if socket.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}
