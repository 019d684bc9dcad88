#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::future::Future;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::arguments::{KvArgs, Mode};
use crate::load::{self, Plan};
use crate::report::Report;
use crate::target::Target;

/// A server that stores values, and refuses the key "full".
async fn serve(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut values = HashMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["version"] => b"VERSION 1.6\r\n".to_vec(),
            ["set", key, "0", "0", length] => {
                let mut value = vec![0; length.parse::<usize>().unwrap() + 2];
                stream.read_exact(&mut value).await?;
                assert!(value.ends_with(b"\r\n"), "the length is that of the value");
                if key == "full" {
                    b"SERVER_ERROR out of memory storing object\r\n".to_vec()
                } else {
                    values.insert(key.to_owned(), value);
                    b"STORED\r\n".to_vec()
                }
            }
            ["get", key] => match values.get(key) {
                None => b"END\r\n".to_vec(),
                Some(value) => {
                    [format!("VALUE {key} 0 {}\r\n", value.len() - 2).as_bytes(), value, b"END\r\n"].concat()
                }
            },
            _ => panic!("unknown command {line:?}"),
        };
        // In small pieces, so that an answer's parts arrive astride reads.
        for piece in answer.chunks(7) {
            stream.write_all(piece).await?;
            stream.flush().await?;
        }
    }
}

/// Stores nothing.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 4096];
    while let count @ 1.. = stream.read(&mut request).await? {
        let is_version = request[..count].starts_with(b"version");
        let answer: &[u8] = if is_version { b"VERSION 1.6\r\n" } else { b"SERVER_ERROR out of memory\r\n" };
        stream.write_all(answer).await?;
    }
    Ok(())
}

async fn listen<F>(serve: fn(TcpStream) -> F) -> String
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn session(address: &str) -> MemcachedSession {
    let driver = MemcachedDriver::connect(&[address.to_owned()], Duration::from_secs(5)).await.unwrap();
    driver.session(0).await.unwrap()
}

#[tokio::test]
async fn what_is_set_is_what_is_got() {
    let address = listen(serve).await;
    let mut connection = Connection::open(&address).await.unwrap();
    for value in [b"".as_slice(), b"\r\nEND\r\n", &[7; 10_000]] {
        connection.set(b"key", value).await.unwrap();
        assert_eq!(connection.get(b"key").await.unwrap().unwrap(), value);
    }
    assert_eq!(connection.get(b"absent").await.unwrap(), None);
}

#[tokio::test]
async fn a_refusal_is_an_error_of_its_kind_and_the_session_goes_on() {
    let mut session = session(&listen(serve).await).await;
    let error = session.put(Bytes::from_static(b"full"), Bytes::from_static(b"value")).await.unwrap_err();
    assert_eq!(error.kind, "SERVER_ERROR");
    assert!(error.message.contains("out of memory"), "{}", error.message);
    session.put(Bytes::from_static(b"key"), Bytes::from_static(b"value")).await.unwrap();
    assert_eq!(session.get(Bytes::from_static(b"key")).await.unwrap(), Some(5));
}

#[tokio::test]
async fn a_target_that_is_not_there_is_reported_after_the_patience() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = MemcachedDriver::connect(&[address], Duration::from_millis(250)).await.err().unwrap();
    let message = format!("{error:#}");
    assert!(message.contains("not ready after 0.25 s") && message.contains("refused"), "{message}");
}

fn arguments(operation: Operation, address: &str) -> KvArgs {
    KvArgs {
        operation,
        clients: 4,
        seconds: 0.3,
        warmup_seconds: 0.1,
        value_bytes: 100,
        keys: 10,
        get_percent: 50,
        target: Some(Target { system: crate::System::Memcached, endpoints: vec![address.to_owned()] }),
        mode: Mode::Unary,
        window: 1,
        connections: 1,
        threads: 1,
        connect_seconds: 5.0,
    }
}

async fn measure(operation: Operation, address: &str) -> Report {
    let args = arguments(operation, address);
    let plan = Plan::new(&args).unwrap();
    let target = args.target.clone().unwrap();
    let driver = MemcachedDriver::connect(&target.endpoints, plan.patience).await.unwrap();
    Report::new(&args, target, &load::run(&driver, &plan).await.unwrap())
}

#[tokio::test]
async fn a_whole_run_against_a_server_counts_what_it_did() {
    let report = measure(Operation::Put, &listen(serve).await).await;
    assert!(report.operations > 10, "{report}");
    assert!(report.errors.is_empty(), "{report}");
    assert!((report.throughput_per_second - report.operations as f64 / 0.3).abs() < 1e-6);
    let latencies = report.latency_us;
    assert!(0.0 < latencies.p50 && latencies.p50 <= latencies.p99 && latencies.p99 <= latencies.max, "{report}");
    // Four clients that wait all the time: Little's law ties latency to throughput.
    let busy = latencies.mean * report.throughput_per_second / 1e6;
    assert!((2.0..6.0).contains(&busy), "{busy} requests in flight on average: {report}");
}

#[tokio::test]
async fn values_that_are_not_there_are_errors_and_a_refused_preparation_ends_the_run() {
    // Every connection of the fake server has its own values, so clients miss what was stored before.
    let report = measure(Operation::Get, &listen(serve).await).await;
    assert_eq!((report.operations, report.errors.len()), (0, 1), "{report}");
    assert!(report.errors["MISSING_VALUE"].count > 0);
    assert!(report.require_success().is_err());

    let args = KvArgs { seconds: 0.2, ..arguments(Operation::Put, &listen(refuse).await) };
    let target = args.target.clone().unwrap();
    let outcome = crate::measure(args, target).await.unwrap();
    assert!(outcome.errors["SERVER_ERROR"].count > 0 && outcome.operations == 0, "{outcome}");
}
