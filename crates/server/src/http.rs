//! The HTTP listener: metrics and probes, and SPHiveDB's protocol.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | Prometheus text |
//! | `/livez` | 200, or 503 where only a restart helps |
//! | `/readyz` | 200, or 503 with the reason in one line |
//!
//! `POST /sphivedb`, and POST to any other path, is in `sphivedb`.

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::readiness::State;

#[derive(Clone)]
struct Pages {
    state: watch::Receiver<State>,
    recorder: PrometheusHandle,
}

/// The routes.
pub(crate) fn router(state: watch::Receiver<State>, recorder: PrometheusHandle) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(Pages { state, recorder })
}

async fn metrics(Shared(pages): Shared<Pages>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.recorder.render())
}

async fn live(Shared(pages): Shared<Pages>) -> (StatusCode, String) {
    match pages.state.borrow().fault() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("failed: {fault}\n")),
    }
}

async fn ready(Shared(pages): Shared<Pages>) -> (StatusCode, String) {
    match pages.state.borrow().not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connections::Connections;
    use crate::observation;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_follow_the_nodes_state_and_metrics_are_prometheus_text() {
        let (state, seen) = watch::channel(State::Starting);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = observation::recorder().unwrap().clone();
        let connections = Connections::new(listener, "http", 16);
        tokio::spawn(axum::serve(connections, router(seen, recorder)).into_future());

        let cases = [
            (State::Starting, "200 OK", "503", "starting"),
            (State::NotReady, "200 OK", "503", "not ready"),
            (State::Ready, "200 OK", "200 OK", "ok"),
            (State::Failed("disk full".to_owned()), "503", "503", "failed: disk full"),
            (State::Stopping, "200 OK", "503", "stopping"),
        ];
        for (next, live, ready, reason) in cases {
            state.send_replace(next.clone());
            assert!(fetch(address, "/livez").await.contains(live), "{next:?}");
            let answer = fetch(address, "/readyz").await;
            assert!(answer.contains(ready) && answer.contains(reason), "{next:?}: {answer}");
        }
        let metrics = fetch(address, "/metrics").await;
        assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.contains("cirrus_connections{listener=\"http\"} 1"), "{metrics}");
        assert!(fetch(address, "/nothing").await.contains("404"));
    }
}
