//! What the queries are made of.

/// Beginnings of the metrics that the daemon exports.
const OURS: [&str; 2] = ["penstock_", "process_"];

/// The metrics that an expression names.
pub fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    names.filter(|name| OURS.iter().any(|begin| name.starts_with(begin)))
}

/// The metrics with their label matchers that an expression asks for, without functions, ranges and comparisons.
pub fn selectors(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(name) = metrics(rest).next() {
        // Of a name within what lies before, as in a label, there is none in our expressions.
        let at = rest.find(name).unwrap();
        let behind = &rest[at + name.len()..];
        let labels = match behind.starts_with('{') {
            true => &behind[..=behind.find('}').unwrap()],
            false => "",
        };
        found.push(format!("{name}{labels}"));
        rest = &behind[labels.len()..];
    }
    found
}

/// An expression of a rule without its comparisons with numbers: what it looks at, whether that is bad or not.
pub fn without_comparisons(expression: &str) -> String {
    let mut kept = Vec::new();
    let mut words = expression.split_whitespace();
    while let Some(word) = words.next() {
        if !["==", ">", "<", ">=", "<="].contains(&word) {
            kept.push(word);
            continue;
        }
        let number = words.next().unwrap();
        let closing = number.find(')').unwrap_or(number.len());
        assert!(number[..closing].parse::<f64>().is_ok(), "{expression}");
        kept.push(&number[closing..]);
    }
    kept.join(" ")
}

#[test]
fn expressions_are_taken_apart() {
    let rule = "deriv(penstock_a{b=\"c\"}[10m]) > -0.1 and on (job) (sum by (job) (penstock_d) <= 1 or up == 0) and penstock_e";
    let parts = ["penstock_a{b=\"c\"}", "penstock_d", "penstock_e"];
    assert_eq!(selectors(rule), parts);
    let without = "deriv(penstock_a{b=\"c\"}[10m])  and on (job) (sum by (job) (penstock_d)  or up ) and penstock_e";
    assert_eq!(without_comparisons(rule), without);
}
