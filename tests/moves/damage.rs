//! Dumps that are cut off, damaged, forged or something else.

use std::io::{BufReader, Read as _, repeat};

use penstock::dump::{ImportOptions, LINE_MAX, import};

use super::content::*;

#[tokio::test]
async fn a_dump_that_was_cut_off_claims_nothing_and_is_repeated() {
    let from = store().await;
    fill(&*from).await;
    let (dump, held) = (dump(&from).await, contents(&*from).await);
    for end in (0..dump.len()).step_by(101).chain([dump.len() - 1]) {
        let to = store().await;
        let refused = take(&to, &dump[..end], NOW).await.unwrap_err().to_string();
        let line = dump[..end].iter().filter(|byte| **byte == b'\n').count() + 1;
        assert!(
            refused.contains(&format!("line {line}: ")),
            "{end}: {refused}"
        );
        assert!(end == 0 || refused.contains("cut off"), "{end}: {refused}");
        assert_eq!(to.facts().await.unwrap(), []);
        take(&to, &dump, NOW).await.unwrap();
        assert_eq!(contents(&*to).await, held, "{end}");
    }
    for to in stores().await {
        let lines = lines(&dump);
        for end in [lines.len() - 1, lines.len() / 2, 1] {
            let cut = lines[..end].concat();
            take(&to.store, &cut, NOW).await.unwrap_err();
            assert_eq!(to.store.facts().await.unwrap(), []);
        }
        take(&to.store, &dump, NOW).await.unwrap();
        assert_eq!(contents(&*to.store).await, held, "{}", to.kind);
    }
}

#[tokio::test]
async fn damage_is_found_in_its_line_before_it_is_written() {
    let from = store().await;
    fill(&*from).await;
    let good = lines(&dump(&from).await);
    for at in 0..good.len() {
        let damaged = |line: Option<Vec<u8>>| {
            let mut lines = good.clone();
            lines.splice(at..=at, line);
            lines.concat()
        };
        let mut flipped = good[at].clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        // A line that is missing shows in the next one, the last one at the end of the file.
        for dump in [damaged(Some(flipped)), damaged(None)] {
            let to = store().await;
            let refused = take(&to, &dump, NOW).await.unwrap_err().to_string();
            assert!(
                refused.contains(&format!("line {}: ", at + 1)),
                "{at}: {refused}"
            );
            assert_eq!(to.facts().await.unwrap(), []);
        }
    }
    for extra in [&b"\n"[..], b"{}", &good[0], &good[good.len() - 1]] {
        let dump = [&good.concat(), extra].concat();
        let refused = take(&store().await, &dump, NOW)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(&format!("line {}: ", good.len() + 1)),
            "{refused}"
        );
    }
}

/// Each is whole and its checks fit, so only the value itself says that it is wrong.
#[tokio::test]
async fn every_value_is_checked() {
    let from = store().await;
    fill(&*from).await;
    let dump = dump(&from).await;
    for (from, to, says) in [
        ("\"format\":1", "\"format\":2", "format 2"),
        ("\"time\":\"2026", "\"time\":\"x", "is no time"),
        ("\"to_seq\":50", "\"to_seq\":9", "no interval"),
        ("\"to_seq\":50", "\"to_seq\":-9", "invalid value"),
        ("\"slots\":\"ff", "\"slots\":\"fg", "hex"),
        ("\"kind\":\"live\"", "\"kind\":\"lively\"", "lively"),
        (
            "\"type\":\"repair\",\"did\":\"did:",
            "\"type\":\"repair\",\"did\":\"dad:",
            "no DID",
        ),
        ("\"size\":3", "\"size\":4", "as long as it says"),
        (
            "\"size\":70000,\"evicted\":true",
            "\"size\":70000,\"evicted\":false",
            "as long",
        ),
        (
            "\"type\":\"repo\",\"did\":\"did:",
            "\"type\":\"repo\",\"did\":\"did",
            "no DID",
        ),
        (
            "\"handle\":\"alice.test\"",
            "\"handle\":\"alice\"",
            "no handle",
        ),
        (",\"data\":\"", ",\"dato\":\"", "belong together"),
        ("\"commit\":\"b", "\"commit\":\"c", "no CID"),
        ("\"active\":true", "\"active\":7", "invalid type"),
        (
            "\"collection\":\"app.bsky.feed.like\",\"version\"",
            "\"collection\":\"like\",\"version\"",
            "no NSID",
        ),
        (
            "\"type\":\"record\",\"did\":\"did:",
            "\"type\":\"record\",\"did\":\"did:/",
            "no DID",
        ),
        (
            "\"collection\":\"app.bsky.feed.post\",\"rkey\"",
            "\"collection\":\"app..post\",\"rkey\"",
            "no NSID",
        ),
        ("\"rkey\":\"self\"", "\"rkey\":\"..\"", "no record key"),
        (
            "\"rkey\":\"self\",\"version\":1",
            "\"rkey\":\"self\",\"version\":991",
            "53 bits",
        ),
        (
            "\"rkey\":\"self\",\"version\":",
            "\"rkey\":\"self\",\"version\":-",
            "invalid value",
        ),
        ("\"record\":\"Z", "\"record\":\"Y", "not those of"),
        ("\"record\":\"Z", "\"record\":\"!", "base64"),
        ("\"json\":\"e", "\"json\":\"f", "json: "),
        (
            "\"type\":\"record\"",
            "\"type\":\"recall\"",
            "unknown type \"recall\"",
        ),
        (
            "\"type\":\"record\"",
            " \"type\":\"record\"",
            "no line of a full dump",
        ),
        (
            "\"type\":\"end\"",
            "\"type\":\"penstock-dump\",\"format\":1,\"time\":\"\",\"version\":\"\"",
            "second dump",
        ),
        ("\"records\":10", "\"records\":11", "11 records"),
    ] {
        let (dump, line) = changed(&dump, from, to);
        let store = store().await;
        let refused = take(&store, &dump, NOW).await.unwrap_err().to_string();
        let named = refused.starts_with(&format!("line {line}: "));
        assert!(
            named && refused.contains(says),
            "{from} to {to}, line {line}: {refused}"
        );
        assert_eq!(store.facts().await.unwrap(), []);
    }
    // Where CIDs are not believed, they are not checked here either.
    let (dump, _) = changed(&dump, "\"record\":\"Z", "\"record\":\"Y");
    let options = ImportOptions {
        now: NOW,
        verify_cids: false,
    };
    let input = std::io::Cursor::new(dump);
    import(&store().await, input, options, &mut |_| ())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_no_dump_is_refused() {
    for (text, says) in [
        ("", "nothing in it"),
        ("\n", "no full dump"),
        ("{\"did\":\"did:plc:a\"}\n", "no full dump"),
        ("\u{1f}\u{8b}\u{0}", "cut off"),
    ] {
        let refused = take(&store().await, text.as_bytes(), NOW)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with("line 1: ") && refused.contains(says),
            "{text:?}: {refused}"
        );
    }
    let options = ImportOptions {
        now: NOW,
        verify_cids: true,
    };
    // It does not read on for ever.
    let endless = BufReader::new(repeat(b'x').take(LINE_MAX as u64 * 4));
    let refused = import(&store().await, endless, options, &mut |_| ())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("longer than 64 MiB"),
        "{refused}"
    );
}
