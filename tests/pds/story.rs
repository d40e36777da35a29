//! What people do on the PDS, in three chapters: before Penstock first runs, while it runs, and while it is stopped.

use serde_json::{Value, json};

use super::world::{Subject, World, Write};

const POST: &str = "app.bsky.feed.post";
const LIKE: &str = "app.bsky.feed.like";
const REPOST: &str = "app.bsky.feed.repost";
const FOLLOW: &str = "app.bsky.graph.follow";
const PROFILE: &str = "app.bsky.actor.profile";
/// A collection that the PDS has no lexicon of.
const NOTE: &str = "com.example.note";
const WHEN: &str = "2026-01-02T03:04:05.678Z";

/// One transparent pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\x9cc\
\xf8\xff\xff\xff\x7f\0\t\xfb\x03\xfd\x05CE\xca\0\0\0\0IEND\xaeB`\x82";

fn post(text: &str) -> Value {
    json!({"$type": POST, "text": text, "langs": ["en"], "createdAt": WHEN})
}

fn reply(text: &str, to: &Subject) -> Value {
    let mut reply = post(text);
    reply["reply"] = json!({"root": to.json(), "parent": to.json()});
    reply
}

fn on(collection: &str, subject: &Subject) -> Value {
    json!({"$type": collection, "subject": subject.json(), "createdAt": WHEN})
}

fn follow(did: &str) -> Value {
    json!({"$type": FOLLOW, "subject": did, "createdAt": WHEN})
}

/// Everything that JSON, DAG-CBOR and record keys allow and that ordinary posts lack.
fn note(link: &Subject) -> Value {
    json!({
        "$type": NOTE,
        "bytes": {"$bytes": "AAEC/f7/+w"},
        "empty": {"array": [], "bytes": {"$bytes": ""}, "object": {}, "text": ""},
        "link": {"$link": link.cid},
        "nested": [[1, [2, [3, {"deep": [null, true, false]}]]]],
        "null": null,
        "numbers": [0, -1, 23, 24, 255, 256, 65536, 4_294_967_296_u64, 9_007_199_254_740_991_i64, -9_007_199_254_740_991_i64],
        "text": "\u{0}\u{1f} \" \\ / é \u{2028} \u{10ffff} 👩‍👩‍👧 مرحبا",
        "ключ": "key order is by length, then bytes",
    })
}

/// All that happens before Penstock first connects.
pub async fn first(world: &mut World) {
    for name in [
        "alice", "bob", "carol", "dave", "erin", "frank", "gina", "heidi",
    ] {
        world.join(name).await;
    }
    let posts = posts_of_alice(world).await;
    likes_of_bob(world, &posts).await;
    for name in ["carol", "dave", "erin", "frank", "gina"] {
        world
            .create(name, POST, reply(&format!("{name} was here"), &posts[0]))
            .await;
        let alice = world.account("alice").did.clone();
        world.create(name, FOLLOW, follow(&alice)).await;
    }
    world.rename("alice", "alice-of-the-hill.test").await;
    world.deactivate("carol").await;
    world.deactivate("dave").await;
    world.take_down("erin", true).await;
    world.delete_account("frank").await;
    world.activate("dave").await;
    world.create("dave", POST, post("back again")).await;
}

/// While Penstock follows.
pub async fn second(world: &mut World) {
    let news = world.create("alice", POST, post("live")).await;
    world
        .put("alice", POST, &news.rkey, post("live, edited"))
        .await;
    let passing = world.create("alice", POST, post("gone at once")).await;
    world.delete("alice", POST, &passing.rkey).await;
    world.activate("carol").await;
    world.create("carol", LIKE, on(LIKE, &news)).await;
    world.take_down("erin", false).await;
    world.create("erin", REPOST, on(REPOST, &news)).await;
    world.rename("dave", "dave-two.test").await;
    world.deactivate("heidi").await;
}

/// While Penstock is stopped.
pub async fn third(world: &mut World) {
    // The PDS forgets the events of a deleted account: the stream goes on with a hole in its numbers.
    world.join("ivan").await;
    world.create("ivan", POST, post("never seen")).await;
    world.delete_account("ivan").await;
    world.delete_account("gina").await;

    let again = world
        .put("dave", NOTE, "again", json!({"$type": NOTE, "text": "one"}))
        .await;
    world.delete("dave", NOTE, "again").await;
    world.put("dave", NOTE, "again", note(&again)).await;
    let gone = world
        .put("dave", NOTE, "twice", json!({"$type": NOTE}))
        .await;
    world.delete("dave", NOTE, &gone.rkey).await;
    world.rename("carol", "carol-three.test").await;
    world
        .put(
            "alice",
            PROFILE,
            "self",
            json!({"$type": PROFILE, "displayName": "Alice III"}),
        )
        .await;
    world.take_down("bob", true).await;
    world.join("judy").await;
    world.create("judy", POST, post("first")).await;
}

async fn posts_of_alice(world: &mut World) -> Vec<Subject> {
    let image = world.upload("alice", "image/png", PNG).await;
    world
        .put(
            "alice",
            PROFILE,
            "self",
            json!({"$type": PROFILE, "displayName": "Alice"}),
        )
        .await;
    let profile = json!({"$type": PROFILE, "displayName": "Alice II", "avatar": image});
    world.put("alice", PROFILE, "self", profile).await;

    let mut posts = Vec::new();
    for number in 0..5 {
        posts.push(
            world
                .create("alice", POST, post(&format!("number {number}")))
                .await,
        );
    }
    let mut pictured = post("a picture");
    pictured["embed"] =
        json!({"$type": "app.bsky.embed.images", "images": [{"alt": "", "image": image}]});
    world.create("alice", POST, pictured).await;
    posts[1] = world
        .put("alice", POST, &posts[1].rkey, post("number 1, edited"))
        .await;
    world.delete("alice", POST, &posts.remove(2).rkey).await;
    for rkey in ["a:b~c_d-e.f", "A", "0", "self", &"k".repeat(512)] {
        world.put("alice", NOTE, rkey, note(&posts[0])).await;
    }
    posts
}

async fn likes_of_bob(world: &mut World, posts: &[Subject]) {
    let alice = world.account("alice").did.clone();
    world.create("bob", FOLLOW, follow(&alice)).await;
    world.create("bob", REPOST, on(REPOST, &posts[0])).await;
    let like = world.create("bob", LIKE, on(LIKE, &posts[0])).await;
    world.create("bob", LIKE, on(LIKE, &posts[0])).await;
    world.superseded("bob", &like);

    // More than one page of any listing, and a tree of some depth.
    let many = (0..150).map(|number| Write::Create(NOTE, json!({"$type": NOTE, "number": number})));
    let notes = world.batch("bob", many.collect()).await;
    let mut mixed = Vec::new();
    for note in notes.iter().take(30) {
        mixed.push(Write::Delete(NOTE, &note.rkey));
    }
    for note in notes.iter().skip(30).take(30) {
        mixed.push(Write::Update(
            NOTE,
            &note.rkey,
            json!({"$type": NOTE, "edited": true}),
        ));
    }
    for number in 150..180 {
        mixed.push(Write::Create(
            NOTE,
            json!({"$type": NOTE, "number": number}),
        ));
    }
    world.batch("bob", mixed).await;
}
