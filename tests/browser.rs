//! The page that WebSocket listeners serve, in a real browser. The tests load it, press its buttons
//! and check what it displays.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::browser::Browser;
use common::{TestServer, tools};
use echo_server::{Config, Protocol};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
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

    comes_to(&mut browser, "#connect", "Disconnect").await;
    let handshake = browser.event("Network.webSocketHandshakeResponseReceived").await;
    assert_eq!(handshake["response"]["status"], status, "{handshake}");
    let extensions = text(&mut browser, "#extensions").await;
    assert!(extensions.contains("permessage-deflate"), "{extensions}");
    browser.evaluate("document.querySelector('details').open = true").await;
    change(&mut browser, "#subprotocols", "chat.v2, chat.v1").await;
    comes_to(&mut browser, "#subprotocol", "chat.v2").await;

    fill(&mut browser, "#message", "grüß dich 👋\n").await;
    click(&mut browser, "#send").await;
    click(&mut browser, "#send-binary").await;
    click(&mut browser, "#send-mib").await;
    comes_to(&mut browser, "#counts", "3 sent, 3 identical, 0 different").await;
    comes_to(&mut browser, "#verdict", "Identical").await;
    assert!(text(&mut browser, "#last").await.ends_with(" ms"));
    let first = text(&mut browser, "#echoes li:last-child .payload").await;
    assert_eq!(first, "grüß dich 👋↵");
    let second = text(&mut browser, "#echoes li:nth-last-child(2) .payload").await;
    assert_eq!(second, "67 72 c3 bc c3 9f 20 64 69 63 68 20 f0 9f 91 8b 0a");

    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#status", "Closed").await;
    let close = text(&mut browser, "#close").await;
    assert!(close.starts_with("1000 (Normal Closure)"), "{close}");
    assert!(close.ends_with(" with a closing handshake"), "{close}");
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
    let host = format!("//localhost:{}/", server.address.port());
    for request in browser.requests() {
        let is_local = request.starts_with("about:") || request.starts_with("data:");
        assert!(is_local || request.contains(&host), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_what_the_server_saw() {
    if !tools::have_chromium() {
        return;
    }
    for (protocol, version) in [(Protocol::Ws, "HTTP/1.1"), (Protocol::Wss, "HTTP/2")] {
        let config = Config::new().listen(protocol, ([127, 0, 0, 1], 0)).facts([protocol]);
        let server = TestServer::with(config).await;
        let mut browser = Browser::start(&[]).await;
        load_page(&mut browser, protocol, &server).await;
        until(&mut browser, "!document.querySelector('#seen').hidden").await;
        let saw = text(&mut browser, "#saw").await;
        let fields = text(&mut browser, "#fields").await;
        for part in ["You are127.0.0.1:", &format!("You came to{}", server.address), version] {
            assert!(saw.contains(part), "'{part}' is not in {saw}");
        }
        let tls = ["TLSv1.3, TLS_", "SNIlocalhost", "ALPNh2 of h2, http/1.1", "JA4t13d"];
        for part in tls.into_iter().filter(|_| protocol == Protocol::Wss) {
            assert!(saw.contains(part), "'{part}' is not in {saw}");
        }
        assert!(fields.to_lowercase().contains("sec-websocket-version13"), "{fields}");
        // The facts are no echo.
        click(&mut browser, "#send").await;
        comes_to(&mut browser, "#counts", "1 sent, 1 identical, 0 different").await;
        if let Some(axe) = tools::axe() {
            browser.evaluate(&format!("{axe}; 0")).await;
            check_accessibility(&mut browser, "with facts").await;
        }
        fits_every_window(&mut browser, "with facts").await;
        assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_names_the_faults_of_its_server() {
    if !tools::have_chromium() {
        return;
    }
    let config = Config::new().listen(Protocol::Ws, ([127, 0, 0, 1], 0));
    let server = TestServer::with(config.fault("ws:delay=1ms,ws-utf8".parse().unwrap())).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    until(&mut browser, "document.querySelector('#status').textContent.includes('Faults')").await;
    let status = text(&mut browser, "#status").await;
    assert!(status.ends_with(". Faults on purpose: delay=1ms,ws-utf8"), "{status}");
    if let Some(axe) = tools::axe() {
        browser.evaluate(&format!("{axe}; 0")).await;
        check_accessibility(&mut browser, "with faults").await;
    }
    fits_every_window(&mut browser, "with faults").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_when_an_echo_differs() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let forger = misbehaving_server(forge).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    change(&mut browser, "#address", &forger).await;
    comes_to(&mut browser, "#status", &format!("Connected to {forger}")).await;
    assert_eq!(browser.evaluate("document.querySelector('#alert').hidden").await, true);

    fill(&mut browser, "#message", "hello").await;
    click(&mut browser, "#send-binary").await;
    comes_to(&mut browser, "#counts", "1 sent, 0 identical, 1 different").await;
    comes_to(&mut browser, "#verdict", "1 differs").await;
    assert_eq!(browser.evaluate("document.querySelector('#alert').hidden").await, false);
    let alert = text(&mut browser, "#alert").await;
    for words in ["#1 ", "differs", "at offset 3: sent 0x6c, came back 0x6d"] {
        assert!(alert.contains(words), "{alert}");
    }
    let shown = text(&mut browser, "#echoes .payload").await;
    assert_eq!(shown.trim_end(), "sent 68 65 6c 6c 6f back 68 65 6c 6d 6f");
    assert_eq!(marks(&mut browser).await, ["6c", "6d"]);

    // Text comes back with an inserted character that has no shape of its own, with markup, and cut.
    for (sent, back, parts) in [
        ("a long text, insert", "a long text, U+200Binsert", ["∅", "U+200B"]),
        ("<b>bold</b>, cut", "<b>bold</b>, ", ["cut", "∅"]),
        ("a pair 👋", "a pair 👌", ["👋", "👌"]),
    ] {
        fill(&mut browser, "#message", sent).await;
        let differing = browser.evaluate("counts.different").await.as_u64().unwrap();
        click(&mut browser, "#send").await;
        until(&mut browser, &format!("counts.different > {differing}")).await;
        assert_eq!(marks(&mut browser).await, parts, "{sent}");
        let shown = text(&mut browser, "#echoes .payload div:last-child").await;
        assert_eq!(shown.trim_start_matches("back").replace('∅', ""), back);
    }

    // An echo of another type differs too, and another beginning forgets the first alert.
    click(&mut browser, "#clear").await;
    comes_to(&mut browser, "#counts", "0 sent, 0 identical, 0 different").await;
    fill(&mut browser, "#message", "as binary").await;
    click(&mut browser, "#send").await;
    comes_to(&mut browser, "#counts", "1 sent, 0 identical, 1 different").await;
    let alert = text(&mut browser, "#alert").await;
    assert!(alert.contains("sent as text and came back as binary"), "{alert}");
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

/// Returns binary messages with a flipped bit in their fourth byte, and text changed as it asks for.
fn forge(message: Message) -> Option<Message> {
    Some(match message {
        Message::Text(text) if text == "as binary" => Message::binary(text.to_string()),
        Message::Text(text) => Message::text(
            text.replace("insert", "\u{200b}insert").replace("cut", "").replace('👋', "👌"),
        ),
        message => {
            let mut data = message.into_data().to_vec();
            data[3] ^= 1;
            Message::binary(data)
        }
    })
}

/// What is marked in the latest echo.
async fn marks(browser: &mut Browser) -> Vec<String> {
    let latest = "[...document.querySelector('#echoes').firstChild.querySelectorAll('mark')]";
    let marks = browser.evaluate(&format!("{latest}.map((mark) => mark.textContent)")).await;
    serde_json::from_value(marks).unwrap()
}

/// Starts a server that answers every message of its clients with what `answer` makes of it, and
/// closes TCP where that is nothing. Returns its address.
async fn misbehaving_server(
    answer: impl Fn(Message) -> Option<Message> + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if !message.is_binary() && !message.is_text() {
                    continue;
                }
                let Some(answer) = answer(message) else { break };
                socket.send(answer).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_connects_again_to_a_server_that_restarted() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let address = server.address;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    click(&mut browser, "#send").await;
    comes_to(&mut browser, "#verdict", "Identical").await;

    // More than one attempt fails, which takes longer each time.
    server.stop().await;
    until(&mut browser, "failures >= 3").await;
    let waits =
        "document.querySelector('#status').textContent.startsWith('Not connected. Next try in ')";
    until(&mut browser, waits).await;
    let announced = "document.querySelector('#announcer').textContent.startsWith('Not connected')";
    until(&mut browser, announced).await;
    let waits = "retry.at - performance.now() <= 500 * 2 ** (failures - 1)";
    until(&mut browser, &format!("!document.querySelector('#now').hidden && retry && {waits}"))
        .await;

    let config = Config::new().listen(Protocol::Ws, address);
    let _server = TestServer::with(config).await;
    browser.evaluate("document.querySelector('#now').click()").await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    // The verdict goes on: it is the same server.
    click(&mut browser, "#send").await;
    comes_to(&mut browser, "#counts", "2 sent, 2 identical, 0 different").await;
    assert_eq!(browser.evaluate("failures").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_connects_again_by_itself() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let closer = misbehaving_server(|_| None).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    change(&mut browser, "#address", &closer).await;
    comes_to(&mut browser, "#status", &format!("Connected to {closer}")).await;
    click(&mut browser, "#send").await;
    comes_to(&mut browser, "#verdict", "1 lost").await;
    comes_to(&mut browser, "#counts", "1 sent, 0 identical, 0 different, 1 lost").await;
    comes_to(&mut browser, "#status", &format!("Connected to {closer}")).await;

    // Who closes on purpose stays closed.
    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#status", "Closed").await;
    assert_eq!(browser.evaluate("retry").await, json!(null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_follows_its_address() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let port = server.address.port();
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    click(&mut browser, "#send").await;
    comes_to(&mut browser, "#counts", "1 sent, 1 identical, 0 different").await;

    // Another server begins with a clean slate.
    let other = format!("ws://127.0.0.1:{port}/chat?x=y");
    change(&mut browser, "#address", &other).await;
    comes_to(&mut browser, "#status", &format!("Connected to {other}")).await;
    comes_to(&mut browser, "#counts", "0 sent, 0 identical, 0 different").await;
    comes_to(&mut browser, "#verdict", "No echo yet").await;
    assert_eq!(browser.evaluate("document.querySelectorAll('#echoes li').length").await, 0);
    assert_eq!(browser.evaluate("location.hash").await, format!("#{other}"));

    // The press of the button also leaves the field, and still connects.
    let third = format!("ws://127.0.0.1:{port}/third");
    fill(&mut browser, "#address", &third).await;
    browser.press("#connect").await;
    comes_to(&mut browser, "#status", &format!("Connected to {third}")).await;
    fill(&mut browser, "#address", &other).await;
    browser.press("#message").await;
    comes_to(&mut browser, "#status", &format!("Connected to {other}")).await;

    // Who has followed it once has consented; a link alone has not.
    let link = format!("http://localhost:{port}/#{other}");
    browser.reload().await;
    comes_to(&mut browser, "#status", &format!("Connected to {other}")).await;
    browser.navigate("about:blank").await;
    browser.navigate(&link).await;
    comes_to(&mut browser, "#status", "Closed").await;
    let note = text(&mut browser, "#note").await;
    assert!(note.contains(&format!("another server, 127.0.0.1:{port}.")), "{note}");
    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#status", &format!("Connected to {other}")).await;

    // What is no address is not followed.
    for wrong in ["javascript:alert(1)", "ftp://localhost/", "ws://user:secret@localhost/"] {
        browser.evaluate(&format!("location.hash = {}", json!(wrong))).await;
        let refused =
            "document.querySelector('#note').textContent.startsWith('This is no address')";
        until(&mut browser, refused).await;
        browser.evaluate("note('')").await;
    }
    browser.evaluate("location.hash = ''").await;
    comes_to(&mut browser, "#status", &format!("Connected to ws://localhost:{port}/")).await;
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_counts_plots_and_exports() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    for message in ["one", "two", &"long".repeat(100)] {
        fill(&mut browser, "#message", message).await;
        click(&mut browser, "#send").await;
    }
    comes_to(&mut browser, "#counts", "3 sent, 3 identical, 0 different").await;

    let cells = "[...document.querySelector('#statistics').rows].map((row) => \
                 [...row.cells].map((cell) => cell.textContent))";
    let rows: Vec<Vec<String>> = serde_json::from_value(browser.evaluate(cells).await).unwrap();
    let counted: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(counted, [("to 125 B", "2"), ("to 4 KiB", "1"), ("All", "3")]);
    for row in &rows {
        let [min, mean, max] = [2, 3, 4].map(|at| row[at].parse::<f64>().unwrap());
        // They are rounded.
        assert!(min <= mean + 0.51 && mean <= max + 0.51, "{row:?}");
    }

    // The keyboard and the pointer find single echoes in the plot.
    browser.evaluate("document.querySelector('#plot').focus()").await;
    for (key, told) in [("Home", "#1, text, 3 B: "), ("ArrowRight", "#2, text, 3 B: ")] {
        let press = format!("new KeyboardEvent('keydown', {{ key: '{key}', cancelable: true }})");
        browser.evaluate(&format!("document.querySelector('#plot').dispatchEvent({press})")).await;
        until(
            &mut browser,
            &format!("document.querySelector('#tip').textContent.startsWith('{told}')"),
        )
        .await;
        let value = "document.querySelector('#plot').getAttribute('aria-valuetext')";
        assert!(browser.evaluate(value).await.as_str().unwrap().starts_with(told));
    }
    browser
        .evaluate(
            "document.querySelector('#plot').dispatchEvent(Object.defineProperty( \
             new PointerEvent('pointermove'), 'offsetX', { value: 10000 }))",
        )
        .await;
    until(
        &mut browser,
        "document.querySelector('#tip').textContent.startsWith('#3, text, 400 B: ')",
    )
    .await;

    // The exports are read where they are made.
    let catch = "window.blobs = []; URL.createObjectURL = (blob) => (blobs.push(blob), 'data:,')";
    browser.evaluate(catch).await;
    click(&mut browser, "#csv").await;
    click(&mut browser, "#json").await;
    let csv = browser.evaluate("blobs[0].text()").await;
    let lines: Vec<_> = csv.as_str().unwrap().split("\r\n").collect();
    assert_eq!(lines[0], "number,time,kind,size,rtt_ms,identical");
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[3].starts_with("3,20") && lines[3].contains("Z,text,400,"), "{lines:?}");
    assert!(lines[3].ends_with(",true") && lines[4].is_empty(), "{lines:?}");
    let json = browser.evaluate("blobs[1].text()").await;
    let json: Value = serde_json::from_str(json.as_str().unwrap()).unwrap();
    assert_eq!(json["address"], format!("ws://localhost:{}/", server.address.port()));
    assert_eq!((&json["sent"], &json["identical"]), (&json!(3), &json!(3)));
    assert_eq!(json["echoes"][2]["size"], 400);
    assert!(json["echoes"][2]["rtt_ms"].as_f64().is_some_and(|rtt| rtt >= 0.0), "{json}");
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_puts_load_on_a_server() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    comes_to(&mut browser, "#connect", "Disconnect").await;

    start_load(&mut browser, 200, 1).await;
    until(&mut browser, "load?.isDone").await;
    comes_to(&mut browser, "#counts", "200 sent, 200 identical, 0 different").await;
    comes_to(&mut browser, "#load", "Start").await;
    let figures = figures(&mut browser).await;
    assert_eq!(figures[..3], ["Sent 200", "Received 200", "Lost 0"]);
    for (figure, name) in figures[3..].iter().zip(["p50 ", "p90 ", "p99 ", "Max "]) {
        assert!(figure.starts_with(name) && figure.ends_with(" ms"), "{figures:?}");
    }
    let result = text(&mut browser, "#load-result").await;
    assert!(result.starts_with(" 200 sent in "), "{result}");
    until(
        &mut browser,
        "document.querySelector('#announcer').textContent.includes(' 0 lost, p99 ')",
    )
    .await;

    // A hidden tab would measure its own slow timers.
    start_load(&mut browser, 1000, 3600).await;
    until(&mut browser, "load.times.length > 10").await;
    browser
        .evaluate(
            "Object.defineProperty(document, 'hidden', { value: true, configurable: true }); \
             document.dispatchEvent(new Event('visibilitychange')); delete document.hidden",
        )
        .await;
    until(&mut browser, "load.isDone").await;
    until(
        &mut browser,
        "document.querySelector('#load-result').textContent.startsWith('Stopped: browsers')",
    )
    .await;

    // What never comes back is lost.
    let received = AtomicUsize::new(0);
    let quitter = misbehaving_server(move |message| {
        (received.fetch_add(1, Ordering::Relaxed) < 2).then_some(message)
    });
    change(&mut browser, "#address", &quitter.await).await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    start_load(&mut browser, 100, 3600).await;
    until(&mut browser, "load.isDone").await;
    let closed = "Stopped: the connection was closed.";
    until(
        &mut browser,
        &format!("document.querySelector('#load-result').textContent.startsWith('{closed}')"),
    )
    .await;
    let figures = self::figures(&mut browser).await;
    assert_eq!(figures[1], "Received 2");
    assert_ne!(figures[2], "Lost 0");
    let lost = "document.documentElement.dataset.verdict";
    assert_eq!(browser.evaluate(lost).await, "lost");
}

async fn start_load(browser: &mut Browser, rate: u32, seconds: u32) {
    let rate = format!("document.querySelector('#rate').value = {rate}");
    let seconds = format!("document.querySelector('#seconds').value = {seconds}");
    browser.evaluate(&format!("{rate}; {seconds}")).await;
    click(browser, "#load").await;
}

/// The names and values of a load's figures.
async fn figures(browser: &mut Browser) -> Vec<String> {
    let figures = "[...document.querySelector('#load-figures').children] \
                   .map((figure) => [...figure.children].map((part) => part.textContent).join(' '))";
    serde_json::from_value(browser.evaluate(figures).await).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_when_there_is_no_connection() {
    if !tools::have_chromium() {
        return;
    }
    let server = TestServer::start(Protocol::Ws).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#status", "Closed").await;
    server.stop().await;
    click(&mut browser, "#connect").await;
    let not_clean = "1006 (Abnormal Closure), no reason given, without a closing handshake";
    until(&mut browser, &format!("document.querySelector('#close').textContent === '{not_clean}'"))
        .await;
    assert!(text(&mut browser, "#note").await.starts_with("No connection"));
    // The second press cancels.
    until(&mut browser, "document.querySelector('#connect').textContent === 'Cancel'").await;
    click(&mut browser, "#connect").await;
    comes_to(&mut browser, "#status", "Closed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_explains_a_certificate_that_is_not_trusted() {
    if !tools::have_chromium() {
        return;
    }
    let page = TestServer::start(Protocol::Ws).await;
    let server = TestServer::start(Protocol::Wss).await;
    let host = format!("localhost:{}", server.address.port());
    let mut browser = Browser::start_distrusting(&[]).await;
    load_page(&mut browser, Protocol::Ws, &page).await;
    change(&mut browser, "#address", &format!("wss://{host}/chat")).await;
    until(&mut browser, "document.querySelector('#note a')").await;
    let note = text(&mut browser, "#note").await;
    assert!(note.contains("does the browser not trust its certificate?"), "{note}");
    let link = "document.querySelector('#note a').href";
    assert_eq!(browser.evaluate(link).await, format!("https://{host}/chat"));
    until(&mut browser, "failures > 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_accessible_and_fits_every_window() {
    if !tools::have_chromium() {
        return;
    }
    let Some(axe) = tools::axe() else { return };
    let server = TestServer::start(Protocol::Ws).await;
    let forger = misbehaving_server(forge).await;
    let mut browser = Browser::start(&[]).await;
    load_page(&mut browser, Protocol::Ws, &server).await;
    comes_to(&mut browser, "#connect", "Disconnect").await;
    browser.evaluate(&format!("{axe}; 0")).await;
    check_accessibility(&mut browser, "fresh").await;

    start_load(&mut browser, 100, 1).await;
    click(&mut browser, "#send").await;
    click(&mut browser, "#send-mib").await;
    until(&mut browser, "load?.isDone").await;
    browser.evaluate("document.querySelector('details').open = true").await;
    fits_every_window(&mut browser, "identical").await;

    change(&mut browser, "#address", &forger).await;
    comes_to(&mut browser, "#status", &format!("Connected to {forger}")).await;
    for message in ["insert", "as binary", &"cut".repeat(300)] {
        fill(&mut browser, "#message", message).await;
        click(&mut browser, "#send").await;
    }
    comes_to(&mut browser, "#verdict", "3 differ").await;
    fits_every_window(&mut browser, "different").await;

    server.stop().await;
    change(&mut browser, "#address", "wss://localhost:1/a/very/long/path/that/has/to/be/broken")
        .await;
    until(&mut browser, "document.querySelector('#note a')").await;
    fits_every_window(&mut browser, "not connected").await;
}

async fn fits_every_window(browser: &mut Browser, state: &str) {
    for (width, height) in [(1280, 800), (360, 740), (320, 640)] {
        for scheme in ["light", "dark"] {
            let what = format!("{state}, {width} x {height}, {scheme}");
            browser.look(width, height, scheme).await;
            until(browser, &format!("innerWidth === {width}")).await;
            let overflowing =
                "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth";
            assert_eq!(browser.evaluate(overflowing).await, 0, "{what}");
            // The verdict and the last round-trip time stay in view.
            browser.evaluate("scrollTo(0, 1e6)").await;
            let hidden = "['verdict', 'last'].filter((id) => { \
                          const { top, bottom } = document.getElementById(id).getBoundingClientRect(); \
                          return top < 0 || bottom > innerHeight; })";
            assert_eq!(browser.evaluate(hidden).await, json!([]), "{what}");
            browser.evaluate("scrollTo(0, 0)").await;
            check_accessibility(browser, &what).await;
        }
    }
}

/// Lets axe-core look at the page.
async fn check_accessibility(browser: &mut Browser, state: &str) {
    let violations = browser
        .evaluate(
            "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations \
             .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]))",
        )
        .await;
    assert_eq!(violations, json!([]), "{state}");
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

/// Fills the field as somebody does who goes on to another one.
async fn change(browser: &mut Browser, selector: &str, text: &str) {
    fill(browser, selector, text).await;
    let selector = json!(selector);
    browser
        .evaluate(&format!("document.querySelector({selector}).dispatchEvent(new Event('change'))"))
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

/// Waits until the expression is true. Panics after a timeout.
async fn until(browser: &mut Browser, condition: &str) {
    let holds = browser
        .evaluate(&format!(
            "new Promise((resolve) => {{
               const look = () => {{
                 if ({condition}) resolve(true);
                 else if (performance.now() > end) resolve(false);
                 else setTimeout(look, 10);
               }};
               const end = performance.now() + 30000;
               look();
             }})"
        ))
        .await;
    assert_eq!(holds, true, "{condition}");
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
