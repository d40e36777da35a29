//! What the text of a key may be, and the type that it becomes.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::collections::CollectionFilter;
use super::relay_url::RelayUrl;
use super::secret::Secret;
use super::sections::Replication;
use super::units;

/// How a value is written in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Literal {
    /// A string. Numbers and booleans are refused: `0123` would not come back as it was written.
    Text,
    /// A string with a unit; a bare number is passed on and judged by the shape.
    Unit,
    /// A number or a boolean.
    Bare,
    /// An array of strings, or one string with commas.
    List,
}

/// Reads the text of one key. The error says what is allowed.
pub(crate) trait Shape: Sync {
    type Value;
    const LITERAL: Literal;
    fn read(&self, text: &str) -> Result<Self::Value, String>;
}

pub(crate) struct Flag;

impl Shape for Flag {
    type Value = bool;
    const LITERAL: Literal = Literal::Bare;
    fn read(&self, text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| "allowed: true, false".to_owned())
    }
}

/// A whole number from the first to the second, inclusive.
pub(crate) struct Number<T>(pub T, pub T);

impl<T: FromStr + PartialOrd + Display + Sync> Shape for Number<T> {
    type Value = T;
    const LITERAL: Literal = Literal::Bare;
    fn read(&self, text: &str) -> Result<T, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number
            .filter(|n| (&self.0..=&self.1).contains(&n))
            .ok_or_else(|| format!("allowed: a whole number from {} to {}", self.0, self.1))
    }
}

/// Bytes from the first to the second, inclusive.
pub(crate) struct Size(pub u64, pub u64);

impl Shape for Size {
    type Value = u64;
    const LITERAL: Literal = Literal::Unit;
    fn read(&self, text: &str) -> Result<u64, String> {
        let bytes = units::size(text).filter(|bytes| (self.0..=self.1).contains(bytes));
        bytes.ok_or_else(|| {
            format!(
                "allowed: a size from {} to {}, in bytes or with a unit (kB, MB, GB, TB, KiB, MiB, GiB, TiB), as in 256MiB",
                units::print_size(self.0),
                units::print_size(self.1)
            )
        })
    }
}

/// A time from the first to the second, in milliseconds, inclusive.
pub(crate) struct Time(pub u64, pub u64);

impl Shape for Time {
    type Value = Duration;
    const LITERAL: Literal = Literal::Unit;
    fn read(&self, text: &str) -> Result<Duration, String> {
        let (min, max) = (Duration::from_millis(self.0), Duration::from_millis(self.1));
        let time = units::time(text).filter(|time| (min..=max).contains(time));
        time.ok_or_else(|| {
            format!(
                "allowed: a time from {} to {}, with a unit (ms, s, m, h, d), as in 200ms or 30s",
                units::print_time(min),
                units::print_time(max)
            )
        })
    }
}

/// A percentage, as a fraction from 0 to 1.
pub(crate) struct Share;

impl Shape for Share {
    type Value = f64;
    const LITERAL: Literal = Literal::Unit;
    fn read(&self, text: &str) -> Result<f64, String> {
        units::share(text).ok_or_else(|| "allowed: a percentage from 0% to 100%, as in 5%".into())
    }
}

/// One of a few words, each with what it means to us.
pub(crate) struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy + Sync> Shape for Choice<T> {
    type Value = T;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<T, String> {
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
            format!("allowed: {}", words.join(", "))
        })
    }
}

/// Any text that is not empty.
pub(crate) struct Text;

impl Shape for Text {
    type Value = String;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<String, String> {
        match text.is_empty() {
            true => Err("allowed: text that is not empty".to_owned()),
            false => Ok(text.to_owned()),
        }
    }
}

/// A path; relative ones are seen from the working folder.
pub(crate) struct Path;

impl Shape for Path {
    type Value = PathBuf;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<PathBuf, String> {
        match text.is_empty() || text.contains('\0') {
            true => Err("allowed: a path".to_owned()),
            false => Ok(PathBuf::from(text)),
        }
    }
}

/// A token that fits an HTTP header.
pub(crate) struct Token;

/// Longest token, in bytes.
pub(crate) const MAX_TOKEN: usize = 1024;

impl Shape for Token {
    type Value = Secret;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<Secret, String> {
        let fits = (1..=MAX_TOKEN).contains(&text.len());
        match fits && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Secret::new(text)),
            false => Err(format!(
                "allowed: 1 to {MAX_TOKEN} visible ASCII characters without spaces (leave it unset to have none)"
            )),
        }
    }
}

pub(crate) struct Listen;

impl Shape for Listen {
    type Value = SocketAddr;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| {
            "allowed: an IP address and a port, as in 127.0.0.1:8400 or [::]:8400".to_owned()
        })
    }
}

/// The address of an HTTP service, as an origin without a slash at the end.
pub(crate) struct HttpOrigin;

impl Shape for HttpOrigin {
    type Value = String;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<String, String> {
        let is_http = text.starts_with("https://") || text.starts_with("http://");
        let origin = text
            .parse::<RelayUrl>()
            .ok()
            .and_then(|url| url.http_origin());
        origin
            .filter(|_| is_http)
            .ok_or_else(|| "allowed: http(s)://host[:port], without user, path or query".to_owned())
    }
}

pub(crate) struct Relays;

impl Shape for Relays {
    type Value = Vec<RelayUrl>;
    const LITERAL: Literal = Literal::List;
    fn read(&self, text: &str) -> Result<Vec<RelayUrl>, String> {
        let mut relays = Vec::new();
        for part in items(text) {
            let relay: RelayUrl = part.parse().map_err(|error| {
                format!("{error}; allowed: host, host:port, http(s)://… or ws(s)://…, without user or query")
            })?;
            if relays.contains(&relay) {
                return Err(format!("{relay} is named twice; allowed: each relay once"));
            }
            relays.push(relay);
        }
        match relays.len() {
            1..=16 => Ok(relays),
            _ => Err("allowed: 1 to 16 relays, comma separated".to_owned()),
        }
    }
}

pub(crate) struct Names;

impl Shape for Names {
    type Value = Vec<String>;
    const LITERAL: Literal = Literal::List;
    fn read(&self, text: &str) -> Result<Vec<String>, String> {
        Ok(items(text).map(str::to_owned).collect())
    }
}

/// Copies of each row: a number, or one for each datacenter.
pub(crate) struct Copies;

impl Shape for Copies {
    type Value = Replication;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<Replication, String> {
        let number = |text: &str| text.parse().ok().filter(|copies| (1..=99).contains(copies));
        if let Some(copies) = number(text) {
            return Ok(Replication::Everywhere(copies));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let of_datacenter = |item: &str| {
            let (name, copies) = item.split_once(':')?;
            let sound = !name.is_empty() && name.chars().all(plain);
            sound.then_some((name.to_owned(), number(copies)?))
        };
        let datacenters: Option<Vec<_>> = items(text).map(of_datacenter).collect();
        let datacenters = datacenters.filter(|datacenters| !datacenters.is_empty());
        datacenters.map(Replication::Datacenters).ok_or_else(|| {
            "allowed: a number from 1 to 99, or one for each datacenter, as in dc1:3,dc2:3"
                .to_owned()
        })
    }
}

pub(crate) struct Collections;

impl Shape for Collections {
    type Value = CollectionFilter;
    const LITERAL: Literal = Literal::List;
    fn read(&self, text: &str) -> Result<CollectionFilter, String> {
        CollectionFilter::new(items(text)).map_err(|entry| {
            format!("'{entry}' is not allowed: NSIDs, or prefixes that end in .* behind a dot, as in app.bsky.*; nothing for all")
        })
    }
}

/// A log filter in the syntax of `RUST_LOG`.
pub(crate) struct LogFilter;

impl Shape for LogFilter {
    type Value = String;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<String, String> {
        let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
        match text.trim().is_empty() || parsed.is_err() {
            true => Err("allowed: error, warn, info, debug, trace, or target=level pairs, comma separated, as in info,penstock::relay=debug".to_owned()),
            false => Ok(text.to_owned()),
        }
    }
}

/// Empty means none.
pub(crate) struct Maybe<S>(pub S);

impl<S: Shape> Shape for Maybe<S> {
    type Value = Option<S::Value>;
    const LITERAL: Literal = S::LITERAL;
    fn read(&self, text: &str) -> Result<Self::Value, String> {
        match text.is_empty() {
            true => Ok(None),
            false => self.0.read(text).map(Some),
        }
    }
}

/// The items of a comma separated list. An empty text has none; an empty item stays, to be refused by name.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim();
    let list = (!text.is_empty()).then(|| text.split(',').map(str::trim));
    list.into_iter().flatten()
}
