//! A cached read allocates and frees nothing, once its answers have been made ready. A binary of its own, because the
//! allocator is the whole process's.
#![expect(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use rtrb::RingBuffer;
use todo_proto::id::{IdSource, ItemId};
use todo_server::admission::ledger::Ledger;
use todo_server::admission::purses::{PurseId, Purses};
use todo_server::admission::{Allowance, Kind, Limits};
use todo_server::counters::ShardCounters;
use todo_server::http::access::{Access, Record};
use todo_server::http::bearer::Keys;
use todo_server::http::connection::{Connection, Next};
use todo_server::http::date::HttpDate;
use todo_server::http::known::KnownHeads;
use todo_server::http::output::{Held, Pool, Transfer};
use todo_server::http::site::{Now, Rules, Site};
use todo_server::snapshot::response::Responses;
use todo_server::snapshot::{Builder, ItemChange};

thread_local! {
    /// Allocations and frees of this thread; `None` while nobody counts.
    static COUNTED: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Counting;

impl Counting {
    #[expect(clippy::disallowed_macros, reason = "what a test that fails shows")]
    fn count(what: &str, bytes: usize) {
        if let Some(count) = COUNTED.get() {
            // Disarmed meanwhile: telling where allocates too.
            COUNTED.set(None);
            println!("{what} of {bytes} bytes\n{}", std::backtrace::Backtrace::force_capture());
            COUNTED.set(Some(count + 1));
        }
    }
}

// SAFETY: everything is left to `System`, under the obligations that the caller meets.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count("allocation", layout.size());
        // SAFETY: the caller's layout is valid.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Counting::count("free", layout.size());
        // SAFETY: the caller has the pointer from `alloc` or `realloc`, which have it from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count("reallocation", size);
        // SAFETY: as for `dealloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and frees of `action` on this thread.
fn counted(action: impl FnOnce()) -> usize {
    COUNTED.set(Some(0));
    action();
    COUNTED.take().expect("set above")
}

/// What becomes of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    Off,
    On,
    Full,
}

#[test]
fn the_allocator_counts() {
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1)))), 2);
    assert_eq!(counted(|| ()), 0);
}

#[test]
fn cached_reads_allocate_nothing() {
    check_reads(site, None);
}

/// With a limit of requests that none of them reaches, and between two rounds what a shard's tick does.
#[test]
fn cached_reads_within_limits_allocate_nothing() {
    let allowance =
        Allowance { per_second: 1_000_000, burst: 50_000_000, at_begin: 50_000_000, begun_ms: 0, shards_count: 2 };
    let mut limits = Limits::default();
    limits.allowances[Kind::Requests as usize] = Some(allowance);
    let limits = Arc::new(limits);
    let limited = || Site { purses: Purses::new(Arc::clone(&limits)), ..site() };
    check_reads(limited, Some(&limits));
}

fn check_reads(site: impl Fn() -> Site, limits: Option<&Arc<Limits>>) {
    let list = |limit: u32| format!("GET /todos?limit={limit} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n");
    let item = format!("GET /todos/{} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n", id(3));
    let head = "HEAD /todos?limit=10 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n".to_owned();
    let conditional =
        "GET /todos?limit=10 HTTP/1.1\r\nHost: localhost:8080\r\nIf-None-Match: \"a\", *\r\n\r\n".to_owned();
    let batches = [
        ("limit=10, depth 1", list(10)),
        ("limit=10, depth 16", list(10).repeat(16)),
        ("limit=10, depth 80", list(10).repeat(80)),
        ("limit=1000, depth 1", list(1000)),
        ("limit=1000, depth 16", list(1000).repeat(16)),
        ("limit=1000, depth 80", list(1000).repeat(80)),
        ("two lists in turn, depth 1 each", list(10) + &list(20)),
        ("two lists in turn, depth 80", (list(10) + &list(20)).repeat(40)),
        ("a small and a large list in turn", (list(10) + &list(1000)).repeat(8)),
        ("one item, depth 16", item.repeat(16)),
        ("no item, depth 16", "GET /todos/x HTTP/1.1\r\nHost: localhost:8080\r\n\r\n".repeat(16)),
        ("HEAD, depth 16", head.repeat(16)),
        ("condition, depth 16", conditional.repeat(16)),
        ("everything different", [list(10), head, list(1000), conditional, item, list(20)].concat().repeat(5)),
    ];
    for ((name, batch), log) in
        batches.iter().flat_map(|batch| [(batch, Log::Off), (batch, Log::On), (batch, Log::Full)])
    {
        let name = format!("{name}, the access log {log:?}");
        let mut site = site();
        // A ring that holds every record, or none: each is the other's worst case.
        let (producer, mut records) = RingBuffer::<Record>::new(if log == Log::On { 4_096 } else { 0 });
        if log != Log::Off {
            site.access = Access::new(producer, 1);
            site.access.set_client(0, "192.0.2.1:4711".parse().ok());
        }
        let mut machine = Connection::new(site.now.tick_ms, 0);
        let mut ledger = limits.map(|limits| Ledger::new(Arc::clone(limits)));
        let admitted = site.purses.admit([192, 0, 2, 1].into(), site.now.tick_ms).expect("connections are not limited");
        let purse = admitted.requests();
        assert_eq!(purse.is_some(), limits.is_some());
        // Heads become known, responses ready, buffers come into the pool.
        let warm = bytes_of(&mut machine, batch.as_bytes(), &mut site, purse);
        for _ in 0..3 {
            assert_eq!(bytes_of(&mut machine, batch.as_bytes(), &mut site, purse), warm, "{name}");
            tick(&mut site, ledger.as_mut());
        }
        let mut bytes = 0;
        let count = counted(|| {
            for _ in 0..3 {
                bytes += bytes_of(&mut machine, batch.as_bytes(), &mut site, purse);
            }
        });
        assert_eq!(bytes, 3 * warm, "{name}: every batch is answered");
        assert!(warm > batch.len(), "{name}: it is answered at all");
        assert_eq!(count, 0, "{name}");
        let recorded = std::iter::from_fn(|| records.pop().ok()).count() as u64;
        let dropped = site.counters.access_dropped.get();
        match log {
            Log::Off => assert_eq!((recorded, dropped), (0, 0), "{name}"),
            Log::On => assert!(recorded > 0 && dropped == 0, "{name}: {recorded} of {dropped}"),
            Log::Full => assert!(recorded == 0 && dropped > 0, "{name}: {recorded} of {dropped}"),
        }

        let other = site.held.snapshot.refresh(&[ItemChange { id: id(1_500), json: Some(b"{}") }], [2].into(), 2);
        site.held = Rc::new(Held { snapshot: Arc::new(other) });
        let mut bytes = 0;
        let count = counted(|| bytes = bytes_of(&mut machine, batch.as_bytes(), &mut site, purse));
        assert_eq!((bytes, count), (warm, 0), "{name}: a change elsewhere costs nothing");
        if let Some(ledger) = &mut ledger {
            let told = tick(&mut site, Some(ledger));
            assert_eq!(told, 4 * (batch.matches("\r\n\r\n").count() as i64), "{name}: each request was counted");
        }
    }
}

/// Gives the machine one batch and takes all answers; how many bytes they had.
fn bytes_of(machine: &mut Connection, batch: &[u8], site: &mut Site, purse: Option<PurseId>) -> usize {
    let mut bytes = 0;
    site.within(purse, |site| machine.receive(batch, site));
    loop {
        match machine.next() {
            Next::Write => {
                let count = match machine.transfer(site) {
                    Some(Transfer::Bytes { start, end, .. }) => end - start,
                    _ => panic!("no answer here is larger than a megabyte"),
                };
                machine.written(count, site);
                bytes += count;
            }
            Next::Resume => site.within(purse, |site| machine.resume(site)),
            Next::Read => return bytes,
            other => panic!("a read came to {other:?}"),
        }
    }
}

/// Tells the ledger what was spent, and takes its grants; how much it was.
fn tick(site: &mut Site, ledger: Option<&mut Ledger>) -> i64 {
    let (Some(ledger), Some(report)) = (ledger, site.purses.report(site.now.tick_ms, true)) else { return 0 };
    site.purses.settle(&ledger.settle(0, &report, site.now.tick_ms).grants);
    report.entries.iter().map(|entry| entry.spent).sum()
}

fn id(index: u64) -> ItemId {
    ItemId::from_parts(1_800_000_000_000 - index, u128::from(index))
}

/// A shard's side over two thousand todos of some 160 bytes.
fn site() -> Site {
    let mut builder = Builder::new([7; 16], 1);
    for index in 0..2_000 {
        builder.push(id(index), format!("{{\"id\":\"{}\",\"title\":\"{}\"}}", id(index), "t".repeat(99)).as_bytes());
    }
    let snapshot = Arc::new(builder.finish([1].into(), ItemId::ZERO));
    Site {
        known: KnownHeads::default(),
        responses: Responses::default(),
        pool: Pool::new(),
        held: Rc::new(Held { snapshot }),
        now: Now { tick_ms: 1_000, second: 1_800_000_000, wall_ms: 1_800_000_000_000 },
        date: HttpDate::at(1_800_000_000),
        keys: Arc::new(Keys::new(b"a secret of thirty-two bytes....")),
        ids: IdSource::default(),
        random: fastrand::Rng::with_seed(1),
        wall_clock: || 1_800_000_000_000,
        rules: Arc::new(Rules {
            connections_max: usize::MAX,
            allowed_origins: &[],
            admin_elsewhere: false,
            proxy_from: Vec::new(),
            limit_max: 10_000,
            head_timeout_ms: 10_000,
            body_timeout_ms: 15_000,
            idle_timeout_ms: 75_000,
            progress_timeout_ms: 30_000,
        }),
        draining: false,
        moving: false,
        holds_writes: false,
        counters: Arc::new(ShardCounters::default()),
        input_bytes: 0,
        access: Access::off(),
        purses: Purses::default(),
        requests_left: u32::MAX,
        requests_refused: 0,
    }
}
