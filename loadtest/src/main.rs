//! The `penstock-loadtest` command.
fn main() {}
