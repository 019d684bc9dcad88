//! `cirrus proc new` and `cirrus proc test`: no cluster is asked, and the exit status says how it went.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use cirrus_tests::cluster::cirrus_binary;
use serde_json::Value;

/// Exit status, standard output and standard error.
fn cirrus(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(cirrus_binary().unwrap());
    // Nobody listens there.
    command.args(arguments).current_dir(directory).env("CIRRUS_ENDPOINTS", "127.0.0.1:1");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_is_new_passes_and_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (code, output, errors) = cirrus(directory, &["proc", "new", "stock", "--dir", "a/b"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{output}");
    let (code, output, errors) = cirrus(directory, &["proc", "test", "a/b"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{output}");
    assert!(output.contains("3 passed in "), "{output}");

    let file = directory.join("a/b/stock.lua");
    std::fs::write(&file, "-- mine").unwrap();
    let (code, _, errors) = cirrus(directory, &["proc", "new", "stock", "--dir", "a/b"]);
    assert!(code == 2 && errors.contains("is there already"), "{errors}");
    std::fs::remove_file(directory.join("a/b/stock_test.lua")).unwrap();
    assert_eq!(cirrus(directory, &["proc", "new", "stock", "--dir", "a/b"]).0, 2);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "-- mine");
    assert!(!directory.join("a/b/stock_test.lua").exists(), "nothing was written");
    for name in ["", "a b", "../x", "stock_test", "tests"] {
        assert_eq!(cirrus(directory, &["proc", "new", name]).0, 2, "{name:?}");
    }
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1, "only what was made above");
}

#[test]
fn the_exit_status_says_how_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write("lib.luau", "function twice(key, n) log.info('twice', n) return n * 2 end");
    write(
        "lib_test.lua",
        "function test_right() print(math.random(1, 1000000000)) expect.equal(call('lib.twice', 'k', 2), 4) end
        function test_wrong() expect.equal(call('lib.twice', 'k', 2), 5) end",
    );
    let json = |arguments: &[&str]| {
        let (code, output, errors) = cirrus(directory, &[&["proc", "test", "-o", "json"], arguments].concat());
        (code, serde_json::from_str::<Value>(if output.is_empty() { &errors } else { &output }).unwrap())
    };

    let (code, output, errors) = cirrus(directory, &["proc", "test"]);
    assert_eq!((code, errors.as_str()), (1, ""), "{output}");
    for part in
        ["  ok    test_right", "  FAIL  test_wrong", "lib_test.lua:2: not equal", "expected  5", "lib.twice: twice 2"]
    {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert!(output.contains("1 passed, 1 failed in ") && !output.contains("\u{1b}"), "{output}");

    let (code, report) = json(&["--filter", "right"]);
    assert_eq!((code, &report["passed"], &report["failed"]), (0, &Value::from(1), &Value::from(0)), "{report}");
    let printed = |seed: &str| json(&["--filter", "right", "--seed", seed]).1["files"][0]["tests"][0]["output"].clone();
    assert_eq!(printed("5"), printed("5"));
    assert_ne!(printed("5"), printed("6"));
    let (_, shown, _) = cirrus(directory, &["proc", "test", "--filter", "right", "--show-output"]);
    assert!(shown.contains("lib.twice: twice 2"), "{shown}");

    let (code, report) = json(&["lib_test.lua"]);
    let wrong = &report["files"][0]["tests"][1];
    assert_eq!((code, &wrong["failure"]["line"], &wrong["failure"]["actual"]), (1, &2.into(), &"4".into()), "{wrong}");
    assert_eq!(wrong["last_call"]["procedure"], "lib.twice", "{wrong}");

    let (code, report) = json(&["--filter", "nothing of that name"]);
    assert!(code == 2 && report["error"]["message"].as_str().unwrap().contains("no test"), "{report}");
    assert_eq!(json(&["nowhere_test.lua"]).0, 2);
    write("tests.lua", "function test_(\n");
    let (code, report) = json(&["tests.lua"]);
    assert_eq!((code, &report["files"][0]["failure"]["line"]), (1, &2.into()), "{report}");
}

#[test]
fn databases_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write(
        "notes.luau",
        "function add(key, body)
            local id = sql.exec('notes', 'INSERT INTO notes (body, at) VALUES (?, datetime(\\'now\\'))', body).last_insert_rowid
            kv.incr('{' .. key .. '}.count')
            if body == 'bad' then error('bad') end
            return id
        end",
    );
    write(
        "notes_test.lua",
        "local notes = {dbname = 'notes', user = 'ada'}
        sql.exec(notes, 'CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT UNIQUE, at TEXT)')

        function test_a_note_is_kept()
            expect.equal(call('notes.add', 'ada', 'first'), 1)
            advance(60000)
            expect.equal(call('notes.add', 'ada', 'second'), 2)
            expect.equal(sql.query(notes, 'SELECT body, at FROM notes'), {
                {body = 'first', at = '2026-01-01 00:00:00'},
                {body = 'second', at = '2026-01-01 00:01:00'},
            })
            expect.equal(kv.get('{ada}.count'), '2')
        end

        function test_a_bad_one_is_not()
            call('notes.add', 'ada', 'good')
            expect.error('PROCEDURE_FAILED', call, 'notes.add', 'ada', 'bad')
            expect.error('SQL_CONSTRAINT', call, 'notes.add', 'ada', 'good')
            expect.equal(#sql.query(notes, 'SELECT * FROM notes'), 1)
            expect.equal(kv.get('{ada}.count'), '1')
        end

        function test_nobody_elses_are_meant()
            expect.error('SQL_INVALID', call, 'notes.add', 'bob', 'first')
            local _, problem = pcall(sql.query, 'notes', 'SELECT 1')
            expect.match(problem, 'a database needs a user')
        end",
    );
    let (code, output, errors) = cirrus(directory, &["proc", "test"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{output}");
    assert!(output.contains("3 passed in "), "{output}");
    write("notes_test.lua", "function test_it() call('notes.add', 'ada', 'first') end");
    let (code, output, _) = cirrus(directory, &["proc", "test"]);
    assert!(code == 1 && output.contains("SQL_INVALID: no such table: notes"), "{output}");
    assert!(output.contains("sql.exec") && output.contains("INSERT INTO notes"), "{output}");
    let (code, output, errors) = cirrus(directory, &["proc", "lint", "notes.luau", "notes_test.lua"]);
    assert_eq!((code, output.as_str(), errors.as_str()), (0, "", ""));
    write("notes.luau", "function f(key) sql.query('d', 'SELECT 1') sql.exek('d') sql.exec('d') end");
    let (_, output, _) = cirrus(directory, &["proc", "lint", "notes.luau"]);
    for part in ["result of sql.query is not used", "sql has no exek; did you mean exec?", "sql.exec takes at least 2"]
    {
        assert!(output.contains(part), "{part}: {output}");
    }
}
