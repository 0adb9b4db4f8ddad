//! Asks the peers for their rows.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::row::{Known, Row};
use crate::causes;

/// How long a peer may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long all may take together. Whoever has not been asked by then has no row.
const ALL: Duration = Duration::from_secs(4);

/// How many are asked at the same time. If none of a thousand answers, all have been asked in time.
const AT_ONCE: usize = 256;

/// The longest row that is taken, in bytes: some 4,000 targets. And how long all may be together. What
/// is made of a row while it is read takes twelve times as much.
const LONGEST: usize = 1 << 20;
const LONGEST_OF_ALL: usize = 32 << 20;

/// The row of each peer, or why there is none. Of the rows counts what is about what is `known`.
pub(super) async fn rows(
    peers: &[IpAddr],
    known: &Known,
    port: u16,
) -> Vec<(SocketAddr, Result<Row, String>)> {
    let end = Instant::now() + ALL;
    let read = &AtomicUsize::new(0);
    let ask = |ip: &IpAddr| {
        let address = SocketAddr::new(*ip, port);
        async move {
            let row = match timeout_at(end, timeout(TIMEOUT, ask(address, read))).await {
                Ok(Ok(row)) => row.map(|row| row.about(known)),
                Ok(Err(_)) => Err("no answer".to_owned()),
                Err(_) => Err("it was not asked in time".to_owned()),
            };
            (address, row)
        }
    };
    stream::iter(peers.iter().map(ask)).buffered(AT_ONCE).collect().await
}

/// Asks one, and adds the length of its row to `read`.
async fn ask(address: SocketAddr, read: &AtomicUsize) -> Result<Row, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| causes::of_connect(&error))?;
    let failed = |error: hyper::Error| {
        // What speaks before it is asked is told in either way.
        match error.is_parse() {
            true => "it speaks no HTTP".to_owned(),
            false => "it closed the connection, or speaks no HTTP".to_owned(),
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get("/mesh/row")
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .expect("the path and the address are valid");
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers with {}, and has no row", response.status().as_u16()));
        }
        let mut body = Limited::new(response.into_body(), LONGEST);
        let mut row = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| "its row is cut off, or too long".to_owned())?;
            let Ok(data) = frame.into_data() else { continue };
            if read.fetch_add(data.len(), Ordering::Relaxed) + data.len() > LONGEST_OF_ALL {
                return Err("the rows of all peers together are too long".to_owned());
            }
            row.extend_from_slice(&data);
        }
        Row::parse(&row).ok_or_else(|| "its row cannot be read".to_owned())
    };
    tokio::select! {
        answer = answer => answer,
        // It ends with an error, or when the answer has been read, which is seen first.
        _ = async { let _ = connection.await; std::future::pending::<()>().await } => unreachable!(),
    }
}
