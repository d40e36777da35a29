//! Convergence: the same writes in any order, any number of times, from several workers, give the same store, and the
//! embedded store says the same as the oracle in memory, also after it was closed, opened and compacted.
//!
//! `PENSTOCK_TEST_SCALE` multiplies the number of histories (default 1: 200 of them); `PENSTOCK_TEST_SEED` chooses them.

mod histories;
mod subject;

use subject::embedded::Embedded;

#[test]
fn any_order_of_any_history_gives_the_same_store() {
    histories::any_order_of_any_history_gives_the_same_store(200, Embedded::empty);
}
