//! A Redis that one test has for itself.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::Config;
use todo_worker::redis::Redis;
use todo_worker::settings::RedisSettings;
use tokio::net::{TcpListener, TcpStream};

use crate::broker::{self, eventually};

/// Ends with the value.
pub struct OwnRedis {
    pub port: u16,
    process: Child,
}

impl OwnRedis {
    pub async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let server = Self { port, process: spawn(port) };
        server.wait_until_up().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, empty, after [`kill`](Self::kill).
    pub async fn restart(&mut self) {
        self.process = spawn(self.port);
        self.wait_until_up().await;
    }

    /// Nothing moves in it, and the kernel answers for it.
    pub fn freeze(&self) {
        broker::freeze(&self.process);
    }

    pub fn thaw(&self) {
        broker::thaw(&self.process);
    }

    /// A client past our own code.
    pub async fn client(&self) -> Client {
        let client = Client::new(Config::from_url(&self.url()).unwrap(), None, None, None);
        client.init().await.unwrap();
        client
    }

    async fn wait_until_up(&self) {
        eventually("Redis listens", async || TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()).await;
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is at `url`, with documents that live for `cache_ttl`.
pub fn settings(url: &str, cache_ttl: Duration) -> RedisSettings {
    RedisSettings { url: url.parse().unwrap(), ca_file: None, pool_size: 1, cache_ttl, cache_limits: vec![2, 10] }
}

/// What is at `url`.
pub fn redis_at(url: &str) -> Redis {
    Redis::new(&settings(url, Duration::from_secs(300))).unwrap()
}

fn spawn(port: u16) -> Child {
    let mut server = Command::new("redis-server");
    server.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
    server.stdout(Stdio::null()).spawn().expect("redis-server is installed")
}
