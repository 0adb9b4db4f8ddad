//! Faults on purpose on HTTP/2. What a slow or late link does is done to the connection, by the
//! transport; everything else to its streams, each of which is a connection by its number.

use std::future::{self, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use h2::RecvStream;
use h2::server::SendResponse;
use hyper::Response;
use hyper::header::CONTENT_LENGTH;
use hyper::http::request::Parts;
use hyper::http::{Method, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::stream::Http2Stream;
use super::{Decided, Http2, dated, full, has_body, reply};
use crate::causes::{self, Peer};
use crate::config::Fault;
use crate::connection::{
    Admitted, Connection, End, Opened, Opening, Refused, Session, Sessions, Stage,
};
use crate::echo::{Echo, EchoError, Frames, StreamEcho};
use crate::facts;
use crate::faults::{Faults, Faulty, Misbehaving, Plan};
use crate::protocols::ws::STALLED;
use crate::protocols::ws::faults::{Request, become_of, unreadable};
use crate::protocols::ws::settings::{log_opened, open};

impl<S> Http2<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Answers a request with what is wrong on purpose.
    pub(super) fn misbehave(
        &self,
        faults: &Arc<Faults>,
        head: Parts,
        receiving: RecvStream,
        respond: SendResponse<Bytes>,
    ) {
        let asked = match faults.ask(self.carrier.protocol, head.uri.query()) {
            Ok(asked) => asked,
            Err(error) => return reply(respond, unreadable(&error)),
        };
        let is_websocket = head.method == Method::CONNECT;
        if !is_websocket && asked.is_empty() {
            let Decided { response, uri, .. } = self.decide(head);
            return match uri.path() == facts::PATH && response.status() == StatusCode::OK {
                true => self.tell(receiving, respond, response),
                false => reply(respond, response),
            };
        }
        let Some(admitted) = self.admit_stream() else { return reply(respond, full()) };
        let connection = admitted.connection;
        let mut plan = faults.plan(&connection).only(|fault| !is_of_link(fault));
        plan.extend(asked.faults());
        let stream = Misbehaved {
            faults: Arc::clone(faults),
            sessions: Arc::clone(&self.settings.sessions),
            plan,
            connection,
        };
        let sessions = &self.settings.sessions;
        match become_of(head, &stream.plan, &asked) {
            Request::Stalled => {
                stream.count_upgrade();
                let opening = stalled::<Told>(sessions, receiving, respond);
                tokio::spawn(Session::of_connection(sessions, admitted, opening));
            }
            Request::Refused(response) => {
                stream.count_upgrade();
                let opening = refused::<Told>(stream, receiving, respond, response);
                begin_late(sessions, admitted, opening);
            }
            Request::Answered(head) => {
                let decided = self.decide(head);
                if decided.agreed.is_none() {
                    let opening = self.tell_late(stream, receiving, respond, decided.response);
                    begin_late(sessions, admitted, opening);
                } else {
                    let opening = self.open_late(stream, receiving, respond, decided);
                    begin_late(sessions, admitted, opening);
                }
            }
        }
    }

    /// Opens a WebSocket that misbehaves. The response is as late as what follows.
    fn open_late(
        &self,
        misbehaved: Misbehaved,
        mut receiving: RecvStream,
        mut respond: SendResponse<Bytes>,
        decided: Decided,
    ) -> BoxFuture<'static, Result<Opened<Socket>, Refused>> {
        let Decided { response, agreed, uri, http } = decided;
        let agreed = agreed.expect("it opens a WebSocket");
        let connection = misbehaved.connection;
        let planned = misbehaved.plan.to_string();
        let planned = Some(planned.as_str()).filter(|planned| !planned.is_empty());
        let facts = self.facts(connection, planned, http.as_ref());
        let (settings, streams) = (self.settings.clone(), Arc::clone(&self.streams));
        let opening = async move {
            let early = misbehaved.wait(&mut receiving).await;
            let sent = respond.send_response(dated(response.map(drop)), false);
            let sending = sent.map_err(failure)?;
            log_opened(connection, Version::HTTP_2, uri.path(), &agreed, &settings);
            let stream = Http2Stream::new(receiving, sending, streams).with_received(early);
            let mut stream = misbehaved.over(stream, true);
            stream.begin_frames();
            let socket = open(stream, &agreed, &settings, &[], facts.as_deref());
            Ok(Opened::new(socket, None))
        };
        opening.boxed()
    }

    /// Sends a response that misbehaves.
    fn tell_late(
        &self,
        misbehaved: Misbehaved,
        mut receiving: RecvStream,
        mut respond: SendResponse<Bytes>,
        response: Response<Bytes>,
    ) -> BoxFuture<'static, Result<Opened<Told>, Refused>> {
        // What comes behind the request is not read.
        let response = if receiving.is_end_stream() { response } else { has_body() };
        let streams = Arc::clone(&self.streams);
        let opening = async move {
            misbehaved.wait(&mut receiving).await;
            let (mut head, body) = dated(response).into_parts();
            head.headers.entry(CONTENT_LENGTH).or_insert_with(|| body.len().into());
            let sent = respond.send_response(Response::from_parts(head, ()), false);
            let stream = Http2Stream::new(receiving, sent.map_err(failure)?, streams);
            let stream = stream.without_input();
            let told = StreamEcho::new(misbehaved.without_delay().over(stream, false), 1);
            Ok(Opened::new(told.with_greeting(body.into()), None))
        };
        opening.boxed()
    }
}

/// A WebSocket.
type Socket = StreamEcho<Faulty<Http2Stream>, Frames>;

/// A response and nothing else.
type Told = StreamEcho<Faulty<Http2Stream>>;

/// A stream that will misbehave.
struct Misbehaved {
    faults: Arc<Faults>,
    sessions: Arc<Sessions>,
    plan: Plan,
    connection: Connection,
}

impl Misbehaved {
    /// Waits as long as what is sent is late, and returns what has come meanwhile.
    async fn wait(&self, receiving: &mut RecvStream) -> Vec<u8> {
        let chance = self.faults.chance(self.connection.protocol, self.connection.number);
        let jitter =
            self.plan.jitter().unwrap_or_default().mul_f64(chance.about("upgrade").unit(0));
        let at = Instant::now() + self.plan.delay().unwrap_or_default() + jitter;
        let mut alarm = self.faults.alarm(self.connection.worker);
        let mut received = Vec::new();
        let late = poll_fn(|cx| {
            take(receiving, cx, |bytes| received.extend_from_slice(bytes));
            alarm.poll_until(cx, at)
        });
        tokio::select! {
            () = late => {}
            () = self.sessions.drain.reached(Stage::Draining) => {}
        }
        received
    }

    fn without_delay(mut self) -> Self {
        self.plan = self.plan.only(|fault| !matches!(fault, Fault::Delay(_) | Fault::Jitter(_)));
        self
    }

    fn over(self, stream: Http2Stream, is_websocket: bool) -> Faulty<Http2Stream> {
        let Misbehaved { faults, sessions, plan, connection } = self;
        Faulty::new(stream, plan, &faults, &sessions, connection, is_websocket)
    }

    fn count_upgrade(&self) {
        self.faults.count(self.connection.protocol, "upgrade", 1);
    }
}

/// Answers a request with a response that is a fault.
fn refused<E: Send + 'static>(
    misbehaved: Misbehaved,
    mut receiving: RecvStream,
    respond: SendResponse<Bytes>,
    response: Response<Bytes>,
) -> BoxFuture<'static, Result<Opened<E>, Refused>> {
    let opening = async move {
        misbehaved.wait(&mut receiving).await;
        let end = End::answered_on_purpose(response.status());
        reply(respond, response);
        Err(end.into())
    };
    opening.boxed()
}

/// Begins a session when `opening` is done, which is late on purpose: meanwhile there is no session
/// whose timeout could pass.
fn begin_late<E: Echo + Send + 'static>(
    sessions: &Arc<Sessions>,
    admitted: Admitted,
    opening: BoxFuture<'static, Result<Opened<E>, Refused>>,
) {
    // A drain waits for what has no session yet.
    let (sessions, member) = (Arc::clone(sessions), sessions.drain.join());
    tokio::spawn(async move {
        let opened = future::ready(opening.await).boxed();
        let session = Session::of_connection(&sessions, admitted, Opening::Handshake(opened));
        drop(member);
        session.await;
    });
}

/// Leaves a request without a response until the client resets the stream.
fn stalled<E: Send + 'static>(
    sessions: &Arc<Sessions>,
    receiving: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> Opening<E> {
    let mut receiving = receiving;
    let sessions = Arc::clone(sessions);
    let farewell = async move {
        let reset = poll_fn(|cx| {
            take(&mut receiving, cx, |_| {});
            respond.poll_reset(cx)
        });
        tokio::select! {
            _ = reset => {}
            () = tokio::time::sleep(sessions.longest_stall()) => {}
            () = sessions.drain.reached(Stage::Draining) => {}
        }
    };
    let end = End::OnPurpose(STALLED.to_owned());
    let refused = Refused::with_farewell(end, farewell.boxed());
    Opening::Handshake(future::ready(Err(refused)).boxed())
}

/// Takes what has come of a request that is not answered yet. h2 keeps each DATA frame by itself,
/// which costs more than a small frame's payload. The client gets no window back for it.
fn take(receiving: &mut RecvStream, cx: &mut Context<'_>, mut each: impl FnMut(&[u8])) {
    while let Poll::Ready(Some(Ok(bytes))) = receiving.poll_data(cx) {
        each(&bytes);
    }
}

fn failure(error: h2::Error) -> Refused {
    End::Failed(EchoError::Read(causes::of_http2(error, Peer::Client))).into()
}

/// Whether a fault is that of the link below all streams.
fn is_of_link(fault: &Fault) -> bool {
    matches!(fault, Fault::Delay(_) | Fault::Jitter(_) | Fault::Rate(_) | Fault::Slice(_))
}
