//! HTTP/2 by hand: requests whose bodies begin and do not end.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// One connection; dropping it closes the connection.
pub(crate) struct Http2 {
    sender: SendRequest<Body>,
    /// The tasks of the connection and of pending answers.
    tasks: JoinSet<()>,
}

impl Http2 {
    /// Opens a connection.
    pub(crate) async fn connect(address: &str) -> Self {
        Self::over(TcpStream::connect(address).await.expect("a connection")).await
    }

    /// Opens a connection from the local address `from`.
    pub(crate) async fn connect_from(from: &str, address: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{from}:0").parse().expect("an address")).expect("an address of this machine");
        Self::over(socket.connect(address.parse().expect("an address")).await.expect("a connection")).await
    }

    async fn over(stream: TcpStream) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("a connection of HTTP/2");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Self { sender, tasks }
    }

    /// Posts a body and returns the status of the answer.
    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> u16 {
        let body = UnsyncBoxBody::new(Full::new(body.into()));
        let request = Request::post(format!("http://relay.test{path}")).body(body).expect("a request");
        self.sender.send_request(request).await.expect("an answer").status().as_u16()
    }

    /// Posts a body in these encodings and resets the stream once the relay has received the request.
    pub(crate) async fn post_and_reset(&mut self, path: &str, encodings: &str, body: impl Into<Bytes>) {
        let request = Request::post(format!("http://relay.test{path}")).header("content-encoding", encodings);
        self.sender.ready().await.expect("a connection");
        let answer =
            self.sender.send_request(request.body(UnsyncBoxBody::new(Full::new(body.into()))).expect("a request"));
        // The server receives the earlier request before it answers this one.
        assert_eq!(self.post("/nowhere/", "").await, 404);
        drop(answer);
    }

    /// Begins a POST, sends at least `bytes` bytes of its body and never ends it. Does not wait for the answer.
    pub(crate) async fn begin(&mut self, path: &str, bytes: usize) {
        let pieces = vec![Bytes::from(vec![b'x'; 16 << 10]); bytes.div_ceil(16 << 10)];
        let body = stream::iter([Bytes::from_static(b"{}\n")].into_iter().chain(pieces))
            .map(|piece| Ok(Frame::data(piece)))
            .chain(stream::pending());
        let request = Request::post(format!("http://relay.test{path}")).body(UnsyncBoxBody::new(StreamBody::new(body)));
        let mut sender = self.sender.clone();
        if sender.ready().await.is_ok() {
            let answer = sender.send_request(request.expect("a request"));
            self.tasks.spawn(async move { drop(answer.await) });
        }
    }
}
