//! Where requests go: the shard map, what keeps it current, and the way round nodes that are gone.
//!
//! A shard's leader is learned from `Cluster.Status` and, between refreshes, from the hints that nodes
//! give. None of it has to be right: every node forwards to the leader that it knows. So a wrong or missing
//! entry costs a hop, and a request goes to any node that seems to be there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cirrus_proto::routing;
use cirrus_proto::v1::{StatusRequest, StatusResponse};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::{Mutex, RwLock};
use tokio::time::timeout;

use crate::attempt::{attempt, deadline_header};
use crate::node::Node;
use crate::request::Route;
use crate::shard_map::ShardMapView;
use crate::{ClientConfig, ClientError};

/// Nodes asked for their status at once.
const NODES_ASKED: usize = 5;
/// How long to wait for further answers once one has come: a deposed leader may be the quickest.
const FURTHER_ANSWERS: Duration = Duration::from_millis(30);

pub(crate) struct Router {
    config: Arc<ClientConfig>,
    table: RwLock<Table>,
    /// Requests without a known leader take the nodes in turn.
    turn: AtomicUsize,
    /// A refresh is under way or waits for its time.
    refreshing: AtomicBool,
    refreshed: Mutex<Option<Instant>>,
}

struct Table {
    shard_count: u32,
    /// By shard, the catalog first.
    leaders: Vec<Option<Arc<Node>>>,
    /// By address: the cluster's nodes and the caller's endpoints.
    nodes: BTreeMap<String, Arc<Node>>,
    /// The same, for taking them in turn.
    order: Vec<Arc<Node>>,
}

impl Table {
    fn shard(&self, route: Route<'_>) -> Option<usize> {
        match route {
            Route::Key(_) | Route::User(_) if self.shard_count == 0 => None,
            Route::Key(key) => Some(routing::shard_of_key(key, self.shard_count) as usize),
            Route::User(user) => Some(routing::shard_of_key(&routing::key_of_user(user), self.shard_count) as usize),
            Route::Catalog => Some(0),
            Route::Any => None,
        }
    }

    fn leader(&self, route: Route<'_>) -> Option<&Arc<Node>> {
        self.leaders.get(self.shard(route)?)?.as_ref()
    }

    fn node(&mut self, address: &str, config: &Arc<ClientConfig>) -> Arc<Node> {
        if let Some(node) = self.nodes.get(address) {
            return Arc::clone(node);
        }
        let node = Arc::new(Node::new(address, config));
        self.nodes.insert(address.to_owned(), Arc::clone(&node));
        self.order.push(Arc::clone(&node));
        node
    }
}

impl Router {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Result<Self, ClientError> {
        let mut table = Table { shard_count: 0, leaders: Vec::new(), nodes: BTreeMap::new(), order: Vec::new() };
        for endpoint in &config.endpoints {
            let address = endpoint.trim().trim_start_matches("http://").trim_end_matches('/');
            if !address.is_empty() {
                table.node(address, &config);
            }
        }
        if table.order.is_empty() {
            return Err(ClientError::new(tonic::Code::InvalidArgument, "no endpoints given"));
        }
        Ok(Router {
            config,
            table: RwLock::new(table),
            turn: AtomicUsize::new(0),
            refreshing: AtomicBool::new(false),
            refreshed: Mutex::new(None),
        })
    }

    /// The node for a request, but not `avoid` where there is another.
    pub(crate) fn choose(self: &Arc<Self>, route: Route<'_>, avoid: Option<&Arc<Node>>) -> Arc<Node> {
        let avoided = |node: &Arc<Node>| avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, node));
        let table = self.table.read();
        match table.leader(route) {
            Some(leader) if !avoided(leader) && !leader.is_suspect() => return Arc::clone(leader),
            None if route == Route::Any => {}
            _ => self.refresh_soon(),
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = table.order.len();
        let in_turn = || (0..count).map(|offset| &table.order[(start.wrapping_add(offset)) % count]);
        let chosen = in_turn()
            .find(|node| !avoided(node) && !node.is_suspect())
            .or_else(|| in_turn().find(|node| !avoided(node)))
            .or_else(|| in_turn().next());
        Arc::clone(chosen.expect("invariant: a router has at least one endpoint"))
    }

    /// Takes a hint about the leader of a request's shard.
    pub(crate) fn learn_leader(&self, route: Route<'_>, address: &str) {
        if self.table.read().leader(route).is_some_and(|leader| leader.address() == address) {
            return;
        }
        let mut table = self.table.write();
        if let Some(shard) = table.shard(route)
            && shard < table.leaders.len()
        {
            let node = table.node(address, &self.config);
            table.leaders[shard] = Some(node);
        }
    }

    /// The node of that address, which need not be known.
    pub(crate) fn node(&self, address: &str) -> Arc<Node> {
        if let Some(node) = self.table.read().nodes.get(address) {
            return Arc::clone(node);
        }
        self.table.write().node(address, &self.config)
    }

    /// The known leader of a key's shard.
    pub(crate) fn leader_address(&self, key: &[u8]) -> Option<String> {
        self.table.read().leader(Route::Key(key)).map(|leader| leader.address().to_owned())
    }

    /// The addresses of all known nodes and endpoints.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.table.read().nodes.keys().cloned().collect()
    }

    pub(crate) fn shard_count(&self) -> u32 {
        self.table.read().shard_count
    }

    /// Asks for the shard map again in the background. Many callers cause one refresh, and refreshes keep
    /// their distance.
    pub(crate) fn refresh_soon(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let router = Arc::clone(self);
        tokio::spawn(async move {
            let due = router.refreshed.lock().map(|last| last + router.config.refresh_interval_min);
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            if let Err(error) = router.refresh().await {
                tracing::debug!(%error, "the shard map was not refreshed");
            }
            router.refreshing.store(false, Ordering::Release);
        });
    }

    /// Asks several nodes for the shard map. An error means that none answered.
    pub(crate) async fn refresh(&self) -> Result<(), ClientError> {
        let nodes: Vec<Arc<Node>> = {
            let table = self.table.read();
            let start = self.turn.fetch_add(1, Ordering::Relaxed);
            let count = table.order.len();
            (0..count.min(NODES_ASKED)).map(|offset| Arc::clone(&table.order[(start + offset) % count])).collect()
        };
        let limit = self.config.attempt_timeout.min(self.config.connect_timeout * 2);
        let mut asked: FuturesUnordered<_> = nodes
            .iter()
            .map(|node| async move { (node, attempt(node, &StatusRequest {}, limit, deadline_header(limit)).await) })
            .collect();
        let mut answers: Vec<StatusResponse> = Vec::new();
        let mut problem = None;
        loop {
            let next = if answers.is_empty() {
                asked.next().await
            } else {
                timeout(FURTHER_ANSWERS, asked.next()).await.unwrap_or(None)
            };
            match next {
                Some((node, Ok(answer))) => {
                    node.answered();
                    answers.push(answer.into_inner());
                }
                Some((node, Err(trouble))) => problem = Some(trouble.into_error(node.address(), false)),
                None => break,
            }
        }
        *self.refreshed.lock() = Some(Instant::now());
        match problem {
            Some(problem) if answers.is_empty() => Err(problem),
            _ => {
                self.adopt(ShardMapView::merge(&answers));
                Ok(())
            }
        }
    }

    fn adopt(&self, view: ShardMapView) {
        if view.shard_count == 0 {
            return;
        }
        let mut table = self.table.write();
        for address in &view.addresses {
            table.node(address, &self.config);
        }
        // A shard without a leader at the moment keeps the last one known: it forwards or says so.
        let leaders = (0..=view.shard_count as usize)
            .map(|shard| match &view.leaders[shard] {
                Some(address) => Some(table.node(address, &self.config)),
                None => table.leaders.get(shard).cloned().flatten(),
            })
            .collect();
        table.leaders = leaders;
        table.shard_count = view.shard_count;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn router(endpoints: &[&str]) -> Arc<Router> {
        Arc::new(Router::new(Arc::new(ClientConfig::new(endpoints.iter().copied()))).unwrap())
    }

    fn view(leaders: &[Option<&str>]) -> ShardMapView {
        ShardMapView {
            shard_count: leaders.len() as u32 - 1,
            leaders: leaders.iter().map(|leader| leader.map(str::to_owned)).collect(),
            addresses: leaders.iter().flatten().map(|leader| (*leader).to_owned()).collect(),
        }
    }

    #[tokio::test]
    async fn requests_go_to_the_leader_of_their_shard_and_round_it_when_told() {
        let router = router(&["http://a:1", "b:1"]);
        router.adopt(view(&[Some("a:1"), Some("b:1")]));
        assert_eq!(router.choose(Route::Catalog, None).address(), "a:1");
        let leader = router.choose(Route::Key(b"k"), None);
        assert_eq!(leader.address(), "b:1");
        assert_eq!(router.choose(Route::Key(b"k"), Some(&leader)).address(), "a:1");
    }

    #[tokio::test]
    async fn hints_and_refreshes_replace_leaders_and_add_nodes() {
        let router = router(&["a:1"]);
        // Nothing is known yet: a hint has no shard to belong to.
        router.learn_leader(Route::Key(b"k"), "c:1");
        assert_eq!(router.choose(Route::Key(b"k"), None).address(), "a:1");
        router.adopt(view(&[Some("a:1"), Some("b:1")]));
        router.learn_leader(Route::Key(b"k"), "c:1");
        assert_eq!(router.leader_address(b"k").as_deref(), Some("c:1"));
        router.adopt(view(&[Some("a:1"), None]));
        assert_eq!(router.leader_address(b"k").as_deref(), Some("c:1"), "no leader now: the last one known");
        router.adopt(view(&[Some("a:1"), Some("b:1")]));
        assert_eq!(router.leader_address(b"k").as_deref(), Some("b:1"));
        assert_eq!(router.addresses(), ["a:1", "b:1", "c:1"]);
    }

    #[tokio::test]
    async fn an_answer_from_outside_of_the_cluster_does_not_erase_the_map() {
        let router = router(&["a:1"]);
        router.adopt(view(&[Some("a:1"), Some("a:1"), Some("a:1")]));
        router.adopt(ShardMapView::merge(&[StatusResponse::default()]));
        assert_eq!(router.shard_count(), 2);
    }

    #[test]
    fn a_client_without_endpoints_is_refused() {
        assert!(Router::new(Arc::new(ClientConfig::new([" "]))).is_err());
    }
}
