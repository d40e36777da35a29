//! The daemon that jobs are asked of: the one on the socket, or another by its URL.

use reqwest::Url;
use rustls::ClientConfig;

use crate::api::client::Client;
use crate::command::{Exit, Failure, source};
use crate::config::Config;
use crate::relay;

/// Jobs are the daemon's: without one there is nobody to ask.
pub(super) async fn open(config: &Config, url: Option<Url>) -> Result<Client, Failure> {
    if let Some(url) = url {
        return remote(config, url);
    }
    let socket = &config.http.socket;
    if source::is_live(socket).await? {
        return Ok(Client::socket(socket)?);
    }
    let message = format!(
        "no daemon answers on the socket {}: start one with 'penstock run', or name one by --url (with ADMIN_TOKEN)",
        socket.display()
    );
    Err(Failure::new(Exit::Later, message))
}

fn remote(config: &Config, url: Url) -> Result<Client, Failure> {
    let fail = |message: String| Failure::new(Exit::Failed, message);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fail(format!("--url {url}: allowed are http and https")));
    }
    let tls = relay::tls_config(config.net.ca_file.as_deref());
    let tls = tls.map_err(|error| fail(error.to_string()))?;
    let http = &config.http;
    let token = http.admin_token.clone().or(http.read_token.clone());
    Ok(Client::remote(url, token, ClientConfig::clone(&tls))?)
}
