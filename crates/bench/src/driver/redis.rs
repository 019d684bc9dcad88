//! Redis, by crate `redis`: GET, SET and a script by EVALSHA, one connection for each client.

use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};

use super::{Driver, Session, patiently};
use crate::recorder::OperationError;
use crate::workload::Operation;

/// The same read-modify-write of two keys as the procedure that Cirrus runs.
const INCREMENT_SCRIPT: &str = "\
local sum = tonumber(redis.call('GET', KEYS[1]) or '0') + tonumber(ARGV[1])
redis.call('SET', KEYS[1], sum)
local total = '{' .. KEYS[1] .. '}/total'
redis.call('SET', total, tonumber(redis.call('GET', total) or '0') + tonumber(ARGV[1]))
return sum
";

/// A Redis server.
pub(crate) struct RedisDriver {
    client: Client,
    /// Of the script, as SCRIPT LOAD answered it; the same on every server.
    script_sha1: parking_lot::Mutex<String>,
}

impl RedisDriver {
    pub(crate) async fn connect(endpoints: &[String], patience: Duration) -> anyhow::Result<RedisDriver> {
        let client = Client::open(format!("redis://{}", endpoints[0]))?;
        patiently(patience, &format!("redis at {}", endpoints[0]), async || {
            let mut connection = connect(&client).await?;
            Ok(redis::cmd("PING").query_async::<()>(&mut connection).await?)
        })
        .await?;
        Ok(RedisDriver { client, script_sha1: parking_lot::Mutex::new(String::new()) })
    }
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    // A timer for each answer would cost more than the request; the load itself ends after a grace time.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

impl Driver for RedisDriver {
    type Session = RedisSession;

    async fn prepare(&self, operation: Operation) -> anyhow::Result<()> {
        if operation == Operation::Call {
            let mut connection = connect(&self.client).await?;
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(INCREMENT_SCRIPT).to_owned();
            *self.script_sha1.lock() = load.query_async(&mut connection).await?;
        }
        Ok(())
    }

    async fn session(&self, _: usize) -> anyhow::Result<RedisSession> {
        let connection = Some(connect(&self.client).await?);
        Ok(RedisSession { client: self.client.clone(), connection, script_sha1: self.script_sha1.lock().clone() })
    }
}

/// One client of Redis.
pub(crate) struct RedisSession {
    client: Client,
    /// `None` after it broke, until the next request.
    connection: Option<MultiplexedConnection>,
    script_sha1: String,
}

impl RedisSession {
    async fn query<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, OperationError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            missing => missing.insert(connect(&self.client).await.map_err(|error| error_of(&error))?),
        };
        command.query_async(connection).await.map_err(|error| {
            if error.is_unrecoverable_error() {
                self.connection = None;
            }
            error_of(&error)
        })
    }
}

impl Session for RedisSession {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), OperationError> {
        self.query(redis::cmd("SET").arg(&key[..]).arg(&value[..])).await
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, OperationError> {
        let value: Option<Vec<u8>> = self.query(redis::cmd("GET").arg(&key[..])).await?;
        Ok(value.map(|value| value.len()))
    }

    async fn call(&mut self, key: Bytes) -> Result<(), OperationError> {
        let sha1 = std::mem::take(&mut self.script_sha1);
        let sum = self.query::<i64>(redis::cmd("EVALSHA").arg(&sha1).arg(1).arg(&key[..]).arg(1)).await;
        self.script_sha1 = sha1;
        match sum? {
            1.. => Ok(()),
            sum => Err(OperationError::new("WRONG_RESULT", format!("a counter stands at {sum}"))),
        }
    }
}

fn error_of(error: &RedisError) -> OperationError {
    let kind = error.code().map_or_else(|| format!("{:?}", error.kind()), str::to_owned);
    OperationError::new(kind, error)
}
