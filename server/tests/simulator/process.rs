//! Processes: servers that append and follow, workers that apply and publish, and what ends them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use todo_proto::command::{ProducerId, TodoCommand};
use todo_proto::names::TOPIC;
use todo_server::control::feed::Window;
use todo_server::control::follow::Shown;
use todo_server::control::follow::drive::{self, FollowStart, View};
use todo_server::control::gate::{self, Configured};
use todo_server::control::reads::Reads;
use todo_server::snapshot::Snapshot;
use todo_worker::apply::{self, Status, Writing};
use todo_worker::kafka::append::{self, Appender};
use todo_worker::publish::{Publisher, publisher};
use todo_worker::traits::Outcome;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::channel::{Sender, Source};
use crate::clients::Answer;
use crate::store::{Reader, Session};
use crate::topic::{Broker, Log};
use crate::world::{PARTITIONS, State, World};

/// Todos of a server's window: few, so that there are older ones.
pub const WINDOW_ITEMS: u32 = 24;

/// The servers that run.
#[derive(Clone)]
pub struct Servers(Arc<Mutex<Vec<Arc<Server>>>>);

/// One server process.
pub struct Server {
    pub number: usize,
    /// What it is configured with.
    configured: Configured,
    appender: Appender<oneshot::Sender<Answer>>,
    /// It has ended: nothing that it had begun goes on.
    is_dead: Arc<AtomicBool>,
    pub view: watch::Receiver<View>,
    pub slot: Arc<Mutex<Arc<Snapshot>>>,
    pub reads: Reads<Reader>,
    /// How far its clock is off, in milliseconds.
    pub clock_off_ms: Arc<AtomicI64>,
    tasks: Vec<AbortHandle>,
}

impl Servers {
    pub fn start(world: &World, count: usize) -> Servers {
        let servers = (0..count).map(|number| Arc::new(Server::start(world, number, PARTITIONS))).collect();
        Servers(Arc::new(Mutex::new(servers)))
    }

    /// One of them.
    pub fn any(&self, state: &mut State) -> Option<Arc<Server>> {
        let servers = self.all();
        let place = state.random.usize(0..servers.len());
        Some(Arc::clone(&servers[place]))
    }

    pub fn all(&self) -> Vec<Arc<Server>> {
        self.0.lock().expect("whoever panics ends the run").clone()
    }

    /// Ends one as a kill does, and starts another in its place.
    pub fn restart(&self, world: &World, place: usize, partitions: u32) {
        let number = self.all()[place].number + 10;
        let newer = Arc::new(Server::start(world, number, partitions));
        let older = std::mem::replace(&mut self.0.lock().expect("whoever panics ends the run")[place], newer);
        older.is_dead.store(true, Ordering::Relaxed);
        older.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Server {
    fn start(world: &World, number: usize, partitions: u32) -> Server {
        world.state().note(&format!("server {number} starts"));
        let producer: ProducerId = world.state().random.u128(..).to_be_bytes();
        let is_dead = Arc::new(AtomicBool::new(false));
        let broker = Broker { world: world.clone(), is_dead: Arc::clone(&is_dead) };
        let sink_is_dead = Arc::clone(&is_dead);
        let sink = move |outcomes: Vec<(oneshot::Sender<Answer>, Outcome)>| {
            for (client, outcome) in outcomes {
                if !sink_is_dead.load(Ordering::Relaxed) {
                    // The client may have gone.
                    let _ = client.send(Answer::of(outcome));
                }
            }
        };
        // Its tasks are left to themselves when the server ends: their broker answers nobody any more.
        let (appender, _) = append::start(&broker, partitions, producer, Box::new(sink));
        let view = watch::Sender::new(View::default());
        let shown = watch::Sender::new(Shown::default());
        let slot = Arc::new(Mutex::new(Arc::new(Snapshot::unloaded())));
        let start = FollowStart {
            reader: Reader(world.clone()),
            source: Source::open(world),
            window: Window { items_max: WINDOW_ITEMS, bytes_max: 1 << 30 },
            refresh: Duration::from_millis(5),
            shown: shown.subscribe(),
            view: view.clone(),
        };
        let (served, of_world) = (Arc::clone(&slot), world.clone());
        let follow = drive::run(start, move |newer| {
            let mut held = served.lock().expect("whoever panics ends the run");
            crate::check::served(&mut of_world.state(), number, &held, &newer);
            *held = newer;
        });
        let tasks = vec![world.spawn(follow)];
        let readers = (0..2).map(|_| Reader(world.clone())).collect();
        let seen = view.subscribe();
        let reads = Reads::new(readers, Box::new(move || seen.borrow().oldest), shown);
        Server {
            number,
            configured: Configured { topic: TOPIC.to_owned(), partitions },
            appender,
            is_dead,
            view: view.subscribe(),
            slot,
            reads,
            clock_off_ms: Arc::default(),
            tasks,
        }
    }

    /// The time by which it makes ids, if it takes writes just now.
    pub fn admits(&self, world: &World) -> Option<u64> {
        let view = self.view.borrow();
        let own_ms = {
            let state = world.state();
            state.true_ms().saturating_add_signed(self.clock_off_ms.load(Ordering::Relaxed))
        };
        if gate::refusal(&view, own_ms, Instant::now(), &self.configured).is_some() {
            return None;
        }
        let (look, looked_at) = view.look.as_ref()?;
        Some(gate::store_clock_ms(look, *looked_at, Instant::now()))
    }

    /// Hands a write over.
    pub fn take(&self, command: TodoCommand) -> oneshot::Receiver<Answer> {
        let (client, answer) = oneshot::channel();
        let taken = self.appender.try_append(vec![(command, client)]);
        assert!(taken.is_ok(), "it is closed by nobody");
        answer
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.slot.lock().expect("whoever panics ends the run"))
    }
}

/// The worker processes, and which partitions they apply.
pub struct Workers {
    world: World,
    publishers: Vec<Publisher>,
    running: BTreeMap<u32, Vec<Running>>,
}

struct Running {
    status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
    task: AbortHandle,
    /// The topic that it began with.
    generation: u32,
}

impl Workers {
    pub fn start(world: &World) -> Workers {
        let publishers = (0..2).map(|_| {
            let (publisher, publishing) = publisher();
            world.spawn(publishing.run(Sender(world.clone())));
            publisher
        });
        let mut workers = Workers { world: world.clone(), publishers: publishers.collect(), running: BTreeMap::new() };
        for part in 0..PARTITIONS {
            workers.begin(part, part as usize % 2);
        }
        workers
    }

    /// One more loop over a partition, be it the second.
    pub fn begin(&mut self, part: u32, worker: usize) {
        let world = &self.world;
        let (status_sender, status) = watch::channel(Status::default());
        let (stop, stopped) = watch::channel(false);
        let (log, session) = (Log::open(world, part), Session::open(world));
        let publisher = self.publishers[worker].clone();
        let task = world.spawn(async move {
            drop(apply::run(part, log, session, publisher, status_sender, stopped).await);
        });
        let generation = world.state().topic.generation;
        self.running.entry(part).or_default().push(Running { status, stop, task, generation });
    }

    /// Ends every loop over a partition between two steps, whatever they are doing.
    pub fn crash(&mut self, part: u32) {
        for running in self.running.remove(&part).into_iter().flatten() {
            running.task.abort();
        }
    }

    /// Ends all loops over a partition but the newest, in good order.
    pub fn leave_one(&mut self, part: u32) {
        if let Some(running) = self.running.get_mut(&part) {
            let newest = running.split_off(running.len().saturating_sub(1));
            for older in std::mem::replace(running, newest) {
                older.stop.send_replace(true);
            }
        }
    }

    /// What a human does about a partition that has halted: adopts the topic, if it was made anew; then starts it again.
    pub fn mend(&mut self) {
        for part in 0..PARTITIONS {
            let ended = self.running.get(&part).and_then(|running| {
                let of = running.iter().find(|running| matches!(running.status.borrow().writing, Writing::Ended(_)));
                of.map(|of| (of.status.borrow().writing.clone(), of.generation))
            });
            let Some((why, generation)) = ended else { continue };
            let mut state = self.world.state();
            state.note(&format!("human: partition {part} has halted: {why:?}"));
            if state.topic.generation == state.adopted[part as usize] {
                state.violate(format!("partition {part} has halted for nothing: {why:?}, began with {generation}"));
                return;
            }
            state.adopted[part as usize] = state.topic.generation;
            state.store.adopt(part);
            drop(state);
            self.crash(part);
            self.begin(part, 0);
        }
    }

    /// Every partition is being applied by somebody.
    pub fn begin_missing(&mut self) {
        for part in 0..PARTITIONS {
            let is_running =
                self.running.get(&part).is_some_and(|running| running.iter().any(|one| !one.task.is_finished()));
            if !is_running {
                self.crash(part);
                self.begin(part, part as usize % 2);
            }
        }
    }
}

/// Looks after halted partitions for ever.
pub async fn watch_over(workers: Arc<tokio::sync::Mutex<Workers>>) {
    loop {
        sleep(Duration::from_millis(300)).await;
        workers.lock().await.mend();
    }
}
