//! A node's HTTP side: probes and metrics.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// What a node answers over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub code: u16,
    /// Empty where there is none.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// Status code and body of an HTTP GET.
pub async fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}

/// Status code and body of an HTTP POST.
pub async fn http_post(address: SocketAddr, path: &str, body: &str) -> Result<(u16, String)> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    exchange(address, head + body).await
}

/// Sends a request as people do, by `curl`, which must be installed. A body is sent as it is, and as a form, which is what
/// `curl --data` calls it.
pub async fn curl(address: SocketAddr, method: &str, path: &str, body: Option<&[u8]>) -> Result<HttpAnswer> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--request", method]);
    command.args(["--write-out", "\n%{http_code} %{content_type}"]);
    if body.is_some() {
        command.args(["--data-binary", "@-"]);
    }
    command.arg(format!("http://{address}{path}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut curl = command.spawn().context("starting curl, which this test needs")?;
    let mut stdin = curl.stdin.take().context("curl's standard input")?;
    stdin.write_all(body.unwrap_or_default()).await?;
    drop(stdin);
    let output = curl.wait_with_output().await?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("an answer that is no UTF-8")?;
    let (body, told) = text.rsplit_once('\n').context("an answer of curl without a last line")?;
    let (code, content_type) = told.split_once(' ').context("a last line of curl without two words")?;
    Ok(HttpAnswer { code: code.parse()?, content_type: content_type.to_owned(), body: body.to_owned() })
}

async fn exchange(address: SocketAddr, request: String) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let (mut answers, mut requests) = stream.split();
        // A body that is too long is refused while it is being sent; what matters is the answer.
        let sending = async {
            let _ = requests.write_all(request.as_bytes()).await;
            anyhow::Ok(())
        };
        let reading = async {
            let mut answer = Vec::new();
            let _ = answers.read_to_end(&mut answer).await;
            Ok(String::from_utf8(answer)?)
        };
        let ((), answer) = tokio::try_join!(sending, reading)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer without a blank line")?;
        let code = head.split(' ').nth(1).context("an HTTP answer without a code")?;
        Ok((code.parse()?, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.context("no HTTP answer within 20 s")?
}

/// The sum of a metric over its labels, in Prometheus' text format; 0 where it does not occur.
pub fn metric_sum(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_told_from_others() {
        let text = "# TYPE a counter\na{shard=\"1\"} 2\na{shard=\"2\"} 3\na_b 7\n\nplain 4\n";
        assert_eq!(metric_sum(text, "a"), 5.0);
        assert_eq!(metric_sum(text, "plain"), 4.0);
        assert_eq!(metric_sum(text, "none"), 0.0);
    }
}
