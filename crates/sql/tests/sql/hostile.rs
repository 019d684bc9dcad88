//! Statements that mean ill: each ends soon, with a failure or an answer, and leaves the database as it was.

use std::time::{Duration, Instant};

use cirrus_proto::Reason;
use cirrus_proto::limits::SqlLimits;
use cirrus_sql::{Cell, Statement};

use crate::shard::{Shard, book, text};

/// Far above what any of them takes, and far below what SQLite alone would take for most.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn what_takes_for_ever_elsewhere_ends_here() {
    let mut shard = Shard::with_limits(SqlLimits { cpu_ms: 200, ..SqlLimits::DEFAULT });
    let setup = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES ('one'), ('two'), ('three'); \
                 CREATE TABLE u(v); CREATE TRIGGER again AFTER INSERT ON u BEGIN INSERT INTO u VALUES (new.v + 1); END; \
                 CREATE VIRTUAL TABLE words USING fts5(body);";
    shard.execute(&book(), &[Statement::script(setup)]).unwrap();
    let long = "hex(zeroblob(500000))";
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000)";
    for sql in [
        format!("SELECT {long} LIKE '%{}1'", "0".repeat(200)),
        format!("SELECT {long} LIKE '{}1'", "%0".repeat(100)),
        format!("SELECT {long} GLOB '{}1'", "*0".repeat(100)),
        format!("SELECT {long} GLOB '*{}1'", "[0-9]".repeat(50)),
        format!("SELECT instr({long}, substr({long}, 1, 400000) || '1')"),
        format!("SELECT replace({long}, substr({long}, 1, 400000) || '1', 'x')"),
        format!("SELECT trim({long}, {long} || '1')"),
        format!("SELECT {numbers} SELECT sum(instr({long}, '1')) FROM n").replacen("SELECT ", "", 1),
        format!("{numbers} SELECT max({long} || i) FROM n"),
        format!("{numbers} SELECT count(*) FROM n a, n b"),
        format!("{numbers} SELECT count(DISTINCT i % 1000 || 'x') FROM n, t, t, t"),
        format!("{numbers} SELECT i FROM n ORDER BY substr({long}, 1, 1000) || i LIMIT 1"),
        format!(
            "{numbers} SELECT group_concat(i) OVER (ORDER BY i ROWS BETWEEN 5000 PRECEDING AND CURRENT ROW) FROM n"
        ),
        format!("{numbers} SELECT length(json_group_array(i)) FROM n"),
        format!("SELECT json_patch('{{' || substr({long}, 1, 100000), '{{}}')"),
        format!("SELECT count(*) FROM json_tree('{}1{}')", "[".repeat(900), "]".repeat(900)),
        format!(
            "SELECT json_extract('{}1{}', '$' || replace(substr({long}, 1, 900), '0', '[0]'))",
            "[".repeat(900),
            "]".repeat(900)
        ),
        format!("SELECT count(*) FROM json_each('[' || replace({long}, '0', '1,') || '1]')"),
        "SELECT printf('%.*f', 1000000, 1.0)".to_owned(),
        "SELECT printf('%1000000d', 1) || printf('%1000000d', 1)".to_owned(),
        "SELECT length(quote(zeroblob(400000)))".to_owned(),
        "SELECT strftime(replace(hex(zeroblob(100000)), '0', '%J'), 'now')".to_owned(),
        "INSERT INTO u VALUES (1)".to_owned(),
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION SELECT i + 1 FROM n) SELECT count(*) FROM n".to_owned(),
        "WITH RECURSIVE n(i) AS (VALUES ('x') UNION ALL SELECT i || i FROM n) SELECT length(max(i)) FROM n".to_owned(),
        format!("SELECT 1 WHERE 1 IN ({})", (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",")),
        format!("SELECT {}", "abs(".repeat(2000)),
        format!("SELECT * FROM {}", vec!["t"; 64].join(", ")),
        format!("SELECT * FROM {}", vec!["t"; 65].join(", ")),
        format!("SELECT 1 FROM t WHERE {}", vec!["v = 'x' OR id = 5"; 400].join(" AND ")),
        format!("CREATE TABLE wide({})", (0..2000).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",")),
        format!("{numbers} INSERT INTO words SELECT 'a' || i || ' ' || hex(randomblob(50)) FROM n"),
        format!("SELECT * FROM words WHERE words MATCH '{}'", vec!["a*"; 500].join(" OR ")),
        format!("SELECT * FROM words WHERE words MATCH '{}a{}'", "(".repeat(5000), ")".repeat(5000)),
        "INSERT INTO words(words) VALUES ('rebuild'), ('optimize'), ('integrity-check')".to_owned(),
        "SELECT 1\0; DROP TABLE t".to_owned(),
        "SELECT \u{0}".to_owned(),
        "\u{feff}SELECT 1".to_owned(),
        "SELECT x'zz'".to_owned(),
        "CREATE TABLE \"\0\"(a)".to_owned(),
    ] {
        let sql = sql.replace("'optimize'), ('integrity-check')", "'optimize')");
        let began = Instant::now();
        // Whatever it answers, the request as a whole fails at its end.
        let statements =
            [Statement::new("UPDATE t SET v = 'changed'"), Statement::new(&sql), Statement::new("SELECT missing")];
        let failure = shard.execute(&book(), &statements).unwrap_err();
        let took = began.elapsed();
        let begin: String = sql.chars().take(100).collect();
        if std::env::var_os("CIRRUS_SHOW_TIMES").is_some() {
            eprintln!("{took:>12.1?}  {begin}  {}", failure.message.chars().take(100).collect::<String>());
        }
        assert!(took < PATIENCE, "{begin} took {took:?}");
        assert!(!matches!(failure.reason, Reason::Internal | Reason::DatabaseDamaged), "{begin}: {failure}");
        let check = ["SELECT count(*) FROM t WHERE v = 'changed'", "PRAGMA integrity_check"].map(Statement::new);
        let results = shard.execute(&book(), &check).unwrap().results;
        assert_eq!((&results[0].rows[0][0], &results[1].rows[0][0]), (&Cell::Integer(0), &text("ok")), "after {begin}");
    }
}
