//! The numbers of `/metrics`, read from its text: the page tells whoever has no token nothing that is not there.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Samples of Prometheus text.
#[derive(Debug, Default)]
pub(super) struct Samples<'a>(Vec<Sample<'a>>);

#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Labels<'a>,
    value: f64,
}

/// Names and values.
type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

impl<'a> Samples<'a> {
    /// Those of a text; lines that are none are skipped.
    pub(super) fn read(text: &'a str) -> Self {
        Self(text.lines().filter_map(Sample::read).collect())
    }

    /// The sum of a metric over all of its labels; none where it was never set.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        self.of(name)
            .map(|sample| sample.value)
            .reduce(|a, b| a + b)
    }

    /// The sum over the samples in which `label` has this value.
    pub(super) fn sum_where(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        let found = self.of(name).filter(|s| s.label(label) == Some(value));
        found.map(|sample| sample.value).reduce(|a, b| a + b)
    }

    /// The sums for each value of a label.
    pub(super) fn by<'s>(&'s self, name: &'s str, label: &str) -> BTreeMap<&'s str, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(name) {
            if let Some(value) = sample.label(label) {
                *sums.entry(value).or_default() += sample.value;
            }
        }
        sums
    }

    /// The upper bound below which so large a share of a histogram's samples lies; infinite where it is above all bounds.
    pub(super) fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        let (buckets, count) = (format!("{name}_bucket"), format!("{name}_count"));
        let wanted = share * self.sum(&count).filter(|count| *count > 0.0)?;
        let bounds = self
            .by(&buckets, "le")
            .into_iter()
            .filter_map(|(le, count)| {
                let le = if le == "+Inf" {
                    f64::INFINITY
                } else {
                    le.parse().ok()?
                };
                (count >= wanted).then_some(le)
            });
        bounds.min_by(f64::total_cmp)
    }

    fn of<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Sample<'a>> {
        self.0.iter().filter(move |sample| sample.name == name)
    }
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at_checked(end)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        // A comment's value is no number.
        let value = value.trim().parse().ok()?;
        Some(Self {
            name,
            labels,
            value,
        })
    }

    fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| value.as_ref())
    }
}

/// The labels up to the closing brace, and what is behind it.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let end = closing_quote(quoted)?;
        let (value, behind) = quoted.split_at_checked(end)?;
        labels.push((name, unescaped(value)));
        let behind = behind.strip_prefix('"')?;
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.find(|letter| match letter {
        _ if escaped => {
            escaped = false;
            false
        }
        '\\' => {
            escaped = true;
            false
        }
        letter => letter == '"',
    })
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => plain.push('\n'),
                other => plain.extend(other),
            },
            letter => plain.push(letter),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# HELP penstock_ops_total Operations
# TYPE penstock_ops_total counter
penstock_ops_total{action="create",source="live"} 3
penstock_ops_total{action="delete",source="live"} 4
penstock_relay_connected{relay="a \"b\" \\ c,d}=\n<"} 1
penstock_lag 0.25
penstock_t_bucket{le="0.1"} 90
penstock_t_bucket{le="0.5"} 99
penstock_t_bucket{le="10"} 99
penstock_t_bucket{le="+Inf"} 100
penstock_t_sum 7
penstock_t_count 100
broken{a="b
broken{a=} 1
nothing
"#;

    #[test]
    fn samples_are_summed_and_told_apart() {
        let samples = Samples::read(TEXT);
        assert_eq!(samples.sum("penstock_ops_total"), Some(7.0));
        assert_eq!(samples.sum("penstock_lag"), Some(0.25));
        assert_eq!(samples.sum("penstock_ops"), None);
        let ops = samples.by("penstock_ops_total", "action");
        assert_eq!(ops, BTreeMap::from([("create", 3.0), ("delete", 4.0)]));
        let deleted = samples.sum_where("penstock_ops_total", "action", "delete");
        assert_eq!(deleted, Some(4.0));
        let relays = samples.by("penstock_relay_connected", "relay");
        assert_eq!(relays, BTreeMap::from([("a \"b\" \\ c,d}=\n<", 1.0)]));
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let samples = Samples::read(TEXT);
        assert_eq!(samples.quantile("penstock_t", 0.9), Some(0.1));
        assert_eq!(samples.quantile("penstock_t", 0.99), Some(0.5));
        assert_eq!(samples.quantile("penstock_t", 1.0), Some(f64::INFINITY));
        assert_eq!(samples.quantile("penstock_lag", 0.5), None);
    }
}
