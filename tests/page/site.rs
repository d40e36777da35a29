//! A daemon over a simulated relay and a simulated network, with something of everything that the page shows.

use penstock_loadtest::network::{Expected, Fault, Network, Options};
use penstock_loadtest::{Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec};

use crate::installed::{Daemon, Installation, get, metric};

const DAY: u64 = 86_400_000_000;
/// The token of its operators.
pub const TOKEN: &str = "token-with-<signs>&\"quotes\"";
/// Frames that come while a test looks.
const COMING: usize = 800;

/// The daemon, and what it follows.
pub struct Site {
    pub network: Network,
    pub relay: RelayServer,
    pub daemon: Daemon,
    pub address: String,
    _installation: Installation,
}

impl Site {
    /// Started, and ready: three days are wanted, of which the relay retains two.
    pub async fn start() -> Self {
        let world = World::generate(&WorldSpec {
            seed: 77,
            repos: 60,
            events: 3_000,
            past_events: 2_000,
            past: 3 * DAY,
            prefill: 50,
            faults: StreamFaults {
                corrupt: 0.02,
                ..StreamFaults::default()
            },
            ..WorldSpec::default()
        });
        let network = Network::start(Options {
            hosts: 4,
            repos: 12,
            records: 30,
            ..Options::default()
        });
        let network = network.expect("a network");
        let options = RelayOptions {
            pace: Pace::Manual,
            published: world.log.len() - COMING,
            oldest_seq: 700,
            lists: Some(network.relay_routes()),
            ..RelayOptions::default()
        };
        let relay = RelayServer::start(&world, options).expect("a relay");
        let installation = Installation::new(&relay)
            .with("PLC_URL", network.plc_url())
            .with("PENSTOCK_NET__ALLOW_PRIVATE", "true")
            .with("PENSTOCK_RELAY__START", "head")
            .with("BACKFILL_DAYS", "3")
            .with("ADMIN_TOKEN", TOKEN);
        let mut daemon = installation.start();
        let address = daemon.address().await;
        let socket = installation.socket();
        let is_followed = async || {
            // What comes before it is connected is not at the head.
            relay.publish(1);
            let metrics = get(&socket, "/metrics").await.unwrap_or_default();
            metric(&metrics, "penstock_watermark_seq").is_some()
        };
        daemon.until("a watermark", is_followed).await;
        Self {
            network,
            relay,
            daemon,
            address,
            _installation: installation,
        }
    }

    /// An account whose repository can be had, and how many records that has.
    pub fn account(&self, nth: usize) -> (String, usize) {
        let dids = self.network.dids().into_iter();
        let mut had = dids.filter_map(|did| match self.network.expected(&did)? {
            Expected::Records { records, .. } => Some((did, records.len())),
            _ => None,
        });
        had.nth(nth).expect("an account")
    }

    /// Another one, whose host stops in the middle of it.
    pub fn stalled(&self) -> String {
        let did = self.network.dids().swap_remove(11);
        self.network.set_fault(&did, Some(Fault::Stalled));
        did
    }
}
