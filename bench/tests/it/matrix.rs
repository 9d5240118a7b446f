//! The whole way from windows to rulings, with a floor in the server's place: it must come out as dear as a floor.

use std::path::Path;
use std::time::Duration;
use todo_bench::matrix::{Cell, Kind, Rounds, Target, run_cell};
use todo_bench::process::child::ReferenceServer;
use todo_bench::process::host;

#[test]
fn a_floor_in_the_servers_place_is_a_floor() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("response");
    std::fs::write(&file, format!("HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{}", "x".repeat(400))).unwrap();
    let cell = Cell { limit: 10, connections_count: 4, depth: 8 };
    let program = Path::new(env!("CARGO_BIN_EXE_todo-bench"));
    let request_bytes = cell.request().len();
    let cpus = host::allowed_cpus().unwrap();
    let arguments = ["floor", "--mode", "send-epoll"];
    let in_place = ReferenceServer::start(program, &arguments, cpus[0], &file, request_bytes).unwrap();
    let mut targets = vec![Target::Reference { kind: Kind::Server, server: in_place }];
    for kind in [Kind::FloorEpoll, Kind::FloorUring, Kind::FloorSendfile] {
        targets.push(Target::start_reference(kind, program, cpus[0], &file, request_bytes).unwrap());
    }
    let rounds = Rounds {
        rounds_min: 2,
        rounds_max: 3,
        a_a_width: Some(0.0),
        warmup: Duration::from_millis(50),
        window: Duration::from_millis(250),
        seed: 1,
    };
    let report = run_cell(cell, &mut targets, &rounds, cpus[cpus.len() - 1]).unwrap();

    assert_eq!(report.faults, Vec::<String>::new());
    // The A/A interval is never a point, so all rounds were run.
    assert_eq!(report.rounds_count, 3);
    assert_eq!(report.slots.len(), 6);
    assert!(report.samples.iter().all(|row| row.len() == 3), "{report:?}");
    assert_eq!(report.figures.len(), 4);
    for figures in &report.figures {
        assert!(figures.cpu_ns.median > 0.0 && figures.responses_per_second.median > 0.0, "{figures:?}");
        assert!((figures.requests_per_read.unwrap() - 8.0).abs() < 0.5, "{figures:?}");
    }
    let pairs: Vec<(Kind, Kind)> = report.ratios.iter().map(|ratio| (ratio.kind, ratio.over)).collect();
    assert_eq!(pairs, [(Kind::Server, report.best_floor.unwrap()), (Kind::Server, Kind::FloorSendfile)]);
    // On a busy machine three short rounds say little; a factor of ten would be a mistake in the arithmetic.
    assert!((0.1..10.0).contains(&report.ratios[0].estimate.median), "{:?}", report.ratios);
}
