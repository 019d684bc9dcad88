//! What a shard's executor runs on its databases.

use std::sync::Arc;

use cirrus_engine::{Transaction, named_database};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{self as pb, reply};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::v1::SqlExecuteResponse;
use cirrus_sql::{Databases, Removal, Request, Schema};

use super::messages::{database_id, import_part, results, statements};
use crate::catalog_view::{CATALOG_WAIT, CatalogHandle};

/// One shard's databases; none is open on a replica that has never led.
pub(crate) struct SqlCommands {
    limits: SqlLimits,
    catalog: Arc<CatalogHandle>,
    databases: Option<Databases>,
}

impl SqlCommands {
    pub(crate) fn new(limits: SqlLimits, catalog: Arc<CatalogHandle>) -> Self {
        SqlCommands { limits, catalog, databases: None }
    }

    pub(crate) fn limits(&self) -> &SqlLimits {
        &self.limits
    }

    /// What the databases of a dbname are to have, by a catalog that is as new as the shard demands.
    fn schema(&self, dbname: &str, transaction: &Transaction<'_>) -> Result<Option<Arc<Schema>>, Failure> {
        self.catalog.schema(dbname, transaction.head().catalog_index, CATALOG_WAIT, &self.limits)
    }

    fn databases(&mut self) -> Result<&mut Databases, Failure> {
        match &mut self.databases {
            Some(databases) => Ok(databases),
            none => Ok(none.insert(Databases::new(self.limits)?)),
        }
    }

    pub(crate) fn execute(
        &mut self,
        command: &pb::SqlExecute,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let request = required(command.request.as_ref())?;
        let id = database_id(named_database(request.database.as_ref())?);
        let statements = statements(&request.statements, command.scripts)?;
        let schema = self.schema(&id.dbname, transaction)?;
        let request = Request {
            schema: schema.as_deref(),
            types_as_written: command.types_as_written,
            ..Request::new(&id, &statements)
        };
        let executed = self.databases()?.execute(transaction, request)?;
        Ok(reply::Kind::SqlExecute(SqlExecuteResponse { results: results(executed.results) }))
    }

    pub(crate) fn remove(
        &mut self,
        command: &pb::SqlRemove,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let request = required(command.request.as_ref())?;
        let id = database_id(named_database(request.database.as_ref())?);
        let databases = self.databases()?;
        let removal = match command.unfinished_only {
            true => databases.remove_unfinished(transaction, &id)?,
            false => databases.remove(transaction, &id)?,
        };
        Ok(reply::Kind::SqlRemove(pb::SqlRemoved { more: removal == Removal::More }))
    }

    pub(crate) fn import(
        &mut self,
        command: &pb::SqlImport,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let id = database_id(named_database(command.database.as_ref())?);
        self.databases()?.import(transaction, &id, &import_part(command))?;
        Ok(reply::Kind::Done(pb::Done {}))
    }

    pub(crate) fn upgrade(
        &mut self,
        command: &pb::SqlUpgrade,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let id = database_id(named_database(command.database.as_ref())?);
        let upgraded = match self.schema(&id.dbname, transaction)? {
            Some(schema) => self.databases()?.upgrade(transaction, &id, &schema)?,
            None => false,
        };
        Ok(reply::Kind::SqlUpgrade(pb::SqlUpgraded { upgraded }))
    }

    /// Notes a failed upgrade in the database's entry; see [`Databases::record_upgrade_failure`].
    pub(crate) fn record_upgrade_failure(
        &mut self,
        command: &pb::Command,
        transaction: &mut Transaction<'_>,
        failure: &Failure,
    ) -> Result<(), Failure> {
        let Some(database) = cirrus_engine::database(command) else { return Ok(()) };
        self.databases()?.record_upgrade_failure(transaction, &database_id(database), failure)
    }
}

fn required<T>(request: Option<&T>) -> Result<&T, Failure> {
    request.ok_or_else(|| Failure::invalid_field("request", "must be set"))
}
