use super::*;

fn row(holder: &str, session: &str) -> Row {
    Row {
        worker_id: 1,
        count: 4,
        holder: holder.to_owned(),
        session: session.to_owned(),
        since: 1_795_412_123_456,
    }
}

#[test]
fn we_stop_before_the_row_is_gone() {
    let second = 1_000_000;
    for millis in [2_000, 2_001, 29_999, 30_000, 3_600_000] {
        let ttl = Duration::from_millis(millis);
        let sent = 77 * second;
        // A server that cuts the second off in which it wrote the row drops it up to a second early.
        let gone = sent + u64::try_from(row_ttl(ttl)).unwrap() * second - second;
        assert!(deadline(sent, ttl) + second <= gone, "{ttl:?}");
        assert_eq!(deadline(sent, ttl), sent + millis * 1000);
    }
    assert_eq!(row_ttl(Duration::from_millis(2_001)), 5);
    assert_eq!(row_ttl(Duration::MAX), i32::MAX);
    assert_eq!(deadline(u64::MAX, Duration::from_secs(1)), u64::MAX);
}

#[test]
fn time_goes_on_since_boot() {
    let first = since_boot();
    assert!(first > 0);
    assert!(since_boot() >= first);
}

#[test]
fn a_row_is_taken_over_only_by_its_holder_and_only_at_the_start() {
    let ours = row("machine:/data", "new");
    assert_eq!(step(None, &ours, true), Step::Insert);
    assert_eq!(step(None, &ours, false), Step::Insert, "it ran out");
    assert_eq!(step(Some(&ours), &ours, false), Step::Renew);
    let earlier = row("machine:/data", "old");
    assert_eq!(step(Some(&earlier), &ours, true), Step::TakeOver);
    assert_eq!(step(Some(&earlier), &ours, false), Step::Refuse);
    let other = row("machine:/elsewhere", "old");
    assert_eq!(step(Some(&other), &ours, true), Step::Refuse);
    assert_eq!(step(Some(&other), &ours, false), Step::Refuse);
}

#[test]
fn messages_name_the_holder_and_the_way_out() {
    let ttl = Duration::from_secs(30);
    let other = row("abc:/data", "00ff@db-host/17");
    let worker = row("abc:/other", "11@here/3");
    let why = held(&other, &worker, ttl);
    for part in [
        "worker 1",
        "process 17 on db-host",
        "abc:/data",
        "2026-11-23T",
        "WORKER_ID",
        "32 s",
    ] {
        assert!(why.contains(part), "{part} in {why}");
    }
    let ours = Row {
        count: 2,
        ..row("abc:/other", "11@here/3")
    };
    let why = counted(&other, &ours, ttl);
    for part in [
        "is 2 here",
        "worker 1",
        "one of 4",
        "process 17 on db-host",
        "stop all workers",
    ] {
        assert!(why.contains(part), "{part} in {why}");
    }
}
