//! Requests for the objects of one kind, and their answers.

use std::error::Error;
use std::iter::successors;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Response};
use http_body::Body as _;
use hyper_util::client::legacy::connect::HttpInfo;
use kube::client::Body;
use svclb_objects::convert::wire::Text;
use svclb_objects::events::{Decoder, Encoding, Event, Malformed};
use svclb_objects::status::Status;
use tokio::time::{Instant, timeout};
use tower::BoxError;

use super::client::ApiClient;
use super::resources::Watched;
use crate::convert::Kind;

/// The encodings of a watch, the best first: client-go accepts the same, so the API server has them ready.
/// Pages are for old servers, and always JSON.
const BOTH: &str = "application/vnd.kubernetes.protobuf,application/json";
const JSON: &str = "application/json";
/// Objects of one page. A slice may be 25 KB of JSON.
const PAGE: &str = "200";
/// The time after which the API server ends a watch, as `WATCH` requests.
pub(super) const LIFETIME: Duration = Duration::from_secs(290);
const WATCH: [(&str, &str); 3] =
    [("watch", "true"), ("timeoutSeconds", "290"), ("allowWatchBookmarks", "true")];
/// The time within which an answer that is no watch must be complete.
const COMPLETE: Duration = Duration::from_secs(60);

/// A request for objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fetch {
    /// All objects, streamed, and then changes.
    Stream,
    /// A page of all objects: the first, or the one with this token.
    Page(Option<String>),
    /// Changes since this version.
    Watch(Text),
}

impl Fetch {
    /// Returns the path and query, for the object of one name if there is one.
    fn target(&self, watched: &Watched, name: Option<String>) -> String {
        let Watched { group, resource, .. } = watched;
        let path = match group.is_empty() {
            true => format!("/api/v1/{resource}?"),
            false => format!("/apis/{group}/v1/{resource}?"),
        };
        let start = path.len();
        let mut query = Serializer::for_suffix(path, start);
        query.extend_pairs(name.map(|name| ("fieldSelector", format!("metadata.name={name}"))));
        query.extend_pairs(watched.labels.map(|labels| ("labelSelector", labels)));
        match self {
            Self::Page(token) => {
                query.append_pair("limit", PAGE);
                query.extend_pairs(token.iter().map(|token| ("continue", token)));
            }
            // Without a version a list holds the state at the time of the request, as one in pages does. "No
            // older than version 0" may be answered from a cache that lags behind: after a change to another
            // server, Services would be gone again, and old endpoints back
            // (<https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists>).
            Self::Stream => {
                query.extend_pairs(WATCH).append_pair("sendInitialEvents", "true");
                query.append_pair("resourceVersionMatch", "NotOlderThan");
            }
            Self::Watch(version) => {
                query.extend_pairs(WATCH).append_pair("resourceVersion", version);
            }
        }
        query.finish()
    }

    /// Sends the request, and accepts protobuf where that is wanted.
    pub(super) async fn send(
        self,
        client: ApiClient,
        watched: &Watched,
        name: Option<String>,
        protobuf: bool,
    ) -> Result<Answer, FetchError> {
        let is_page = matches!(self, Self::Page(_));
        let accepted = if protobuf && !is_page { BOTH } else { JSON };
        let request = Request::get(self.target(watched, name)).header(ACCEPT, accepted);
        let request =
            request.body(Body::empty()).map_err(|it| FetchError::Unanswered(it.into()))?;
        let answer = client.send(request).await.map_err(FetchError::Unanswered)?;
        let content_type = answer.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let encoding = Encoding::of(content_type);
        let status = answer.status();
        if !status.is_success() {
            return Err(encoding.status(status.as_u16(), complete(answer).await?).into());
        }
        let peer = answer.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
        let content = match is_page {
            true => Content::Page(complete(answer).await?),
            false => Content::Events(EventStream {
                body: answer.into_body(),
                decoder: Decoder::new(encoding),
                since: Instant::now(),
            }),
        };
        Ok(Answer { peer, encoding, content })
    }
}

/// A good answer.
pub(super) struct Answer {
    pub(super) peer: Option<SocketAddr>,
    pub(super) encoding: Encoding,
    pub(super) content: Content,
}

/// The body of a good answer.
pub(super) enum Content {
    /// Events as they come.
    Events(EventStream),
    /// A page, complete.
    Page(Bytes),
}

/// The reason why a request, or the watch that it began, failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// There was no answer.
    #[error("{0}")]
    Unanswered(#[source] BoxError),
    /// The answer broke off.
    #[error("{0}")]
    Broken(#[source] BoxError),
    /// The API server reported an error.
    #[error(transparent)]
    Status(#[from] Status),
    /// The answer cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Reads all of an answer.
async fn complete(answer: Response<Body>) -> Result<Bytes, FetchError> {
    let all = timeout(COMPLETE, answer.into_body().collect_bytes()).await.map_err(|_| {
        let seconds = COMPLETE.as_secs();
        format!("an answer began and was not at its end within {seconds} s").into()
    });
    all.and_then(|all| all.map_err(BoxError::from)).map_err(FetchError::Broken)
}

/// The events of a list or a watch.
pub(super) struct EventStream {
    body: Body,
    decoder: Decoder,
    /// The beginning of the answer.
    pub(super) since: Instant,
}

impl EventStream {
    /// Reads the next event, about an object of this kind; `None` at the end.
    pub(super) fn poll(
        &mut self,
        kind: Kind,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Event>, FetchError>> {
        loop {
            if let Some(event) = self.decoder.next(kind)? {
                return Poll::Ready(Ok(Some(event)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    frame.data_ref().into_iter().for_each(|part| self.decoder.push(part));
                }
                Some(Err(error)) if !is_end(&error) => {
                    return Poll::Ready(Err(FetchError::Broken(error.into())));
                }
                Some(Err(_)) => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Ok(self.decoder.end().map(|()| None)?)),
            }
        }
    }
}

/// Returns true when a body ended without its last chunk: an API server or a proxy that is stopped ends watches
/// like that.
fn is_end(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |&error| error.source()).any(|error| {
        let io = error.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof)
            || error.to_string().contains("unexpected EOF during chunk")
    })
}
