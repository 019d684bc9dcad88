//! The definitions of a table's columns, from its CREATE TABLE as SQLite keeps it.
//!
//! `ALTER TABLE ADD COLUMN` takes a column's definition as it was written, constraints and all, and nothing in SQLite
//! tells it. So the text is cut where its commas are; SQLite has compiled it before, so that its parts are sound.

/// The type of a column as its table's text writes it, where it is the one word `standard`. SQLite tells its standard types
/// in capitals, however they were written.
pub(crate) fn type_as_written(create_table: &str, column: &str, standard: &str) -> Option<String> {
    let columns = column_definitions(create_table)?;
    let column = columns.iter().find(|defined| defined.name.eq_ignore_ascii_case(column))?;
    let mut words = Tokens(&column.text).filter(|token| !token.trim().is_empty());
    let written = words.nth(1)?;
    written.eq_ignore_ascii_case(standard).then(|| written.to_owned())
}

/// A column as its table's text defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnDefinition {
    pub(crate) name: String,
    /// The name, the type and the constraints.
    pub(crate) text: String,
}

/// Words with which a table's constraint begins, where a column's name could stand.
const TABLE_CONSTRAINTS: &[&str] = &["constraint", "primary", "unique", "check", "foreign"];

/// The columns of `CREATE TABLE name(…)`; `None` where the text has no such part.
pub(crate) fn column_definitions(sql: &str) -> Option<Vec<ColumnDefinition>> {
    let mut definitions = vec![String::new()];
    let mut depth = 0;
    for token in Tokens(sql) {
        match token {
            "(" => {
                depth += 1;
                if depth == 1 {
                    continue;
                }
            }
            ")" => {
                depth -= 1;
                if depth == 0 {
                    return Some(definitions.iter().filter_map(|text| column(text)).collect());
                }
            }
            "," if depth == 1 => {
                definitions.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth > 0
            && let Some(definition) = definitions.last_mut()
        {
            definition.push_str(if token.starts_with("--") || token.starts_with("/*") { " " } else { token });
        }
    }
    None
}

fn column(text: &str) -> Option<ColumnDefinition> {
    let text = text.trim();
    let first = Tokens(text).next()?;
    if TABLE_CONSTRAINTS.iter().any(|word| word.eq_ignore_ascii_case(first)) {
        return None;
    }
    Some(ColumnDefinition { name: unquoted(first), text: text.to_owned() })
}

/// A name without the quotes around it.
fn unquoted(name: &str) -> String {
    let inside = |quote: char| {
        let doubled: String = [quote, quote].iter().collect();
        name[1..name.len() - 1].replace(&doubled, &quote.to_string())
    };
    match name.as_bytes() {
        [b'"', .., b'"'] => inside('"'),
        [b'`', .., b'`'] => inside('`'),
        [b'\'', .., b'\''] => inside('\''),
        [b'[', .., b']'] => name[1..name.len() - 1].to_owned(),
        _ => name.to_owned(),
    }
}

/// A name between quotes, as SQLite reads any name.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The statement's first word, behind comments and white space.
pub(crate) fn first_word(sql: &str) -> &str {
    let blank = |token: &&str| token.starts_with("--") || token.starts_with("/*") || token.trim().is_empty();
    Tokens(sql).find(|token| !blank(token)).unwrap_or_default()
}

/// The text in pieces: words, quoted names and strings, comments, white space, and single characters of all else.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let first = self.0.chars().next()?;
        let word = |character: char| character.is_alphanumeric() || character == '_' || character == '$';
        let length = match first {
            '\'' | '"' | '`' => quoted_length(self.0, first),
            '[' => self.0.find(']').map_or(self.0.len(), |end| end + 1),
            '-' if self.0.starts_with("--") => self.0.find('\n').map_or(self.0.len(), |end| end + 1),
            '/' if self.0.starts_with("/*") => self.0[2..].find("*/").map_or(self.0.len(), |end| end + 4),
            _ if first.is_whitespace() => {
                self.0.find(|character: char| !character.is_whitespace()).unwrap_or(self.0.len())
            }
            _ if word(first) => self.0.find(|character| !word(character)).unwrap_or(self.0.len()),
            _ => first.len_utf8(),
        };
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(token)
    }
}

/// Up to the quote that ends it; a doubled one stands for itself.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut length = 1;
    while let Some(end) = text[length..].find(quote) {
        length += end + 1;
        if !text[length..].starts_with(quote) {
            return length;
        }
        length += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_cut_where_their_commas_are() {
        let sql = r#"CREATE TABLE "a ( table" ( -- the key, first
            id INTEGER PRIMARY KEY AUTOINCREMENT, /* a ) comment ( */
            "quo""ted, name" varchar(64, 2) NOT NULL DEFAULT 'it''s, (here' ,
            [in brackets] text COLLATE NOCASE CHECK (length([in brackets]) < 10 AND x IN (1,2)),
            `tick` DEFAULT (1 + (2 * 3)), 'string',plain,
            "check" int,
            größe REFERENCES other(id) ON DELETE CASCADE,
            g AS (id * 2) STORED, -- last
            CONSTRAINT u UNIQUE (plain, tick), PRIMARY KEY(id), unique(tick), CHECK (id > 0),
            FOREIGN KEY (plain) REFERENCES other(a, b)
        ) WITHOUT ROWID, STRICT"#;
        let columns = column_definitions(sql).unwrap();
        let names: Vec<&str> = columns.iter().map(|column| &column.name[..]).collect();
        assert_eq!(names, ["id", "quo\"ted, name", "in brackets", "tick", "string", "plain", "check", "größe", "g"]);
        assert_eq!(columns[1].text, r#""quo""ted, name" varchar(64, 2) NOT NULL DEFAULT 'it''s, (here'"#);
        assert_eq!(columns[3].text, "`tick` DEFAULT (1 + (2 * 3))");
        assert_eq!(columns[8].text, "g AS (id * 2) STORED");
    }

    #[test]
    fn standard_types_are_told_as_written() {
        let sql = "CREATE TABLE t(id int, \"Name\" Text NOT NULL, v, w varchar(3) , x INTEGER)";
        let written = |column: &str, standard: &str| type_as_written(sql, column, standard);
        assert_eq!(written("id", "INT").as_deref(), Some("int"));
        assert_eq!(written("name", "TEXT").as_deref(), Some("Text"));
        assert_eq!(written("x", "INTEGER").as_deref(), Some("INTEGER"));
        assert_eq!(written("w", "TEXT"), None);
        assert_eq!(written("v", "TEXT"), None);
        assert_eq!(written("missing", "TEXT"), None);
    }

    #[test]
    fn broken_texts_end() {
        for sql in ["", "CREATE TABLE t", "CREATE TABLE t(a, 'b", "t(a, [b", "t(a /* b", "(((", "t(a, \"b\"\""] {
            assert_eq!(column_definitions(sql), None, "{sql}");
        }
        assert_eq!(column_definitions("t()"), Some(vec![]));
    }
}
