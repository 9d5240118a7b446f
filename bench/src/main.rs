//! The command line of the bench.

#[cfg(target_os = "linux")]
mod command;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("todo-bench measures through epoll, io_uring and /proc: it runs on Linux only");
    std::process::ExitCode::FAILURE
}
