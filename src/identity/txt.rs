//! The TXT records of a handle: what the DNS says at `_atproto.HANDLE`, asked of the nameservers of the system.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::system_conf::read_system_conf;

use super::DID_MAX;
use crate::decode::syntax;
use crate::relay::printable::printable;

/// What a TXT record that names a DID begins with.
const PREFIX: &[u8] = b"did=";

/// Who is asked for TXT records.
#[derive(Debug, Clone)]
pub struct Dns {
    /// The nameservers; none: those that the system names (`/etc/resolv.conf`) when they are needed.
    pub nameservers: Option<Vec<SocketAddr>>,
    /// How long they may take together.
    pub limit: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            nameservers: None,
            limit: Duration::from_secs(5),
        }
    }
}

/// Why TXT records name no DID.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TxtError {
    /// Nobody can be asked.
    #[error("the system's nameservers are not known ({0})")]
    NoNameservers(String),
    /// No nameserver answered, or not as it should.
    #[error("no answer of a nameserver ({0})")]
    NoAnswer(String),
    /// There is none, or none that is a DID.
    #[error("no TXT record with did= and a DID")]
    NoDid,
    /// There are different ones.
    #[error("TXT records with several DIDs, {0} and {1}")]
    Several(String, String),
}

impl Dns {
    /// The one DID that the TXT records of a handle name.
    pub(super) async fn did(&self, handle: &str) -> Result<String, TxtError> {
        let (config, options) = match &self.nameservers {
            Some(nameservers) => given(nameservers),
            // Read each time: it may have changed since the daemon started.
            None => match tokio::task::spawn_blocking(read_system_conf).await {
                Ok(read) => read.map_err(unknown)?,
                Err(error) => return Err(TxtError::NoNameservers(error.to_string())),
            },
        };
        let asking = tokio::time::timeout(self.limit, ask(config, options, handle));
        let too_slow = |_| TxtError::NoAnswer(format!("none within {:?}", self.limit));
        one(asking.await.map_err(too_slow)??)
    }
}

/// The configuration of a system that names these.
fn given(nameservers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    let servers = nameservers.iter().map(|address| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = address.port();
        }
        NameServerConfig::new(address.ip(), true, connections)
    });
    let config = ResolverConfig::from_name_servers(servers.collect());
    (config, ResolverOpts::default())
}

fn unknown(error: NetError) -> TxtError {
    TxtError::NoNameservers(printable(&error.to_string()))
}

/// The TXT records of a handle, each with its pieces put together.
async fn ask(
    config: ResolverConfig,
    mut options: ResolverOpts,
    handle: &str,
) -> Result<Vec<Vec<u8>>, TxtError> {
    options.use_hosts_file = ResolveHosts::Never;
    // Asked once and forgotten: a handle is resolved when somebody has just typed it.
    options.cache_size = 0;
    let provider = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(unknown)?;
    // With the dot at its end no search domain of the system is put behind it.
    let found = match resolver.txt_lookup(format!("_atproto.{handle}.")).await {
        Ok(found) => found,
        Err(error) if error.is_no_records_found() => return Err(TxtError::NoDid),
        Err(error) => return Err(TxtError::NoAnswer(printable(&error.to_string()))),
    };
    let texts = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        });
    Ok(texts.collect())
}

/// The DID that all records which name one agree on.
fn one(texts: Vec<Vec<u8>>) -> Result<String, TxtError> {
    let mut dids = texts.iter().filter_map(|text| {
        let named = text.strip_prefix(PREFIX)?;
        let did = str::from_utf8(named).ok()?;
        (did.len() <= DID_MAX && syntax::is_did(did)).then_some(did)
    });
    let first = dids.next().ok_or(TxtError::NoDid)?;
    match dids.find(|did| *did != first) {
        None => Ok(first.to_owned()),
        Some(other) => Err(TxtError::Several(printable(first), printable(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

    fn named(texts: &[&str]) -> Result<String, TxtError> {
        one(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
    }

    #[test]
    fn exactly_one_did_counts() {
        let record = format!("did={DID}");
        for texts in [
            vec![record.as_str()],
            vec![&record, &record],
            vec!["v=spf1 -all", &record, "did=nonsense", "DID=x"],
        ] {
            assert_eq!(named(&texts).unwrap(), DID, "{texts:?}");
        }
        let long = format!("did=did:web:{}", "a".repeat(DID_MAX));
        for texts in [
            vec![],
            vec![DID],
            vec!["did="],
            vec!["did= did:web:a.example"],
            vec![&long],
        ] {
            assert!(matches!(named(&texts), Err(TxtError::NoDid)), "{texts:?}");
        }
        let several = named(&[&record, "did=did:web:a.example"]);
        assert!(matches!(several, Err(TxtError::Several(..))), "{several:?}");
    }

    #[test]
    fn what_is_no_text_names_none() {
        let bytes = [PREFIX, &[0xff, 0xfe]].concat();
        assert!(matches!(one(vec![bytes]), Err(TxtError::NoDid)));
    }
}
