//! Requests to an upstream from the command line, sent as deliveries are: with the same proxy, trust and headers.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::{Duration, timeout};

use crate::config::{Headers, Upstream};
use crate::delivery::transport::{Connections, NoAnswer};

/// The timeout of a request.
const ANSWER: Duration = Duration::from_secs(15);
/// The maximum size of an answer that is read; the rest is cut off.
const LARGEST: usize = 64 * 1024;

/// Sends requests to one upstream.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    connections: Connections<Full<Bytes>>,
    own: Headers,
}

/// The parts of an answer that probes look at.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Silence {
    pub(super) why: String,
    /// Whether no connection could be made, so that the request is not to blame.
    pub(super) is_unreached: bool,
}

impl Asker {
    /// Opens a fresh connection for each request: GlitchTip's default server closes one after its answer without saying so.
    pub(super) fn new(upstream: &Upstream) -> Self {
        Self { connections: Connections::new(upstream, 0), own: upstream.headers.clone() }
    }

    /// Sends a request; the error says why there is no answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        uri: Uri,
        mut headers: HeaderMap,
        body: &'static str,
    ) -> Result<Answer, Silence> {
        self.own.apply(&mut headers);
        let mut request = Request::new(Full::from(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        let exchange = async {
            let answer = self.connections.request(request).await;
            let silence = |error: NoAnswer| Silence { why: error.to_string(), is_unreached: error.is_unreached() };
            let answer = answer.map_err(silence)?;
            let (head, body) = answer.into_parts();
            Ok(Answer { status: head.status, headers: head.headers, text: beginning(body).await })
        };
        timeout(ANSWER, exchange)
            .await
            .unwrap_or_else(|_| Err(Silence { why: "no answer in time".to_owned(), is_unreached: false }))
    }
}

impl Answer {
    /// Whether the answer is declared as HTML.
    pub(super) fn is_html(&self) -> bool {
        self.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
    }

    /// The value of a header; `None` if it is absent or no text.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name)?.to_str().ok().map(str::to_owned)
    }
}

async fn beginning(mut body: Incoming) -> String {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(piece) = frame.into_data() else { break };
        text.extend_from_slice(&piece[..piece.len().min(LARGEST - text.len())]);
        if text.len() == LARGEST {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
