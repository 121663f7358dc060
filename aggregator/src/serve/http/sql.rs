//! `POST /v1/sql`: a statement in, JSON lines out, as fast as they are taken.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use axum::Extension;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::json::Lines;
use super::login::User;
use super::{Shared, refusal};
use crate::serve::service::{Answer, Consistency, Protocol, ServeError, Session};

/// Bytes of one statement; the engine has its own, smaller bound and a better message.
const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// For the whole of a statement to come in.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of rows that are written ahead; a row is never cut.
const CHUNK_BYTES: usize = 32 << 10;

/// `linearizable` (the default) or `stale`, in the request and again in the answer.
const CONSISTENCY: HeaderName = HeaderName::from_static("tributary-consistency");
/// The log index as of which the answer is.
const INDEX: HeaderName = HeaderName::from_static("tributary-index");

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Extension(User(user)): Extension<User>,
    request: Request,
) -> Response {
    let mut session = Session::new(Protocol::Http, &user);
    session.consistency = match consistency(request.headers()) {
        Ok(consistency) => consistency,
        Err(response) => return *response,
    };
    let sql = match statement(request.into_body()).await {
        Ok(sql) => sql,
        Err(response) => return *response,
    };
    let rows = async {
        let mut answer = shared
            .options
            .service
            .query(&session, &sql, Vec::new())
            .await?;
        // Most errors come before the first rows: then they still get a status.
        let first = answer.next().await?;
        Ok((answer, first))
    };
    match rows.await {
        Ok((answer, first)) => streamed(answer, first, session.consistency),
        Err(error) => refused(&error),
    }
}

fn consistency(headers: &HeaderMap) -> Result<Consistency, Box<Response>> {
    let Some(wanted) = headers.get(CONSISTENCY) else {
        return Ok(Consistency::default());
    };
    let known = wanted.to_str().ok().and_then(Consistency::parse);
    known.ok_or_else(|| {
        let message = "the header tributary-consistency has no such value";
        let hint = "linearizable or stale";
        Box::new(refusal(StatusCode::BAD_REQUEST, "22023", message, hint))
    })
}

async fn statement(body: Body) -> Result<String, Box<Response>> {
    let refuse =
        |status, message: &str, hint: &str| Box::new(refusal(status, "08P01", message, hint));
    let bytes = match timeout(STATEMENT_LIMIT, to_bytes(body, STATEMENT_BYTES_MAX)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let message = format!("the statement did not come in: {error}");
            let hint = "a statement has at most 1 MiB";
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, &message, hint));
        }
        Err(_) => {
            let message = "the statement did not come in within 10 seconds";
            return Err(refuse(
                StatusCode::REQUEST_TIMEOUT,
                message,
                "send it faster",
            ));
        }
    };
    String::from_utf8(bytes.into()).map_err(|_| {
        let message = "the statement is not UTF-8";
        refuse(
            StatusCode::BAD_REQUEST,
            message,
            "the body is the statement, as plain text",
        )
    })
}

fn refused(error: &ServeError) -> Response {
    let code = error.sqlstate();
    let status = match code {
        "53300" | "57P03" => StatusCode::SERVICE_UNAVAILABLE,
        "57014" => StatusCode::GATEWAY_TIMEOUT,
        "XX000" | "XX001" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    refusal(status, code, &error.to_string(), error.hint())
}

pub(super) fn error_json(code: &str, message: &str, hint: &str) -> Value {
    if code.is_empty() {
        return json!({"error": {"message": message, "hint": hint}});
    }
    json!({"error": {"message": message, "code": code, "hint": hint}})
}

/// Rows that are being written. Dropping it, as a client does that goes away, cancels the query.
struct Writing {
    answer: Answer,
    lines: Lines,
    batch: Option<RecordBatch>,
    /// Of `batch`, the next to be written.
    row: usize,
    failed: bool,
}

fn streamed(answer: Answer, first: Option<RecordBatch>, consistency: Consistency) -> Response {
    let index = HeaderValue::from(answer.index());
    let writing = Writing {
        lines: Lines::new(&answer.schema()),
        answer,
        batch: first,
        row: 0,
        failed: false,
    };
    let body = Body::from_stream(stream::unfold(writing, async |mut writing| {
        let chunk = writing.chunk().await?;
        Some((Ok::<Bytes, Infallible>(chunk), writing))
    }));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/jsonl"),
        ),
        (CONSISTENCY, HeaderValue::from_static(consistency.as_str())),
        (INDEX, index),
    ];
    (headers, body).into_response()
}

impl Writing {
    /// The next rows, or `None` after the last. An error after the first rows is a last line of
    /// its own.
    async fn chunk(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        // An empty batch writes nothing: then on to the next.
        while out.is_empty() {
            if self.batch.is_none() {
                self.fetch(&mut out).await;
            }
            let Some(batch) = &self.batch else { break };
            match self.lines.write(batch, self.row, CHUNK_BYTES, &mut out) {
                Ok(next) if next < batch.num_rows() => self.row = next,
                Ok(_) => (self.batch, self.row) = (None, 0),
                Err(error) => {
                    let message = error.to_string();
                    self.fail(&mut out, "22000", &message, "cast the column to text");
                }
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    async fn fetch(&mut self, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        match self.answer.next().await {
            Ok(batch) => self.batch = batch,
            Err(error) => {
                let message = error.to_string();
                self.fail(out, error.sqlstate(), &message, error.hint());
            }
        }
    }

    fn fail(&mut self, out: &mut Vec<u8>, code: &str, message: &str, hint: &str) {
        self.failed = true;
        self.batch = None;
        out.extend_from_slice(error_json(code, message, hint).to_string().as_bytes());
        out.push(b'\n');
    }
}
