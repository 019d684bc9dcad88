//! Whatever a client sends, it gets a clear error, other clients go on, and the node's memory stays bounded.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cirrus_proto::{Failure, Reason};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::NodeClient;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MIB: u64 = 1024 * 1024;
/// What hostile input may add to a node's resident memory.
const GROWTH_MAX: u64 = 400 * MIB;

async fn one_node() -> Result<TestCluster> {
    // Small caches, so that growth is the input's doing.
    let config = "[storage]\nblock_cache_mib = 32\nwrite_buffer_mib = 32\n".to_owned();
    TestCluster::start(ClusterOptions { nodes: 1, shards: 2, config, ..ClusterOptions::default() }).await
}

/// The node answers others at once, and has not grown beyond bounds.
async fn assert_well(cluster: &mut TestCluster, before: u64, after_what: &str) -> Result<()> {
    ensure!(cluster.is_running(1)?, "the node died of {after_what}");
    let started = Instant::now();
    let node = cluster.node(1)?;
    node.put("well", after_what).await.with_context(|| format!("a put after {after_what}"))?;
    assert_eq!(node.value("well").await?, Some(after_what.as_bytes().to_vec()));
    let took = started.elapsed();
    let resident = cluster.resident_bytes(1)?;
    eprintln!("{after_what}: the node holds {} MiB, a put and a get take {took:?}", resident / MIB);
    ensure!(took < Duration::from_secs(2), "after {after_what} a put and a get take {took:?}");
    ensure!(resident < before + GROWTH_MAX, "after {after_what} the node grew from {before} to {resident} bytes");
    Ok(())
}

const HOSTILE_LIBRARY: &str = r#"
function endless(key) while true do end end
function protected(key) while true do pcall(function() while true do end end) end end
function pattern(key) return string.find(string.rep("a", 40), string.rep("a?", 40) .. string.rep("a", 40)) end
function nested_pattern(key) return string.match(string.rep("x", 30000), string.rep(".-", 12) .. "y") end
function bomb(key) return string.rep("x", 2 ^ 30) end
function growing(key) local s = "x" while true do s = s .. s end end
function hoarding(key) local t = {} while true do t[#t + 1] = string.rep("x", 1000) .. #t end end
function recursion(key) local function deep(n) return 1 + deep(n + 1) end return deep(0) end
function mutual(key) local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k .. "x"] end return t.y end
function long_result(key) return string.rep("x", 5 * 1024 * 1024) end
function many_writes(key) for i = 1, 100000 do kv.put(key, string.rep("x", 1000) .. i) kv.put("{" .. key .. "}" .. i, string.rep("x", 1000)) end end
function big_value(key) kv.put(key, string.rep("x", 2 * 1024 * 1024)) return "stored" end
function coroutines(key) local t = {} while true do t[#t + 1] = coroutine.create(function() coroutine.yield() end) coroutine.resume(t[#t]) end end
function escape(key) return tostring(io) .. tostring(os and os.execute) .. tostring(pcall(require, "io") or nil) .. tostring(loadstring) .. tostring(getfenv and getfenv(0).kv == nil) end
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn procedures_that_misbehave_are_killed() -> TestResult {
    use Reason::{CallMemory, CallTimeout, ProcedureFailed, ResultTooLarge, ValueTooLarge, WriteSetTooLarge};
    let mut cluster = one_node().await?;
    let node = cluster.node(1)?;
    node.upload("hostile", HOSTILE_LIBRARY).await?;
    node.put("victim", "before").await?;
    let before = cluster.resident_bytes(1)?;
    let cases: &[(&str, &[Reason])] = &[
        ("endless", &[CallTimeout]),
        ("protected", &[CallTimeout]),
        ("pattern", &[CallTimeout, ProcedureFailed]),
        ("nested_pattern", &[CallTimeout, ProcedureFailed]),
        ("bomb", &[CallMemory, ProcedureFailed]),
        ("growing", &[CallMemory, ProcedureFailed, CallTimeout]),
        ("hoarding", &[CallMemory, CallTimeout]),
        ("recursion", &[ProcedureFailed, CallMemory, CallTimeout]),
        ("mutual", &[ProcedureFailed, CallMemory, CallTimeout]),
        ("long_result", &[ResultTooLarge]),
        ("many_writes", &[WriteSetTooLarge, CallTimeout, ProcedureFailed]),
        ("big_value", &[ValueTooLarge, ProcedureFailed]),
        ("coroutines", &[CallMemory, CallTimeout, ProcedureFailed]),
    ];
    for (function, reasons) in cases {
        let started = Instant::now();
        let failed = node.call(&format!("hostile.{function}"), "victim", &[]).await.expect_err(function);
        let took = started.elapsed();
        let failure = Failure::from_status(&failed).with_context(|| format!("{function}: {failed:?}"))?;
        eprintln!("{function}: {failure} ({took:?})");
        assert!(reasons.contains(&failure.reason), "{function}: {failure}");
        assert!(!failure.message.is_empty());
        assert!(took < Duration::from_secs(3), "{function} held its shard for {took:?}");
        assert_eq!(node.value("victim").await?, Some(b"before".to_vec()), "{function} left an effect");
    }
    assert_well(&mut cluster, before, "hostile procedures").await?;

    // Many at once, on all shards: others wait, none is lost.
    let calls = (0..24).map(|number| {
        let node = node.clone();
        async move { node.call("hostile.endless", &format!("key-{number}"), &[]).await }
    });
    for failed in futures::future::join_all(calls).await {
        let failed = failed.expect_err("an endless loop ended");
        let failure = Failure::from_status(&failed).with_context(|| format!("{failed:?}"))?;
        // Those that come after the first ones were killed may not run at all.
        let expected = [CallTimeout, Reason::ProcedureSuspended, Reason::DeadlineExceeded, Reason::MailboxFull];
        assert!(expected.contains(&failure.reason), "{failure}");
    }
    assert_well(&mut cluster, before, "24 endless loops at once").await?;

    let reached = node.call("hostile.escape", "victim", &[]).await;
    let reached = reached.map(|result| String::from_utf8_lossy(&result).into_owned()).unwrap_or_default();
    assert!(!reached.contains("function"), "a procedure reaches the host: {reached}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_are_no_programs_are_refused() -> TestResult {
    let mut cluster = one_node().await?;
    let node = cluster.node(1)?;
    let before = cluster.resident_bytes(1)?;
    let deep =
        |open: &str, close: &str| format!("function f() return {}1{} end", open.repeat(50_000), close.repeat(50_000));
    let sources: Vec<(&str, Vec<u8>, &[Reason])> = vec![
        (
            "broken UTF-8",
            b"function f() return \"\xff\xfe\" end \xc3\x28".to_vec(),
            &[Reason::LibraryInvalid, Reason::InvalidField],
        ),
        ("bytecode", b"\x1bLua\x51\x00\x01\x04\x08".to_vec(), &[Reason::LibraryInvalid, Reason::InvalidField]),
        ("NUL bytes", vec![0; 1000], &[Reason::LibraryInvalid, Reason::InvalidField]),
        ("nothing", Vec::new(), &[Reason::LibraryInvalid, Reason::InvalidField]),
        ("nested brackets", deep("(", ")").into_bytes(), &[Reason::LibraryInvalid]),
        ("nested tables", deep("{", "}").into_bytes(), &[Reason::LibraryInvalid]),
        (
            "an endless loop at its top level",
            b"while true do end".to_vec(),
            &[Reason::LibraryInvalid, Reason::CallTimeout],
        ),
        (
            "a bomb at its top level",
            b"x = string.rep('x', 2 ^ 30) function f() return 1 end".to_vec(),
            &[Reason::LibraryInvalid, Reason::CallMemory],
        ),
        ("too much text", vec![b' '; 256 * 1024 + 1], &[Reason::LibraryTooLarge]),
        ("10 MB of text", vec![b' '; 10_000_000], &[Reason::LibraryTooLarge]),
    ];
    for (what, source, reasons) in sources {
        let started = Instant::now();
        let failed = node.upload("bad", source).await.expect_err(what);
        let failure = Failure::from_status(&failed).with_context(|| format!("{what}: {failed:?}"))?;
        let message: String = failure.message.chars().take(200).collect();
        eprintln!("{what}: {} {message} ({:?})", failure.reason.as_str(), started.elapsed());
        assert!(reasons.contains(&failure.reason), "{what}: {}", failure.reason.as_str());
    }
    for name in ["", "a b", "../../etc", &"n".repeat(65), "a.b"] {
        let failed = node.upload(name, "function f() return 1 end").await.expect_err(name);
        let failure = Failure::from_status(&failed).with_context(|| format!("{name:?}: {failed:?}"))?;
        assert_eq!(failure.reason, Reason::InvalidField, "name {name:?}: {failure}");
    }
    Ok(assert_well(&mut cluster, before, "sources that are no programs").await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_out_of_bounds_are_refused_by_name() -> TestResult {
    let mut cluster = one_node().await?;
    let node = NodeClient::new(&cluster.endpoint(1)?, Duration::from_secs(10))?;
    let before = cluster.resident_bytes(1)?;
    let large = vec![b'x'; 10_000_000];
    let cases = [
        (node.put("", "x").await.map(drop), Reason::KeyEmpty),
        (node.get("", cirrus_proto::v1::ReadConsistency::Linearizable).await.map(drop), Reason::KeyEmpty),
        (node.delete("").await.map(drop), Reason::KeyEmpty),
        (node.increment("", 1, None).await.map(drop), Reason::KeyEmpty),
        (node.put(&"k".repeat(4097), "x").await.map(drop), Reason::KeyTooLarge),
        (node.put("k", vec![b'x'; MIB as usize + 1]).await.map(drop), Reason::ValueTooLarge),
        (node.put("k", large.clone()).await.map(drop), Reason::ValueTooLarge),
    ];
    for (index, (answer, expected)) in cases.into_iter().enumerate() {
        let failed = answer.expect_err("it is out of bounds");
        let failure = Failure::from_status(&failed).with_context(|| format!("case {index}: {failed:?}"))?;
        assert_eq!(failure.reason, expected, "case {index}: {failure}");
        assert_eq!(failed.code(), tonic::Code::InvalidArgument);
        if expected != Reason::KeyEmpty {
            let (limit, actual) = (&failure.metadata["limit"], &failure.metadata["actual"]);
            assert!(failure.message.contains(limit.as_str()) && failure.message.contains(actual.as_str()), "{failure}");
        }
    }
    // What is within bounds by one byte is taken.
    node.put(&"k".repeat(4096), vec![b'x'; MIB as usize]).await?;

    let many = (0..16).map(|_| node.put("k", large.clone()));
    for answer in futures::future::join_all(many).await {
        answer.expect_err("10 MB are out of bounds");
    }
    drop(large);
    Ok(assert_well(&mut cluster, before, "values of 10 MB").await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_http2_end_their_connection_only() -> TestResult {
    let mut cluster = one_node().await?;
    let before = cluster.resident_bytes(1)?;
    let address = cluster.endpoint(1)?;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let with_preface = |rest: &[u8]| [&preface[..], &settings[..], rest].concat();
    let noise: Vec<u8> = (0..100_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("noise", noise.clone()),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20)),
        ("noise after the preface", with_preface(&noise)),
        ("a frame longer than allowed", with_preface(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1])),
        ("data on a stream that does not exist", with_preface(&[0, 0, 4, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4])),
        ("headers that cannot be decoded", with_preface(&[0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff])),
    ];
    for (what, input) in inputs {
        let mut stream = TcpStream::connect(&address).await?;
        // It may be cut off while it is still sending.
        let _ = stream.write_all(&input).await;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "the node keeps a connection open that sent {what}; it answered {answer:?}");
        eprintln!("{what}: closed after {} bytes of answer", answer.len());
    }
    // Streams opened and reset as fast as they go ("rapid reset"), and settings that are never read.
    let mut flood = with_preface(&[]);
    for number in 0..20_000u32 {
        let id = (2 * number + 1).to_be_bytes();
        flood.extend([0, 0, 1, 1, 4]);
        flood.extend(id);
        flood.push(0x82);
        flood.extend([0, 0, 4, 3, 0]);
        flood.extend(id);
        flood.extend([0, 0, 0, 8]);
    }
    let mut stream = TcpStream::connect(&address).await?;
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&flood)).await;
    Ok(assert_well(&mut cluster, before, "bytes that are no HTTP/2").await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_idle_connections_disturb_nobody() -> TestResult {
    const CONNECTIONS: u64 = 5_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    assert!(hard > CONNECTIONS + 1_000, "this test needs {} open files, the hard limit is {hard}", CONNECTIONS + 1_000);
    // The node inherits it.
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard)?;
    let mut cluster = one_node().await?;
    let before = cluster.resident_bytes(1)?;
    let address = cluster.endpoint(1)?;
    let started = Instant::now();
    let mut idle = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream =
            eventually("the node accepts", Duration::from_secs(10), async || Ok(TcpStream::connect(&address).await?))
                .await?;
        // Half of them say that they are HTTP/2 clients, the others say nothing at all.
        if number % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        }
        idle.push(stream);
    }
    eprintln!("{CONNECTIONS} connections in {:?}", started.elapsed());
    assert_well(&mut cluster, before, "5,000 idle connections").await?;
    drop(idle);
    eventually("the node lets go of closed connections", Duration::from_secs(30), async || {
        let open = cluster.metric(1, "cirrus_connections").await?;
        ensure!(open < 100.0, "{open} connections are open");
        Ok(())
    })
    .await?;
    Ok(assert_well(&mut cluster, before, "5,000 closed connections").await?)
}
