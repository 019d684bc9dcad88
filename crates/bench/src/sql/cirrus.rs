//! Databases in a cluster: by `cirrus-client`, as its users ask for them.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use cirrus_client::Client;
use cirrus_proto::v1::{
    ReadConsistency, SqlCell, SqlDatabase, SqlPutSchemaRequest, SqlQueryRequest, SqlStatement, sql_cell,
};
use tokio::task::JoinHandle;

use super::address_book::{DBNAME, DDL, FILL, INSERT, SELECT, UPDATE, Write, contacts, user};
use super::databases::Databases;
use crate::driver::Driver as _;
use crate::driver::ServerTime;
use crate::driver::cirrus::CirrusDriver;
use crate::recorder::OperationError;

#[derive(Clone)]
pub(crate) struct CirrusDatabases {
    driver: Arc<CirrusDriver>,
    client: Client,
    rows: u32,
}

impl CirrusDatabases {
    /// Declares the databases' schema: each is created by it, with its first request.
    pub(crate) async fn new(driver: CirrusDriver, rows: u32) -> anyhow::Result<Self> {
        let client = driver.client();
        let schema = SqlPutSchemaRequest { dbname: DBNAME.to_owned(), ddl: DDL.to_owned(), ..Default::default() };
        client.put_schema(schema).await.with_context(|| format!("declaring the schema of {DBNAME:?}"))?;
        Ok(CirrusDatabases { driver: Arc::new(driver), client, rows })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Rows that the statements changed.
    async fn execute(&self, database: u32, statements: Vec<SqlStatement>) -> Result<u64, OperationError> {
        let answer = self.client.execute_sql(named(database), statements).await?;
        Ok(answer.results.iter().map(|result| result.affected_rows).sum())
    }
}

impl Databases for CirrusDatabases {
    fn spawn(&self, client: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        tokio::spawn(client)
    }

    async fn fill(&self, database: u32) -> Result<bool, OperationError> {
        let row = |(id, contact): (i64, super::address_book::Contact)| {
            statement(FILL, [integer(id), text(contact.name), text(contact.email), text(contact.phone)])
        };
        let statements = (1..).zip(contacts(database, self.rows)).map(row).collect();
        Ok(self.execute(database, statements).await? > 0)
    }

    async fn read(&self, database: u32, id: u32) -> Result<(), OperationError> {
        let request = SqlQueryRequest {
            database: Some(named(database)),
            statements: vec![statement(SELECT, [integer(id.into())])],
            consistency: ReadConsistency::Linearizable.into(),
        };
        let answer = self.client.query_sql(request).await?;
        match answer.results.first().map_or(0, |result| result.rows.len()) {
            1 => Ok(()),
            rows => Err(OperationError::new("WRONG_RESULT", format!("{rows} rows with id {id}, not 1"))),
        }
    }

    async fn write(&self, database: u32, write: Write) -> Result<(), OperationError> {
        let statement = match write {
            Write::Insert(contact) => statement(INSERT, [contact.name, contact.email, contact.phone].map(text)),
            Write::Update { id, phone } => statement(UPDATE, [integer(id.into()), text(phone)]),
        };
        match self.execute(database, vec![statement]).await? {
            1 => Ok(()),
            rows => Err(OperationError::new("WRONG_RESULT", format!("a write changed {rows} rows, not 1"))),
        }
    }

    async fn processor_time(&self) -> Option<ServerTime> {
        self.driver.processor_time().await
    }
}

fn named(database: u32) -> SqlDatabase {
    SqlDatabase { dbfile: 0, user: user(database).into(), dbname: DBNAME.to_owned() }
}

fn statement<const N: usize>(sql: &str, parameters: [SqlCell; N]) -> SqlStatement {
    SqlStatement { sql: sql.to_owned(), parameters: parameters.into(), named_parameters: Vec::new() }
}

fn text(text: String) -> SqlCell {
    SqlCell { kind: Some(sql_cell::Kind::Text(text)) }
}

fn integer(integer: i64) -> SqlCell {
    SqlCell { kind: Some(sql_cell::Kind::Int64(integer)) }
}
