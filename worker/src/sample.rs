//! Sample todos: varied, of the size of real ones (some 188 bytes of JSON on average), the same for the same seed.

use todo_proto::command::{Operation, TodoCommand};
use todo_proto::id::IdSource;
use todo_proto::limits::RETRY_WINDOW_MS;
use todo_proto::todo::TodoFields;

/// The subject of the commands.
pub const SUBJECT: &str = "sample";

/// Creates of sample todos, the oldest first. Their ids are spread evenly over the last 20 hours, or a day and night
/// would make them too old to be created; the last one is of now.
pub struct SampleTodos {
    random: fastrand::Rng,
    ids: IdSource,
    now_ms: u64,
    /// Still to come.
    rest: u64,
    count: u64,
}

const SPAN_MS: u64 = 20 * 60 * 60 * 1000;
const _: () = assert!(SPAN_MS < RETRY_WINDOW_MS);
/// A todo was changed for the last time within this time of its creation.
const UPDATED_WITHIN_MS: u64 = 4 * 60 * 60 * 1000;

const TITLES: [(&str, [&str; 6]); 12] = [
    ("Buy", ["oat milk", "stamps", "light bulbs", "rice", "batteries", "crème fraîche"]),
    ("Call", ["the dentist", "Mum", "the bank", "Søren", "the plumber", "a taxi"]),
    ("Fix", ["the tap", "the bike", "test 17", "the door", "a typo", "the shelf"]),
    ("Book", ["a table", "flights", "room 4", "the hall", "a hotel", "tickets"]),
    ("Plan", ["the sprint", "dinner", "June", "the talk", "a hike", "the move"]),
    ("Clean", ["the oven", "the desk", "windows", "the car", "the inbox", "the fridge"]),
    ("Read", ["RFC 9112", "chapter 3", "the lease", "the news", "that paper", "the report"]),
    ("Send", ["the invoice", "postcards", "feedback", "the parcel", "a reminder", "photos"]),
    ("Pay", ["the rent", "the fine", "invoice 88", "Zoë back", "the fees", "taxes"]),
    ("Write", ["a summary", "to Grandpa", "the tests", "the agenda", "a review", "a poem"]),
    ("Water", ["the plants", "the lawn", "the herbs", "the fern", "tomatoes", "the roses"]),
    ("Ask", ["for leave", "about pay", "the tenant", "for quotes", "Łukasz", "the team"]),
];
/// Most todos have none.
const DESCRIPTIONS: [&str; 10] = [
    "before noon",
    "see \"notes\"",
    "2 of them",
    "ask Kim first",
    "not urgent",
    "for Friday",
    "again",
    "the big one",
    "if it rains",
    "call back",
];

impl SampleTodos {
    /// `count` todos that end at `now_ms`. The same seed gives the same todos; only their times follow `now_ms`.
    pub fn new(seed: u64, count: u64, now_ms: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), ids: IdSource::default(), now_ms, rest: count, count }
    }

    fn fields(&mut self) -> TodoFields {
        let (verb, objects) = TITLES[self.random.usize(..TITLES.len())];
        let object = objects[self.random.usize(..objects.len())];
        let described = self.random.u8(..10) < 4;
        let description = if described { DESCRIPTIONS[self.random.usize(..DESCRIPTIONS.len())] } else { "" };
        TodoFields {
            title: format!("{verb} {object}"),
            description: description.to_owned(),
            completed: self.random.u8(..3) == 0,
        }
    }
}

impl Iterator for SampleTodos {
    type Item = TodoCommand;

    fn next(&mut self) -> Option<TodoCommand> {
        self.rest = self.rest.checked_sub(1)?;
        let age_ms = u128::from(SPAN_MS) * u128::from(self.rest) / u128::from(self.count);
        let id = self.ids.next(self.now_ms.saturating_sub(age_ms as u64), self.random.u128(..));
        let received_at_ms = (id.time_ms() + self.random.u64(..UPDATED_WITHIN_MS)).min(self.now_ms);
        let operation = Operation::Create(self.fields());
        Some(TodoCommand { id, operation, subject: SUBJECT.to_owned(), received_at_ms })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let rest = usize::try_from(self.rest).unwrap_or(usize::MAX);
        (rest, Some(rest))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn todos_are_distinct_recent_and_of_the_right_size() {
        let todos: Vec<TodoCommand> = SampleTodos::new(1, 10_000, NOW_MS).collect();
        assert_eq!(todos.len(), 10_000);
        assert!(todos.is_sorted_by(|a, b| a.id < b.id));
        assert_eq!(todos[9_999].id.time_ms(), NOW_MS);
        assert!(todos[0].id.time_ms() >= NOW_MS - SPAN_MS);

        let (mut json, mut titles) = (Vec::new(), HashSet::new());
        for todo in &todos {
            let Operation::Create(fields) = &todo.operation else { panic!("only creates") };
            fields.write_json(&mut json, todo.id, todo.received_at_ms);
            titles.insert((&fields.title, &fields.description, fields.completed));
        }
        let average = json.len() / todos.len();
        assert!((184..=192).contains(&average), "{average} bytes a todo");
        assert!(titles.len() > 1_000, "{} different ones", titles.len());
    }

    #[test]
    fn the_same_seed_gives_the_same_todos() {
        let operations = |seed| SampleTodos::new(seed, 20, NOW_MS).map(|todo| todo.operation).collect::<Vec<_>>();
        assert_eq!(operations(1), operations(1));
        assert_ne!(operations(1), operations(2));
    }
}
