//! Procedures and batches change databases and keys as one: all of it or nothing, once, whichever leaders fail.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use cirrus_client::Client;
use cirrus_proto::v1::{
    BatchRequest, CallRequest, CallResponse, DeleteScheduleRequest, IncrementRequest, ReadConsistency, RequestId,
    ScheduleProcedureRequest, SqlDatabase, SqlExecuteRequest, SqlPutSchemaRequest, SqlSchemaStatusRequest,
    SqlStatement, WriteOperation, write_operation, write_result,
};
use cirrus_proto::{Failure, Reason};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use cirrus_tests::sql::{database, integer, open_exported, rows, single_integer, statement, text};
use cirrus_tests::wait::eventually;
use cirrus_tests::writers::Writers;
use tonic::Status;

const LIBRARY: &str = "
function open(key, balance)
    sql.exec('bank', {
        'CREATE TABLE savings (balance INT)',
        'CREATE TABLE checking (balance INT)',
        'CREATE TABLE transfers (number INT)',
        {'INSERT INTO savings VALUES (?)', tonumber(balance)},
        'INSERT INTO checking VALUES (0)',
    })
    kv.put('{' .. key .. '}.cash', 0)
    return 'open'
end

-- Two from savings: one to checking, one to the key.
function transfer(key, number)
    sql.exec('bank', 'UPDATE savings SET balance = balance - 2')
    kv.incr('{' .. key .. '}.cash')
    sql.exec('bank', 'INSERT INTO transfers (number) VALUES (?)', tonumber(number))
    return sql.exec('bank', 'UPDATE checking SET balance = balance + 1 RETURNING balance').rows[1].balance
end

function fail(key, how)
    transfer(key, 0)
    if how == 'error' then
        error('on purpose')
    elseif how == 'statement' then
        sql.exec('bank', 'INSERT INTO nowhere VALUES (1)')
    elseif how == 'time' then
        sql.query('bank', 'WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n')
    elseif how == 'elsewhere' then
        sql.exec({dbname = 'bank', user = 'ELSEWHERE'}, 'CREATE TABLE t (x)')
    end
end

function caught(key)
    local _, problem = pcall(sql.exec, 'bank', 'INSERT INTO nowhere VALUES (1)')
    transfer(key, 0)
    return problem
end

---@procedure total
---@read_only
function total(key)
    local row = sql.query('bank', 'SELECT savings.balance + checking.balance AS total FROM savings, checking')[1]
    return row.total + kv.get('{' .. key .. '}.cash')
end

---@procedure cheat
---@read_only
function cheat(key)
    sql.exec('bank', 'UPDATE savings SET balance = 0')
end

function mixed(key, how)
    return if how == 'sql' then sql.query('bank', 'SELECT count(*) AS n FROM transfers')[1].n else 'none'
end

function tick(key, number)
    sql.exec('ticks', 'CREATE TABLE IF NOT EXISTS ticks (number INT)')
    sql.exec('ticks', 'INSERT INTO ticks VALUES (?)', tonumber(number))
    kv.incr('{' .. key .. '}.ticks')
end

function note(key, body)
    local id = sql.exec('notes', 'INSERT INTO notes (body) VALUES (?)', body).last_insert_rowid
    kv.put('{' .. key .. '}.last', id)
    return id
end
";

/// Of "savings", "checking" and the key.
async fn accounts(node: &NodeClient, user: &str) -> Result<(i64, i64, i64)> {
    let of = database(user, "bank");
    let balance = async |table: &str| {
        let found = node.query_sql(&of, &format!("SELECT balance FROM {table}"), ReadConsistency::Linearizable).await?;
        single_integer(&found)
    };
    let cash = node.value(&format!("{{{user}}}.cash")).await?.context("no key")?;
    Ok((balance("savings").await?, balance("checking").await?, String::from_utf8(cash)?.parse()?))
}

fn sql(user: &str, statements: Vec<SqlStatement>) -> WriteOperation {
    let request = SqlExecuteRequest { database: Some(database(user, "bank")), statements, request_id: None };
    WriteOperation { operation: Some(write_operation::Operation::Sql(request)) }
}

fn increment(key: String, delta: i64) -> WriteOperation {
    let request = IncrementRequest { key: key.into(), delta, ..IncrementRequest::default() };
    WriteOperation { operation: Some(write_operation::Operation::Increment(request)) }
}

/// What the procedure `transfer` does.
fn transfer_batch(user: &str, number: i64) -> Vec<WriteOperation> {
    vec![
        sql(
            user,
            vec![
                statement("UPDATE savings SET balance = balance - 2", []),
                statement("INSERT INTO transfers (number) VALUES (?)", [integer(number)]),
            ],
        ),
        increment(format!("{{{user}}}.cash"), 1),
        sql(user, vec![statement("UPDATE checking SET balance = balance + 1 RETURNING balance", [])]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn or_leaves_both_as_they_were() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let status = cluster.status().await?;
    let user = keys_of_shard(&status, 1, "ada", 1).remove(0);
    let elsewhere = keys_of_shard(&status, 2, "bob", 1).remove(0);
    let nodes = cluster.all_nodes()?;
    nodes[0].upload("bank", LIBRARY.replace("ELSEWHERE", &elsewhere)).await?;
    nodes[1].call("bank.open", &user, &["100"]).await?;
    for (number, node) in nodes.iter().enumerate() {
        let before = accounts(node, &user).await?;
        for (how, expected) in [
            ("error", Reason::ProcedureFailed),
            ("nothing", Reason::ProcedureReturnedNothing),
            ("statement", Reason::SqlInvalid),
            ("time", Reason::CallTimeout),
            ("elsewhere", Reason::CrossShard),
        ] {
            let failed = node.call("bank.fail", &user, &[how]).await.unwrap_err();
            assert_eq!(reason(&failed), Some(expected), "{how}: {failed:?}");
            assert_eq!(accounts(node, &user).await?, before, "{how}");
        }
        assert_eq!(node.call("bank.transfer", &user, &["1"]).await?, (2 * number + 1).to_string().as_bytes());
        let problem = node.call("bank.caught", &user, &[]).await?;
        assert_eq!(String::from_utf8(problem)?, "SQL_INVALID: no such table: nowhere");
        let made = 2 * (number as i64 + 1);
        assert_eq!(accounts(node, &user).await?, (100 - 2 * made, made, made));
    }

    // One that has been quick without SQL, on a thread that others wait for, is as right with it.
    for _ in 0..3 {
        for _ in 0..40 {
            assert_eq!(nodes[0].call("bank.mixed", &user, &["plain"]).await?, b"none");
        }
        assert_eq!(nodes[0].call("bank.mixed", &user, &["sql"]).await?, b"6");
    }

    // A batch is as whole.
    let before = accounts(&nodes[0], &user).await?;
    for node in &nodes {
        let batch = async |operations: Vec<WriteOperation>| {
            let request = BatchRequest { operations, request_id: None };
            node.key_value.clone().batch(request).await.map(|response| response.into_inner().results)
        };
        let mut failing = transfer_batch(&user, 7);
        failing.push(sql(&user, vec![statement("SELECT 1", []), statement("INSERT INTO nowhere VALUES (1)", [])]));
        let failed = batch(failing).await.unwrap_err();
        let failure = Failure::from_status(&failed).context("a failure")?;
        assert_eq!(failure.reason, Reason::SqlInvalid);
        assert_eq!((&*failure.metadata["operation"], &*failure.metadata["statement"]), ("3", "1"));
        let mut across = transfer_batch(&user, 7);
        across.push(sql(&elsewhere, vec![statement("SELECT 1", [])]));
        let failed = batch(across).await.unwrap_err();
        assert_eq!(reason(&failed), Some(Reason::CrossShard), "{failed:?}");
        for (broken, expected) in [
            (sql(&user, vec![]), Reason::InvalidField),
            (sql("", vec![statement("SELECT 1", [])]), Reason::InvalidField),
        ] {
            assert_eq!(reason(&batch(vec![increment(user.clone(), 1), broken]).await.unwrap_err()), Some(expected));
        }
        let mut identified = transfer_batch(&user, 7);
        if let Some(write_operation::Operation::Sql(first)) = &mut identified[0].operation {
            first.request_id = Some(RequestId { client_id: "c".into(), sequence: 1, acknowledged_below: 0 });
        }
        assert_eq!(reason(&batch(identified).await.unwrap_err()), Some(Reason::InvalidField));
        assert_eq!(accounts(node, &user).await?, before);
    }
    let id = RequestId { client_id: "c".into(), sequence: 1, acknowledged_below: 0 };
    let request = BatchRequest { operations: transfer_batch(&user, 7), request_id: Some(id) };
    let first = nodes[0].key_value.clone().batch(request.clone()).await?.into_inner();
    let Some(write_result::Result::Sql(last)) = first.results[2].result.clone() else { panic!("{first:?}") };
    assert_eq!(single_integer(&last.results[0])?, before.1 + 1, "results stand in their places");
    for node in &nodes {
        assert_eq!(node.key_value.clone().batch(request.clone()).await?.into_inner(), first, "sent again");
    }
    assert_eq!(accounts(&nodes[2], &user).await?, (before.0 - 2, before.1 + 1, before.2 + 1));
    Ok(())
}

async fn call(node: &NodeClient, request: CallRequest) -> Result<CallResponse, Status> {
    Ok(node.procedures.clone().call(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_reads_them_on_any_replica() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { shards: 1, ..ClusterOptions::default() }).await?;
    let nodes = cluster.all_nodes()?;
    nodes[0].upload("bank", LIBRARY).await?;
    nodes[0].call("bank.open", "ada", &["100"]).await?;
    let total = |consistency: ReadConsistency| CallRequest {
        procedure: "bank.total".to_owned(),
        key: "ada".into(),
        consistency: consistency.into(),
        ..CallRequest::default()
    };
    let leader = cluster.leader_of_shard(1).await?;
    for round in 1..=20 {
        nodes[round % 3].call("bank.transfer", "ada", &["1"]).await?;
        for node in &nodes {
            for consistency in [ReadConsistency::Linearizable, ReadConsistency::Unspecified] {
                assert_eq!(call(node, total(consistency)).await?.result.as_ref(), b"100");
            }
            // A moment that may be old, and is one moment of both.
            assert_eq!(call(node, total(ReadConsistency::Stale)).await?.result.as_ref(), b"100");
        }
    }
    // A follower answers from its own state, without the leader.
    let follower = cluster.node_ids().into_iter().find(|&id| id != leader).context("no follower")?;
    let mut cluster = cluster;
    for node_id in cluster.node_ids() {
        if node_id != follower {
            cluster.pause(node_id)?;
        }
    }
    let alone = cluster.node(follower)?;
    assert_eq!(call(&alone, total(ReadConsistency::Stale)).await?.result.as_ref(), b"100");
    for node_id in cluster.node_ids() {
        if node_id != follower {
            cluster.resume(node_id)?;
        }
    }
    cluster.wait_ready().await?;
    for node in &nodes {
        let refused = node.call("bank.cheat", "ada", &[]).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::ReadOnly));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_schema_of_the_dbname() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let nodes = cluster.all_nodes()?;
    nodes[0].upload("bank", LIBRARY).await?;
    let put_schema = async |ddl: &str| {
        let request =
            SqlPutSchemaRequest { dbname: "notes".to_owned(), ddl: ddl.to_owned(), ..SqlPutSchemaRequest::default() };
        nodes[1].sql.clone().put_schema(request).await
    };
    put_schema("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)").await?;
    assert_eq!(nodes[2].call("bank.note", "ada", &["one"]).await?, b"1");

    // A dry run says which database would change, and a trace what was done to it.
    let request = |dry_run: bool| CallRequest {
        procedure: "bank.note".to_owned(),
        key: "ada".into(),
        args: vec![Bytes::from_static(b"secret")],
        dry_run,
        trace: true,
        ..CallRequest::default()
    };
    let dry = call(&nodes[0], request(true)).await?;
    let would = dry.dry_run.context("a dry run")?;
    assert_eq!(would.effects.len(), 1);
    let [changed] = &would.databases[..] else { panic!("{:?}", would.databases) };
    assert_eq!(changed.database, Some(database("ada", "notes")));
    assert!(changed.pages >= 1 && changed.bytes > 0, "{changed:?}");
    let made = call(&nodes[0], request(false)).await?;
    assert_eq!(made.result.as_ref(), b"2", "the dry run wrote nothing");
    for steps in [&dry.steps, &made.steps] {
        assert_eq!((&*steps[0].operation, &steps[0].key[..]), ("sql.exec", &b"ada/notes"[..]));
        assert_eq!(steps[0].text, "INSERT INTO notes (body) VALUES (?) [text of 6 bytes]");
    }

    // The next version reaches the database in the transaction of its next call.
    put_schema("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT); CREATE UNIQUE INDEX by_body ON notes (body)")
        .await?;
    assert_eq!(nodes[1].call("bank.note", "ada", &["three"]).await?, b"3");
    let twice = nodes[1].call("bank.note", "ada", &["three"]).await.unwrap_err();
    assert_eq!(reason(&twice), Some(Reason::SqlConstraint), "{twice:?}");

    // One that cannot be brought to it says so, and is noted for whoever looks after the fleet.
    nodes[0].call("bank.note", "eve", &["same"]).await?;
    let migration = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT); CREATE UNIQUE INDEX by_body ON notes (body); CREATE UNIQUE INDEX by_length ON notes (length(body))";
    nodes[0].call("bank.note", "eve", &["four"]).await?;
    put_schema(migration).await?;
    let failed = nodes[2].call("bank.note", "eve", &["five"]).await.unwrap_err();
    assert_eq!(reason(&failed), Some(Reason::SchemaUpgradeFailed), "{failed:?}");
    assert_eq!(nodes[0].value("{eve}.last").await?, Some(b"2".to_vec()));
    let request = SqlSchemaStatusRequest { dbname: "notes".to_owned() };
    let status = nodes[0].sql.clone().schema_status(request).await?.into_inner();
    assert_eq!(status.failed, 1, "{status:?}");
    assert_eq!(status.failures[0].database, Some(database("eve", "notes")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_each_tick_of_a_schedule() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { shards: 1, ..ClusterOptions::default() }).await?;
    let node = cluster.node(1)?;
    node.upload("bank", LIBRARY).await?;
    let request = ScheduleProcedureRequest {
        name: "ticks".to_owned(),
        procedure: "bank.tick".to_owned(),
        key: "ada".into(),
        every_ms: 100,
        ..ScheduleProcedureRequest::default()
    };
    node.procedures.clone().schedule_procedure(request).await?;
    eventually("some ticks ran", Duration::from_secs(30), async || {
        let ticks = node.value("{ada}.ticks").await?.unwrap_or_default();
        ensure!(String::from_utf8(ticks)?.parse::<u64>()? >= 3, "too few");
        Ok(())
    })
    .await?;
    let request = DeleteScheduleRequest { name: "ticks".to_owned(), ..DeleteScheduleRequest::default() };
    node.procedures.clone().delete_schedule(request).await?;
    let ticks = String::from_utf8(node.value("{ada}.ticks").await?.context("no key")?)?;
    let counted = "SELECT count(DISTINCT number) || ' ' || count(*) FROM ticks";
    let found = node.query_sql(&database("ada", "ticks"), counted, ReadConsistency::Linearizable).await?;
    assert_eq!(rows(&found), [[text(format!("{ticks} {ticks}"))]]);
    Ok(())
}

const CLIENTS: usize = 64;
const DATABASES: usize = 8;
const BALANCE: i64 = 1_000_000;

fn user(number: usize) -> String {
    format!("user-{number}")
}

/// Half of the clients call the procedure, half send the same as a batch.
async fn transfer(client: &Client, by_procedure: bool, user: &str, number: i64) -> Result<()> {
    if by_procedure {
        client.call("bank.transfer", user.to_owned(), vec![number.to_string().into()]).await?;
    } else {
        let results = client.batch(transfer_batch(user, number)).await?.results;
        ensure!(results.len() == 3, "{results:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_while_leaders_are_killed() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    cluster.node(1)?.upload("bank", LIBRARY).await?;
    // Request ids: what is sent again after a lost leader must not happen again.
    let client = cluster.client(true).await?;
    for number in 0..DATABASES {
        client.call("bank.open", user(number), vec![BALANCE.to_string().into()]).await?;
    }
    let writers = Writers::start(CLIENTS, {
        let client = client.clone();
        move |of, number| {
            let (client, user) = (client.clone(), user(of % DATABASES));
            async move { transfer(&client, of < CLIENTS / 2, &user, number as i64).await }
        }
    });
    writers.kill_leaders(&mut cluster, &[1, 2, 1], 400).await?;
    writers.wait_for(100).await?;
    let made = writers.end().await?;
    cluster.wait_ready().await?;
    eprintln!("{} transfers", made.count());
    for number in 0..DATABASES {
        sums_hold(&cluster, &user(number), &made.numbers_of(|of| of % DATABASES == number)).await?;
    }
    Ok(())
}

/// On every replica, with exactly these transfers made.
async fn sums_hold(cluster: &TestCluster, user: &str, numbers: &[i64]) -> Result<()> {
    let of: SqlDatabase = database(user, "bank");
    let count = numbers.len() as i64;
    let expected: Vec<_> = numbers.iter().map(|&number| vec![integer(number)]).collect();
    let all = "SELECT number FROM transfers ORDER BY 1";
    let found = cluster.node(1)?.query_sql(&of, all, ReadConsistency::Linearizable).await?;
    ensure!(rows(&found) == expected, "what was acknowledged is not what is there");
    for node in cluster.all_nodes()? {
        // Each replica's own state.
        eventually("the replica has all transfers", Duration::from_secs(20), async || {
            let found = node.query_sql(&of, "SELECT count(*) FROM transfers", ReadConsistency::Stale).await?;
            ensure!(single_integer(&found)? == count, "{found:?} of {count}");
            Ok(())
        })
        .await?;
        let cash = node.get(&format!("{{{user}}}.cash"), ReadConsistency::Stale).await?.value;
        ensure!(cash == count.to_string(), "the key has {cash:?}, not {count}");
        let file = node.export(&of, ReadConsistency::Stale).await?;
        let opened = open_exported(&file, cluster.directory()?)?;
        let balance = |table: &str| -> Result<i64> {
            Ok(opened.query_row(&format!("SELECT balance FROM {table}"), [], |row| row.get(0))?)
        };
        ensure!(balance("checking")? == count, "a transfer was made in part, or twice");
        ensure!(balance("savings")? + balance("checking")? + count == BALANCE, "{} savings", balance("savings")?);
    }
    Ok(())
}
