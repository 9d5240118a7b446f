//! Machine and oracle agree on every stream, however it travels.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;

use super::drive::{Plan, drive};
use super::streams::stream;

/// A plan that owns its parts, and shows its input as text when it fails.
#[derive(Clone)]
struct Owned {
    input: Vec<u8>,
    choices: Vec<u8>,
    is_floored: bool,
    ends: bool,
    has_deadlines: bool,
}

impl Owned {
    fn plan(&self) -> Plan<'_> {
        let Owned { input, choices, is_floored, ends, has_deadlines } = self;
        Plan { input, choices, is_floored: *is_floored, ends: *ends, has_deadlines: *has_deadlines }
    }
}

impl fmt::Debug for Owned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan().fmt(formatter)
    }
}

fn plan(has_deadlines: bool) -> impl Strategy<Value = Owned> {
    (stream(), vec(any::<u8>(), 0..400), any::<bool>(), any::<bool>())
        .prop_map(move |(input, choices, is_floored, ends)| Owned { input, choices, is_floored, ends, has_deadlines })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn machine_and_oracle_agree(owned in plan(false)) {
        drive(&owned.plan());
    }

    #[test]
    fn they_agree_up_to_a_deadline(owned in plan(true)) {
        drive(&owned.plan());
    }
}
