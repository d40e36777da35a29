//! Where values come from: a file, variables, flags. Nothing here knows what a key means.
//!
//! Every value becomes a provider of its own for figment, as text: figment would take `0123456789` for a number and
//! could not say which variable it came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::mistake::{Mistake, Origin, shown};
use super::reader::Given;
use super::sections::{Key, keys};
use super::shape::Literal;

/// All that a configuration is made of, as it was found.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file named by `--config`.
    pub file: Option<PathBuf>,
    /// What followed each `--set`: `key=value`. The last of a key counts.
    pub set: Vec<String>,
    /// The environment.
    pub variables: Vec<(OsString, OsString)>,
    /// Looked for in this order if neither `--config` nor `PENSTOCK_CONFIG` names a file.
    pub default_files: Vec<PathBuf>,
}

/// Largest file that is read.
const MAX_FILE: u64 = 1 << 20;

impl Sources {
    /// The environment of this process and the usual files, with what the command line says.
    pub fn of_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        Self {
            file,
            set,
            variables: std::env::vars_os().collect(),
            default_files: vec![
                PathBuf::from("penstock.toml"),
                PathBuf::from("/etc/penstock/penstock.toml"),
            ],
        }
    }

    /// The text that wins for each key that is set, and what is wrong with the sources themselves.
    pub(crate) fn gather(&self) -> (BTreeMap<&'static str, Given>, Vec<Mistake>) {
        let mut gathering = Gathering::default();
        self.gather_file(&mut gathering);
        self.gather_variables(&mut gathering);
        self.gather_flags(&mut gathering);
        gathering.finish()
    }

    fn gather_file(&self, gathering: &mut Gathering) {
        let (path, named_by) = match self.choose_file() {
            Some(choice) => choice,
            None => return,
        };
        match read_file(&path) {
            Ok(text) => gathering.take_file(&path, &text),
            Err(problem) => {
                let named_by = named_by.map_or(String::new(), |by| format!(" (named by {by})"));
                gathering.mistakes.push(Mistake {
                    key: String::new(),
                    value: None,
                    origin: Origin::File(path, None),
                    problem: format!("{problem}{named_by}"),
                });
            }
        }
    }

    /// The file to read and who named it. A file that is named must exist; a default one may be missing.
    fn choose_file(&self) -> Option<(PathBuf, Option<&'static str>)> {
        if let Some(path) = &self.file {
            return Some((path.clone(), Some("--config")));
        }
        let named = self
            .variables
            .iter()
            .find(|(name, _)| name == "PENSTOCK_CONFIG");
        if let Some((_, path)) = named.filter(|(_, path)| !path.is_empty()) {
            return Some((PathBuf::from(path), Some("PENSTOCK_CONFIG")));
        }
        // One that is there and can't be looked at is an error later, never passed over.
        let missing = |path: &Path| {
            std::fs::metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        };
        let found = self.default_files.iter().find(|path| !missing(path));
        found.map(|path| (path.clone(), None))
    }

    fn gather_variables(&self, gathering: &mut Gathering) {
        let mut variables: Vec<(&str, &OsString)> = self
            .variables
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value)))
            .collect();
        variables.sort_unstable();
        for (name, value) in variables {
            let Some(key) = key_of_variable(name) else {
                gathering.refuse_variable(name);
                continue;
            };
            let origin = Origin::Variable(name.to_owned());
            match value.to_str() {
                Some(text) => gathering.take_variable(key, text, origin),
                None => gathering.refuse(key.name, None, origin, "is not UTF-8"),
            }
        }
    }

    fn gather_flags(&self, gathering: &mut Gathering) {
        for setting in &self.set {
            let origin = Origin::Flag("--set");
            match setting.split_once('=') {
                None => gathering.refuse(setting.trim(), None, origin, "allowed: --set key=value"),
                Some((name, text)) => match Key::named(name.trim()) {
                    Some(key) => gathering.take(key, text.trim(), origin),
                    None => gathering.refuse_unknown(name.trim(), origin),
                },
            }
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("can't be read: {error}")),
        Ok(read) if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE => {
            Err("is too large; allowed: at most 1MiB".to_owned())
        }
        Ok(_) => Ok(text),
    }
}

fn key_of_variable(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.alias == Some(name) || key.variable() == name)
}

/// What was found so far.
#[derive(Default)]
struct Gathering {
    figment: Figment,
    origins: Vec<Origin>,
    variables: BTreeMap<&'static str, (String, Origin)>,
    mistakes: Vec<Mistake>,
}

impl Gathering {
    fn take(&mut self, key: &'static Key, text: &str, origin: Origin) {
        let one = One {
            key: key.name,
            text: text.to_owned(),
            origin: self.origins.len(),
        };
        self.origins.push(origin);
        self.figment = std::mem::take(&mut self.figment).merge(one);
    }

    fn take_variable(&mut self, key: &'static Key, text: &str, origin: Origin) {
        match self.variables.get(key.name) {
            Some((other, by)) if other != text => {
                let problem = format!("differs from {by}; allowed: one of the two");
                self.refuse(key.name, Some(shown(text, key.secret)), origin, &problem);
            }
            _ => {
                let seen = (text.to_owned(), origin.clone());
                self.variables.insert(key.name, seen);
                self.take(key, text, origin);
            }
        }
    }

    fn take_file(&mut self, path: &Path, text: &str) {
        let data = match Toml::string(text).data() {
            Ok(data) => data,
            Err(error) => {
                for one in error {
                    let problem = format!("is not TOML: {}", one.kind).trim_end().to_owned();
                    self.refuse("", None, Origin::File(path.to_owned(), None), &problem);
                }
                return;
            }
        };
        for dict in data.into_values() {
            let mut leaves = Vec::new();
            flatten(String::new(), dict, &mut leaves);
            for (name, value) in leaves {
                let origin = Origin::File(path.to_owned(), line_of(text, &name));
                self.take_leaf(&name, value, origin);
            }
        }
    }

    fn take_leaf(&mut self, name: &str, value: Value, origin: Origin) {
        let Some(key) = Key::named(name) else {
            return self.refuse_unknown(name, origin);
        };
        match text_of(key.literal, &value) {
            Ok(text) => self.take(key, &text, origin),
            Err(problem) => {
                let value = scalar(&value).map(|text| shown(&text, key.secret));
                self.refuse(name, value, origin, problem);
            }
        }
    }

    fn refuse(&mut self, key: &str, value: Option<String>, origin: Origin, problem: &str) {
        self.mistakes.push(Mistake {
            key: key.to_owned(),
            value,
            origin,
            problem: problem.to_owned(),
        });
    }

    fn refuse_unknown(&mut self, name: &str, origin: Origin) {
        let section = format!("{name}.");
        let problem = match keys().any(|key| key.name.starts_with(&section)) {
            true => format!("is a section; allowed: its keys, as in [{name}]"),
            false => suggestion(name, keys().map(|key| key.name.to_owned())),
        };
        self.refuse(name, None, origin, &problem);
    }

    /// A variable that is no key's. Only names that can be meant for us are refused: those with our prefix and a double
    /// underscore, and those that lack the double one. (A container platform may set others, such as `PENSTOCK_PORT`.)
    fn refuse_variable(&mut self, name: &str) {
        let single = |key: &&Key| key.variable().replace("__", "_") == name;
        let meant = name.starts_with("PENSTOCK_")
            && (name.contains("__") || keys().any(|key| single(&key)));
        if meant {
            let problem = suggestion(name, keys().map(Key::variable));
            self.refuse(name, None, Origin::Variable(name.to_owned()), &problem);
        }
    }

    fn finish(self) -> (BTreeMap<&'static str, Given>, Vec<Mistake>) {
        let mut given = BTreeMap::new();
        for key in keys() {
            let Ok(value) = self.figment.find_value(key.name) else {
                continue;
            };
            let metadata = self.figment.get_metadata(value.tag());
            let index = metadata.and_then(|m| m.source.as_ref()?.custom()?.parse::<usize>().ok());
            let origin = index.and_then(|index| self.origins.get(index));
            if let (Some(text), Some(origin)) = (value.as_str(), origin) {
                let (text, origin) = (text.to_owned(), origin.clone());
                given.insert(key.name, Given { text, origin });
            }
        }
        (given, self.mistakes)
    }
}

/// The value of one key from one place. Its metadata names the place in [`Gathering::origins`].
struct One {
    key: &'static str,
    text: String,
    origin: usize,
}

impl Provider for One {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.key).source(Source::Custom(self.origin.to_string()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(self.key, Value::from(self.text.clone()));
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

fn flatten(prefix: String, dict: Dict, leaves: &mut Vec<(String, Value)>) {
    for (name, value) in dict {
        let full = match prefix.is_empty() {
            true => name,
            false => format!("{prefix}.{name}"),
        };
        let section = format!("{full}.");
        match value {
            // An empty table of an unknown name is unknown too; one of a section says nothing.
            Value::Dict(_, inner) if !inner.is_empty() => flatten(full, inner, leaves),
            Value::Dict(..) if keys().any(|key| key.name.starts_with(&section)) => {}
            value => leaves.push((full, value)),
        }
    }
}

fn text_of(literal: Literal, value: &Value) -> Result<String, &'static str> {
    match (value, literal) {
        (Value::String(_, text), _) => Ok(text.clone()),
        (Value::Array(_, values), Literal::List) => joined(values),
        (Value::Array(..) | Value::Dict(..), _) => Err("allowed: a single value"),
        (_, Literal::Text | Literal::List) => Err("allowed: a string; put it in quotes"),
        (value, _) => scalar(value).ok_or("allowed: a single value"),
    }
}

fn joined(values: &[Value]) -> Result<String, &'static str> {
    let mut texts = Vec::new();
    for value in values {
        match value.as_str() {
            Some(text) if !text.contains(',') && !text.trim().is_empty() => texts.push(text),
            _ => return Err("allowed: an array of strings that are not empty and have no commas"),
        }
    }
    Ok(texts.join(","))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Bool(_, value) => Some(value.to_string()),
        Value::Num(_, number) => number
            .to_u128()
            .map(|n| n.to_string())
            .or_else(|| number.to_i128().map(|n| n.to_string()))
            .or_else(|| number.to_f64().map(|n| n.to_string())),
        _ => None,
    }
}

/// The line of a key in a TOML text, where one line and only one can be it.
fn line_of(text: &str, name: &str) -> Option<usize> {
    let mut section = "";
    let mut found = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default().trim();
            continue;
        }
        let Some((left, _)) = line.split_once('=') else {
            continue;
        };
        let left = left.trim();
        let full = match section.is_empty() {
            true => left.to_owned(),
            false => format!("{section}.{left}"),
        };
        if full == name && found.replace(at + 1).is_some() {
            return None;
        }
    }
    found
}

fn suggestion(name: &str, known: impl Iterator<Item = String>) -> String {
    // A key whose section's line is missing is near to its full name too.
    let distance = |known: &str| {
        let last = known.rsplit('.').next().unwrap_or(known);
        strsim::damerau_levenshtein(name, known).min(strsim::damerau_levenshtein(name, last))
    };
    let near = known.map(|known| (distance(&known), known)).min();
    match near {
        Some((_, known)) => format!("is not known; the nearest is {known}"),
        None => "is not known".to_owned(),
    }
}
