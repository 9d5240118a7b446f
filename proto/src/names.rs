//! One word names everything that clients and neighbours see: change `item!` and the route, the topic and the keys
//! follow.

/// The route prefix of the collection; one item is at `/todos/{id}`.
pub const ROUTE: &str = crate::route!();
/// The log's topic.
pub const TOPIC: &str = concat!(item!(), "-commands");
/// The channel on which changes are published.
pub const CHANGES_CHANNEL: &str = concat!(item!(), "s:changes");
/// The document of every item.
pub const KEY_ALL: &str = concat!(item!(), "s:all");
/// Prefix of the documents of the newest N items; N in decimal follows.
pub const KEY_LIMIT_PREFIX: &str = concat!(item!(), "s:limit:");

/// The singular; the plural appends an `s`. A macro, since `concat!` takes literals only.
#[macro_export]
macro_rules! item {
    () => {
        "todo"
    };
}
use crate::item;

/// The route prefix as a literal, for texts that the compiler puts together.
#[macro_export]
macro_rules! route {
    () => {
        concat!("/", $crate::item!(), "s")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_original() {
        let expected = ["/todos", "todo-commands", "todos:changes", "todos:all", "todos:limit:"];
        assert_eq!([ROUTE, TOPIC, CHANGES_CHANNEL, KEY_ALL, KEY_LIMIT_PREFIX], expected);
    }
}
