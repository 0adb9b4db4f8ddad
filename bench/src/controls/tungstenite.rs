//! An echo on tokio-tungstenite, with its defaults and tuned.

use std::io;

use futures::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

/// How it is used.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// Default settings, and a `send` for each message, which flushes.
    Plain,
    /// A read buffer of 16 KiB instead of 128, and one flush for all messages that have come.
    Tuned,
}

pub fn serve(manner: Manner) -> io::Result<()> {
    super::runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        super::announce(listener.local_addr()?)?;
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::spawn(async move {
                // A client's error ends only its own connection.
                let _ = echo(socket, manner).await;
            });
        }
    })
}

async fn echo(socket: TcpStream, manner: Manner) -> Result<(), Error> {
    socket.set_nodelay(true)?;
    let config = match manner {
        Manner::Plain => None,
        Manner::Tuned => Some(WebSocketConfig::default().read_buffer_size(16 * 1024)),
    };
    let mut socket = accept_async_with_config(socket, config).await?;
    while let Some(message) = socket.next().await {
        match manner {
            Manner::Plain if is_echoed(message.as_ref()) => socket.send(message?).await?,
            Manner::Tuned => feed_all(&mut socket, message).await?,
            Manner::Plain => drop(message?),
        }
    }
    Ok(())
}

/// Echoes `first` and whatever else has come, then flushes.
async fn feed_all(
    socket: &mut WebSocketStream<TcpStream>,
    first: Result<Message, Error>,
) -> Result<(), Error> {
    let mut next = Some(first);
    while let Some(message) = next {
        if is_echoed(message.as_ref()) {
            socket.feed(message?).await?;
        } else {
            // tungstenite answers Pings and Close frames itself. The flush sends those answers too.
            drop(message?);
        }
        next = socket.next().now_or_never().flatten();
    }
    match socket.flush().await {
        Err(Error::ConnectionClosed) => Ok(()),
        flushed => flushed,
    }
}

fn is_echoed(message: Result<&Message, &Error>) -> bool {
    matches!(message, Ok(Message::Text(_) | Message::Binary(_)))
}
