//! A node's HTTP side: probes and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
