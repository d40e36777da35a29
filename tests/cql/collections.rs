//! Collections that are added and removed while a daemon runs, over a store of this binary's.

#[path = "../collections/relay.rs"]
mod relay;
#[path = "../collections/site.rs"]
mod site;
#[path = "../collections/story.rs"]
mod story;
