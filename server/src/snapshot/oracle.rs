//! The snapshot against a plain sorted map: whatever the history, every read gives the bytes that the map gives.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::page::Page;
use super::*;
use crate::limits::*;

/// The newest item is the first.
type Items = BTreeMap<Reverse<ItemId>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    /// Creates above everything that has ever been.
    Head {
        count: usize,
        bytes: usize,
    },
    /// Creates, updates and deletes anywhere, in this order; ids repeat.
    Anywhere(Vec<(u16, Option<usize>)>),
    /// Deletes all but every so-many-th item.
    Thin {
        kept_one_in: usize,
    },
    /// Deletes a run of items that begins at this share (in 1/256) of the list.
    DeleteRun {
        at: u8,
        count: usize,
    },
    DeleteAll,
    /// The same items once more: nothing changes.
    Repeat,
    Trim {
        todos_max: u32,
        bytes_max: u64,
    },
    /// The same items, loaded afresh.
    Load,
}

struct Run {
    items: Items,
    floor: ItemId,
    next_id: u128,
    snapshot: Snapshot,
    revision: u64,
    tag_of: HashMap<Vec<u8>, ETag>,
    body_of: HashMap<Vec<u8>, Vec<u8>>,
}

const STORE: [u8; 16] = *b"the store's name";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_read_equals_the_map(start_count in 0..700usize, steps in prop::collection::vec(step(), 1..12)) {
        let mut run = Run::new(start_count);
        run.check_reads();
        for step in &steps {
            run.take(step);
            run.check_reads();
        }
    }
}

proptest! {
    // Enough items for several chunks, so that chunks are cut and joined as well.
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn many_chunks_equal_the_map(start_count in 20_000..40_000usize, steps in prop::collection::vec(step(), 3..6)) {
        let mut run = Run::new(start_count);
        for step in &steps {
            run.take(step);
        }
        for kept_one_in in [90, 30, 2] {
            run.take(&Step::Thin { kept_one_in });
        }
        run.take(&Step::Head { count: 20_000, bytes: 30 });
        run.check_reads();
    }
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        12 => 3..300usize,
        3 => 2_000..9_000usize,
        1 => prop_oneof![Just(PAGE_BYTES - 1), Just(PAGE_BYTES), Just(PAGE_BYTES_MAX), Just(150_000)],
    ];
    let change = (0..2_000u16, prop::option::weighted(0.7, bytes.clone()));
    prop_oneof![
        4 => (0..300usize, bytes).prop_map(|(count, bytes)| Step::Head { count: count.min(3_000_000 / bytes), bytes }),
        6 => prop::collection::vec(change, 0..150).prop_map(Step::Anywhere),
        2 => (2..60usize).prop_map(|kept_one_in| Step::Thin { kept_one_in }),
        2 => (any::<u8>(), 0..300usize).prop_map(|(at, count)| Step::DeleteRun { at, count }),
        1 => Just(Step::DeleteAll),
        1 => Just(Step::Repeat),
        2 => (1..800u32, 500..2_000_000u64).prop_map(|(todos_max, bytes_max)| Step::Trim { todos_max, bytes_max }),
        1 => Just(Step::Load),
    ]
}

/// Text of at least so many bytes that no other item and no other revision has.
fn json(id: ItemId, revision: u64, bytes: usize) -> Vec<u8> {
    let mut text = format!("{{{id:?} {revision}}}").into_bytes();
    text.resize(bytes.max(text.len()), b'.');
    text
}

impl Run {
    fn new(count: usize) -> Self {
        let items: Items = (0..count)
            .map(|index| {
                let id = ItemId::from_bytes((10 * (index as u128 + 1)).to_be_bytes());
                (Reverse(id), json(id, 0, 20 + index % 50))
            })
            .collect();
        let floor = ItemId::ZERO;
        Self {
            snapshot: load(&items, floor, 1),
            items,
            floor,
            next_id: 10 * (count as u128 + 2_000),
            revision: 0,
            tag_of: HashMap::new(),
            body_of: HashMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        self.revision += 1;
        let mut changes: Vec<(ItemId, Option<Vec<u8>>)> = Vec::new();
        match step {
            Step::Head { count, bytes } => {
                for _ in 0..*count {
                    let id = ItemId::from_bytes(self.next_id.to_be_bytes());
                    self.next_id += 10;
                    changes.push((id, Some(json(id, self.revision, *bytes))));
                }
            }
            Step::Anywhere(list) => {
                for (index, (slot, bytes)) in list.iter().enumerate() {
                    let id = ItemId::from_bytes((u128::from(*slot) * 5 + 1).to_be_bytes());
                    let revision = self.revision * 1_000 + index as u64;
                    changes.push((id, bytes.map(|bytes| json(id, revision, bytes))));
                }
            }
            Step::Thin { kept_one_in } => changes.extend(
                self.items.keys().enumerate().filter(|(index, _)| index % kept_one_in != 0).map(|(_, id)| (id.0, None)),
            ),
            Step::DeleteRun { at, count } => {
                let skipped_count = self.items.len() * usize::from(*at) / 256;
                changes.extend(self.items.keys().skip(skipped_count).take(*count).map(|id| (id.0, None)));
            }
            Step::DeleteAll => changes.extend(self.items.keys().map(|id| (id.0, None))),
            Step::Repeat => changes.extend(self.items.iter().map(|(id, json)| (id.0, Some(json.clone())))),
            Step::Trim { todos_max, bytes_max } => return self.trim(*todos_max, *bytes_max),
            Step::Load => return self.load(),
        }
        self.refresh(&changes);
    }

    fn refresh(&mut self, changes: &[(ItemId, Option<Vec<u8>>)]) {
        let before = self.items.clone();
        for (id, json) in changes.iter().filter(|(id, _)| *id >= self.floor) {
            match json {
                Some(json) => self.items.insert(Reverse(*id), json.clone()),
                None => self.items.remove(&Reverse(*id)),
            };
        }
        let touched: Vec<ItemId> = changes
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| before.get(&Reverse(*id)) != self.items.get(&Reverse(*id)))
            .collect();

        let changes: Vec<ItemChange<'_>> =
            changes.iter().map(|(id, json)| ItemChange { id: *id, json: json.as_deref() }).collect();
        let version = self.snapshot.version() + 1;
        let new = self.snapshot.refresh(&changes, vec![version].into(), version);
        assert_eq!((new.version(), new.positions()), (version, &[version][..]));
        check_sharing(&self.snapshot, &new, &touched);
        self.accept(new);
    }

    fn trim(&mut self, todos_max: u32, bytes_max: u64) {
        let bytes_of = |items: &Items| items.values().map(|json| json.len() as u64 + 1).sum::<u64>();
        let is_outgrown =
            self.items.len() as u64 * 100 > u64::from(todos_max) * 105 || bytes_of(&self.items) > bytes_max;
        while is_outgrown
            && self.items.len() > 1
            && (self.items.len() > todos_max as usize || bytes_of(&self.items) > bytes_max)
        {
            self.items.pop_last();
            self.floor = self.items.last_key_value().expect("one stays").0.0;
        }

        // As a server does it: a refresh first, then its result is trimmed before anybody has seen it.
        let version = self.snapshot.version() + 1;
        let positions = self.snapshot.positions().into();
        let new = self.snapshot.refresh(&[], positions, version).trim(todos_max, bytes_max);
        assert_eq!(new.version(), version);
        check_replaced(&self.snapshot, &new);
        self.accept(new);
    }

    fn load(&mut self) {
        let version = self.snapshot.version() + 2;
        let loaded = load(&self.items, self.floor, version - 1).replacing(&self.snapshot, version);
        assert_eq!(loaded.replaced_bytes(), self.snapshot.replaced_bytes() + self.snapshot.bytes());
        self.accept(loaded);
    }

    fn accept(&mut self, new: Snapshot) {
        self.snapshot = new;
        check_shape(&self.snapshot);
        assert_eq!(self.snapshot.floor(), self.floor);
        assert_eq!(self.snapshot.items_count() as usize, self.items.len());
        self.check_body(self.snapshot.all(), &list(self.items.values()));
    }

    fn check_reads(&mut self) {
        let fresh = load(&self.items, self.floor, 1);
        for limit in [1, 2, 10, 63, 64, 65, 97, 200, 1_000, u32::MAX] {
            let slice = self.snapshot.first(limit);
            assert_eq!(slice.etag(), fresh.first(limit).etag(), "another history, another layout, the same tag");
            self.check_body(slice, &list(self.items.values().take(limit as usize)));
        }

        let mut ids: Vec<ItemId> = self.items.keys().step_by(self.items.len() / 7 + 1).map(|id| id.0).collect();
        ids.extend(self.items.last_key_value().map(|(id, _)| id.0));
        ids.extend(
            [0, 1, 6, 7, 555, 4_444, self.next_id, u128::MAX].map(|id: u128| ItemId::from_bytes(id.to_be_bytes())),
        );
        for id in ids {
            for limit in [1, 10, 100, u32::MAX] {
                let behind = self.items.range(Reverse(id)..).filter(|(other, _)| other.0 < id).map(|(_, json)| json);
                let expected = list(behind.take(limit as usize));
                self.check_body(self.snapshot.after(id, limit), &expected);
            }
            let expected = self.items.get(&Reverse(id)).cloned();
            assert_eq!(self.snapshot.json(id), expected.as_deref());
            match (self.snapshot.item(id), expected) {
                (Some(slice), Some(expected)) => self.check_body(slice, &expected),
                (None, None) => {}
                (slice, expected) => panic!("{id:?} is {slice:?}, but {expected:?} in the map"),
            }
        }
    }

    /// The slice has these bytes, and over the whole run a tag of its own: equal if and only if the bytes are.
    fn check_body(&mut self, slice: Slice, expected: &[u8]) {
        let mut body = Vec::new();
        self.snapshot.copy_into(&slice, &mut body);
        assert!(body == expected, "{slice:?}: {} bytes, expected {}", body.len(), expected.len());
        assert_eq!(slice.body_bytes(), expected.len() as u64);
        if body.len() < 100_000 {
            let tag = slice.etag();
            assert_eq!(*self.tag_of.entry(body.clone()).or_insert(tag), tag);
            assert!(*self.body_of.entry(tag.as_bytes().to_vec()).or_insert_with(|| body.clone()) == body);
        }
    }
}

fn load(items: &Items, floor: ItemId, version: u64) -> Snapshot {
    let mut builder = Builder::new(STORE, version);
    items.iter().for_each(|(id, json)| builder.push(id.0, json));
    assert_eq!(builder.oldest(), items.last_key_value().map(|(id, _)| id.0));
    let (items_count, bytes) = (builder.items_count(), builder.bytes());
    let snapshot = builder.finish(vec![version].into(), floor);
    assert_eq!((snapshot.items_count(), snapshot.bytes()), (items_count, bytes));
    check_shape(&snapshot);
    snapshot
}

fn list<'a>(items: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let items: Vec<&[u8]> = items.map(Vec::as_slice).collect();
    [&b"["[..], &items.join(&b','), b"]"].concat()
}

fn pages(snapshot: &Snapshot) -> Vec<Arc<Page>> {
    snapshot.chunks.members().flat_map(|chunk| chunk.node.members().collect::<Vec<_>>()).map(|page| page.node).collect()
}

fn oldest(page: &Page) -> ItemId {
    page.id(page.items_count() - 1)
}

/// Both levels within their bounds, and no two small neighbours.
pub(super) fn check_shape(snapshot: &Snapshot) {
    for chunk in snapshot.chunks.members().map(|chunk| chunk.node) {
        assert!((1..=CHUNK_PAGES_MAX).contains(&chunk.len()), "a chunk of {} pages", chunk.len());
        let pages: Vec<_> = chunk.members().collect();
        for page in &pages {
            let (items_count, bytes) = (page.node.items_count(), page.node.json().len());
            assert!((1..=PAGE_ITEMS_MAX).contains(&items_count), "a page of {items_count} items");
            assert!(items_count == 1 || bytes <= PAGE_BYTES_MAX, "a page of {items_count} items in {bytes} bytes");
        }
        for pair in pages.windows(2) {
            let together = pair[0].totals + pair[1].totals;
            let (items_count, bytes) = (together.items as usize, together.bytes as usize);
            assert!(items_count > PAGE_ITEMS_JOIN || bytes > PAGE_BYTES_JOIN, "two small pages: {together:?}");
        }
    }
    let chunks: Vec<_> = snapshot.chunks.members().map(|chunk| chunk.node).collect();
    assert!(chunks.windows(2).all(|pair| pair[0].len() + pair[1].len() > CHUNK_PAGES_JOIN), "two small chunks");
}

/// Every page that no change has touched is the very same one, unless it was small enough to be joined.
fn check_sharing(old: &Snapshot, new: &Snapshot, touched: &[ItemId]) {
    let kept: HashSet<*const Page> = pages(new).iter().map(Arc::as_ptr).collect();
    let old_pages = pages(old);
    for (index, page) in old_pages.iter().enumerate() {
        let is_in = |id: ItemId| {
            (index == 0 || id < oldest(&old_pages[index - 1])) && (index + 1 == old_pages.len() || id >= oldest(page))
        };
        let is_small = page.items_count() <= PAGE_ITEMS_JOIN && page.json().len() <= PAGE_BYTES_JOIN;
        if kept.contains(&Arc::as_ptr(page)) {
            assert!(!touched.iter().any(|&id| is_in(id)), "a page misses its change");
        } else {
            assert!(is_small || touched.iter().any(|&id| is_in(id)), "a page was made anew for nothing");
        }
    }
    check_replaced(old, new);
}

fn check_replaced(old: &Snapshot, new: &Snapshot) {
    let kept: HashSet<*const Page> = pages(new).iter().map(Arc::as_ptr).collect();
    let gone_bytes: u64 =
        pages(old).iter().filter(|page| !kept.contains(&Arc::as_ptr(page))).map(|page| page.json().len() as u64).sum();
    assert_eq!(new.replaced_bytes() - old.replaced_bytes(), gone_bytes);
}
