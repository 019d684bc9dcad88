//! Once an upload is acknowledged, a call through any node runs it.
#![allow(clippy::unwrap_used)]

use cirrus_proto::Reason;
use cirrus_proto::v1::{DeleteLibraryRequest, GetLibraryRequest, ListLibrariesRequest};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_call_through_any_node_runs_the_new_version() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let status = cluster.status().await?;
    let nodes = cluster.all_nodes()?;
    let keys: Vec<String> = (1..=4).flat_map(|shard_id| keys_of_shard(&status, shard_id, "any", 1)).collect();
    for round in 1u64..=30 {
        let source = format!("return {{ version = function(key) return \"round {round}\" end }}");
        let library = nodes[round as usize % 3].upload("changing", source).await?;
        assert_eq!((library.version, library.functions), (round, vec!["version".to_owned()]));
        for node in &nodes {
            for key in &keys {
                let result = node.call("changing.version", key, &[]).await?;
                assert_eq!(result, format!("round {round}").into_bytes(), "through {} for {key}", node.address);
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libraries_are_listed_shown_and_deleted_through_any_node() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    let source = "function hello(key) return 'hello ' .. key end\nfunction bye() return 'bye' end\n";
    nodes[0].upload("greetings", source).await?;
    for node in &nodes {
        let listed = node.procedures.clone().list_libraries(ListLibrariesRequest {}).await?.into_inner().libraries;
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].name.as_str(), listed[0].version), ("greetings", 1));
        assert_eq!(listed[0].functions, ["bye", "hello"]);
        assert_eq!(listed[0].source_bytes, source.len() as u64);
        let shown =
            node.procedures.clone().get_library(GetLibraryRequest { name: "greetings".to_owned(), version: 0 }).await?;
        assert_eq!(shown.into_inner().source, source);
        assert_eq!(node.call("greetings.hello", "you", &[]).await?, b"hello you");
    }
    let missing = nodes[1].call("greetings.nothing", "k", &[]).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing)), (Code::NotFound, Some(Reason::FunctionNotFound)));

    let request = DeleteLibraryRequest { name: "greetings".to_owned(), ..Default::default() };
    assert!(nodes[2].procedures.clone().delete_library(request.clone()).await?.into_inner().deleted);
    for node in &nodes {
        let gone = node.call("greetings.hello", "you", &[]).await.unwrap_err();
        assert_eq!((gone.code(), reason(&gone)), (Code::NotFound, Some(Reason::LibraryNotFound)), "{gone:?}");
    }
    assert!(!nodes[0].procedures.clone().delete_library(request).await?.into_inner().deleted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_source_is_refused_with_its_line_and_the_old_version_stays() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(1)?;
    node.upload("steady", "function answer() return 42 end").await?;
    let refused = node.upload("steady", "function answer()\n  return 43\nend\nfunction broken(\n").await.unwrap_err();
    let failure = cirrus_proto::Failure::from_status(&refused).unwrap();
    assert_eq!((refused.code(), failure.reason), (Code::InvalidArgument, Reason::LibraryInvalid));
    let line: u32 = failure.metadata["line"].parse()?;
    assert!((4..=5).contains(&line), "{failure:?}");
    assert!(!failure.metadata["message"].is_empty(), "{failure:?}");
    let exports_nothing = node.upload("steady", "local x = 1").await.unwrap_err();
    assert_eq!(reason(&exports_nothing), Some(Reason::LibraryInvalid));
    for node in cluster.all_nodes()? {
        assert_eq!(node.call("steady.answer", "k", &[]).await?, b"42");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_leaves_no_effect() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(2)?;
    let source = r#"
        function fails(key) kv.put(key, "written"); error("on purpose") end
        function nothing(key) kv.put(key, "written"); return nil end
        function elsewhere(key, other) kv.put(key, "written"); kv.put(other, "written"); return "done" end
        function works(key) kv.put(key, "written"); return kv.get(key) end
    "#;
    node.upload("effects", source).await?;
    let status = cluster.status().await?;
    let (here, there) = (&keys_of_shard(&status, 1, "k", 1)[0], &keys_of_shard(&status, 2, "k", 1)[0]);
    let cases = [
        ("effects.fails", &[][..], Code::Aborted, Reason::ProcedureFailed),
        ("effects.nothing", &[][..], Code::Aborted, Reason::ProcedureReturnedNothing),
    ];
    for (procedure, arguments, code, expected) in cases {
        let failed = node.call(procedure, here, arguments).await.unwrap_err();
        assert_eq!((failed.code(), reason(&failed)), (code, Some(expected)), "{procedure}: {failed:?}");
        assert_eq!(node.value(here).await?, None, "{procedure} left its write behind");
    }
    let across = node.call("effects.elsewhere", here, &[there]).await.unwrap_err();
    assert!(matches!(reason(&across), Some(Reason::CrossShard | Reason::ProcedureFailed)), "{across:?}");
    assert_eq!((node.value(here).await?, node.value(there).await?), (None, None));
    assert_eq!(node.call("effects.works", here, &[]).await?, b"written");
    assert_eq!(node.value(here).await?, Some(b"written".to_vec()));
    Ok(())
}
