//! The probe against services that are not quite echo services: each is told as what it is, and
//! there is a flag that takes it into account.

mod common;

use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use common::binary::command;
use common::impair::{Wrong, wrong_tcp, wrong_udp};
use common::{TestServer, tools};
use echo_server::Protocol;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

const GREETING: &str = "Request served by myhost\n";

/// Runs `echo-server probe` with three messages.
async fn run(url: &str, args: &[&str]) -> (i32, String) {
    let mut command = command();
    command.args(["probe", url, "--count", "3", "--interval", "1ms", "--timeout", "300ms"]);
    command.args(args);
    let output: Output =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// A TCP service that does `work` on each connection.
async fn service<F: Future<Output = ()> + Send + 'static>(
    work: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(work(tcp));
        }
    });
    address
}

/// Greets, as jmalloc/echo-server does, and echoes.
async fn greeter() -> SocketAddr {
    service(async |mut tcp: TcpStream| {
        tcp.write_all(GREETING.as_bytes()).await.unwrap();
        let (mut from, mut to) = tcp.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_on_a_stream_is_told_and_skipped() {
    let url = format!("tcp://{}", greeter().await);
    let (code, text) = run(&url, &[]).await;
    assert_eq!(code, 5, "{text}");
    assert!(
        text.contains("seq=0 size=64 CORRUPTED from byte 0: \"Request \" instead of "),
        "{text}"
    );
    assert!(
        text.contains(
            "note: it sends 25 bytes before the first echo: \"Request served by myhost\"; \
             --skip-first 25 ignores them\n"
        ),
        "{text}"
    );
    let (code, text) = run(&url, &["--skip-first", "25"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("3 sent, 3 received"), "{text}");
    let mut load = command();
    load.args(["probe", &url, "--skip-first", "25", "--connections", "5", "--duration", "200ms"]);
    let load = tokio::task::spawn_blocking(move || load.output().unwrap()).await.unwrap();
    assert!(load.status.success(), "{load:?}");
    let (code, text) = run(&url, &["--skip-first", "24"]).await;
    assert_eq!(code, 5, "{text}");
    assert!(
        text.contains("note: it sends 1 byte before the first echo: 0a; --skip-first 1"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_of_a_websocket_service_and_of_a_datagram_service_is_told_and_skipped() {
    let websocket = service(async |tcp: TcpStream| {
        let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
        socket.send(Message::text(GREETING.trim())).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let greets: Wrong = |n, message, _| match n {
        0 => vec![GREETING.trim().as_bytes().to_vec(), message.to_vec()],
        _ => vec![message.to_vec()],
    };
    let url = format!("ws://{websocket}");
    for (url, datagrams) in [(url.clone(), false), (String::new(), true)] {
        let url = match datagrams {
            true => format!("udp://{}", wrong_udp(greets).await),
            false => url,
        };
        let (code, text) = run(&url, &[]).await;
        assert_eq!(code, 5, "{text}");
        let note = "note: it sends 1 message before the first echo: \"Request served by myhost\"; \
                    --skip-first 1 ignores it\n";
        assert!(text.contains(note), "{text}");
        let url = match datagrams {
            true => format!("udp://{}", wrong_udp(greets).await),
            false => url,
        };
        let (code, text) = run(&url, &["--skip-first", "1"]).await;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("3 sent, 3 received"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupted_reply_shows_where_and_what() {
    let flips: Wrong = |_, message, _| {
        let mut answer = message.to_vec();
        answer[40] = !answer[40];
        vec![answer]
    };
    let (code, text) = run(&format!("tcp://{}", wrong_tcp(64, flips, 9).await), &[]).await;
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("seq=1 size=64 CORRUPTED from byte 40: "), "{text}");
    assert!(text.contains(", 1 byte differs\n"), "{text}");
    assert!(!text.contains("note:"), "{text}");
    let (_, json) = run(&format!("udp://{}", wrong_udp(flips).await), &["--json"]).await;
    let reply: serde_json::Value = serde_json::from_str(json.lines().nth(1).unwrap()).unwrap();
    assert_eq!(reply["difference"]["offset"], 40, "{reply}");
    assert_eq!(reply["difference"]["count"], 1, "{reply}");
    let (sent, received) = (&reply["difference"]["sent"], &reply["difference"]["received"]);
    assert!(sent != received && sent.as_str().unwrap().len() == 8 * 3 - 1, "{reply}");
    let cuts: Wrong = |_, message, _| vec![message[..50].to_vec()];
    let (_, text) = run(&format!("udp://{}", wrong_udp(cuts).await), &[]).await;
    assert!(text.contains("seq=0 size=50 CORRUPTED from byte 50: 14 are missing\n"), "{text}");
    let text_for_binary = service(async |tcp: TcpStream| {
        let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
        while let Some(Ok(Message::Text(message))) = socket.next().await {
            let bytes = message.as_bytes().to_vec();
            if socket.send(Message::binary(bytes)).await.is_err() {
                return;
            }
        }
    });
    let url = format!("ws://{}", text_for_binary.await);
    let (code, text) = run(&url, &["--text"]).await;
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("CORRUPTED: text for binary, or binary for text\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_was_sent_is_told() {
    let adds: Wrong = |_, message, _| vec![[message, b"\r\n"].concat()];
    let says: Wrong = |_, message, _| vec![[b"You said: ", message].concat()];
    for (url, said) in [
        (
            format!("tcp://{}", wrong_tcp(64, adds, 9).await),
            "each reply has 2 bytes more than its message, behind it: 0d 0a",
        ),
        (
            format!("udp://{}", wrong_udp(adds).await),
            "each reply has 2 bytes more than its message, behind it: 0d 0a",
        ),
        (
            format!("tcp://{}", wrong_tcp(64, says, 9).await),
            "each reply has 10 bytes more than its message, before it: \"You said: \"",
        ),
        (
            format!("udp://{}", wrong_udp(says).await),
            "each reply has 10 bytes more than its message, before it: \"You said: \"",
        ),
    ] {
        let (code, text) = run(&url, &[]).await;
        assert_eq!(code, 5, "{url}: {text}");
        assert!(text.contains(&format!("note: {said}\n")), "{url}: {text}");
    }
}

/// Answers each line with its content and `ending`.
async fn lines(ending: &'static str) -> SocketAddr {
    service(async move |tcp: TcpStream| {
        let mut tcp = BufReader::new(tcp);
        let mut line = Vec::new();
        while tcp.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
            let content = line.trim_ascii_end().to_vec();
            if tcp.write_all(&[&content, ending.as_bytes()].concat()).await.is_err() {
                return;
            }
            line.clear();
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_lines_are_told_and_sent_lines() {
    let lf = format!("tcp://{}", lines("\n").await);
    let crlf = format!("tcp://{}", lines("\r\n").await);
    // A message of 16 bytes may contain a newline, and one of one byte hardly does.
    for size in ["16", "1"] {
        let (code, text) = run(&lf, &["--size", size]).await;
        assert!(matches!(code, 1 | 5), "{text}");
        let note = "note: it answers after a newline only; --lines ends each message with one\n";
        assert!(text.contains(note), "{size}: {text}");
    }
    for size in ["1", "2", "64", "20000"] {
        let (code, text) = run(&lf, &["--lines", "--size", size]).await;
        assert_eq!(code, 0, "{size}: {text}");
    }
    let (code, text) = run(&crlf, &["--lines"]).await;
    assert_eq!(code, 5, "{text}");
    let note = "note: it ends its lines with CR LF; --lines=crlf does so, too\n";
    assert!(text.contains(note), "{text}");
    let (code, text) = run(&crlf, &["--lines=crlf"]).await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_for_streams() {
    for (url, args, said) in [
        (
            "udp://127.0.0.1:1",
            &["--lines"][..],
            "--lines: only a byte stream is divided into lines",
        ),
        ("ws://127.0.0.1:1", &["--lines"], "--lines: only a byte stream is divided into lines"),
        ("tcp://127.0.0.1:1", &["--lines=cr"], "--lines cr: expected lf or crlf"),
        ("tcp://127.0.0.1:1", &["--lines=crlf", "--size", "1"], "--size: a line is not shorter"),
    ] {
        let (code, text) = run(url, args).await;
        assert_eq!(code, 2, "{url} {args:?}: {text}");
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_closes_after_a_message_is_told() {
    let once: Wrong = |_, message, _| vec![message.to_vec()];
    let (code, text) = run(&format!("tcp://{}", wrong_tcp(64, once, 1).await), &[]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("note: it closes the connection after 1 message\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_is_told() {
    let tls = TestServer::start(Protocol::Tls).await;
    let http = service(async |mut tcp: TcpStream| {
        let mut request = [0; 64];
        tcp.read_exact(&mut request).await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
    })
    .await;
    let mail = service(async |mut tcp: TcpStream| {
        tcp.write_all(b"220 mail.test ESMTP\r\n").await.unwrap();
        let _ = tcp.read(&mut [0; 64]).await;
        tcp.write_all(b"500 5.5.1 Command unrecognized\r\n").await.unwrap();
        let _ = tcp.read(&mut [0; 1]).await;
    })
    .await;
    for (address, said) in [
        (tls.address, format!("it does not echo, but speaks TLS: perhaps tls://{}", tls.address)),
        (http, format!("it does not echo, but speaks HTTP: perhaps ws://{http}")),
        (mail, "it does not echo: it answered \"220 mail.test ESMTP\"".to_owned()),
    ] {
        let (_, text) = run(&format!("tcp://{address}"), &[]).await;
        assert!(text.contains(&format!("note: {said}\n")), "{text}");
    }
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command, in which `PORT` stands for a free port, and waits until that accepts.
fn start(line: &[&str], is_udp: bool) -> (Killed, u16) {
    let any = ("127.0.0.1", 0);
    let port = match is_udp {
        true => std::net::UdpSocket::bind(any).unwrap().local_addr().unwrap().port(),
        false => std::net::TcpListener::bind(any).unwrap().local_addr().unwrap().port(),
    };
    let line: Vec<_> = line.iter().map(|part| part.replace("PORT", &port.to_string())).collect();
    let child = Command::new(&line[0])
        .args(&line[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_ready = || match is_udp {
        // Asking by a bind would keep the service from its port.
        true => {
            let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
            sockets.contains(&format!("0100007F:{port:04X} "))
        }
        false => std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
    };
    while !is_ready() {
        std::thread::yield_now();
    }
    (Killed(child), port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_services_are_probed() {
    if tools::have(&["socat", "-V"], "socat version") {
        for (line, is_udp) in [
            (["socat", "TCP-LISTEN:PORT,bind=127.0.0.1,fork,reuseaddr", "EXEC:cat"], false),
            (["socat", "UDP-RECVFROM:PORT,bind=127.0.0.1,fork", "EXEC:cat"], true),
        ] {
            let (_socat, port) = start(&line, is_udp);
            let scheme = if is_udp { "udp" } else { "tcp" };
            let url = format!("{scheme}://127.0.0.1:{port}");
            let (mut code, mut text) = run(&url, &[]).await;
            // Between two datagrams, socat has its port closed for a moment.
            for _ in 0..10 {
                if code != 0 && is_udp {
                    (code, text) = run(&url, &[]).await;
                }
            }
            assert_eq!(code, 0, "{text}");
            assert!(text.contains("3 sent, 3 received"), "{text}");
        }
    }
    if tools::have_python_websockets() {
        let program = "import asyncio, sys, websockets
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, '127.0.0.1', int(sys.argv[1])):
        await asyncio.Future()
asyncio.run(main())";
        let (_python, port) = start(&["python3", "-c", program, "PORT"], false);
        for args in [&[][..], &["--text"], &["--size", "70000"]] {
            let (code, text) = run(&format!("ws://127.0.0.1:{port}/"), args).await;
            assert_eq!(code, 0, "{args:?}: {text}");
        }
    }
    if tools::have(&["node", "--version"], "v") {
        let program = "require('net').createServer(socket => socket.pipe(socket))
.listen(Number(process.argv[1]), '127.0.0.1')";
        let (_node, port) = start(&["node", "-e", program, "PORT"], false);
        let (code, text) = run(&format!("tcp://127.0.0.1:{port}"), &[]).await;
        assert_eq!(code, 0, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_server_that_breaks_the_protocol_is_told_and_crashes_nothing() {
    // Each is what the server sends after the upgrade.
    let cases: [(&[u8], &str); 5] = [
        (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "the probe takes 1073807360 at most"),
        (b"\x82\x7f\x00\x00\x00\x10\x00\x00\x00\x00", "a message of 68719476736 bytes"),
        (b"\x83\x01x", "a frame has an unknown opcode"),
        (b"\xc2\x01x", "a frame has reserved bits"),
        (b"\x81\x01\xff", "text that is not UTF-8"),
    ];
    for (frame, said) in cases {
        let server = service(move |tcp: TcpStream| async move {
            let mut tcp = tokio_tungstenite::accept_async(tcp).await.unwrap().into_inner();
            tcp.write_all(frame).await.unwrap();
            // Until the probe has gone.
            let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
        })
        .await;
        let (code, text) = run(&format!("ws://{server}"), &[]).await;
        assert_eq!(code, 1, "{said}: {text}");
        assert!(text.contains(said) && !text.contains("panicked"), "{said}: {text}");
    }
}
