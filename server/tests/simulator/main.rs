//! The simulator: the real appender, apply loop, publisher, follower, reads and snapshots over a simulated log, store and channel.
//!
//! One seed decides the schedule and the faults, time is simulated, and whatever a server serves is compared with what an
//! independent oracle makes of the log; at the end every client's history is. A seed that fails replays exactly:
//!
//! ```text
//! SIM_SEED=17 cargo test -p todo-server --test simulator         one seed, with its story
//! SIM_SEEDS=100000 cargo test -p todo-server --test simulator    so many seeds instead of a few hundred
//! SIM_FIRST=5000 SIM_SEEDS=1000 …                                so many from this one on
//! ```

#![expect(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests ask clocks, say what they saw, and lock what one thread uses"
)]

mod channel;
mod check;
mod clients;
mod oracle;
mod process;
mod store;
mod topic;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use todo_proto::defects::{self, Defect};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use process::{Servers, Workers};
use world::{Fault, PARTITIONS, State, World};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 200;
/// Seeds that a defect may take to be found.
const DEFECT_SEEDS_MAX: u64 = 2_000;
/// Commands of each run, at least.
const COMMANDS_MIN: usize = 200;
/// Faults that each run meets, at least.
const FAULTS_MIN: u64 = 5;
const CLIENTS: usize = 4;

/// What came of one seed.
struct Outcome {
    violations: Vec<String>,
    met: BTreeMap<Fault, u64>,
    commands: usize,
    faults: u64,
    story: String,
}

#[test]
fn every_promise_holds_whatever_goes_wrong() {
    let seeds = match (variable("SIM_SEED"), variable("SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => {
            let first = variable("SIM_FIRST").unwrap_or(0);
            first..first + count.unwrap_or(SEEDS)
        }
    };
    let (mut met, count, begun) = (BTreeMap::<Fault, u64>::new(), seeds.end - seeds.start, std::time::Instant::now());
    let mut commands = 0;
    for seed in seeds {
        let outcome = run(seed, None);
        if variable("SIM_SEED").is_some() {
            println!("{}", outcome.story);
        }
        assert!(
            outcome.violations.is_empty(),
            "{}\nseed {seed}: {}\nreplay it with SIM_SEED={seed}",
            tail(&outcome.story),
            outcome.violations[..outcome.violations.len().min(5)].join("\n")
        );
        assert!(outcome.commands >= COMMANDS_MIN, "seed {seed} has {} commands", outcome.commands);
        assert!(outcome.faults >= FAULTS_MIN, "seed {seed} has met {} faults", outcome.faults);
        commands += outcome.commands;
        outcome.met.keys().for_each(|fault| *met.entry(*fault).or_insert(0) += 1);
    }
    let took = begun.elapsed();
    println!("{count} seeds, {commands} commands, {:.1} ms a seed", took.as_secs_f64() * 1e3 / count as f64);
    for fault in Fault::ALL {
        let runs = met.get(&fault).copied().unwrap_or(0);
        println!("{:>6.1} % met {fault:?}", runs as f64 * 100.0 / count as f64);
        assert!(runs > 0 || count < SEEDS, "no run has met {fault:?}");
    }
}

#[test]
fn every_deliberate_defect_is_found() {
    for defect in Defect::ALL {
        let found = (0..DEFECT_SEEDS_MAX).find_map(|seed| {
            let outcome = run(seed, Some(defect));
            (!outcome.violations.is_empty()).then(|| (seed + 1, outcome.violations[0].clone()))
        });
        let (seeds, what) = found.unwrap_or_else(|| panic!("[{}] was not found", defect.name()));
        let what = what.lines().next().unwrap_or_default().chars().take(160).collect::<String>();
        println!("[{}] was found in {seeds} seeds: {what}", defect.name());
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..5 {
        let (first, second) = (run(seed, None), run(seed, None));
        assert_eq!(first.story, second.story, "seed {seed}");
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} `{text}` is no number")))
}

/// The end of a story: what led to the fault is mostly there.
fn tail(story: &str) -> String {
    let lines: Vec<&str> = story.lines().collect();
    lines[lines.len().saturating_sub(120)..].join("\n")
}

fn run(seed: u64, defect: Option<Defect>) -> Outcome {
    defects::set(defect);
    // What the appender spreads its attempts by.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let outcome = runtime.expect("a runtime without I/O").block_on(simulate(seed));
    defects::set(None);
    outcome
}

async fn simulate(seed: u64) -> Outcome {
    let world = World::new(seed);
    let workers = Arc::new(Mutex::new(Workers::start(&world)));
    let servers = Servers::start(&world, 3);
    world.spawn(process::watch_over(Arc::clone(&workers)));
    world.spawn(check::observe(world.clone(), servers.clone()));
    world.spawn(check::observe(world.clone(), servers.clone()));
    let count = COMMANDS_MIN / CLIENTS + 5;
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(clients::run(world.clone(), servers.clone(), count))).collect();
    let chaos = world.spawn(chaos(world.clone(), servers.clone(), Arc::clone(&workers)));
    for client in clients {
        let done = timeout(Duration::from_secs(600), client).await;
        if done.is_err() {
            world.state().violate("writes are not taken");
            break;
        }
    }
    chaos.abort();
    heal(&world, &servers, &workers).await;
    settle(&world, &servers).await;
    let has_panicked = world.has_panicked();
    let mut state = world.state();
    if has_panicked {
        state.violate("a task has panicked");
    }
    if state.violations.is_empty() {
        check::at_the_end(&mut state, &servers);
    }
    Outcome {
        violations: state.violations.clone(),
        faults: state.met.values().sum(),
        met: state.met.clone(),
        commands: state.history.writes.len(),
        story: state.story().to_owned(),
    }
}

/// What strikes from outside, one after the other.
async fn chaos(world: World, servers: Servers, workers: Arc<Mutex<Workers>>) {
    loop {
        let pause = world.state().random.u64(10..500);
        sleep(Duration::from_millis(pause)).await;
        let (what, part, place) = {
            let random = &mut world.state().random;
            (random.u8(0..12), random.u32(0..PARTITIONS), random.usize(0..3))
        };
        match what {
            0..=2 => {
                world.state().meet(Fault::WorkerCrash);
                workers.lock().await.crash(part);
                let pause = world.state().random.u64(0..800);
                sleep(Duration::from_millis(pause)).await;
                workers.lock().await.begin(part, place % 2);
            }
            3 => {
                world.state().meet(Fault::SecondWorker);
                workers.lock().await.begin(part, place % 2);
                let pause = world.state().random.u64(100..3_000);
                sleep(Duration::from_millis(pause)).await;
                workers.lock().await.leave_one(part);
            }
            4 => {
                world.state().meet(Fault::EmptyRedis);
                world.state().end_redis();
                let pause = world.state().random.u64(1..3_000);
                sleep(Duration::from_millis(pause)).await;
                world.state().start_redis();
            }
            5..=6 => {
                world.state().meet(Fault::ServerCrash);
                servers.restart(&world, place, PARTITIONS);
            }
            7 => {
                world.state().meet(Fault::ServerClockOff);
                let server = Arc::clone(&servers.all()[place]);
                let off_ms = world.state().random.i64(-200_000..200_000);
                server.clock_off_ms.store(off_ms, Ordering::Relaxed);
                sleep(Duration::from_millis(1_500)).await;
                server.clock_off_ms.store(0, Ordering::Relaxed);
            }
            8 => {
                let count = world.state().random.u64(6..9);
                clients::burst(world.clone(), servers.clone(), count).await;
            }
            9 => topic_anew(&world, &workers).await,
            10 => jump(&world).await,
            _ => {
                repartition(&world, &servers, place).await;
            }
        }
    }
}

/// Somebody deletes the topic and makes it again, at a moment when everything in it was applied: what was not would be lost
/// by that alone.
async fn topic_anew(world: &World, workers: &Arc<Mutex<Workers>>) {
    for _ in 0..200 {
        sleep(Duration::from_millis(1)).await;
        let is_applied = {
            let state = world.state();
            let ends = state.topic.partitions.iter().map(Vec::len);
            // An offset of the topic before is none of this one's.
            let adopted = state.adopted.iter().all(|generation| *generation == state.topic.generation);
            adopted && state.store.parts.iter().zip(ends).all(|(part, end)| part.next_offset == end as u64)
        };
        if !is_applied {
            continue;
        }
        let most = {
            let mut state = world.state();
            state.meet(Fault::TopicAnew);
            state.topic.make_anew();
            let State { store, adopted, topic, .. } = &mut *state;
            // Where nothing was applied there is nothing that could be another topic's.
            for (part, adopted) in store.parts.iter().zip(adopted) {
                if part.next_offset == 0 {
                    *adopted = topic.generation;
                }
            }
            state.store.parts.iter().map(|part| part.next_offset).min().unwrap_or(0) + 3
        };
        // Nobody applies for a while, so that it may have grown past where the old one ended.
        let mut workers = workers.lock().await;
        (0..PARTITIONS).for_each(|part| workers.crash(part));
        for _ in 0..100 {
            sleep(Duration::from_millis(20)).await;
            if world.state().topic.partitions.iter().any(|records| records.len() as u64 > most) {
                break;
            }
        }
        (0..PARTITIONS).for_each(|part| workers.begin(part, 0));
        return;
    }
}

/// The clock of the store goes a day and more ahead, when nothing is on its way that this would make a day late.
async fn jump(world: &World) {
    for _ in 0..200 {
        sleep(Duration::from_millis(5)).await;
        let mut state = world.state();
        if state.late_batches == 0 {
            state.meet(Fault::StoreClockJump);
            state.store_ahead_ms += 26 * 60 * 60 * 1000;
            return;
        }
    }
}

/// Somebody gives the topic a partition more, and one server is told of it.
async fn repartition(world: &World, servers: &Servers, place: usize) {
    {
        let mut state = world.state();
        state.meet(Fault::Repartitioned);
        if state.topic.partitions.len() == PARTITIONS as usize {
            state.topic.partitions.push(Vec::new());
        }
    }
    servers.restart(world, place, PARTITIONS + 1);
    sleep(Duration::from_secs(2)).await;
    servers.restart(world, place, PARTITIONS);
}

/// Nothing goes wrong any more, and whoever is away comes back.
async fn heal(world: &World, servers: &Servers, workers: &Arc<Mutex<Workers>>) {
    {
        let mut state = world.state();
        state.is_healed = true;
        state.note("everything is healed");
        state.start_redis();
    }
    for server in servers.all() {
        server.clock_off_ms.store(0, Ordering::Relaxed);
    }
    let mut workers = workers.lock().await;
    (0..PARTITIONS).for_each(|part| workers.leave_one(part));
    workers.begin_missing();
}

/// Waits until everything that was appended is applied and served everywhere.
async fn settle(world: &World, servers: &Servers) {
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        let mut state = world.state();
        if !state.violations.is_empty() {
            return;
        }
        let ends: Vec<u64> =
            state.topic.partitions.iter().take(PARTITIONS as usize).map(|records| records.len() as u64).collect();
        let is_applied = state.store.parts.iter().zip(&ends).all(|(part, end)| part.next_offset == *end);
        let positions = state.store.positions();
        let is_served = servers.all().iter().all(|server| server.snapshot().positions() == positions);
        if is_applied && is_served && state.late_batches == 0 {
            return;
        }
        if state.elapsed_ms() > 3_600_000 {
            state.violate("an hour has passed");
            return;
        }
    }
    let mut state = world.state();
    let positions = state.store.positions();
    let served: Vec<Vec<u64>> = servers.all().iter().map(|server| server.snapshot().positions().to_vec()).collect();
    let ends: Vec<usize> = state.topic.partitions.iter().map(Vec::len).collect();
    state.violate(format!("it does not settle: log {ends:?}, store {positions:?}, servers {served:?}"));
}
