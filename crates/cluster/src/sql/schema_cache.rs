//! The schemas that requests needed lately, ready to be brought to databases: one for a node's shards and queries.
//!
//! Which version is current holds for one applied index of this node's catalog, and is looked up anew when that moves. What
//! was made of a version's text holds for ever.

use std::collections::HashMap;
use std::sync::Arc;

use cirrus_proto::Failure;
use cirrus_proto::limits::SqlLimits;
use cirrus_sql::Schema;
use parking_lot::Mutex;

use super::schemas;
use crate::catalog::Reads;

/// Most dbnames that are kept, those without a schema as well.
const DBNAMES_KEPT: usize = 4096;

#[derive(Default)]
pub(crate) struct SchemaCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The catalog's applied index, plus one, for which `current` holds.
    applied_next: u64,
    current: HashMap<String, Option<Arc<Schema>>>,
    /// The last one of each dbname that was declared.
    declared: HashMap<String, Arc<Schema>>,
}

impl SchemaCache {
    /// The schema of a dbname, where it has one. `applied_next` was read before `reads`, so what is read is at least as new.
    ///
    /// # Errors
    /// SCHEMA_INVALID where this node's limits refuse it; INTERNAL where the state is unreadable.
    pub(crate) fn schema(
        &self,
        reads: &dyn Reads,
        applied_next: u64,
        dbname: &str,
        limits: &SqlLimits,
    ) -> Result<Option<Arc<Schema>>, Failure> {
        let mut kept = self.0.lock();
        if kept.applied_next < applied_next || kept.current.len() >= DBNAMES_KEPT {
            kept.applied_next = kept.applied_next.max(applied_next);
            kept.current.clear();
        }
        if let Some(known) = kept.current.get(dbname) {
            return Ok(known.clone());
        }
        let Some(stored) = schemas::current(reads, dbname)? else {
            kept.current.insert(dbname.to_owned(), None);
            return Ok(None);
        };
        let declared = kept.declared.get(dbname).filter(|declared| declared.version() == stored.version).cloned();
        let schema = match declared {
            Some(schema) => schema,
            None => {
                // DDL may take its time, which others must not wait for.
                drop(kept);
                let schema = Arc::new(schemas::declared(&stored, limits)?);
                kept = self.0.lock();
                if kept.declared.len() >= DBNAMES_KEPT {
                    kept.declared.clear();
                }
                kept.declared.insert(dbname.to_owned(), schema.clone());
                schema
            }
        };
        if kept.applied_next == applied_next {
            kept.current.insert(dbname.to_owned(), Some(schema.clone()));
        }
        Ok(Some(schema))
    }
}
