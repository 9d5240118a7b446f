//! What Kafka costs: commands/s through the appender by how many wait for an answer at once, with their latencies, and what
//! reading them back brings; beside fdatasync of this machine's disk. In a topic of its own.
//!
//!     KAFKA_BROKERS=… cargo run --release -p todo-worker --example kafka_cost [SECONDS [PARTITIONS]]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use todo_proto::command::TodoCommand;
use todo_worker::kafka::{Appender, Kafka, KafkaLog, append};
use todo_worker::sample::SampleTodos;
use todo_worker::settings::KafkaSettings;
use todo_worker::traits::{CommandLog, Outcome};
use tokio::sync::mpsc;

type Failure = Box<dyn Error>;
type Settled = Vec<(Instant, Outcome)>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let brokers =
        std::env::var("KAFKA_BROKERS").map_err(|_| "set KAFKA_BROKERS, as `cargo xtask stack up` prints it")?;
    let argument = |place, default: u32| std::env::args().nth(place).map_or(Ok(default), |text| text.parse());
    let (seconds, partitions) = (argument(1, 5)?, argument(2, 32)?);
    println!("fdatasync of 4 KiB: median {:.2} ms", fdatasync_ms()?);
    let settings = KafkaSettings {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        topic: format!("todo-cost-{:016x}", fastrand::u64(..)),
        partitions,
        tls: None,
        sasl: None,
    };
    let kafka = Kafka::new(&settings)?;
    kafka.check().await?;

    let (outcome_sender, mut outcomes) = mpsc::unbounded_channel();
    // Whoever does not listen any more needs no outcome.
    let sink = Box::new(move |settled: Settled| drop(outcome_sender.send(settled)));
    let (appender, appending) = append::start(&kafka, partitions, fastrand::u128(..).to_be_bytes(), sink);
    while appender.away().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let mut commands = SampleTodos::new(7, 1 << 40, now_ms);
    println!("at once  commands/s  a batch    p50    p99    max ms   CPU of this process");
    for at_once in [1, 32, 200, 1_000, 5_000] {
        rate(&appender, &mut outcomes, &mut commands, at_once, Duration::from_secs(seconds.into())).await?;
    }
    appending.finish().await;

    let begun = Instant::now();
    let mut read_count = 0;
    for part in 0..partitions {
        let mut log = KafkaLog::new(kafka.clone(), part);
        let end = log.extent().await?.end;
        log.seek(0).await?;
        let mut next_offset = 0;
        while next_offset < end {
            next_offset += log.fetch().await?.map_or(0, |entries| entries.len() as u64);
        }
        read_count += next_offset;
    }
    println!("read back: {read_count} at {:.0}/s", read_count as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

/// Keeps `at_once` commands waiting for their answers and prints what that brings.
async fn rate(
    appender: &Appender<Instant>,
    outcomes: &mut mpsc::UnboundedReceiver<Settled>,
    commands: &mut impl Iterator<Item = TodoCommand>,
    at_once: usize,
    during: Duration,
) -> Result<(), Failure> {
    let batches_before = appender.metrics().batches.get();
    let (begun, cpu_before) = (Instant::now(), cpu_seconds()?);
    let mut append = |count| {
        let group = commands.by_ref().take(count).map(|command| (command, Instant::now())).collect();
        appender.try_append(group).map_err(|(error, _)| error)
    };
    append(at_once)?;
    let (mut waiting, mut latencies_us) = (at_once, Vec::new());
    while waiting > 0 {
        let settled = outcomes.recv().await.ok_or("the appender has ended")?;
        waiting -= settled.len();
        for (since, outcome) in &settled {
            if *outcome != Outcome::Acknowledged {
                return Err(format!("a command was answered {outcome:?}").into());
            }
            latencies_us.push(since.elapsed().as_micros());
        }
        if begun.elapsed() < during {
            append(settled.len())?;
            waiting += settled.len();
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let (count, batches) = (latencies_us.len(), appender.metrics().batches.get() - batches_before);
    latencies_us.sort_unstable();
    let at = |share: f64| latencies_us[((count - 1) as f64 * share) as usize] as f64 / 1_000.0;
    println!(
        "{at_once:>7}  {:>10.0}  {:>7.1}  {:>5.1}  {:>5.1}  {:>6.1}   {:>3.0} %",
        count as f64 / elapsed,
        count as f64 / batches as f64,
        at(0.5),
        at(0.99),
        at(1.0),
        100.0 * (cpu_seconds()? - cpu_before) / elapsed
    );
    Ok(())
}

fn cpu_seconds() -> Result<f64, Failure> {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9)
}

fn fdatasync_ms() -> Result<f64, Failure> {
    let path = std::env::temp_dir().join(format!("todo-cost-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let mut times_ms = Vec::new();
    for _ in 0..100 {
        file.write_all(&[1; 4_096])?;
        let begun = Instant::now();
        file.sync_data()?;
        times_ms.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    std::fs::remove_file(&path)?;
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms[times_ms.len() / 2])
}
