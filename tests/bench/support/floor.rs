//! The floor: a child process that accepts with hyper-util, forwards twice with hyper-util's pooled client, then answers.
//! No parsing, no journal, no policies: this is the cost of the HTTP stack alone.

use std::convert::Infallible;
use std::io::{Read, stdin};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;

type Forward = Client<HttpConnector, Full<Bytes>>;

/// Runs the child: listens on `listen`, forwards to `a` and `b`, and ends when its standard input does.
pub(crate) fn play(listen: &str, a: &str, b: &str) -> Result<()> {
    let (listen, upstreams) = (listen.parse()?, [a.parse()?, b.parse()?]);
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        tokio::select! {
            served = serve(listen, upstreams) => served,
            ended = input_end() => ended,
        }
    })
}

async fn input_end() -> Result<()> {
    tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

async fn serve(listen: SocketAddr, upstreams: [SocketAddr; 2]) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Forward = Client::builder(TokioExecutor::new()).build(connector);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = client.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(client.clone(), upstreams, request));
            // A lost client affects nobody else.
            drop(Builder::new(TokioExecutor::new()).http1_only().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(
    client: Forward,
    upstreams: [SocketAddr; 2],
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let taken = forward(&client, upstreams, request).await;
    let status = if taken.is_ok() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let mut response = Response::new(Full::from("{}"));
    *response.status_mut() = status;
    Ok(response)
}

async fn forward(client: &Forward, upstreams: [SocketAddr; 2], request: Request<Incoming>) -> Result<()> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let [a, b] = upstreams.map(|to| send(client, to, parts.uri.clone(), body.clone()));
    tokio::try_join!(a, b).map(drop)
}

async fn send(client: &Forward, to: SocketAddr, uri: Uri, body: Bytes) -> Result<()> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let method = if body.is_empty() { http::Method::GET } else { http::Method::POST };
    let request = Request::builder().method(method).uri(format!("http://{to}{path}")).body(Full::new(body))?;
    let response = client.request(request).await?;
    response.into_body().collect().await?;
    Ok(())
}
