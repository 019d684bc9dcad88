//! The client and its loop of attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_proto::LEADER_METADATA;
use http::HeaderValue;

use crate::attempt::{attempt, deadline_header};
use crate::node::Node;
use crate::policy::{Backoff, Decision, Trouble, decide};
use crate::request::{Route, UnaryRequest};
use crate::request_ids::RequestIds;
use crate::router::Router;
use crate::{ClientConfig, ClientError};

/// A client of one cluster. Clones are cheap and share connections, the shard map and the request ids.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    config: Arc<ClientConfig>,
    router: Arc<Router>,
    request_ids: Option<RequestIds>,
    /// The deadline header of an attempt of full length, which most are.
    attempt_deadline: HeaderValue,
}

impl Client {
    /// Learns the shard map from the endpoints. Fails with `UNAVAILABLE` where none of them answers; a node
    /// that has not joined a cluster yet does answer.
    pub async fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        let config = Arc::new(config);
        let router = Arc::new(Router::new(Arc::clone(&config))?);
        router.refresh().await?;
        let timeout = config.timeout;
        let shared = Shared {
            request_ids: config.request_ids.then(RequestIds::new),
            attempt_deadline: deadline_header(config.attempt_timeout),
            router,
            config,
        };
        Ok(Client { shared: Arc::new(shared), timeout })
    }

    /// The same client with another timeout for its requests.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { shared: Arc::clone(&self.shared), timeout }
    }

    /// The longest that a request of this client may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many data shards the cluster has; 0 while that is not known.
    pub fn shard_count(&self) -> u32 {
        self.shared.router.shard_count()
    }

    /// The gRPC address of the node that leads the key's shard, as far as this client knows.
    pub fn leader_address(&self, key: &[u8]) -> Option<String> {
        self.shared.router.leader_address(key)
    }

    /// The gRPC addresses of all nodes and endpoints that this client knows.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.router.addresses()
    }

    /// Asks for the shard map now.
    pub async fn refresh(&self) -> Result<(), ClientError> {
        self.shared.router.refresh().await
    }

    pub(crate) fn router(&self) -> &Arc<Router> {
        &self.shared.router
    }

    /// The state of a request's attempts, with its time running from now.
    pub(crate) fn retry(&self, mutates: bool, resendable: bool) -> Retry {
        let config = &self.shared.config;
        Retry {
            mutates,
            resendable,
            deadline: Instant::now() + self.timeout,
            backoff: Backoff::new(config.backoff_min, config.backoff_max),
            outcome_unknown: false,
        }
    }

    /// Sends a request until it is answered, given up, or out of time.
    pub(crate) async fn execute<R: UnaryRequest>(&self, mut request: R) -> Result<R::Response, ClientError> {
        let (mutates, resendable, _ticket) = match request.request_id() {
            None => (false, true, None),
            Some(Some(_)) => (true, true, None),
            Some(place) => match &self.shared.request_ids {
                None => (true, false, None),
                Some(ids) => {
                    let (request_id, ticket) = ids.begin();
                    *place = Some(request_id);
                    (true, true, Some(ticket))
                }
            },
        };
        let router = &self.shared.router;
        let mut retry = self.retry(mutates, resendable);
        let mut node = router.choose(request.route(), None);
        loop {
            let (limit, deadline) = self.attempt_limit(&retry);
            match attempt(&node, &request, limit, deadline).await {
                Ok(answer) => {
                    if let Some(leader) = answer.metadata().get(LEADER_METADATA)
                        && let Ok(leader) = leader.to_str()
                    {
                        router.learn_leader(request.route(), leader);
                    }
                    return Ok(answer.into_inner());
                }
                Err(trouble) => node = self.recover(&mut retry, request.route(), &node, trouble).await?,
            }
        }
    }

    /// An attempt must leave time for another one, where there may be another one.
    fn attempt_limit(&self, retry: &Retry) -> (Duration, HeaderValue) {
        let remaining = retry.deadline.saturating_duration_since(Instant::now());
        let attempt = self.shared.config.attempt_timeout;
        if retry.resendable && attempt <= remaining {
            return (attempt, self.shared.attempt_deadline.clone());
        }
        (remaining, deadline_header(remaining))
    }

    /// After a failed attempt: the node for the next one, when its time has come, or the error.
    pub(crate) async fn recover(
        &self,
        retry: &mut Retry,
        route: Route<'_>,
        node: &Arc<Node>,
        trouble: Trouble,
    ) -> Result<Arc<Node>, ClientError> {
        let router = &self.shared.router;
        retry.outcome_unknown |= retry.mutates && trouble.outcome_unknown();
        match trouble.leader() {
            Some(leader) => router.learn_leader(route, leader),
            None if trouble.casts_doubt_on_the_map() => router.refresh_soon(),
            None => {}
        }
        let decision = decide(&trouble, retry.resendable);
        let pause = retry.backoff.pause(&trouble);
        if decision == Decision::GiveUp || Instant::now() + pause >= retry.deadline {
            return Err(trouble.into_error(node.address(), retry.outcome_unknown));
        }
        tracing::debug!(node = node.address(), ?trouble, ?pause, "sending the request again");
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(match decision {
            Decision::Elsewhere => router.choose(route, Some(node)),
            Decision::Again | Decision::GiveUp => router.choose(route, None),
        })
    }
}

/// The state of one request's attempts.
pub(crate) struct Retry {
    mutates: bool,
    /// Sending it twice does no harm: a read, or a write with a request id.
    resendable: bool,
    pub(crate) deadline: Instant,
    backoff: Backoff,
    /// Some attempt may have taken effect. A later attempt's failure does not undo that.
    outcome_unknown: bool,
}
