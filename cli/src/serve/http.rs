//! Requests and answers.
//!
//! `GET /v1/delta?repository=HOST/NAME&want=DIGEST&have=DIGEST,…`, with the client's login for the registry as `Authorization`: a cdimg
//! that makes the image `want` from one of `have`. `GET /healthz`, `GET /metrics`. Nothing else, and no names of files in any of it.

use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use d4c_image::delta::{LAYER_TYPE, MAX_HAVE, PATH};
use dimg::Digest;

use super::answer::{Answers, Asked, Got, Refusal};
use super::jobs::Jobs;
use super::metrics::Metrics;

/// What requests share.
#[derive(Clone)]
struct Shared {
    answers: Arc<Answers>,
    jobs: Arc<Jobs>,
    metrics: Arc<Metrics>,
}

/// The routes.
pub(super) fn router(answers: Arc<Answers>, jobs: Arc<Jobs>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route(PATH, get(delta))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(told))
        .with_state(Shared { answers, jobs, metrics })
}

async fn told(State(shared): State<Shared>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, shared.metrics.text(shared.jobs.running())).into_response()
}

async fn delta(State(shared): State<Shared>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let metrics = &shared.metrics;
    Metrics::add(&metrics.requests, 1);
    match answer(&shared, query.as_deref().unwrap_or_default(), &headers).await {
        Ok(got) => {
            Metrics::add(&metrics.answered, 1);
            send(metrics, &headers, &got)
        }
        Err(refusal) => {
            let counter = match refusal {
                Refusal::Busy => &metrics.busy,
                Refusal::Failed(_) => &metrics.failed,
                _ => &metrics.refused,
            };
            Metrics::add(counter, 1);
            refuse(&refusal)
        }
    }
}

async fn answer(shared: &Shared, query: &str, headers: &HeaderMap) -> Result<Got, Refusal> {
    let mut asked = parse(query)?;
    asked.login = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            Some(value.to_str().map_err(|_| Refusal::Bad("Authorization is no text".into()))?.to_owned())
        }
        None => None,
    };
    let answers = Arc::clone(&shared.answers);
    let found = tokio::task::spawn_blocking(move || answers.find(&asked)).await;
    let way = found.map_err(|error| Refusal::Failed(error.to_string()))??;
    let answers = Arc::clone(&shared.answers);
    shared.jobs.run(way.job(), move || answers.get(way)).await
}

fn parse(query: &str) -> Result<Asked, Refusal> {
    let mut asked = Asked::default();
    let bad = |why: &str| Refusal::Bad(why.to_owned());
    let digest = |text: &str| text.parse::<Digest>().map_err(|error| bad(&format!("{text:.80}: {error}")));
    let mut want = None;
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        match name {
            "repository" => asked.repository = value,
            "want" => want = Some(digest(&value)?),
            "have" => {
                let list = value.split(',').filter(|text| !text.is_empty());
                asked.have = list.take(MAX_HAVE).map(digest).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
    }
    asked.want = want.ok_or_else(|| bad("want=DIGEST is missing"))?;
    if asked.have.is_empty() {
        return Err(bad("have=DIGEST,… is missing"));
    }
    Ok(asked)
}

/// What of an answer is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Range(Range<usize>),
    /// No byte of it is there.
    Beyond,
}

/// What the headers ask for of `all` bytes that are named `tag`: all, where what they say is not understood or is of another answer.
fn part(headers: &HeaderMap, all: usize, tag: &str) -> Part {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|of| of != tag) {
        return Part::Whole;
    }
    let ends = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((Ok(start), end)) = ends.map(|(start, end)| (start.parse::<usize>(), end)) else {
        return Part::Whole;
    };
    let end = match end {
        "" => Ok(all),
        end => end.parse::<usize>().map(|last| last.saturating_add(1).min(all)),
    };
    match end {
        Ok(_) if start >= all => Part::Beyond,
        Ok(end) if start < end => Part::Range(start..end),
        _ => Part::Whole,
    }
}

fn send(metrics: &Metrics, headers: &HeaderMap, got: &Got) -> Response {
    let all = got.bytes.len();
    let tag = format!("\"{}\"", got.digest);
    let (status, body, range) = match part(headers, all, &tag) {
        Part::Whole => (StatusCode::OK, got.bytes.clone(), None),
        Part::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), Some(format!("bytes */{all}"))),
        Part::Range(range) => {
            let named = format!("bytes {}-{}/{all}", range.start, range.end - 1);
            (StatusCode::PARTIAL_CONTENT, got.bytes.slice(range), Some(named))
        }
    };
    Metrics::add(&metrics.bytes, body.len() as u64);
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let mut set = |name: header::HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            answer.headers_mut().insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, LAYER_TYPE.to_owned());
    set(header::ETAG, tag);
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    set(header::CACHE_CONTROL, "private".to_owned());
    set(header::HeaderName::from_static("d4c-how"), got.how.name().to_owned());
    if let Some(range) = range {
        set(header::CONTENT_RANGE, range);
    }
    answer
}

fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Bad(_) => StatusCode::BAD_REQUEST,
        Refusal::Login(_) => StatusCode::UNAUTHORIZED,
        Refusal::Elsewhere(_) => StatusCode::FORBIDDEN,
        Refusal::None(_) => StatusCode::NOT_FOUND,
        Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Failed(_) => StatusCode::BAD_GATEWAY,
    };
    let mut answer = (status, format!("{refusal}\n")).into_response();
    match refusal {
        Refusal::Login(_) => {
            let ask = HeaderValue::from_static("Basic realm=\"the registry's login\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        }
        Refusal::Busy => {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        _ => {}
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_this_answer_or_none() {
        let asked = |lines: &[(header::HeaderName, &'static str)]| {
            let lines = lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            part(&lines.collect(), 10, "\"a\"")
        };
        let range = |text| asked(&[(header::RANGE, text)]);
        assert_eq!((range("bytes=3-"), range("bytes=0-0")), (Part::Range(3..10), Part::Range(0..1)));
        assert_eq!((range("bytes=3-99"), range("bytes=10-")), (Part::Range(3..10), Part::Beyond));
        for other in ["bytes=5-4", "bytes=-5", "bytes=x-", "bytes=1-2,4-5", "pages=1-2", "bytes=3"] {
            assert_eq!(range(other), Part::Whole, "{other}");
        }
        let of = |tag| asked(&[(header::RANGE, "bytes=3-"), (header::IF_RANGE, tag)]);
        assert_eq!((of("\"a\""), of("\"b\"")), (Part::Range(3..10), Part::Whole));
        assert_eq!(asked(&[]), Part::Whole);
    }

    #[test]
    fn questions_are_read_and_bad_ones_refused() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let asked = parse(&format!("repository=r:5000/app&want={a}&have={b},{a}&more=1")).unwrap();
        assert_eq!((asked.repository.as_str(), asked.want, asked.have), ("r:5000/app", a, vec![b, a]));
        let escaped = format!("want={a}&have={b}").replace(':', "%3A");
        assert_eq!(parse(&escaped).unwrap().have, [b]);
        let many = vec![b.to_string(); 1000].join(",");
        assert_eq!(parse(&format!("want={a}&have={many}")).unwrap().have.len(), MAX_HAVE);
        for bad in [String::new(), format!("want={a}"), format!("have={a}"), format!("want=x&have={a}")] {
            assert!(matches!(parse(&bad), Err(Refusal::Bad(_))), "{bad}");
        }
    }
}
