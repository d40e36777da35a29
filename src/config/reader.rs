//! Turns the text of each key into its type and gathers what is wrong.

use std::collections::BTreeMap;
use std::path::Path;

use super::mistake::{Mistake, Origin, shown};
use super::sections::Key;
use super::shape::Shape;

/// The text that won for a key, and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub text: String,
    pub origin: Origin,
}

/// Reads keys one by one. A key that is wrong is noted, and its default is used to go on checking.
pub(crate) struct Reader<'a> {
    given: &'a BTreeMap<&'static str, Given>,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(given: &'a BTreeMap<&'static str, Given>, mistakes: Vec<Mistake>) -> Self {
        Self { given, mistakes }
    }

    /// The value of a key; none only if its default does not read either, which a test rules out.
    pub(crate) fn read<S: Shape>(&mut self, name: &str, shape: &S) -> Option<S::Value> {
        let key = Key::named(name)?;
        let Some(given) = self.given.get(name) else {
            return shape.read(key.default).ok();
        };
        // An empty variable is most often a substitution that found nothing: never take it for 'no token'.
        let empty_token = key.secret
            && given.text.is_empty()
            && matches!(given.origin, Origin::Variable(_) | Origin::Flag(_));
        let problem = match shape.read(&given.text) {
            Ok(_) if empty_token => "is empty; leave it unset to have no token".to_owned(),
            Ok(value) => return Some(value),
            Err(problem) => problem,
        };
        self.refuse(name, problem);
        shape.read(key.default).ok()
    }

    /// Notes that the value of a key is wrong.
    pub(crate) fn refuse(&mut self, name: &str, problem: impl Into<String>) {
        let secret = Key::named(name).is_some_and(|key| key.secret);
        let given = self.given.get(name);
        let text = given.map_or_else(
            || Key::named(name).map_or("", |key| key.default),
            |given| &given.text,
        );
        self.mistakes.push(Mistake {
            key: name.to_owned(),
            value: Some(shown(text, secret)),
            origin: self.origin(name),
            problem: problem.into(),
        });
    }

    /// Notes that a line of a file that a key names is wrong.
    pub(crate) fn refuse_line(
        &mut self,
        name: &str,
        path: &Path,
        line: usize,
        text: &str,
        problem: &str,
    ) {
        self.mistakes.push(Mistake {
            key: name.to_owned(),
            value: Some(shown(text, false)),
            origin: Origin::File(path.to_owned(), Some(line)),
            problem: problem.to_owned(),
        });
    }

    /// Whether none of these keys is wrong, so that they can be compared with each other.
    pub(crate) fn sound(&self, names: &[&str]) -> bool {
        !self
            .mistakes
            .iter()
            .any(|mistake| names.contains(&mistake.key.as_str()))
    }

    /// Whether a key was set to something, wherever.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.given
            .get(name)
            .is_some_and(|given| !given.text.is_empty())
    }

    /// Where the value of a key came from.
    pub(crate) fn origin(&self, name: &str) -> Origin {
        self.given
            .get(name)
            .map_or(Origin::Default, |given| given.origin.clone())
    }

    pub(crate) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }
}
