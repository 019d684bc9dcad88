//! The binary `cirrus` as people and scripts run it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::cluster::cirrus_binary;

/// Bounds a run.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What a run of `cirrus` said and how it ended.
#[derive(Debug)]
pub struct Run {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// Runs `cirrus` against a cluster.
pub struct CommandLine {
    /// gRPC addresses, separated by commas.
    pub endpoints: String,
}

impl CommandLine {
    /// A run that reads nothing.
    pub async fn run(&self, arguments: &[&str]) -> Result<Run> {
        self.run_with_input(arguments, "").await
    }

    /// A run whose standard input is a pipe.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<Run> {
        let mut command = Command::new(cirrus_binary()?);
        command.args(arguments).env("CIRRUS_ENDPOINTS", &self.endpoints);
        finish(command, input).await.with_context(|| format!("cirrus {arguments:?}"))
    }

    /// What a run that succeeds prints; nothing on standard error.
    ///
    /// # Panics
    /// Where it fails, or complains.
    pub async fn succeeds(&self, arguments: &[&str]) -> Result<String> {
        let run = self.run(arguments).await?;
        assert_eq!(run.code, 0, "cirrus {arguments:?}: {run:?}");
        assert_eq!(run.errors, "", "cirrus {arguments:?} succeeds and complains");
        Ok(run.output)
    }

    /// What a run that fails, with exit 2, says on standard error; nothing on standard output.
    ///
    /// # Panics
    /// Where it does not fail so.
    pub async fn fails(&self, arguments: &[&str]) -> Result<String> {
        let run = self.run(arguments).await?;
        assert_eq!(run.code, 2, "cirrus {arguments:?}: {run:?}");
        assert_eq!(run.output, "", "cirrus {arguments:?} fails and prints a result");
        assert!(!run.errors.trim().is_empty(), "cirrus {arguments:?} fails without a word");
        Ok(run.errors)
    }

    /// What a run that succeeds prints with `-o json`.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.succeeds(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&output).with_context(|| format!("cirrus {arguments:?} -o json prints {output}"))
    }

    /// What a run that fails says with `-o json`.
    pub async fn json_error(&self, arguments: &[&str]) -> Result<Value> {
        let errors = self.fails(&[arguments, &["-o", "json"]].concat()).await?;
        let error: Value = serde_json::from_str(&errors).with_context(|| format!("cirrus {arguments:?}: {errors}"))?;
        Ok(error["error"].clone())
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Where it takes over 30 s.
pub async fn finish(mut command: Command, input: &str) -> Result<Run> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn()?;
    let mut stdin = process.stdin.take().context("a pipe")?;
    // It may end without having read everything; what it says is what counts.
    let write = async move { stdin.write_all(input.as_bytes()).await };
    let ended = async { tokio::join!(write, process.wait_with_output()).1 };
    let output = tokio::time::timeout(ENDS_WITHIN, ended).await.context("it takes over 30 s")??;
    Ok(Run {
        code: output.status.code().context("it was killed")?,
        output: String::from_utf8(output.stdout)?,
        errors: String::from_utf8(output.stderr)?,
    })
}
