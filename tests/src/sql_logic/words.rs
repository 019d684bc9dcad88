//! As much of a statement's text as must be understood.

/// The words of a statement, in capitals, without quotes and punctuation.
pub(super) fn words(sql: &str) -> impl Iterator<Item = String> {
    sql.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_uppercase)
}

pub(super) fn first_word(sql: &str) -> String {
    words(sql).next().unwrap_or_default()
}

/// The table that a statement writes to or alters, in capitals.
pub(super) fn target(sql: &str) -> Option<String> {
    let mut words = words(sql);
    let before = match &*words.next()? {
        "INSERT" | "REPLACE" => "INTO",
        "DELETE" => "FROM",
        "ALTER" => "TABLE",
        "UPDATE" => {
            return match &*words.next()? {
                "OR" => table(&mut words.skip(1)),
                word => table(&mut std::iter::once(word.to_owned()).chain(words)),
            };
        }
        _ => return None,
    };
    words.find(|word| word == before)?;
    table(&mut words)
}

/// A name, with or without its schema.
fn table(words: &mut dyn Iterator<Item = String>) -> Option<String> {
    let word = words.next()?;
    if matches!(&*word, "TEMP" | "MAIN") { words.next() } else { Some(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_table_that_is_written() {
        let cases = [
            ("INSERT INTO t VALUES (1)", Some("T")),
            ("insert or replace into temp.\"a\" select * from b", Some("A")),
            ("REPLACE INTO main.[x](y) VALUES (1)", Some("X")),
            ("UPDATE t SET x = 1", Some("T")),
            ("UPDATE OR IGNORE temp.t SET x = 1", Some("T")),
            ("DELETE FROM t WHERE x IN (SELECT y FROM u)", Some("T")),
            ("ALTER TABLE t RENAME TO u", Some("T")),
            ("SELECT x FROM t", None),
            ("UPDATE", None),
        ];
        for (sql, expected) in cases {
            assert_eq!(target(sql).as_deref(), expected, "{sql}");
        }
    }
}
