//! Apache Kafka, broker and controller in one process, from its archives on Maven Central. The list beside this file
//! has every one of them with its SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{capture, command, root, succeed};
use crate::stack::certificates::Certificates;
use crate::stack::service::{Launch, Service, free_ports, run_tool};
use crate::stack::{Door, PASSWORD, Plan, USER};

pub const NAME: &str = "kafka";
const ARCHIVES: &str = include_str!("kafka.jars");
const REPOSITORY: &str = "https://repo1.maven.org/maven2";
/// Proofs of a password that the secured listener takes, beside the password itself.
const SCRAM: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
const TOPIC: &str = "todo-commands";
const PARTITIONS: u32 = 32;
/// Three times the oldest command that a worker may be behind with, and then some: a week.
const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Starts it, with the topic and its settings, which no client of ours can make.
pub fn start(plan: &Plan<'_>) -> Result<Service, String> {
    let &Plan { directory, certificates: secured, life, doors } = plan;
    let archives = archives()?;
    let folder = directory.join(NAME);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let log = directory.join(format!("{NAME}.log"));
    let [port, controller_port, secured_port] = free_ports()?;
    let secured_port = secured.map(|_| secured_port);
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    write("log4j2.xml", LOGGING)?;
    write("server.properties", &properties(port, controller_port, secured_port.zip(secured), doors))?;

    let id = capture(&mut java(&archives, &folder, &TOOL, &["kafka.tools.StorageTool", "random-uuid"]))?;
    let mut words =
        vec!["kafka.tools.StorageTool", "format", "-t", id.trim(), "-c", "server.properties", "--standalone"];
    let scram = SCRAM.map(|mechanism| format!("{mechanism}=[name={USER},password={PASSWORD}]"));
    if secured.is_some() {
        words.extend(scram.iter().flat_map(|user| ["--add-scram", user]));
    }
    run_tool(java(&archives, &folder, &TOOL, &words), &log)?;

    let broker = java(&archives, &folder, &BROKER, &["kafka.Kafka", "server.properties"]);
    let words = std::iter::once(broker.get_program()).chain(broker.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let service = Service::start(
        NAME,
        directory,
        Launch { words, life, user: None, folder: folder.clone(), port, secured_port },
    )?;
    let settings = topic_settings(port);
    run_tool(java(&archives, &folder, &TOOL, &settings.iter().map(String::as_str).collect::<Vec<_>>()), &log)?;
    Ok(service)
}

/// Options of the Java machine: a broker lives long, a tool does not.
const BROKER: [&str; 3] = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC"];
const TOOL: [&str; 3] = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

const LOGGING: &str = r#"<Configuration>
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %m (%c)%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"#;

fn properties(port: u16, controller_port: u16, secured: Option<(u16, &Certificates)>, doors: &[Door]) -> String {
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL".to_owned();
    let mut more = String::new();
    if let Some((secured_port, certificates)) = secured {
        listeners += &format!(",SASL_SSL://localhost:{secured_port}");
        let module = "org.apache.kafka.common.security";
        more = format!(
            "ssl.keystore.type=PEM\n\
             ssl.keystore.location={bundle}\n\
             sasl.enabled.mechanisms=PLAIN,{scram}\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n",
            bundle = certificates.bundle.display(),
            scram = SCRAM.join(","),
        );
        for mechanism in SCRAM.map(str::to_lowercase) {
            more += &format!(
                "listener.name.sasl_ssl.{mechanism}.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
            );
        }
    }
    let mut advertised = listeners.clone();
    for (number, door) in doors.iter().enumerate() {
        listeners += &format!(",DOOR{number}://127.0.0.1:{}", door.listens);
        advertised += &format!(",DOOR{number}://127.0.0.1:{}", door.says);
        protocols += &format!(",DOOR{number}:PLAINTEXT");
    }
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners={advertised}\n\
         inter.broker.listener.name=PLAINTEXT\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map={protocols}\n\
         log.dirs=data\n\
         auto.create.topics.enable=false\n\
         offsets.topic.num.partitions=1\n\
         offsets.topic.replication.factor=1\n\
         {more}"
    )
}

fn topic_settings(port: u16) -> Vec<String> {
    let settings = [
        "message.timestamp.type=LogAppendTime".to_owned(),
        "cleanup.policy=delete".to_owned(),
        format!("retention.ms={RETENTION_MS}"),
    ];
    let mut words: Vec<String> =
        ["org.apache.kafka.tools.TopicCommand", "--create", "--if-not-exists", "--topic", TOPIC]
            .map(str::to_owned)
            .into();
    words.extend(["--bootstrap-server".to_owned(), format!("127.0.0.1:{port}")]);
    words.extend([
        "--partitions".to_owned(),
        PARTITIONS.to_string(),
        "--replication-factor".to_owned(),
        "1".to_owned(),
    ]);
    words.extend(settings.into_iter().flat_map(|setting| ["--config".to_owned(), setting]));
    words
}

fn java(archives: &Path, folder: &Path, options: &[&str], words: &[&str]) -> Command {
    let mut java = command("java", options);
    java.arg("-Dlog4j2.configurationFile=log4j2.xml")
        .arg("-cp")
        .arg(archives.join("*"))
        .args(words)
        .current_dir(folder);
    java
}

/// Where the archives are.
pub fn archives_folder() -> PathBuf {
    root().join("target/xtask/kafka")
}

/// Fetches what is missing of the archives and gives their folder.
fn archives() -> Result<PathBuf, String> {
    let folder = archives_folder();
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let listed = ARCHIVES.lines().filter_map(|line| line.split_once("  "));
    let missing: Vec<_> = listed
        .map(|(sum, path)| (sum, path, folder.join(file_name(path))))
        .filter(|(.., file)| !file.is_file())
        .collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    eprintln!("fetching {} archives of Kafka from {REPOSITORY}", missing.len());
    let mut curl = command(
        "curl",
        &["--silent", "--show-error", "--fail", "--location", "--retry", "5", "--parallel", "--parallel-max", "8"],
    );
    for (_, path, file) in &missing {
        curl.arg("--output").arg(partial(file)).arg(format!("{REPOSITORY}/{path}"));
    }
    succeed(&mut curl)?;
    for (sum, path, file) in missing {
        let partial = partial(&file);
        let found = capture(command("sha256sum", &[]).arg(&partial))?;
        if !found.starts_with(sum) {
            return Err(format!(
                "{path} from {REPOSITORY} has not the SHA-256 {sum}: try again, or look who answers for it"
            ));
        }
        fs::rename(&partial, &file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(folder)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The name of an archive that was not looked at yet; Java does not take it for one.
fn partial(file: &Path) -> PathBuf {
    file.with_extension("partial")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_archive_has_a_sum_and_a_name_of_its_own() {
        let mut names = Vec::new();
        for line in ARCHIVES.lines() {
            let (sum, path) = line.split_once("  ").expect("a sum and a path");
            assert!(sum.len() == 64 && sum.bytes().all(|digit| digit.is_ascii_hexdigit()), "{line}");
            assert!(path.ends_with(".jar"), "{line}");
            names.push(file_name(path));
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
