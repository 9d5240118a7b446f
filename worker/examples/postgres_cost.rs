//! What Postgres costs: commands/s by the size of a batch over one connection, beside fdatasync of this machine's disk, and
//! loading a million todos. In a database of its own beside that of `DATABASE_URL`, dropped at the end.
//!
//!     DATABASE_URL=postgres://… cargo run --release -p todo-worker --example postgres_cost [TODOS]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use todo_proto::command::{Operation, Record, TodoCommand};
use todo_proto::fold::{Entry, fold};
use todo_proto::todo::TodoPatch;
use todo_worker::limits::FETCH_COMMANDS_MAX;
use todo_worker::postgres::{Database, PgStore};
use todo_worker::reads::StoreReader;
use todo_worker::sample::SampleTodos;
use todo_worker::settings::DatabaseSettings;
use todo_worker::traits::{Named, TodoStore};

type Failure = Box<dyn Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL, as `cargo xtask stack up` prints it")?;
    let todos_count = std::env::args().nth(1).map_or(Ok(1_000_000), |count| count.parse())?;
    let name = format!("todo_cost_{:016x}", fastrand::u64(..));
    let (address, query) = url.split_once('?').unwrap_or((&url, ""));
    let (server, _) = address.rsplit_once('/').ok_or("a URL with a database")?;
    let (admin, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    admin.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let settings = DatabaseSettings { url: format!("{server}/{name}?{query}").parse()?, pool_size: 4 };
    let measured = measure(&settings, todos_count).await;
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
    measured
}

async fn measure(settings: &DatabaseSettings, todos_count: u64) -> Result<(), Failure> {
    println!("fdatasync of 4 KiB: median {:.2} ms", fdatasync_ms()?);
    let database = Database::new(settings, 4)?;
    database.open_store(1, "cost").await?;
    let mut store = database.store();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;

    println!("batch   creates/s  patches/s");
    for (size, batches) in [(1, 500), (10, 300), (100, 100), (1_000, 20)] {
        let creates: Vec<TodoCommand> = SampleTodos::new(size, size * batches, now_ms).collect();
        let patches: Vec<TodoCommand> = creates.iter().map(complete).collect();
        let created = rate(&mut store, &creates, size as usize).await?;
        let patched = rate(&mut store, &patches, size as usize).await?;
        println!("{size:>5}  {created:>10.0} {patched:>10.0}");
    }

    let rest: Vec<TodoCommand> = SampleTodos::new(7, todos_count, now_ms).collect();
    let filled = rate(&mut store, &rest, FETCH_COMMANDS_MAX).await?;
    println!("{todos_count} todos written at {filled:.0}/s, batches of {FETCH_COMMANDS_MAX}");
    drop(rest);

    let mut reader = database.reader();
    for _ in 0..3 {
        let (rss_before, begun, mut bytes) = (rss_kib()?, Instant::now(), 0);
        let loaded = reader.load(todos_count as usize, usize::MAX, |_, json| bytes += json.len()).await?;
        println!(
            "load of {} todos, {} MB of JSON: {:.2} s, memory beside what is kept {} MB",
            loaded.todos_count,
            bytes / 1_000_000,
            begun.elapsed().as_secs_f64(),
            rss_kib()?.saturating_sub(rss_before) / 1_024
        );
    }
    let begun = Instant::now();
    for _ in 0..1_000 {
        reader.look().await?;
    }
    println!("a look: {:.2} ms", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Applies `commands` in batches of `size`; returns commands per second.
async fn rate(store: &mut PgStore, commands: &[TodoCommand], size: usize) -> Result<f64, Failure> {
    let begun = Instant::now();
    for commands in commands.chunks(size) {
        let partition = store.partition(0).await?;
        let offsets = partition.next_offset..;
        let entry = |(offset, command): (u64, &TodoCommand)| Entry {
            offset,
            record: Ok(Record { producer: [1; 16], number: offset + 1, command: command.clone() }),
        };
        let mut entries: Vec<Entry> = offsets.zip(commands).map(entry).collect();
        // As the loop does: what a fold leaves goes into the next batch.
        while !entries.is_empty() {
            let begun = store.begin(0, entries[0].offset, Named::by(&entries)).await?;
            let folded = fold(&begun.partition, begun.rows, &begun.producers, &entries);
            store.commit(folded.batch).await?;
            entries.drain(..folded.taken);
        }
    }
    Ok(commands.len() as f64 / begun.elapsed().as_secs_f64())
}

fn complete(create: &TodoCommand) -> TodoCommand {
    let patch = TodoPatch { completed: Some(true), ..TodoPatch::default() };
    TodoCommand { operation: Operation::Patch(patch), ..create.clone() }
}

fn fdatasync_ms() -> std::io::Result<f64> {
    let path = std::env::temp_dir().join(format!("fdatasync-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let mut took = Vec::new();
    for _ in 0..101 {
        file.write_all(&[1; 4_096])?;
        let begun = Instant::now();
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    std::fs::remove_file(path)?;
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}

/// Resident memory of this process.
fn rss_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
