//! Processes: servers that append and follow, workers that apply and publish, and what ends them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use todo_proto::command::{ProducerId, Record};
use todo_proto::partition::partition_of;
use todo_server::control::feed::Window;
use todo_server::control::follow::Shown;
use todo_server::control::follow::drive::{self, FollowStart, View};
use todo_server::control::gate;
use todo_server::control::reads::Reads;
use todo_server::snapshot::Snapshot;
use todo_worker::apply::{self, Status, Writing};
use todo_worker::publish::{Publisher, publisher};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::channel::{Sender, Source};
use crate::clients::{Answer, Appended, Sent};
use crate::store::{Reader, Session};
use crate::topic::{Log, Produced};
use crate::world::{PARTITIONS, State, World};

/// Todos of a server's window: few, so that there are older ones.
pub const WINDOW_ITEMS: u32 = 24;
/// As the servers do it.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// As the servers do it.
const BATCH_BYTES_MAX: usize = 7_400;

/// The servers that run.
#[derive(Clone)]
pub struct Servers(Arc<Mutex<Vec<Arc<Server>>>>);

/// One server process.
pub struct Server {
    pub number: usize,
    /// What it is configured with.
    partitions: u32,
    /// By partition, what is to be appended.
    queues: Vec<mpsc::UnboundedSender<(Instant, Sent)>>,
    pub view: watch::Receiver<View>,
    pub slot: Arc<Mutex<Arc<Snapshot>>>,
    pub reads: Reads<Reader>,
    /// How far its clock is off, in milliseconds.
    pub clock_off_ms: Arc<std::sync::atomic::AtomicI64>,
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
        older.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Server {
    fn start(world: &World, number: usize, partitions: u32) -> Server {
        world.state().note(&format!("server {number} starts"));
        let producer: ProducerId = world.state().random.u128(..).to_be_bytes();
        let mut tasks = Vec::new();
        let queues = (0..partitions).map(|part| {
            let (queue, sent) = mpsc::unbounded_channel();
            tasks.push(world.spawn(append(world.clone(), part, producer, sent)));
            queue
        });
        let queues = queues.collect();
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
        tasks.push(world.spawn(follow));
        let readers = (0..2).map(|_| Reader(world.clone())).collect();
        let reads = Reads::new(readers, Some(view.subscribe()), shown);
        Server { number, partitions, queues, view: view.subscribe(), slot, reads, clock_off_ms: Arc::default(), tasks }
    }

    /// The time by which it makes ids, if it takes writes just now.
    pub fn admits(&self, world: &World) -> Option<u64> {
        let view = self.view.borrow();
        let own_ms = {
            let state = world.state();
            state.true_ms().saturating_add_signed(self.clock_off_ms.load(std::sync::atomic::Ordering::Relaxed))
        };
        if gate::refusal(&view, own_ms, Instant::now(), self.partitions).is_some() {
            return None;
        }
        let (look, looked_at) = view.look.as_ref()?;
        Some(gate::store_clock_ms(look, *looked_at, Instant::now()))
    }

    /// Hands a write over.
    pub fn take(&self, sent: Sent) {
        let part = partition_of(sent.command.id, self.partitions);
        // A server that was ended meanwhile never answers.
        let _ = self.queues[part as usize].send((Instant::now(), sent));
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.slot.lock().expect("whoever panics ends the run"))
    }
}

/// PROTOCOL "Append", for one partition.
async fn append(world: World, part: u32, producer: ProducerId, mut sent: mpsc::UnboundedReceiver<(Instant, Sent)>) {
    let mut last_number = 0;
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Some(first) = sent.recv().await else { return };
            waiting.push_back(first);
        }
        while let Ok(more) = sent.try_recv() {
            waiting.push_back(more);
        }
        let (mut records, mut bytes, mut answers) = (Vec::new(), 0, Vec::new());
        while let Some((since, next)) = waiting.pop_front() {
            if since.elapsed() > APPEND_TIMEOUT {
                // Its client may have gone.
                let _ = next.answer.send(Answer::NotAppended);
                continue;
            }
            let record = Record { producer, number: last_number + 1, command: next.command.clone() }.encode();
            if !records.is_empty() && bytes + record.len() > BATCH_BYTES_MAX {
                waiting.push_front((since, next));
                break;
            }
            last_number += 1;
            world.state().history.writes[next.write].appended = Some(Appended { part, producer, number: last_number });
            bytes += record.len();
            records.push(record);
            answers.push(next.answer);
        }
        if records.is_empty() {
            continue;
        }
        let answer = match timeout(APPEND_TIMEOUT, world.produce(part, records)).await {
            Ok(Produced::Acknowledged) => Answer::Acknowledged,
            Ok(Produced::Failed) | Err(_) => Answer::Unknown,
        };
        for waits in answers {
            // Its client may have gone.
            let _ = waits.send(answer);
        }
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
        let mut workers =
            Workers { world: world.clone(), publishers: publishers.collect(), running: BTreeMap::new() };
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
