//! A place between a store and its node where answers are lost, late or errors, and connections are cut.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock::store::scylla::ScyllaOptions;
use scylla::errors::DbError;
use scylla_proxy::{
    Condition, Node, Proxy, Reaction, RequestFrame, RequestOpcode, RequestReaction, RequestRule,
    ResponseFrame, ResponseOpcode, ResponseReaction, ResponseRule, RunningProxy, ShardAwareness,
};
use tokio::net::{TcpListener, lookup_host};

use crate::cluster::Cluster;

/// What an error of the tests' own says.
pub const WORDS: &str = "words of the node";

/// What happens to a request of the store's, or to its answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The node says so at once, and does not do it.
    Error(DbError),
    /// The node has forgotten the statement.
    Forgotten,
    /// The node does it, and its answer is lost.
    NoAnswer,
    /// The node does it, and its answer comes so much later.
    Late(Duration),
    /// Every connection ends.
    Cut,
}

/// A node's only way to the store, as long as this lives.
pub struct Between {
    running: Mutex<RunningProxy>,
    node: String,
}

impl Between {
    /// Before the first node; passes all on.
    pub async fn start(cluster: &Cluster) -> Self {
        let real = lookup_host(&cluster.nodes[0]).await.expect("an address");
        let real = real.into_iter().next().expect("an address");
        let free = TcpListener::bind("127.0.0.1:0").await;
        let free = free.and_then(|listener| listener.local_addr());
        let here = free.expect("a free port");
        let node = Node::builder()
            .real_address(real)
            .proxy_address(here)
            .shard_awareness(ShardAwareness::Unaware)
            .build();
        let running = Proxy::new([node]).run().await.expect("a free port");
        Self {
            running: Mutex::new(running),
            node: here.to_string(),
        }
    }

    /// How a store is reached this way, which else is reached so.
    ///
    /// The driver takes the address at which it found a node for the node's own.
    pub fn lead(&self, options: ScyllaOptions) -> ScyllaOptions {
        ScyllaOptions {
            nodes: vec![self.node.clone()],
            // A lost answer is waited for so long.
            request_timeout: Duration::from_millis(300),
            ..options
        }
    }

    /// From now on these happen, and nothing else, each with this probability.
    pub fn happen(&self, faults: &[(f64, Fault)]) {
        let (mut requests, mut responses) = (Vec::new(), Vec::new());
        for (probability, fault) in faults {
            // What is random comes last, for it must not be asked twice.
            let random = Condition::RandomWithProbability(*probability);
            match fault.rule() {
                Rule::Request(reaction) => {
                    requests.push(RequestRule(of_the_store().and(random), reaction));
                }
                Rule::Response(reaction) => {
                    responses.push(ResponseRule(to_the_store().and(random), reaction));
                }
            }
        }
        self.change(requests, responses);
    }

    /// From now on this happens to every request.
    pub fn always(&self, fault: Fault) {
        self.happen(&[(1.0, fault)]);
    }

    /// From now on requests that contain these bytes are answered by this error.
    pub fn refuse(&self, bytes: &[u8], error: DbError, words: &str) {
        let condition = of_the_store().and(Condition::BodyContainsCaseSensitive(bytes.into()));
        let reaction = RequestReaction::forge_with_error_and_message(error, Some(words.to_owned()));
        self.change(vec![RequestRule(condition, reaction)], Vec::new());
    }

    /// Ends every connection at the next request, once.
    pub fn cut(&self) {
        let condition = of_the_store().and(Condition::TrueForLimitedTimes(1));
        let cut = RequestRule(condition, RequestReaction::drop_connection());
        self.change(vec![cut], Vec::new());
    }

    /// From now on all passes.
    pub fn mend(&self) {
        self.change(Vec::new(), Vec::new());
    }

    fn change(&self, requests: Vec<RequestRule>, responses: Vec<ResponseRule>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for node in &mut running.running_nodes {
            node.change_request_rules(Some(requests.clone()));
            node.change_response_rules(Some(responses.clone()));
        }
    }
}

enum Rule {
    Request(RequestReaction),
    Response(ResponseReaction),
}

impl Fault {
    fn rule(&self) -> Rule {
        match self {
            Self::Error(error) => {
                let words = Some(WORDS.to_owned());
                let error = error.clone();
                Rule::Request(RequestReaction::forge_with_error_and_message(error, words))
            }
            Self::Forgotten => {
                let answer = Arc::new(|request| forgotten(&request));
                Rule::Request(RequestReaction::forge_response(answer))
            }
            Self::NoAnswer => Rule::Response(ResponseReaction::drop_frame()),
            Self::Late(time) => Rule::Response(ResponseReaction::delay(*time)),
            Self::Cut => Rule::Request(RequestReaction::drop_connection()),
        }
    }
}

/// What the driver asks on its own, on a connection that tells of events, passes.
fn of_the_store() -> Condition {
    let asks = Condition::RequestOpcode(RequestOpcode::Execute)
        .or(Condition::RequestOpcode(RequestOpcode::Batch));
    Condition::not(Condition::ConnectionRegisteredAnyEvent).and(asks)
}

fn to_the_store() -> Condition {
    let answers = Condition::ResponseOpcode(ResponseOpcode::Result);
    Condition::not(Condition::ConnectionRegisteredAnyEvent).and(answers)
}

/// Names the statement of the request, or the first one of a batch.
fn forgotten(request: &RequestFrame) -> ResponseFrame {
    // A batch has its type, the number of its statements, and what kind the first one is.
    let before = match request.opcode {
        RequestOpcode::Batch => 4,
        _ => 0,
    };
    let id = &request.body[before..];
    let length = usize::from(u16::from_be_bytes([id[0], id[1]]));
    let statement_id = request.body.slice(before + 2..before + 2 + length);
    let error = DbError::Unprepared { statement_id };
    let params = request.params.for_response();
    ResponseFrame::forged_error(params, error, Some(WORDS)).expect("short")
}
