//! Snapshots that arrive damaged, in part, or as something else.

use bytes::Bytes;
use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::node_client::NodeClient;
use cirrus_proto::internal::v1::snapshot_chunk::Part;
use tonic::Code;

use super::{Settings, TestNode, put, soon, value};

const DATA: &[u8] = b"what a table file holds";

fn header(shard_id: u32) -> Part {
    let last_log_id = Some(pb::LogId { term: 900, index: 900 });
    let meta = Some(pb::SnapshotMeta { last_log_id, membership: None, snapshot_id: String::new() });
    let vote = Some(pb::Vote { term: 900, node_id: 9, committed: true });
    Part::Header(pb::SnapshotHeader { shard_id, vote, meta, total_bytes: DATA.len() as u64 })
}

fn start(name: &str, bytes: usize) -> Part {
    Part::FileStart(pb::FileStart { name: name.to_owned(), bytes: bytes as u64 })
}

fn chunk(crc32c: u32) -> Part {
    Part::FileChunk(pb::FileChunk { data: Bytes::from_static(DATA), crc32c })
}

fn file_end(crc32c: u32) -> Part {
    Part::FileEnd(pb::FileEnd { crc32c })
}

fn end(file_count: u32) -> Part {
    Part::End(pb::SnapshotEnd { file_count })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_not_whole_is_refused_and_leaves_nothing_behind() {
    let node = TestNode::lead_alone(Settings::default()).await;
    node.shard().execute(put("key", "kept"), soon()).await.unwrap();
    let mut client = NodeClient::connect(format!("http://{}", node.gateway.address())).await.unwrap();
    let (size, sound) = (DATA.len(), crc32c::crc32c(DATA));
    let file = |name| [start(name, size), chunk(sound), file_end(sound)];
    let [one, two, three] = file("000008.sst");
    let cases = [
        ("no header", vec![one.clone(), two.clone(), three.clone(), end(1)]),
        ("nothing", vec![]),
        ("ends after the header", vec![header(1)]),
        ("ends in a file", vec![header(1), one.clone(), two.clone()]),
        ("ends after a file", vec![header(1), one.clone(), two.clone(), three.clone()]),
        ("fewer files than sent", vec![header(1), one.clone(), two.clone(), three.clone(), end(2)]),
        ("a damaged chunk", vec![header(1), one.clone(), chunk(sound ^ 1), three.clone(), end(1)]),
        ("a damaged file", vec![header(1), one.clone(), two.clone(), file_end(sound ^ 1), end(1)]),
        ("a file too long", vec![header(1), one.clone(), two.clone(), two.clone(), three.clone(), end(1)]),
        ("a file too short", vec![header(1), start("a", size + 1), two.clone(), three.clone(), end(1)]),
        ("a file twice", [vec![header(1)], file("a").into(), file("a").into(), vec![end(2)]].concat()),
        ("a name that leads elsewhere", vec![header(1), start("../a", size), two.clone(), three.clone(), end(1)]),
        ("a part without its file", vec![header(1), two.clone(), end(0)]),
        ("no such shard", vec![header(7), end(0)]),
        ("no checkpoint", vec![header(1), one, two, three, end(1)]),
        ("no files", vec![header(1), end(0)]),
    ];
    for (what, parts) in cases {
        let chunks = parts.into_iter().map(|part| pb::SnapshotChunk { part: Some(part) });
        let status = client.install_snapshot(futures::stream::iter(chunks)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        assert!(node.snapshots().is_empty(), "{what}: left behind {:?}", node.snapshots());
    }
    // The group never heard of it.
    node.shard().execute(put("key", "replaced"), soon()).await.unwrap();
    assert_eq!(value(&node.shard(), "key").unwrap(), "replaced");
    assert!(node.shard().report().term < 900);
}
