//! In which encoding the API server tells of one kind. The watcher reads lines of JSON; what comes in
//! protobuf is carried by such lines, which [`svclb_objects::protobuf`] makes.

use std::error::Error;
use std::iter::successors;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use kube::client::Body;
use svclb_objects::protobuf::{self, Frames, Malformed};
use tokio::time::Instant;
use tower::BoxError;

use super::health::Health;

/// What a watch is asked for in, the best first: what client-go asks for, so the API server has it ready.
const BOTH: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf,application/json");
/// Protobuf is not asked for so long after it could not be read: whatever spoils it may be mended.
const DECLINED: Duration = Duration::from_secs(600);

/// Shared between the watch, which sees what cannot be read, and its client, which asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoding(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The latest good answer was protobuf.
    protobuf: bool,
    /// When protobuf last could not be read.
    declined: Option<Instant>,
}

impl Encoding {
    /// That of the latest good answer, for the log.
    pub(super) fn name(&self) -> &'static str {
        if self.state().protobuf { "protobuf" } else { "json" }
    }

    /// Asks for what is wanted of a watch.
    pub(super) fn ask(&self, watch: &mut Request<Body>) {
        if self.state().declined.is_none_or(|since| since.elapsed() > DECLINED) {
            watch.headers_mut().insert(ACCEPT, BOTH);
        }
    }

    /// If this error is about protobuf that cannot be read, the next watch is asked for in JSON. True then.
    /// (Where it only breaks off the connection does.)
    pub(super) fn decline(&self, error: &(dyn Error + 'static)) -> bool {
        let mut causes = successors(Some(error), |&error| error.source());
        let malformed = causes.find_map(|cause| cause.downcast_ref::<Malformed>());
        let declines = malformed.is_some_and(|it| !matches!(it, Malformed::Cut { .. }));
        if declines {
            self.state().declined = Some(Instant::now());
        }
        declines
    }

    /// A good answer: a watch, event by event, or all of something else. `health` takes note of each part
    /// as it comes.
    pub(super) fn good(&self, answer: Response<Body>, health: &Health) -> Response<Lines> {
        let (mut parts, body) = answer.into_parts();
        let protobuf = is_protobuf(&parts.headers);
        self.state().protobuf = protobuf;
        if protobuf {
            parts.headers.insert(CONTENT_TYPE, JSON);
        }
        let frames = protobuf.then(Frames::default);
        Response::from_parts(parts, Lines { body, frames, health: Some(health.clone()) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn is_protobuf(headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok());
    // Parameters follow, such as `;stream=watch`.
    let given = given.and_then(|given| given.split(';').next()).map(str::trim);
    given.is_some_and(|given| given.eq_ignore_ascii_case(protobuf::MEDIA_TYPE))
}

/// An error, all of it, with its body in JSON.
pub(super) async fn error(answer: Response<Body>) -> Result<Response<Lines>, BoxError> {
    let (mut parts, body) = answer.into_parts();
    let mut body = body.collect_bytes().await?;
    if is_protobuf(&parts.headers) {
        parts.headers.insert(CONTENT_TYPE, JSON);
        // What is no Status is taken for the words of one.
        body = match protobuf::status(body) {
            Ok(status) => status.into(),
            Err(malformed) => malformed.to_string().into(),
        };
    }
    Ok(Response::from_parts(parts, Lines { body: body.into(), frames: None, health: None }))
}

/// A body in JSON.
#[derive(Debug)]
pub(super) struct Lines {
    body: Body,
    /// Of a body that comes in protobuf.
    frames: Option<Frames>,
    /// Of a good answer.
    health: Option<Health>,
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, frames, health } = &mut *self;
        let mut body = Pin::new(body);
        let mut poll = |cx: &mut Context<'_>| {
            let polled = body.as_mut().poll_frame(cx);
            if let (Poll::Ready(Some(Ok(_))), Some(health)) = (&polled, &health) {
                health.received();
            }
            polled
        };
        let Some(frames) = frames else { return poll(cx).map_err(BoxError::from) };
        loop {
            if let Some(lines) = frames.lines()? {
                return Poll::Ready(Some(Ok(Frame::data(lines))));
            }
            let Some(part) = ready!(poll(cx)?) else {
                frames.end()?;
                return Poll::Ready(None);
            };
            if let Some(part) = part.data_ref() {
                frames.take(part);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self.frames {
            Some(_) => http_body::SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}
