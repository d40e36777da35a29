//! `penstock config`: what is in effect and why.

use std::io::{self, Write};

use super::{Exit, Failure};
use crate::config::Setting;

/// Prints every key as TOML with its origin in a comment.
pub(super) fn run(settings: &[Setting]) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    out.write_all(table(settings).as_bytes())?;
    out.flush()?;
    Ok(Exit::Done)
}

/// Values wider than this don't push the origins of all others aside.
const WIDEST: usize = 40;

fn table(settings: &[Setting]) -> String {
    let width = |length: fn(&Setting) -> usize| settings.iter().map(length).max().unwrap_or(0);
    let keys = width(|setting| setting.key.len());
    let values = width(|setting| setting.value.chars().count()).min(WIDEST);
    let line = |setting: &Setting| {
        let Setting { key, value, origin } = setting;
        format!("{key:keys$} = {value:values$}  # {origin}\n")
    };
    settings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    #[test]
    fn columns_are_aligned() {
        let setting = |key, value: &str, origin| Setting {
            key,
            value: value.to_owned(),
            origin,
        };
        let shown = table(&[
            setting("a.b", "\"1s\"", Origin::Default),
            setting("a.long", "true", Origin::Variable("X".into())),
        ]);
        assert_eq!(
            shown,
            "a.b    = \"1s\"  # default\na.long = true  # variable X\n"
        );
    }
}
