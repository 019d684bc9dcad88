//! Temporary things live as long as a request. A client that wants them for longer sends again what made them.

use std::collections::BTreeSet;

use super::words::{first_word, target, words};

/// What made the temporary tables, indexes, views and triggers that a file has at the moment, in order.
#[derive(Default)]
pub(super) struct Temporary {
    made: Vec<Made>,
    names: BTreeSet<String>,
}

struct Made {
    /// What it belongs to: what it created, or the table that it wrote to.
    name: String,
    sql: String,
}

impl Temporary {
    /// The statements to send first.
    pub(super) fn statements(&self) -> Vec<String> {
        self.made.iter().map(|made| made.sql.clone()).collect()
    }

    fn target(&self, sql: &str) -> Option<String> {
        if self.names.is_empty() { None } else { target(sql).filter(|name| self.names.contains(name)) }
    }

    /// Why a statement cannot be sent again before each later one.
    pub(super) fn is_not_repeatable(&self, sql: &str) -> Option<&'static str> {
        self.target(sql)?;
        if first_word(sql) == "ALTER" {
            Some("a temporary table is altered, and lives as long as a request")
        } else if words(sql).any(|word| word == "SELECT") {
            Some("a temporary table is filled from others, and lives as long as a request")
        } else {
            None
        }
    }

    /// Takes note of a statement that both sides ran; `names`: the temporary things that there are now.
    pub(super) fn ran(&mut self, sql: &str, names: BTreeSet<String>) {
        if let Some(name) = self.target(sql) {
            self.made.push(Made { name, sql: sql.to_owned() });
        }
        // A table may bring indexes of its own, which are not made by name.
        let created = names.difference(&self.names).find(|name| !name.starts_with("SQLITE_")).cloned();
        if let Some(name) = created {
            self.made.push(Made { name, sql: sql.to_owned() });
        }
        self.made.retain(|made| names.contains(&made.name));
        self.names = names;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_made_again() {
        let mut temporary = Temporary::default();
        let mut ran = |sql: &str, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            temporary.ran(sql, names);
            temporary.statements().join("; ")
        };
        assert_eq!(ran("CREATE TABLE main (x)", &[]), "");
        let table = "CREATE TEMP TABLE a (x UNIQUE)";
        assert_eq!(ran(table, &["A", "SQLITE_AUTOINDEX_A_1"]), table);
        let filled = format!("{table}; INSERT INTO a VALUES (1)");
        assert_eq!(ran("INSERT INTO a VALUES (1)", &["A", "SQLITE_AUTOINDEX_A_1"]), filled);
        assert_eq!(ran("INSERT INTO main SELECT x FROM a", &["A", "SQLITE_AUTOINDEX_A_1"]), filled);
        let view = "create temporary view v as select 1";
        assert_eq!(ran(view, &["A", "SQLITE_AUTOINDEX_A_1", "V"]), format!("{filled}; {view}"));
        assert!(temporary.is_not_repeatable("INSERT INTO a SELECT 1").is_some());
        assert!(temporary.is_not_repeatable("ALTER TABLE a ADD y").is_some());
        assert!(temporary.is_not_repeatable("DELETE FROM a").is_none());
        let mut ran = |sql: &str, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            temporary.ran(sql, names);
            temporary.statements().join("; ")
        };
        assert_eq!(ran("DROP TABLE a", &["V"]), view);
        assert_eq!(ran("DROP VIEW v", &[]), "");
    }
}
