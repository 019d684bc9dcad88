//! A database as SQL text, as SQLite's own shell dumps it.

use rusqlite::{Connection, MAIN_DB};

/// Writes the statements that make the database of an exported file, in lines.
pub(super) fn dump(file: &[u8], line: &mut dyn FnMut(String)) -> rusqlite::Result<()> {
    line("PRAGMA foreign_keys = OFF;".to_owned());
    line("BEGIN;".to_owned());
    if !file.is_empty() {
        let mut connection = Connection::open_in_memory()?;
        connection.deserialize_read_exact(MAIN_DB, file, file.len(), true)?;
        contents(&connection, line)?;
    }
    line("COMMIT;".to_owned());
    Ok(())
}

fn contents(connection: &Connection, line: &mut dyn FnMut(String)) -> rusqlite::Result<()> {
    let tables = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                  AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow') ORDER BY rowid";
    let mut counts_rowids = false;
    for (name, sql) in pairs(connection, tables)? {
        line(format!("{sql};"));
        rows(connection, &name, line)?;
        counts_rowids |= sql.to_ascii_uppercase().contains("AUTOINCREMENT");
    }
    if counts_rowids {
        line("DELETE FROM sqlite_sequence;".to_owned());
        rows(connection, "sqlite_sequence", line)?;
    }
    let others = "SELECT name, sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL ORDER BY rowid";
    for (_, sql) in pairs(connection, others)? {
        line(format!("{sql};"));
    }
    Ok(())
}

fn pairs(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<(String, String)>> {
    connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn rows(connection: &Connection, table: &str, line: &mut dyn FnMut(String)) -> rusqlite::Result<()> {
    // Generated columns are not inserted.
    let columns = "SELECT name, name FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid";
    let mut columns = connection.prepare(columns)?;
    let columns: Vec<String> = columns.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if columns.is_empty() {
        return Ok(());
    }
    let names = columns.iter().map(|name| quoted(name)).collect::<Vec<_>>();
    let values = names.iter().map(|name| format!("quote({name})")).collect::<Vec<_>>().join(" || ',' || ");
    let (table, names) = (quoted(table), names.join(","));
    let mut found = connection.prepare(&format!("SELECT {values} FROM {table}"))?;
    let mut found = found.query([])?;
    while let Some(row) = found.next()? {
        line(format!("INSERT INTO {table} ({names}) VALUES ({});", row.get::<_, String>(0)?));
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dump_makes_the_same_database_again() {
        let script = "CREATE TABLE \"a b\" (id INTEGER PRIMARY KEY AUTOINCREMENT, v ANY, g INT AS (id * 2));
            INSERT INTO \"a b\" (v) VALUES ('it''s'), (NULL), (x'00ff'), (0.1), ('two
            lines');
            CREATE TABLE empty (x);
            CREATE INDEX i ON \"a b\" (v);
            CREATE VIEW w AS SELECT v FROM \"a b\";
            CREATE TRIGGER t AFTER INSERT ON empty BEGIN DELETE FROM \"a b\"; SELECT 1; END;";
        let mut first = Connection::open_in_memory().unwrap();
        first.execute_batch(script).unwrap();
        let dumped = |connection: &mut Connection| {
            let mut text = String::new();
            let file = connection.serialize(MAIN_DB).unwrap();
            dump(&file, &mut |line| text += &(line + "\n")).unwrap();
            text
        };
        let text = dumped(&mut first);
        let mut second = Connection::open_in_memory().unwrap();
        second.execute_batch(&text).unwrap();
        assert_eq!(dumped(&mut second), text);
        assert!(text.contains("VALUES (3,X'00FF');"), "{text}");
        assert_eq!(second.query_row("SELECT seq FROM sqlite_sequence", [], |row| row.get::<_, i64>(0)).unwrap(), 5);
    }
}
