//! SPHiveDB's configuration, `sphivedbsvr.ini`: which dbfiles there are, and the DDL of each dbname.
//!
//! ```ini
//! [Database]
//! DBFileBegin = 0
//! DBFileEnd = 999
//!
//! [ddl.addrbook]
//! create table addrbook ( id INTEGER PRIMARY KEY AUTOINCREMENT, addr varchar(64), unique( addr ) );
//! ```
//!
//! A `ddl` section is SQL text and no list of settings, which no reader of INI files leaves as it is; so the file is cut
//! into sections here.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use cirrus_proto::Failure;
use cirrus_proto::limits::SqlLimits;

use crate::schema::Schema;

/// What matters of a `sphivedbsvr.ini`; the rest is about files, threads and sockets of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SphivedbConfig {
    /// The dbfiles that requests may name.
    pub dbfiles: RangeInclusive<u32>,
    /// The DDL of each dbname. dbnames are in lower case: SPHiveDB compares them so.
    pub ddl: BTreeMap<String, String>,
}

impl SphivedbConfig {
    /// Reads a file. Fails with `INVALID_FIELD`, whose `field` is the section or setting.
    pub fn parse(text: &str) -> Result<SphivedbConfig, Failure> {
        let mut dbfiles = (None, None);
        let mut ddl: BTreeMap<String, String> = BTreeMap::new();
        let mut section = String::new();
        for line in text.lines() {
            if let Some(name) = section_name(line) {
                section = name.to_ascii_lowercase();
                if let Some(dbname) = section.strip_prefix("ddl.").filter(|dbname| !dbname.is_empty())
                    && ddl.insert(dbname.to_owned(), String::new()).is_some()
                {
                    return Err(Failure::invalid_field(&section, "stands twice"));
                }
                continue;
            }
            if let Some(text) = section.strip_prefix("ddl.").and_then(|dbname| ddl.get_mut(dbname)) {
                if !is_comment(line) {
                    text.push_str(line);
                    text.push('\n');
                }
            } else if section == "database" && !is_comment(line) {
                match setting(line) {
                    Some(("dbfilebegin", value)) => dbfiles.0 = Some(number("Database.DBFileBegin", &value)?),
                    Some(("dbfileend", value)) => dbfiles.1 = Some(number("Database.DBFileEnd", &value)?),
                    _ => {}
                }
            }
        }
        let missing = |field| Failure::invalid_field(field, "is missing");
        let begin = dbfiles.0.ok_or_else(|| missing("Database.DBFileBegin"))?;
        let end = dbfiles.1.ok_or_else(|| missing("Database.DBFileEnd"))?;
        if begin > end {
            return Err(Failure::invalid_field("Database.DBFileEnd", format!("{end} is below the first, {begin}")));
        }
        if let Some((dbname, _)) = ddl.iter().find(|(_, text)| text.trim().is_empty()) {
            return Err(Failure::invalid_field(&format!("ddl.{dbname}"), "is empty"));
        }
        Ok(SphivedbConfig { dbfiles: begin..=end, ddl })
    }

    /// The schemas of all dbnames, each in its first version. Fails as [`Schema::declare`] does, and names the section.
    pub fn schemas(&self, limits: &SqlLimits) -> Result<BTreeMap<String, Schema>, Failure> {
        let declared = self.ddl.iter().map(|(dbname, ddl)| {
            let schema = Schema::declare(1, ddl, Vec::new(), limits).map_err(|failure| {
                let message = format!("[ddl.{dbname}]: {}", failure.message);
                Failure { message, ..failure }.with("dbname", dbname)
            })?;
            Ok((dbname.clone(), schema))
        });
        declared.collect()
    }
}

/// A section begins where a line has nothing but its name in brackets: a line of SQL may begin with a bracket, too.
fn section_name(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?.trim_end().strip_suffix(']')?;
    (!name.contains([']', ','])).then_some(name)
}

/// A line that begins so is a comment; but a semicolon alone ends a statement of SQL.
fn is_comment(line: &str) -> bool {
    line.starts_with('#') || (line.starts_with(';') && line.trim_end() != ";")
}

/// The name in lower case, and the value without the comment behind it.
fn setting(line: &str) -> Option<(&'static str, String)> {
    let (name, value) = line.split_once('=')?;
    let name = ["dbfilebegin", "dbfileend"].into_iter().find(|known| known.eq_ignore_ascii_case(name.trim()))?;
    Some((name, value.split([';', '#']).next().unwrap_or_default().trim().to_owned()))
}

fn number(field: &str, value: &str) -> Result<u32, Failure> {
    value.parse().map_err(|_| Failure::invalid_field(field, format!("{value:?} is no number from 0 to {}", u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = "
[Server]
MaxConnections = 1024
SocketTimeout = 600

[Database]
DataDir = ./data
DBFileBegin = 0
DBFileEnd = 999 ; inclusive
MaxOpenFiles = 16

[Option]
LockTimeoutSeconds = 20

[ddl.addrbook]
create table addrgroup ( gid INTEGER PRIMARY KEY AUTOINCREMENT, name varchar(64) );
create table addrbook ( id INTEGER PRIMARY KEY AUTOINCREMENT, gid int, addr varchar(64), freq int, unique( addr ) );
";

    #[test]
    fn the_file_that_sphivedb_ships_is_read() {
        let config = SphivedbConfig::parse(SHIPPED).unwrap();
        assert_eq!(config.dbfiles, 0..=999);
        let schemas = config.schemas(&SqlLimits::DEFAULT).unwrap();
        assert_eq!(schemas.keys().collect::<Vec<_>>(), ["addrbook"]);
        assert_eq!(schemas["addrbook"].tables().collect::<Vec<_>>(), ["addrgroup", "addrbook"]);
    }

    #[test]
    fn ddl_is_text_with_equal_signs_semicolons_and_brackets() {
        let text = "[database]\r\nDBFileEnd=7\r\nDBFileBegin = 3\r\n[DDL.Notes]\r\n# a comment\r\n; another\r\ncreate table n (\r\n\
             [id] INTEGER PRIMARY KEY,\r\n  body text default 'a = b; c',\r\n  -- not the ini's comment\r\n  x int )\r\n;\r\ncreate index i on n(body)";
        let config = SphivedbConfig::parse(text).unwrap();
        assert_eq!(config.dbfiles, 3..=7);
        let schemas = config.schemas(&SqlLimits::DEFAULT).unwrap();
        assert_eq!(schemas["notes"].tables().collect::<Vec<_>>(), ["n"]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let with = |ddl: &str| format!("[Database]\nDBFileBegin = 0\nDBFileEnd = 9\n{ddl}");
        for (text, message) in [
            (String::new(), "Database.DBFileBegin: is missing"),
            ("[Database]\nDBFileBegin = 0".to_owned(), "Database.DBFileEnd: is missing"),
            (
                "[Database]\nDBFileBegin = -1\n".to_owned(),
                "Database.DBFileBegin: \"-1\" is no number from 0 to 4294967295",
            ),
            ("[Database]\nDBFileBegin = 5\nDBFileEnd = 4".to_owned(), "Database.DBFileEnd: 4 is below the first, 5"),
            (with("[ddl.a]\n\n# nothing\n"), "ddl.a: is empty"),
            (with("[ddl.a]\ncreate table t(x)\n[DDL.A]\ncreate table u(x)"), "ddl.a: stands twice"),
        ] {
            assert_eq!(SphivedbConfig::parse(&text).unwrap_err().message, message);
        }
        let config = SphivedbConfig::parse(&with("[ddl.bad]\ncreate table t(")).unwrap();
        let failure = config.schemas(&SqlLimits::DEFAULT).unwrap_err();
        assert_eq!(failure.message, "[ddl.bad]: ddl: incomplete input");
    }
}
