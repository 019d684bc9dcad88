//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Tries until `condition` succeeds; the last error where it never does.
///
/// # Errors
/// After `within`.
pub async fn eventually<T>(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited {within:?} until {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
