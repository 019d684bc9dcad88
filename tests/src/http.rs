//! A node's HTTP side: probes and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Status code and body of an HTTP GET.
pub async fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer without a blank line")?;
        let code = head.split(' ').nth(1).context("an HTTP answer without a code")?;
        Ok((code.parse()?, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.context("no HTTP answer within 5 s")?
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
