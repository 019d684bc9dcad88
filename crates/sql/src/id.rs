//! What names a database.

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::routing;

/// One database: a user's, of one dbname, in one dbfile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseId {
    /// A number that the client picks. It separates databases and means nothing else.
    pub dbfile: u32,
    /// Whose it is: any bytes but none at all.
    pub user: Bytes,
    /// What it is for; databases of one dbname share a schema.
    pub dbname: String,
}

impl DatabaseId {
    /// Names a database.
    pub fn new(dbfile: u32, user: impl Into<Bytes>, dbname: impl Into<String>) -> Self {
        DatabaseId { dbfile, user: user.into(), dbname: dbname.into() }
    }

    /// Checks the lengths. Fails with `INVALID_FIELD`.
    pub fn check(&self, limits: &SqlLimits) -> Result<(), Failure> {
        check_length("user", self.user.len(), limits.user_bytes)?;
        check_length("dbname", self.dbname.len(), limits.dbname_bytes)
    }

    /// The slot whose shard holds the database: that of all keys with the hash tag `{user}`.
    pub fn slot(&self) -> u16 {
        routing::slot(&routing::key_of_user(&self.user))
    }
}

fn check_length(field: &str, actual: usize, limit: usize) -> Result<(), Failure> {
    if actual == 0 {
        return Err(Failure::invalid_field(field, "must not be empty"));
    }
    if actual > limit {
        let problem = format!("is {actual} bytes, above the limit of {limit}");
        return Err(Failure::invalid_field(field, problem).with("actual", actual).with("limit", limit));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_lies_where_its_users_keys_lie() {
        let slot = |user: &'static str| DatabaseId::new(7, user, "addrbook").slot();
        assert_eq!(slot("alice"), routing::slot(b"alice"));
        assert_eq!(slot("alice"), routing::slot(b"{alice}.visits"));
        assert_eq!(slot("a}b"), routing::slot(b"{a}b}.visits"), "whatever the braces in a user do to keys");
    }

    #[test]
    fn lengths_are_checked() {
        let limits = SqlLimits::DEFAULT;
        assert_eq!(DatabaseId::new(0, "u", "d").check(&limits), Ok(()));
        for (user, dbname, field) in [
            ("", "d", "user"),
            ("u", "", "dbname"),
            (&*"u".repeat(257), "d", "user"),
            ("u", &*"d".repeat(65), "dbname"),
        ] {
            let failure = DatabaseId::new(0, user.to_owned(), dbname).check(&limits).unwrap_err();
            assert_eq!(failure.metadata["field"], field, "{failure}");
        }
    }
}
