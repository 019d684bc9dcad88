//! Where a statement ends in what somebody types: as SQLite's own shell sees it.

/// The statements that are complete, without their semicolons, and what is left behind the last one.
pub(super) fn split(text: &str) -> (Vec<&str>, &str) {
    let mut statements = Vec::new();
    let mut start = 0;
    let mut words = Words::default();
    let mut letters = text.char_indices().peekable();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '\'' | '"' | '`' | '[' => {
                let end = if letter == '[' { ']' } else { letter };
                words.other();
                // A doubled quote ends one string and begins the next, which comes to the same.
                if letters.by_ref().all(|(_, letter)| letter != end) {
                    break;
                }
            }
            '-' if letters.peek().is_some_and(|(_, next)| *next == '-') => {
                if letters.by_ref().all(|(_, letter)| letter != '\n') {
                    break;
                }
            }
            '/' if letters.peek().is_some_and(|(_, next)| *next == '*') => {
                letters.next();
                let mut before = ' ';
                let ended = letters.by_ref().any(|(_, letter)| {
                    let ends = before == '*' && letter == '/';
                    before = letter;
                    ends
                });
                if !ended {
                    break;
                }
            }
            ';' => {
                if words.semicolon() {
                    let statement = text[start..index].trim();
                    if !is_blank(statement) {
                        statements.push(statement);
                    }
                    start = index + 1;
                    words = Words::default();
                }
            }
            letter if letter.is_alphanumeric() || letter == '_' => {
                let mut end = index + letter.len_utf8();
                while let Some((at, next)) = letters.next_if(|(_, next)| next.is_alphanumeric() || *next == '_') {
                    end = at + next.len_utf8();
                }
                words.word(&text[index..end]);
            }
            letter if letter.is_whitespace() => {}
            _ => words.other(),
        }
    }
    (statements, &text[start..])
}

/// Whether there is nothing but white space and comments.
pub(super) fn is_blank(text: &str) -> bool {
    behind_comments(text).is_empty()
}

/// Whether a statement begins as those do that only read. It may write all the same, behind a WITH.
pub(super) fn may_only_read(sql: &str) -> bool {
    let word = behind_comments(sql).split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
    ["SELECT", "VALUES", "WITH", "EXPLAIN"].iter().any(|reading| reading.eq_ignore_ascii_case(word))
}

/// What follows the white space and the comments that a text begins with. A comment that is open is no comment yet.
fn behind_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, behind)| behind).trim_start();
        } else if let Some((_, behind)) = rest.strip_prefix("/*").and_then(|comment| comment.split_once("*/")) {
            rest = behind.trim_start();
        } else {
            return rest;
        }
    }
}

/// A trigger has statements in it, and ends with "; END ;".
#[derive(Default)]
struct Words {
    /// Words so far, up to three.
    count: usize,
    creates: bool,
    in_trigger: bool,
    last: Last,
}

#[derive(Default, PartialEq)]
enum Last {
    #[default]
    Other,
    Semicolon,
    EndBehindSemicolon,
}

impl Words {
    fn word(&mut self, word: &str) {
        let is = |expected: &str| word.eq_ignore_ascii_case(expected);
        match self.count {
            0 if is("create") => self.creates = true,
            // One word may stand between, as in CREATE TEMP TRIGGER.
            1 | 2 if self.creates && is("trigger") => self.in_trigger = true,
            _ => {}
        }
        self.count += 1;
        self.last = match self.last {
            Last::Semicolon if is("end") => Last::EndBehindSemicolon,
            _ => Last::Other,
        };
    }

    fn other(&mut self) {
        self.count += 1;
        self.last = Last::Other;
    }

    /// Whether it ends the statement.
    fn semicolon(&mut self) -> bool {
        if !self.in_trigger || self.last == Last::EndBehindSemicolon {
            return true;
        }
        self.last = Last::Semicolon;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_only_read_begins_so() {
        for (sql, reads) in [
            ("select 1", true),
            (" -- a comment\n/* and */ WITH c AS (SELECT 1) DELETE FROM t", true),
            ("VALUES(1)", true),
            ("explain query plan select 1", true),
            ("selected", false),
            ("INSERT INTO t SELECT 1", false),
            ("PRAGMA user_version", false),
            ("/* open SELECT", false),
            ("", false),
        ] {
            assert_eq!(may_only_read(sql), reads, "{sql}");
        }
    }

    #[test]
    fn statements_end_where_sqlite_ends_them() {
        let cases: &[(&str, &[&str], &str)] = &[
            ("SELECT 1", &[], "SELECT 1"),
            ("SELECT 1; SELECT 2;", &["SELECT 1", "SELECT 2"], ""),
            (";;", &[], ""),
            ("SELECT ';', \"a;b\", [c;d], `e;f`; x", &["SELECT ';', \"a;b\", [c;d], `e;f`"], " x"),
            ("SELECT 'it''s;'; SELECT 'open;", &["SELECT 'it''s;'"], " SELECT 'open;"),
            ("SELECT 1 -- a; b\n;", &["SELECT 1 -- a; b"], ""),
            ("SELECT /* ; */ 2; /* open ;", &["SELECT /* ; */ 2"], " /* open ;"),
            ("-- only a comment\n;", &[], ""),
            ("CREATE TABLE trigger_log (end INT);", &["CREATE TABLE trigger_log (end INT)"], ""),
            (
                "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END; DELETE FROM b; END; SELECT 3;",
                &[
                    "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END; DELETE FROM b; END",
                    "SELECT 3",
                ],
                "",
            ),
            (
                "create temp trigger t after delete on a begin delete from b;",
                &[],
                "create temp trigger t after delete on a begin delete from b;",
            ),
        ];
        for (text, statements, rest) in cases {
            assert_eq!(split(text), (statements.to_vec(), *rest), "{text}");
        }
    }
}
