//! What the load generator knows of a system that it drives; one file below for each system.

pub(crate) mod cirrus;
pub(crate) mod etcd;
mod grpc;
pub(crate) mod memcached;
pub(crate) mod redis;

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;

use crate::recorder::OperationError;
use crate::workload::{Operation, Request};

/// A system, connected.
pub(crate) trait Driver: Sync {
    type Session: Session;

    /// What the operation needs before any client starts, such as a procedure to call.
    fn prepare(&self, operation: Operation) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What one client holds. `client` counts from 0.
    fn session(&self, client: usize) -> impl Future<Output = anyhow::Result<Self::Session>> + Send;

    /// What the servers have used so far; `None` where they do not tell.
    fn processor_time(&self) -> impl Future<Output = Option<ServerTime>> + Send {
        async { None }
    }
}

/// Processor time of a system's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerTime {
    /// Of their processes.
    pub(crate) all: Duration,
    /// Of that, what clients' scripts took.
    pub(crate) scripts: Duration,
}

impl ServerTime {
    pub(crate) fn since(self, before: ServerTime) -> Option<ServerTime> {
        Some(ServerTime { all: self.all.checked_sub(before.all)?, scripts: self.scripts.checked_sub(before.scripts)? })
    }
}

/// One client's way to the system: one request at a time. It retries nothing, but recovers for the next
/// request.
pub(crate) trait Session: Send + 'static {
    fn put(&mut self, key: Bytes, value: Bytes) -> impl Future<Output = Result<(), OperationError>> + Send;

    /// The length of the value, `None` where there is none.
    fn get(&mut self, key: Bytes) -> impl Future<Output = Result<Option<usize>, OperationError>> + Send;

    /// Adds one to the number, in a procedure.
    fn call(&mut self, key: Bytes) -> impl Future<Output = Result<(), OperationError>> + Send;
}

/// One client's streams: many requests at a time.
pub(crate) trait PipelinedSession: Send + 'static {
    /// Sends a request. No other request in flight may have this id, which is below the session's window.
    fn submit(&mut self, id: usize, request: Request);

    /// The next answer, of any request in flight. Never comes while none is.
    fn completion(&mut self) -> impl Future<Output = (usize, Result<Answer, OperationError>)> + Send;
}

/// What a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// The length of the value, `None` where there is none.
    Value(Option<usize>),
}

impl Answer {
    /// All values that a run stores have one size; an answer with another one is not an answer.
    pub(crate) fn check(self, value_bytes: usize) -> Result<(), OperationError> {
        match self {
            Answer::Done => Ok(()),
            Answer::Value(Some(length)) if length == value_bytes => Ok(()),
            Answer::Value(Some(length)) => {
                Err(OperationError::new("WRONG_VALUE", format!("got {length} bytes, not {value_bytes}")))
            }
            Answer::Value(None) => Err(OperationError::new("MISSING_VALUE", "a key that was stored has no value")),
        }
    }
}

/// Runs one request and checks its answer.
pub(crate) async fn perform<S: Session>(
    session: &mut S,
    request: Request,
    value_bytes: usize,
) -> Result<(), OperationError> {
    match request {
        Request::Put { key, value } => session.put(key, value).await,
        Request::Get { key } => Answer::Value(session.get(key).await?).check(value_bytes),
        Request::Call { key } => session.call(key).await,
    }
}

/// Tries until it works or patience runs out; the last failure is the error.
async fn patiently<T, A, F>(patience: Duration, what: &str, mut attempt: A) -> anyhow::Result<T>
where
    A: FnMut() -> F,
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = tokio::time::Instant::now() + patience;
    let mut failure = anyhow::anyhow!("no answer");
    loop {
        match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => failure = error,
            Err(_) => {}
        }
        let next = tokio::time::Instant::now() + Duration::from_millis(100);
        if next >= deadline {
            let waited_s = patience.as_secs_f64();
            return Err(failure).with_context(|| format!("{what}: not ready after {waited_s} s"));
        }
        tokio::time::sleep_until(next).await;
    }
}
