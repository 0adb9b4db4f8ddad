//! The page that WebSocket listeners serve, in a real browser. The tests load it, press its buttons
//! and check what it displays.

mod common;

use common::browser::Browser;
use common::{TestServer, tools};
use echo_server::Protocol;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

/// A browser opens a WebSocket with an upgrade over HTTP/1.1, and with extended CONNECT (RFC 8441)
/// over HTTP/2.
const SWITCHING_PROTOCOLS: u16 = 101;
const OK: u16 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_gets_its_messages_back_over_ws() {
    the_page_gets_its_messages_back(Protocol::Ws, &[], "http/1.1", SWITCHING_PROTOCOLS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_gets_its_messages_back_over_wss() {
    let no_h2 = ["--disable-http2"];
    the_page_gets_its_messages_back(Protocol::Wss, &no_h2, "http/1.1", SWITCHING_PROTOCOLS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_gets_its_messages_back_over_wss_on_h2() {
    the_page_gets_its_messages_back(Protocol::Wss, &[], "h2", OK).await;
}

async fn the_page_gets_its_messages_back(
    protocol: Protocol,
    arguments: &[&str],
    http: &str,
    status: u16,
) {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(protocol).await;
    let mut browser = Browser::start(arguments).await;
    load_page(&mut browser, protocol, &server).await;
    assert_eq!(
        browser.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol").await,
        http
    );

    fill(&mut browser, "#subprotocols", "chat.v2, chat.v1").await;
    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    let handshake = browser.event("Network.webSocketHandshakeResponseReceived").await;
    assert_eq!(handshake["response"]["status"], status, "{handshake}");
    assert_eq!(text(&mut browser, "#subprotocol").await, "chat.v2");
    let extensions = text(&mut browser, "#extensions").await;
    assert!(extensions.contains("permessage-deflate"), "{extensions}");

    fill(&mut browser, "#message", "grüß dich 👋\n").await;
    click(&mut browser, "#send").await;
    click(&mut browser, "#send-binary").await;
    click(&mut browser, "#send-mib").await;
    comes_to(&mut browser, "#verdict", "3 sent, 3 identical, 0 different").await;

    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#status", "Closed").await;
    let close = text(&mut browser, "#close").await;
    assert!(close.starts_with("1000 (Normal Closure)"), "{close}");
    assert!(close.ends_with(" clean: with a closing handshake"), "{close}");
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_when_an_echo_differs() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let forger = forging_server().await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    fill(&mut browser, "#address", &forger).await;
    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    assert_eq!(browser.evaluate("document.querySelector('#alert').hidden").await, true);

    fill(&mut browser, "#message", "hello").await;
    click(&mut browser, "#send-binary").await;
    comes_to(&mut browser, "#verdict", "1 sent, 0 identical, 1 different").await;
    assert_eq!(browser.evaluate("document.querySelector('#alert').hidden").await, false);
    let alert = text(&mut browser, "#alert").await;
    for words in ["#1 ", "differs", "at offset 3: sent 0x6c, came back 0x6d"] {
        assert!(alert.contains(words), "{alert}");
    }

    // An echo of another type differs too.
    click(&mut browser, "#clear").await;
    comes_to(&mut browser, "#verdict", "0 sent, 0 identical, 0 different").await;
    click(&mut browser, "#send").await;
    comes_to(&mut browser, "#verdict", "1 sent, 0 identical, 1 different").await;
    let alert = text(&mut browser, "#alert").await;
    assert!(alert.contains("sent as text and came back as binary"), "{alert}");
}

/// Starts a server that returns every message with a flipped bit in its fourth byte, and text as
/// binary. Returns its address.
async fn forging_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            let binary = message.is_binary();
            if !binary && !message.is_text() {
                continue;
            }
            let mut data = message.into_data().to_vec();
            data[3] ^= u8::from(binary);
            socket.send(Message::binary(data)).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_when_there_is_no_connection() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    server.stop().await;
    click(&mut browser, "#connect").await;
    let not_clean = "1006 (Abnormal Closure), no reason given, not clean: ".to_owned();
    comes_to(&mut browser, "#close", &(not_clean + "without a closing handshake")).await;
    assert!(text(&mut browser, "#note").await.starts_with("No connection. "));
}

async fn load_page(browser: &mut Browser, protocol: Protocol, server: &TestServer) {
    let scheme = if protocol == Protocol::Wss { "https" } else { "http" };
    let host = format!("localhost:{}", server.address.port());
    browser.navigate(&format!("{scheme}://{host}/")).await;
    // The page's default address is the server that it came from.
    let address = browser.evaluate("document.querySelector('#address').value").await;
    assert_eq!(address, format!("{protocol}://{host}/"));
}

/// Replaces what the field holds with `text`.
async fn fill(browser: &mut Browser, selector: &str, text: &str) {
    let (selector, text) = (json!(selector), json!(text));
    browser
        .evaluate(&format!(
            "{{ const field = document.querySelector({selector}); field.select(); \
             document.execCommand('insertText', false, {text}); \
             if (field.value !== {text}) throw new Error(`holds ${{field.value}}`); }}"
        ))
        .await;
}

async fn click(browser: &mut Browser, selector: &str) {
    browser.evaluate(&format!("document.querySelector({}).click()", json!(selector))).await;
}

async fn text(browser: &mut Browser, selector: &str) -> String {
    let text =
        browser.evaluate(&format!("document.querySelector({}).textContent", json!(selector))).await;
    text.as_str().unwrap().to_owned()
}

/// Waits until the text of the element is `expected`. After a timeout it panics with the actual
/// text.
async fn comes_to(browser: &mut Browser, selector: &str, expected: &str) {
    let text = browser
        .evaluate(&format!(
            "new Promise((resolve) => {{
               const element = document.querySelector({}), expected = {};
               const look = () => {{
                 if (element.textContent === expected) resolve(expected);
               }};
               new MutationObserver(look)
                 .observe(element, {{ childList: true, characterData: true, subtree: true }});
               setTimeout(() => resolve(element.textContent), 30000);
               look();
             }})",
            json!(selector),
            json!(expected)
        ))
        .await;
    assert_eq!(text, expected);
}
