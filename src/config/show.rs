//! The configuration as text: `config/penstock.toml`, and what is in effect.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Config;
use super::mistake::Origin;
use super::reader::Given;
use super::secret::REDACTED;
use super::sections::{Key, SECTIONS, keys};
use super::shape::{Literal, items};

/// What a key is in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: &'static str,
    /// Its value as TOML; redacted if it is a secret, empty if there is none.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Every key's effective value, in the order of the file.
pub(crate) fn settings(config: &Config, given: &BTreeMap<&'static str, Given>) -> Vec<Setting> {
    let setting = |key: &'static Key| {
        let given = given.get(key.name);
        let text = given.map_or(key.default, |given| &given.text);
        let value = match derived(config, key.name) {
            Some(value) => literal(key.literal, &value),
            None if key.secret && !text.is_empty() => literal(Literal::Text, REDACTED),
            None => literal(key.literal, text),
        };
        Setting {
            key: key.name,
            value,
            origin: given.map_or(Origin::Default, |given| given.origin.clone()),
        }
    };
    keys().map(setting).collect()
}

/// What depends on other keys or on the machine, or has a spelling of its own.
fn derived(config: &Config, key: &str) -> Option<String> {
    match key {
        "backfill.temp_dir" => Some(config.spill_dir().display().to_string()),
        "collections" => Some(config.collections.to_string()),
        "http.listen" => Some(config.http.listen.to_string()),
        "http.socket" => Some(config.http.socket.display().to_string()),
        "pipeline.lanes" => Some(config.pipeline.lanes.to_string()),
        _ => None,
    }
}

/// What the file and the reference say of a key that is reread.
pub const REREAD: &str = "SIGHUP takes a change up.";

/// `config/penstock.toml`: every key with its default, commented, and what it means.
pub fn default_file() -> String {
    let mut text = String::from(
        "## The configuration of Penstock: every key with its default. To change one, take the # away, and that of its section's line.\n\
         ## Variables overrule this file, and --set key=value overrules both. Any key can be set by a variable:\n\
         ## PENSTOCK_RELAY__READ_TIMEOUT is relay.read_timeout. `penstock config` shows what is in effect and why.\n\
         ## Made from the code: PENSTOCK_BLESS=1 cargo test --test config\n",
    );
    for section in SECTIONS {
        let _ = writeln!(text);
        for line in section.doc {
            let _ = writeln!(text, "##{line}");
        }
        let name = section
            .keys
            .first()
            .and_then(|key| key.name.rsplit_once('.'));
        if let Some((name, _)) = name {
            let _ = writeln!(text, "# [{name}]");
        }
        for key in section.keys {
            write_key(&mut text, key);
        }
    }
    text
}

fn write_key(text: &mut String, key: &Key) {
    let _ = writeln!(text);
    for line in key.doc {
        let _ = writeln!(text, "##{line}");
    }
    if key.reread {
        let _ = writeln!(text, "## {REREAD}");
    }
    if let Some(alias) = key.alias {
        let _ = writeln!(text, "## Variable: {alias}");
    }
    let name = key.name.rsplit('.').next().unwrap_or(key.name);
    let _ = writeln!(text, "# {name} = {}", literal(key.literal, key.default));
}

/// A text as TOML.
fn literal(literal: Literal, text: &str) -> String {
    match literal {
        Literal::Bare => text.to_owned(),
        Literal::Text | Literal::Unit => quoted(text),
        Literal::List => {
            let items: Vec<String> = items(text).map(quoted).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
