//! What single keys can't tell: rules between keys, files that keys name, and defaults that depend on other keys.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::secret::Secret;
use super::sections::{
    Accounts, Backfill, Embedded, Faults, HttpKeys, Identity, Log, Net, Pipeline, Quarantine,
    Relay, Shutdown, Store, Verify, Wanted, Worker,
};
use super::shape::{MAX_TOKEN, Shape, Token};
use super::skipped;
use super::{Config, Http};

/// Bytes of all collections together, as the store takes them.
const MAX_FILTER: usize = 16 << 10;

/// Reads every section, so that every mistake is found, then checks what spans sections.
pub(crate) fn read_all(reader: &mut Reader<'_>) -> Option<Config> {
    let wanted = Wanted::read(reader);
    if let Some(wanted) = &wanted {
        check_collections(reader, wanted);
    }
    let relay = Relay::read(reader);
    let mut backfill = Backfill::read(reader);
    if let Some(backfill) = &mut backfill {
        backfill.skip_dids = skipped::dids(reader, &backfill.skip_dids);
    }
    let worker = Worker::read(reader);
    let pipeline = Pipeline::read(reader);
    let store = Store::read(reader);
    let http = HttpKeys::read(reader);
    let identity = Identity::read(reader);
    let net = Net::read(reader);
    let verify = Verify::read(reader);
    let accounts = Accounts::read(reader);
    let quarantine = Quarantine::read(reader);
    let faults = Faults::read(reader);
    let shutdown = Shutdown::read(reader);
    let log = Log::read(reader);

    let (relay, worker, store, net) = (relay?, worker?, store?, net?);
    let mut pipeline = pipeline?;
    check_relay(reader, &relay);
    check_worker(reader, &worker, &store);
    check_pipeline(reader, &pipeline, &relay);
    check_store(reader, &store);
    check_readable(reader, "net.ca_file", net.ca_file.as_deref());
    check_readable(
        reader,
        "store.scylla.password_file",
        store.scylla.password_file.as_deref(),
    );
    let http = finish_http(reader, http?, &worker, &store.embedded);
    if pipeline.lanes == 0 {
        pipeline.lanes = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    }
    Some(Config {
        collections: wanted?.collections,
        relay,
        backfill: backfill?,
        worker,
        pipeline,
        store,
        http,
        identity: identity?,
        net,
        verify: verify?,
        accounts: accounts?,
        quarantine: quarantine?,
        faults: faults?,
        shutdown: shutdown?,
        log: log?,
    })
}

/// Each fact of the ledger spells the filter; one that is too long could never be saved, and each start would begin anew.
fn check_collections(reader: &mut Reader<'_>, wanted: &Wanted) {
    let len = wanted.collections.to_string().len();
    if reader.sound(&["collections"]) && len > MAX_FILTER {
        reader.refuse(
            "collections",
            format!("{len} bytes; allowed: at most {MAX_FILTER} together, prefixes such as \"app.bsky.*\" are shorter"),
        );
    }
}

fn check_relay(reader: &mut Reader<'_>, relay: &Relay) {
    let backoff = ["relay.backoff_min", "relay.backoff_max"];
    if reader.sound(&backoff) && relay.backoff_min > relay.backoff_max {
        reader.refuse("relay.backoff_min", "allowed: at most relay.backoff_max");
    }
    let silence = ["relay.ping_interval", "relay.read_timeout"];
    if reader.sound(&silence) && relay.ping_interval >= relay.read_timeout {
        reader.refuse(
            "relay.ping_interval",
            "allowed: less than relay.read_timeout, or a quiet relay would be given up before it was asked",
        );
    }
}

fn check_worker(reader: &mut Reader<'_>, worker: &Worker, store: &Store) {
    if !reader.sound(&["worker.id", "worker.count"]) {
        return;
    }
    if worker.id >= worker.count {
        let count = worker.count;
        reader.refuse(
            "worker.id",
            format!("allowed: less than worker.count, which is {count}"),
        );
    }
    if worker.count > 1 && store.scylla.nodes.is_empty() {
        reader.refuse(
            "worker.count",
            "the embedded store belongs to one process, so only 1 is allowed; several workers need ScyllaDB or Cassandra (SCYLLA_NODES)",
        );
    }
}

fn check_pipeline(reader: &mut Reader<'_>, pipeline: &Pipeline, relay: &Relay) {
    let frames = ["pipeline.max_bytes", "relay.max_frame"];
    if reader.sound(&frames) && pipeline.max_bytes < relay.max_frame {
        reader.refuse(
            "pipeline.max_bytes",
            "allowed: at least relay.max_frame, or the largest frame would wait for ever",
        );
    }
    let batches = ["pipeline.in_flight_bytes", "pipeline.batch_bytes"];
    if reader.sound(&batches) && pipeline.in_flight_bytes < pipeline.batch_bytes {
        reader.refuse(
            "pipeline.in_flight_bytes",
            "allowed: at least pipeline.batch_bytes",
        );
    }
}

fn check_store(reader: &mut Reader<'_>, store: &Store) {
    let scylla = &store.scylla;
    let both = ["store.scylla.user", "store.scylla.password_file"];
    if !reader.sound(&both) {
        return;
    }
    match (&scylla.user, &scylla.password_file) {
        (Some(_), None) => reader.refuse(
            "store.scylla.password_file",
            "store.scylla.user is set; allowed: the file that holds its password",
        ),
        (None, Some(_)) => reader.refuse(
            "store.scylla.user",
            "store.scylla.password_file is set; allowed: the user whose password it holds",
        ),
        _ => {}
    }
}

fn check_readable(reader: &mut Reader<'_>, name: &str, path: Option<&Path>) {
    let Some(path) = path else { return };
    let opened = File::open(path).and_then(|file| file.metadata());
    match opened {
        Ok(found) if found.is_dir() => reader.refuse(name, "is a folder; allowed: a file"),
        Ok(_) => {}
        Err(error) => reader.refuse(name, format!("can't be read: {error}; allowed: a file")),
    }
}

fn finish_http(
    reader: &mut Reader<'_>,
    keys: HttpKeys,
    worker: &Worker,
    embedded: &Embedded,
) -> Http {
    let admin = token(
        reader,
        ("http.admin_token", keys.admin_token),
        ("http.admin_token_file", keys.admin_token_file),
    );
    let read = token(
        reader,
        ("http.read_token", keys.read_token),
        ("http.read_token_file", keys.read_token_file),
    );
    if admin.is_some() && admin == read {
        let name = ["http.read_token_file", "http.read_token"]
            .into_iter()
            .find(|name| reader.is_set(name))
            .unwrap_or("http.read_token");
        reader.refuse(name, "is the admin token too; allowed: a token of its own");
    }
    Http {
        listen: keys.listen.unwrap_or_else(|| listen_of(worker.id)),
        admin_token: admin,
        read_token: read,
        socket: finish_socket(reader, keys.socket, worker, embedded),
    }
}

fn listen_of(worker: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, worker.saturating_add(8400)))
}

fn finish_socket(
    reader: &mut Reader<'_>,
    set: Option<PathBuf>,
    worker: &Worker,
    embedded: &Embedded,
) -> PathBuf {
    let socket = set.unwrap_or_else(|| match worker.id {
        0 => embedded.dir.join("penstock.sock"),
        id => embedded.dir.join(format!("penstock-{id}.sock")),
    });
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        reader.refuse(
            "http.socket",
            format!(
                "{} is too long for a Unix socket; allowed: at most {MAX_SOCKET_PATH} bytes",
                socket.display()
            ),
        );
    }
    socket
}

/// What fits `sockaddr_un` with its closing zero on every system that is supported.
const MAX_SOCKET_PATH: usize = 103;

/// A token given itself or by a file, never both.
fn token(
    reader: &mut Reader<'_>,
    (name, token): (&str, Option<Secret>),
    (file_name, file): (&str, Option<PathBuf>),
) -> Option<Secret> {
    let Some(file) = file else { return token };
    if reader.is_set(name) {
        let origin = reader.origin(name);
        reader.refuse(
            file_name,
            format!("{name} is set too ({origin}); allowed: one of them"),
        );
        return token;
    }
    match token_in(&file) {
        Ok(token) => Some(token),
        Err(problem) => {
            reader.refuse(file_name, problem);
            None
        }
    }
}

fn token_in(path: &Path) -> Result<Secret, String> {
    let limit = u64::try_from(MAX_TOKEN).unwrap_or(u64::MAX) + 3;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
    read.map_err(|error| format!("can't be read: {error}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    Token.read(line).map_err(|problem| match line.is_empty() {
        true => format!("the file is empty; {problem}"),
        false => format!("the file holds no token; {problem}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_port_of_its_own() {
        assert_eq!(listen_of(0).to_string(), "127.0.0.1:8400");
        assert_eq!(listen_of(255).to_string(), "127.0.0.1:8655");
    }
}
