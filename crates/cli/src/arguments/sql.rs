//! `cirrus sql …`

use std::path::PathBuf;
use std::str::FromStr;

use cirrus_client::v1::SqlDatabase;
use clap::{Args, Subcommand};

use super::Consistency;

#[derive(Debug, Subcommand)]
pub(crate) enum SqlCommand {
    /// Run statements as one transaction, and print their results.
    Exec {
        #[command(flatten)]
        database: DatabaseArguments,
        /// One statement each; the transaction has them in order.
        #[arg(required = true, value_name = "SQL")]
        statements: Vec<String>,
    },
    /// Run statements that only read.
    Query {
        #[command(flatten)]
        database: DatabaseArguments,
        #[arg(required = true, value_name = "SQL")]
        statements: Vec<String>,
        /// How fresh the database must be.
        #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
        consistency: Consistency,
    },
    /// List databases.
    List {
        /// Only those of this dbfile.
        #[arg(long, value_name = "N")]
        dbfile: Option<u32>,
        /// Only those whose user begins so.
        #[arg(long, value_name = "PREFIX", default_value = "")]
        user_prefix: String,
        /// Only those of this dbname.
        #[arg(long)]
        dbname: Option<String>,
        /// At most this many.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Show a database's size, times, and what it consists of.
    Describe {
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Remove a database.
    Remove {
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Write a database to a file that SQLite's own tools open.
    Export {
        #[command(flatten)]
        database: DatabaseArguments,
        /// Must not exist yet.
        file: PathBuf,
        /// How fresh it must be.
        #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
        consistency: Consistency,
    },
    /// Store a file of SQLite as a database that is not there yet.
    Import {
        #[command(flatten)]
        database: DatabaseArguments,
        file: PathBuf,
    },
    /// Type statements, with a history: .tables, .schema, .dump, .help, .quit.
    Shell {
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// What all databases of a dbname have: versions, upgrades, SPHiveDB's configuration.
    #[command(subcommand)]
    Schema(SchemaCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Store the next version of a dbname's schema.
    Set {
        dbname: String,
        /// CREATE TABLE, INDEX, VIEW and TRIGGER statements.
        ddl: PathBuf,
        /// A numbered step for what DDL cannot say; the file's name begins with its number, as in 3-split-names.sql.
        #[arg(long = "migration", value_name = "FILE")]
        migrations: Vec<PathBuf>,
        /// As --migration, and run on new databases as well.
        #[arg(long = "migration-on-new", value_name = "FILE")]
        migrations_on_new: Vec<PathBuf>,
    },
    /// Print a dbname's DDL and migrations.
    Show { dbname: String },
    /// List the dbnames that have a schema.
    List,
    /// Take the DDL of each dbname, and the range of dbfiles, from SPHiveDB's configuration.
    Import {
        /// Such as sphivedbsvr.ini.
        #[arg(value_name = "INI")]
        file: PathBuf,
    },
    /// How many databases stand at which version, and which could not be upgraded.
    Status { dbname: String },
    /// Upgrade the databases that are behind, at a bounded rate.
    Migrate {
        dbname: String,
        /// Databases a second.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DatabaseArguments {
    /// Whose database, and what it is for.
    #[arg(value_name = "USER/DBNAME")]
    name: DatabaseName,
    /// The dbfile that it is in.
    #[arg(long, value_name = "N", default_value_t = 0)]
    dbfile: u32,
}

impl From<DatabaseArguments> for SqlDatabase {
    fn from(arguments: DatabaseArguments) -> Self {
        let DatabaseArguments { name: DatabaseName { user, dbname }, dbfile } = arguments;
        SqlDatabase { dbfile, user: user.into(), dbname }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DatabaseName {
    user: String,
    dbname: String,
}

impl FromStr for DatabaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once('/') {
            Some((user, dbname)) if !user.is_empty() && !dbname.is_empty() => {
                Ok(DatabaseName { user: user.to_owned(), dbname: dbname.to_owned() })
            }
            _ => Err(format!("{text:?} is not USER/DBNAME, as in alice/addrbook")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_dbname_stands_behind_the_last_slash() {
        let name: DatabaseName = "team/alice/notes".parse().unwrap();
        assert_eq!((&*name.user, &*name.dbname), ("team/alice", "notes"));
        for text in ["alice", "/notes", "alice/", ""] {
            assert!(text.parse::<DatabaseName>().is_err(), "{text:?}");
        }
    }
}
