//! A batch or a transaction happens as a whole or not at all, and only within one shard.
#![allow(clippy::unwrap_used)]

use cirrus_proto::v1::compare::{Operator, Target};
use cirrus_proto::v1::write_condition::Kind;
use cirrus_proto::v1::{
    BatchRequest, Compare, DeleteRequest, GetRequest, IncrementRequest, PutRequest, TransactOperation, TransactRequest,
    WriteCondition, WriteOperation, transact_operation, transact_result, write_operation, write_result,
};
use cirrus_proto::{Failure, Reason};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use tonic::Code;

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() }
}

fn write(operation: write_operation::Operation) -> WriteOperation {
    WriteOperation { operation: Some(operation) }
}

fn batch(operations: Vec<WriteOperation>) -> BatchRequest {
    BatchRequest { operations, request_id: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_all_or_nothing() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(3)?;
    let increment = |delta| {
        let key = "{u}.count".into();
        write(write_operation::Operation::Increment(IncrementRequest { key, delta, ..IncrementRequest::default() }))
    };
    let delete = DeleteRequest { key: "{u}.name".into(), ..DeleteRequest::default() };
    let response = node
        .key_value
        .clone()
        .batch(batch(vec![
            write(write_operation::Operation::Put(put("{u}.name", "x"))),
            increment(4),
            increment(5),
            write(write_operation::Operation::Delete(delete)),
        ]))
        .await?
        .into_inner();
    let results: Vec<_> = response.results.into_iter().map(|result| result.result.unwrap()).collect();
    assert!(matches!(&results[2], write_result::Result::Increment(sum) if sum.value == 9), "{results:?}");
    assert!(
        matches!(&results[3], write_result::Result::Delete(gone) if gone.deleted),
        "a later one sees the earlier ones"
    );
    assert_eq!(node.value("{u}.name").await?, None);

    let only_if_absent = PutRequest {
        condition: Some(WriteCondition { kind: Some(Kind::IfAbsent(true)) }),
        ..put("{u}.count", "replaced")
    };
    let refused = node
        .key_value
        .clone()
        .batch(batch(vec![
            write(write_operation::Operation::Put(put("{u}.name", "half"))),
            write(write_operation::Operation::Put(only_if_absent)),
        ]))
        .await
        .unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, Some(Reason::ConditionFailed)));
    assert_eq!(node.value("{u}.name").await?, None, "half of a batch was written");
    assert_eq!(node.value("{u}.count").await?, Some(b"9".to_vec()));

    node.put("{u}.text", "not a number").await?;
    let text = IncrementRequest { key: "{u}.text".into(), delta: 1, ..IncrementRequest::default() };
    let refused = node
        .key_value
        .clone()
        .batch(batch(vec![increment(1), write(write_operation::Operation::Increment(text))]))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::NotANumber));
    assert_eq!(node.value("{u}.count").await?, Some(b"9".to_vec()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_stays_in_one_shard() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let status = cluster.status().await?;
    let (here, there) = (&keys_of_shard(&status, 1, "k", 1)[0], &keys_of_shard(&status, 2, "k", 1)[0]);
    let across = batch(vec![
        write(write_operation::Operation::Put(put(here, "x"))),
        write(write_operation::Operation::Put(put(there, "x"))),
    ]);
    let transaction = TransactRequest {
        compare: vec![Compare {
            key: here.clone().into(),
            operator: Operator::Equal.into(),
            target: Some(Target::Version(0)),
        }],
        success: vec![TransactOperation { operation: Some(transact_operation::Operation::Put(put(there, "x"))) }],
        ..TransactRequest::default()
    };
    for node in cluster.all_nodes()? {
        let refused = node.key_value.clone().batch(across.clone()).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, Some(Reason::CrossShard)));
        assert!(!Failure::from_status(&refused).unwrap().message.is_empty());
        let refused = node.key_value.clone().transact(transaction.clone()).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::CrossShard));
        assert_eq!((node.value(here).await?, node.value(there).await?), (None, None));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_runs_one_of_its_two_lists() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(1)?;
    node.put("{t}a", "5").await?;
    let compare =
        |operator: Operator, target| Compare { key: "{t}a".into(), operator: operator.into(), target: Some(target) };
    let version = node.get("{t}a", cirrus_proto::v1::ReadConsistency::Linearizable).await?.version;
    let cases = [
        (vec![], true),
        (vec![compare(Operator::Equal, Target::Value("5".into()))], true),
        (vec![compare(Operator::NotEqual, Target::Value("5".into()))], false),
        (
            vec![
                compare(Operator::Less, Target::Value("6".into())),
                compare(Operator::Greater, Target::Value("4".into())),
            ],
            true,
        ),
        (
            vec![
                compare(Operator::Less, Target::Value("6".into())),
                compare(Operator::Greater, Target::Value("5".into())),
            ],
            false,
        ),
        (vec![compare(Operator::Equal, Target::Version(version))], true),
        (vec![compare(Operator::Greater, Target::Version(version))], false),
        (vec![compare(Operator::Equal, Target::Version(0))], false),
    ];
    let get = || TransactOperation {
        operation: Some(transact_operation::Operation::Get(GetRequest { key: "{t}b".into(), ..GetRequest::default() })),
    };
    for (number, (compare, succeeds)) in cases.into_iter().enumerate() {
        let (success, failure) = (format!("success {number}"), format!("failure {number}"));
        let write =
            |value: &str| TransactOperation { operation: Some(transact_operation::Operation::Put(put("{t}b", value))) };
        let request = TransactRequest {
            compare: compare.clone(),
            success: vec![write(&success), get()],
            failure: vec![write(&failure), get()],
            request_id: None,
        };
        let response = node.key_value.clone().transact(request).await?.into_inner();
        assert_eq!(response.succeeded, succeeds, "{compare:?}");
        let expected = if succeeds { success } else { failure };
        let seen = match response.results[1].result.as_ref().unwrap() {
            transact_result::Result::Get(get) => get.value.clone(),
            other => panic!("the second operation is a get, its result {other:?}"),
        };
        assert_eq!(seen, expected, "a later operation sees the earlier one");
        assert_eq!(node.value("{t}b").await?, Some(expected.into_bytes()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_and_numbers_are_exact() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(2)?;
    let conditional =
        |kind, value: &str| PutRequest { condition: Some(WriteCondition { kind: Some(kind) }), ..put("c", value) };
    let absent = node.put_request(conditional(Kind::IfPresent(true), "no")).await?;
    assert_eq!((absent.applied, absent.version), (false, 0));
    let first = node.put_request(conditional(Kind::IfAbsent(true), "first")).await?;
    assert!(first.applied && first.version > 0);
    let taken = node.put_request(conditional(Kind::IfAbsent(true), "second")).await?;
    assert_eq!((taken.applied, taken.version), (false, first.version), "it tells the version found");
    let second = node.put_request(conditional(Kind::IfVersion(first.version), "second")).await?;
    assert!(second.applied && second.version > first.version);
    assert!(!node.put_request(conditional(Kind::IfVersion(first.version), "third")).await?.applied);
    assert_eq!(node.value("c").await?, Some(b"second".to_vec()));

    // Beyond 2^53, where a double would round.
    assert_eq!(node.increment("n", 9_007_199_254_740_993, None).await?, 9_007_199_254_740_993);
    assert_eq!(node.increment("n", i64::MAX - 9_007_199_254_740_993, None).await?, i64::MAX);
    let overflow = node.increment("n", 1, None).await.unwrap_err();
    assert_eq!((overflow.code(), reason(&overflow)), (Code::OutOfRange, Some(Reason::IntegerOverflow)));
    assert_eq!(node.increment("n", -1, None).await?, i64::MAX - 1);
    let text = node.increment("c", 1, None).await.unwrap_err();
    assert_eq!((text.code(), reason(&text)), (Code::FailedPrecondition, Some(Reason::NotANumber)));
    Ok(())
}
